# SPDX-License-Identifier: Apache-2.0
"""Recordings of autumn's operators (:mod:`iron_doubles.autumn`) on their double of a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from iron_doubles import autumn, v6
from iron_doubles.operators import BF16


def build(*entry: Any, outputs: Any = ("C",), sizes: Mapping[str, int] | None = None) -> Any:
    """The callable of a runlist of one step, its buffers filled."""
    inputs = [name for name in entry[1:] if name not in outputs]
    callable_ = (
        v6.OperatorSequence("autumn", [entry], inputs, list(outputs), dict(sizes or {})).compile().get_callable()
    )
    rng = np.random.default_rng(3)
    for name in inputs:
        view = callable_.get_buffer(name).numpy_view().reshape(-1)
        view[:] = rng.standard_normal(view.size).astype(view.dtype)
    return callable_


def recorded(tmp_path: Path, callable_: Any, calls: Any = ({},), **options: Any) -> Path:
    path = tmp_path / "r.h5"
    with fr.record(path, callable_, **options):
        for values in calls:
            callable_.write_values({symbol: np.int32(v) for symbol, v in values.items()})
            callable_()
    return path


def flavours(report: Any) -> list[str]:
    return [step.flavour for step in report.steps]


def break_device(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """One element of the output is wrong from now on; the operator's reference stays right."""
    honest = kind.device

    def wrong(self: Any, memory: list[np.ndarray], scalars: Any) -> None:
        honest(self, memory, scalars)
        at = next(i for i, b in enumerate(self.buffers) if b.direction.drains)
        memory[at][:2].view(BF16)[:] += np.asarray(64, BF16)

    monkeypatch.setattr(kind, "device", wrong)


def whirl(trouble: Any = None) -> Any:
    return build(autumn.Whirl(size=16, trouble=trouble), "x", "y", outputs=["y"])
