# SPDX-License-Identifier: Apache-2.0
"""What differs between two environments: versions, driver, firmware, variables; in one line a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fusion_replay.model import serialise

NO_ENVIRONMENT = ("time", "command")
"""Keys of a provenance that differ between any two recordings and decide no number."""

_FOUND = "recording.deviating."
"""What a recording found of its run is no environment."""

_SHOWN = 3  # changes in the line; the table has all


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not the same on both sides; None where a side does not have it."""

    name: str
    old: str | None
    new: str | None

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        if self.old is None or self.new is None:
            return f"{self.name} {'gone' if self.new is None else 'new'} ({self.new or self.old})"
        return f"{self.name} {self.old} -> {self.new}"


def environment_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Leaves of two provenances that differ, by short name (``llvm-aie``, ``xrt.build_version``), in sorted order."""
    a, b = (dict(leaf for leaf in _leaves(side) if _counts(leaf[0])) for side in (old, new))
    return tuple(Change(_short(k), a.get(k), b.get(k)) for k in sorted({*a, *b}) if a.get(k) != b.get(k))


def in_one_line(changes: Iterable[Change]) -> str:
    """``llvm-aie 2026082101 -> 2026082401; numpy 2.3 -> 2.4; and 2 more``; empty where nothing changed."""
    # What compiles for the NPU comes first: it is what a bump is made for.
    ranked = sorted(changes, key=lambda c: (not any(w in c.name for w in ("aie", "xrt", "driver", "iron")), c.name))
    words = [str(c) for c in ranked[:_SHOWN]]
    return "; ".join([*words, f"and {len(ranked) - _SHOWN} more"] if len(ranked) > _SHOWN else words)


def _leaves(data: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
            entries = {str(i): v if isinstance(v, Mapping) else {"": v} for i, v in enumerate(value)}
            yield from _leaves(entries, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _counts(key: str) -> bool:
    """Our own variables do not: they say where and what to record (one names a folder that is made anew each time)."""
    ours = key.startswith(("environment.FUSION_REPLAY_", _FOUND))
    return key.split(".")[0] not in NO_ENVIRONMENT and not ours


def _short(key: str) -> str:
    return key.removeprefix("packages.").removeprefix("environment.")


__all__ = ["NO_ENVIRONMENT", "Change", "environment_changes", "in_one_line"]
