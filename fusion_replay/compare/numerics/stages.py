# SPDX-License-Identifier: Apache-2.0
"""What a kernel's arithmetic is, as data: stages, formats, where it rounds, who sets the mode, error constants.

``refs/`` declares one :class:`Numerics` beside each reference; :mod:`fusion_replay.compare.numerics.evaluator` executes
any of them, as intervals or as one device's values. Nothing here is the software NPU's, whose kernels are a second
statement of the same hardware: a test holds the two together.

Tested in tests/refs/test_numerics.py, with the operators' own data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy.typing as npt

from fusion_replay.errors import UsageError

DEVICES = ("npu1", "npu2")

FLOAT32, BF16 = "float32", "bfloat16"
"""Formats of a stage's result: a float32 accumulator, or bfloat16, narrowed by the mode."""

FLOOR, CONV_EVEN = "floor", "conv_even"
MODES = (FLOOR, CONV_EVEN)
"""What the rounding register can hold when a kernel that does not set it starts: floor after power-up, conv_even where
an earlier kernel left it so (Xilinx/mlir-aie pull requests 3587 and 3726, amd/IRON issue 180)."""

RELATIVE, ABSOLUTE, ULPS = "relative", "absolute", "bf16 ulp"

RestsOn = Literal["documented", "measured", "assumed"]


@dataclass(frozen=True, slots=True)
class Constant:
    """How far an instruction or a table may be from its function.

    Attributes:
        low, high: the error's ends in ``unit``: a share of the value, absolute, or bf16 ULPs of the stored result.
        source: where it is given.
        rests_on: "documented" (the source gives it, or the algorithm it follows from, for this device), "measured"
            (on hardware) or "assumed".
    """

    low: float
    high: float
    unit: str
    source: str
    rests_on: RestsOn

    def __post_init__(self) -> None:
        if not self.source:
            raise UsageError(
                f"error constant {self.low:g} to {self.high:g} {self.unit}: no source; say where it is from"
            )


@dataclass(frozen=True, slots=True)
class Stage:
    """One operation of a kernel.

    Attributes:
        name: what later stages call its result.
        op: the function, one of the evaluator's.
        of: its operands: earlier stages, arrays of the arrangement, or numbers.
        store: the result's format.
        by: how the device model executes it, where that is not ``op`` itself (a table, an iteration).
        error: of the instruction or table against ``op``; None: exact up to the format.
        within: the range that its results never leave.
        how: what ``op`` needs besides, hashable.
        source: where the stage was read, where that is not the numerics' own source.
    """

    name: str
    op: str
    of: tuple[str | float, ...]
    store: str = FLOAT32
    by: str | None = None
    error: Constant | None = None
    within: tuple[float, float] | None = None
    how: Any = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """One device as far as its arithmetic goes.

    Attributes:
        device: "npu1" or "npu2".
        rounding: the mode in which the kernel stores, "floor" or "conv_even".
        given: parameters of the operator that this model has otherwise than the step says: a candidate.
    """

    device: str
    rounding: str
    given: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return ", ".join([self.device, self.rounding, *(f"{k}={v}" for k, v in self.given)])


Arrays = Mapping[str, npt.NDArray[Any]]
Arrange = Callable[[SimpleNamespace, Mapping[str, "int | float"], Sequence[npt.NDArray[Any]]], Arrays]
Stages = Callable[[SimpleNamespace, str], tuple[Stage, ...]]


def flat(
    _params: SimpleNamespace, _values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """The inputs as they lie, called ``x`` and ``y``."""
    return {name: array.reshape(-1) for name, array in zip("xy", inputs, strict=False)}


def last(_params: SimpleNamespace, results: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The one result as it comes."""
    return results[0]


def register(_params: SimpleNamespace, _device: str) -> str | None:
    """The kernel takes the mode that it finds."""
    return None


def sets_conv_even(_params: SimpleNamespace, _device: str) -> str | None:
    """The kernel sets conv_even itself."""
    return CONV_EVEN


@dataclass(frozen=True, slots=True)
class Numerics:
    """One operator's arithmetic.

    Attributes:
        stages: parameters and device -> stages in order.
        source: where kernels and formats were read; required.
        arrange: parameters, runtime values and inputs -> named arrays; moves elements and computes nothing.
        results: the stages that make up the output; none: the last one.
        place: parameters and their arrays -> the output; moves elements and computes nothing.
        sets: parameters and device -> the mode that the kernel sets, None where it takes what it finds.
        unary: each element of the output follows from one bf16 element ``x``: a table of 65,536 says all.
        candidates: parameter -> other values that a device may have had, for a search of causes.
        devices: that have a kernel.
    """

    stages: Stages
    source: str
    arrange: Arrange = flat
    results: tuple[str, ...] = ()
    place: Callable[[SimpleNamespace, Sequence[npt.NDArray[Any]]], npt.NDArray[Any]] = last
    sets: Callable[[SimpleNamespace, str], str | None] = register
    unary: bool = False
    candidates: Mapping[str, tuple[Any, ...]] | None = None
    devices: tuple[str, ...] = DEVICES

    def __post_init__(self) -> None:
        if not self.source:
            raise UsageError("numerics without a source: say which kernel they were read from")

    def models(self, params: SimpleNamespace, device: str | None) -> tuple[Model, ...]:
        """The devices that the step may have run on: one for each mode that its kernel can have.

        Raises:
            UsageError: no such device, or one without a kernel for the operator.
        """
        if device is not None and device not in self.devices:
            raise UsageError(f"device {device!r}: its arithmetic is known for {' and '.join(self.devices)}")
        found = []
        for each in self.devices if device is None else (device,):
            mode = self.sets(params, each)
            found += [Model(each, m) for m in (MODES if mode is None else (mode,))]
        return tuple(found)

    def others(self, params: SimpleNamespace, device: str | None) -> Iterator[Model]:
        """What a search tries besides: each mode, and each candidate's values one at a time."""
        known = self.models(params, device)
        for each in dict.fromkeys(m.device for m in known):
            yield from (m for m in (Model(each, mode) for mode in MODES) if m not in known)
            for name, values in (self.candidates or {}).items():
                for value in values:
                    if value != getattr(params, name, None):
                        yield from (Model(each, mode, ((name, value),)) for mode in MODES)

    def stages_of(self, params: SimpleNamespace, model: Model) -> tuple[Stage, ...]:
        """The stages on this device, with the model's own parameters."""
        given = SimpleNamespace(**{**vars(params), **dict(model.given)}) if model.given else params
        return self.stages(given, model.device)

    def assumed(self, params: SimpleNamespace, device: str | None) -> tuple[str, ...]:
        """What the bound assumes of the hardware: ``tanh: 1 bf16 ulp``; empty where all of it is documented."""
        found: dict[str, None] = {}
        for model in self.models(params, device):
            for stage in walk(self.stages_of(params, model)):
                c = stage.error
                if getattr(stage.how, "bfp16", False):
                    found.setdefault("errors of bfp16 operands to be independent")
                if c is not None and c.rests_on == "assumed":
                    found.setdefault(f"{stage.op} to {max(-c.low, c.high):.3g} {c.unit}")
        return tuple(found)


def walk(stages: Sequence[Stage]) -> Iterator[Stage]:
    """The stages, and those inside a stage that runs a table of others."""
    for stage in stages:
        yield stage
        if stage.op == "through":
            yield from walk(stage.how)
