# SPDX-License-Identifier: Apache-2.0
"""Sizes, times, counts and tables for people: what every plain-text report shares."""

from __future__ import annotations

from collections.abc import Mapping

from fusion_replay.model.text import one_line as one_line
from fusion_replay.model.text import table as table
from fusion_replay.system.messages import count as count
from fusion_replay.system.messages import human_bytes as human_bytes


def human_seconds(s: float) -> str:
    """``0.0123`` -> ``12 ms``, ``83`` -> ``83.0 s``, ``200`` -> ``3 min 20 s``."""
    if s < 0.9995:
        return f"{s * 1e3:.0f} ms"
    if s < 99.95:
        return f"{s:.1f} s"
    return f"{round(s) // 60} min {round(s) % 60} s"


def human_ns(ns: int | None) -> str:
    """A step's own time, three digits: ``1234`` -> ``1.23 us``; nothing where the runtime gave none."""
    if ns is None:
        return ""
    value, unit = float(ns), "ns"
    for larger in ("us", "ms", "s"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"


def ran_on(origin: Mapping[str, str]) -> str:
    """Whose numbers these are, from a sequence's origin: figures of the software NPU are always labelled."""
    device = origin.get("device", "")
    if origin.get("variant") == "simulator":
        return f"software NPU {device}".strip()
    return device or ("arrays" if origin.get("variant") == "arrays" else "unknown device")
