# SPDX-License-Identifier: Apache-2.0
"""Number formats and rounding of the AI engine cores, as the software NPU models them.

A core computes in float32 accumulators and narrows to bfloat16 when it stores. That narrowing obeys a control
register (``crRnd``: floor 0, positive infinity 9, nearest-even 12) which powers up as *floor*, which kernels may set,
and which keeps its value for whatever runs on that core next (Xilinx/mlir-aie pull requests 3587 and 3726, amd/IRON
issue 180). Real hardware has one register in each core, and whether loading the next design resets it depends on
driver and design; the model has one register for the whole device that lives as long as the device does, which is
the state in which the reported leaks were seen.

Everything here is numpy, written apart from the package's bf16 and the references, so that agreement between a
kernel and a reference means something. Subnormal numbers are kept. Every NaN that is stored is ``0x7fc0``, since the
sign of a computed NaN differs between host processors.
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fusion_replay.errors import UsageError

Generation = Literal["npu1", "npu2"]
Rounding = Literal["floor", "conv_even"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
COLUMNS: dict[str, int] = {"npu1": 4, "npu2": 8}
"""Columns of compute tiles: Phoenix and Hawk Point (AIE2) have 4, Strix, Strix Halo and Krackan (AIE2P) have 8."""

_CANONICAL_NAN = 0x7FC0


class Core:
    """The numeric state of a device's cores.

    Attributes:
        generation: "npu1" (AIE2) or "npu2" (AIE2P).
        columns: columns of the array, 4 or 8.
        rounding: what stores to bfloat16 do, "floor" (towards minus infinity, the state after power-up) or
            "conv_even" (nearest, ties to even). Sticky: kernels set it and need not restore it.
        stored: the accumulator that was narrowed last, None before the first: a step that is folded into the one
            before it goes on from there.
    """

    __slots__ = ("_rounding", "columns", "generation", "stored")

    def __init__(self, generation: str, rounding: str = "floor") -> None:
        if generation not in COLUMNS:
            raise UsageError(f"device {generation!r}: expected {' or '.join(COLUMNS)}")
        self.generation: Generation = cast(Generation, generation)
        self.columns = COLUMNS[generation]
        self.rounding = rounding
        self.stored: Float32 | None = None

    @property
    def rounding(self) -> Rounding:
        return self._rounding

    @rounding.setter
    def rounding(self, mode: str) -> None:
        if mode not in get_args(Rounding):
            raise UsageError(f"rounding {mode!r}: expected {' or '.join(get_args(Rounding))}")
        self._rounding = cast(Rounding, mode)

    def store_bf16(self, x: npt.ArrayLike) -> Array:
        """``x`` (float32 or float64, any shape) as the bfloat16 array a store instruction leaves.

        float64 goes through float32 first, rounded to nearest: the accumulator that holds a value before it is
        narrowed has 32 bits.
        """
        self.stored = _accumulator(x)
        return _narrow(self.stored, self._rounding).view(BFLOAT16)

    def round_bf16(self, x: npt.ArrayLike) -> Float32:
        """As :meth:`store_bf16`, read back as float32: an intermediate that passes through a bfloat16 vector."""
        return _widen_bits(_narrow(_accumulator(x), self._rounding))

    def __repr__(self) -> str:
        return f"Core({self.generation!r}, rounding={self.rounding!r})"


class Unrounded(np.ndarray[Any, np.dtype[np.float32]]):
    """A float32 result that goes into the next step of a folded pair as it is."""


def widen(x: Array) -> Float32:
    """bfloat16 array -> the same values as float32, exactly. Shape is kept; the result is contiguous.

    What is :class:`Unrounded` has never been narrowed, and is as wide as it was.
    """
    if isinstance(x, Unrounded):
        return np.asarray(x)
    if x.dtype != BFLOAT16:
        raise UsageError(f"the simulator's kernels compute on bfloat16, found {x.dtype.name}")
    return _widen_bits(x.view(np.uint16))


def nearest_bf16(x: npt.ArrayLike) -> Float32:
    """The nearest bfloat16 values, as float32: constants that a compiler or a table generator rounded on the host."""
    return _widen_bits(_narrow(_accumulator(x), "conv_even"))


def rsqrt(x: Float32, newton_steps: int) -> Float32:
    """``1 / sqrt(x)`` in float32 arithmetic: integer estimate, then Newton steps.

    The estimate with the magic number 0x5f3759df is public lore; one step leaves a relative error up to 1.75e-3 and
    is what AIE2 kernels use (amd/IRON ``aie_kernels/aie2/aie2_math.h``), two leave 5e-6 (AIE2P, Xilinx/mlir-aie
    ``python/utils/aie2p_emulation.py``). ``x`` outside the positive normal numbers gives garbage, as on the device.
    """
    x = np.asarray(x, np.float32, order="C")
    half = x * np.float32(0.5)
    # The shift is arithmetic: the C++ works on int32.
    y = (np.int32(0x5F3759DF) - (x.view(np.int32) >> np.int32(1))).view(np.float32)
    for _ in range(newton_steps):
        y = y * (np.float32(1.5) - half * y * y)
    return y


def lane_sum(x: Float32, lanes: int) -> Float32:
    """Sum over the last axis the way a vector unit does: ``lanes`` running float32 sums, then halved pairwise.

    ``x``: float32 ``(..., n)`` with ``n`` a multiple of ``lanes``, a power of two. Returns float32 ``(...)``. Every
    addition is an explicit elementwise one, so the bits are the same on every host.
    """
    parts = x.reshape(*x.shape[:-1], x.shape[-1] // lanes, lanes)
    sums = parts[..., 0, :].copy()
    for i in range(1, parts.shape[-2]):
        sums += parts[..., i, :]
    return halve(sums)


def halve(sums: Float32) -> Float32:
    """The reduction tree over the last axis (a power of two): upper half onto lower half, until one value is left."""
    lanes = np.ascontiguousarray(np.moveaxis(sums, -1, 0))  # lanes first: every addition is contiguous
    while len(lanes) > 1:
        middle = len(lanes) // 2
        lanes = lanes[:middle] + lanes[middle:]
    return cast(Float32, lanes[0])


def _accumulator(x: npt.ArrayLike) -> Float32:
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(x, np.float32, order="C")


def _widen_bits(bits: npt.NDArray[np.uint16]) -> Float32:
    return np.left_shift(bits, np.uint32(16), dtype=np.uint32).view(np.float32)


def _narrow(x: Float32, mode: Rounding) -> npt.NDArray[np.uint16]:
    """float32 -> bfloat16 bit patterns; bfloat16 is the upper half of float32."""
    bits = x.view(np.uint32)
    if mode == "floor":
        # Cutting the lower half goes towards zero; below zero one step more wherever something was cut.
        up = ((bits & np.uint32(0xFFFF)) != 0) & ((bits >> np.uint32(31)) != 0)
        rounded = (bits >> np.uint32(16)) + up
    else:
        last = (bits >> np.uint32(16)) & np.uint32(1)
        rounded = (bits + np.uint32(0x7FFF) + last) >> np.uint32(16)
    out: npt.NDArray[np.uint16] = rounded.astype(np.uint16)
    nan = np.isnan(x)
    if nan.any():
        out = np.where(nan, np.uint16(_CANONICAL_NAN), out)
    return out


__all__ = [
    "BFLOAT16",
    "COLUMNS",
    "Core",
    "Float32",
    "Generation",
    "Rounding",
    "Unrounded",
    "halve",
    "lane_sum",
    "nearest_bf16",
    "rsqrt",
    "widen",
]
