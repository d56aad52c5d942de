# SPDX-License-Identifier: Apache-2.0
"""One program run separately and fused on doubles of IRON: a small layer of llama with slices and in-place steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fusion_replay as fr
from iron_doubles import VARIANTS, Variant, block, machine

V3, V6 = (next(v for v in VARIANTS if v.label == label) for label in ("V3", "V6"))

Broken = Callable[[Any, int, list[np.ndarray], list[np.ndarray]], None]


class Program:
    """The sequences of one program; ``ops`` are shared, as windows of a runlist share the whole's."""

    def __init__(self, variant: Variant, seed: int = 7) -> None:
        self.variant, self.seed = variant, seed
        self.runlist = block.block(variant.ops, variant.values).runlist

    def sequence(self, dispatch: str) -> Any:
        given = {"buffer_sizes": block.SIZES, "dispatch": dispatch}
        return self.variant.sequence("block", self.runlist, block.INPUTS, block.OUTPUTS, **given)

    def run(self, callable_: Any, calls: int = 2) -> None:
        rng = np.random.default_rng(self.seed)
        for name, size in block.SHAPES.items():
            self.variant.write(callable_, name, (rng.standard_normal(size) * 0.2).astype(block.BF16))
        for call in range(calls):
            for name, values in block.token(call).items():
                self.variant.write(callable_, name, values)
            if self.variant.values:
                callable_.write_values(block.values(call))
            callable_()

    def record(self, path: Path, dispatch: str, *, broken: Broken | None = None, **options: Any) -> Any:
        """The callable that ran; recorded as its steps, or each call as a whole."""
        callable_ = self.sequence(dispatch).compile().get_callable()
        machine.MACHINE.broken = broken
        with fr.record(path, callable_, whole_calls=True, on_error="raise", if_exists="replace", **options):
            self.run(callable_)
        return callable_


def races(entry: Any) -> Broken:
    """Some elements of what this entry writes in place keep what they were, other ones each time."""

    def broken(at: Any, calls: int, memory: list[np.ndarray], old: list[np.ndarray]) -> None:
        if at is entry:
            wide, before = memory[-1].view(np.uint16), old[-1].view(np.uint16)
            picked = np.random.default_rng(calls).choice(wide.size, wide.size // 4, replace=False)
            wide[picked] = before[picked]

    return broken


def is_not_reset(entry: Any) -> Broken:
    """From the second dispatch of an image on, what this entry writes stands displaced."""

    def broken(at: Any, calls: int, memory: list[np.ndarray], old: list[np.ndarray]) -> None:
        if at is entry and calls:
            wide = memory[-1].view(np.uint16)
            wide[:] = np.roll(wide, 16 * calls)

    return broken
