# SPDX-License-Identifier: Apache-2.0
"""One software NPU while it runs: its cores, where in the runlist it is, and what is broken in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Array, Core

DEVICES = ("npu1", "npu2")


@dataclass(frozen=True)
class Injection:
    """A fault that struck: where, and how many elements of the outputs it changed (0: it made no difference).

    ``changed`` is None where the fault spoiled what went in, so that what would have come out is unknown.
    """

    fault: str
    address: str
    changed: int | None = None


@dataclass
class Position:
    """Where the running callable is."""

    invocation: int = -1
    step: int = -1


@dataclass
class SimulatedDevice:
    """The device behind one callable, powered up when the callable is made.

    All cores share one rounding register here. On the machine every core has its own, and it keeps its state from one
    kernel to the next (https://github.com/Xilinx/mlir-aie/pull/3726, https://github.com/amd/IRON/issues/180).
    """

    core: Core
    seed: int = 0
    position: Position = field(default_factory=Position)
    injected: list[Injection] = field(default_factory=list)
    unrounded: dict[int, Array] = field(default_factory=dict)
    """Of a step that is folded into the one before it: that one's result by operand position, before its rounding."""
    exact: dict[str, Counter[str]] = field(default_factory=dict)
    """Why results may match the reference to the bit: operator type -> reason ("": they may not) -> kernel runs."""

    def rng(self, *salt: int) -> np.random.Generator:
        """Random choices that depend on the seed and the salt (non-negative) alone."""
        return np.random.default_rng([self.seed, *salt])


def power_up(generation: str, seed: int = 0) -> SimulatedDevice:
    """
    Raises:
        UsageError: not one of :data:`DEVICES`.
    """
    if generation not in DEVICES:
        raise UsageError(f"device {generation!r}: expected {' or '.join(DEVICES)}")
    return SimulatedDevice(Core(generation), seed)
