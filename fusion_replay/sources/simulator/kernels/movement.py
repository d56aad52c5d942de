# SPDX-License-Identifier: Apache-2.0
"""Transpose, Repeat, StridedCopy: every bit arrives, NaN payloads included. Any element type."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fusion_replay.sources.simulator.core import Core
from fusion_replay.sources.simulator.kernels._base import (
    MOVES_BITS,
    Array,
    Kernel,
    Params,
    Values,
    field,
    require,
    require_columns,
    require_multiple,
)

_DIMENSIONS = 4  # of a shim DMA descriptor, as IRON's design pads them


def _transpose(
    core: Core, p: Params, inputs: Sequence[Array], previous: Sequence[Array], values: Values
) -> list[Array]:
    matrices = inputs[0].reshape(-1, p.M, p.N)
    return [np.ascontiguousarray(_bits(matrices).swapaxes(1, 2)).view(inputs[0].dtype)]


def _repeat(core: Core, p: Params, inputs: Sequence[Array], previous: Sequence[Array], values: Values) -> list[Array]:
    rows = _bits(inputs[0]).reshape(p.rows, 1, p.cols)
    out = np.empty((p.rows, p.repeat, p.cols), rows.dtype)
    out[...] = rows  # whole rows at a time: several times faster than np.repeat
    return [out.reshape(p.rows * p.repeat, p.cols).view(inputs[0].dtype)]


def _strided_copy(
    core: Core, p: Params, inputs: Sequence[Array], previous: Sequence[Array], values: Values
) -> list[Array]:
    """The k-th element of the source walk goes to the k-th place of the destination walk; the rest keeps its value.

    Runtime offsets (elements) add to the design's. With several channels the innermost dimension of either side is
    split among them, and each channel copies its own walk (amd/IRON ``iron/operators/strided_copy/design.py``).
    """
    source = _bits(inputs[0]).reshape(-1)
    target = _bits(previous[0]).reshape(-1).copy()
    channels = field(p, "num_aie_channels", 1)
    shift_in, shift_out = int(values.get("input_offset", 0)), int(values.get("output_offset", 0))
    reads = _walks(p.input_sizes, p.input_strides, field(p, "input_offset", 0) + shift_in, channels)
    writes = _walks(p.output_sizes, p.output_strides, field(p, "output_offset", 0) + shift_out, channels)
    for read, write in zip(reads, writes, strict=True):
        _require_inside("input", read, source.size)
        _require_inside("output", write, target.size)
        target[write] = source[read]
    return [target.view(previous[0].dtype).reshape(previous[0].shape)]


def _walks(sizes: Sequence[int], strides: Sequence[int], offset: int, channels: int) -> Iterator[npt.NDArray[np.int64]]:
    """Element indices in the order in which each channel visits them."""
    share = sizes[-1] // channels
    for channel in range(channels):
        index = np.zeros((), np.int64) + (offset + channel * share * strides[-1])
        for size, stride in zip([*sizes[:-1], share], strides, strict=True):
            index = index[..., None] + np.arange(size, dtype=np.int64) * stride
        yield index.reshape(-1)


def _require_inside(side: str, index: npt.NDArray[np.int64], size: int) -> None:
    if index.size:
        low, high = int(index.min()), int(index.max())
        expected = f"element offsets within the {side} buffer's {size} elements"
        require(low >= 0 and high < size, "StridedCopy", f"{side} walk", expected, f"{low}..{high}")


def _bits(x: Array) -> Array:
    """The same memory as unsigned integers: numpy copies those faster than the bfloat16 extension type."""
    return x.view(np.dtype(f"u{x.dtype.itemsize}"))


def _transpose_rules(p: Params, core: Core) -> None:
    op = "Transpose"
    columns, channels = field(p, "num_aie_columns", 1), field(p, "num_channels", 1)
    require_columns(op, columns, core)
    m, n = field(p, "m", p.M), field(p, "n", p.N)
    s = field(p, "s", math.gcd(m, n))
    require_multiple(op, "M", p.M, m, "m")
    require_multiple(op, "N", p.N, n, "n")
    require_multiple(op, "m", m, s, "s")
    require_multiple(op, "n", n, s, "s")
    require_multiple(op, "M * N", p.M * p.N, m * n * columns * channels, "m * n * num_aie_columns * num_channels")


def _repeat_rules(p: Params, core: Core) -> None:
    for name in ("rows", "cols", "repeat"):
        value = getattr(p, name)
        require(value > 0, "Repeat", name, "a positive count", value)


def _strided_copy_rules(p: Params, core: Core) -> None:
    op, channels = "StridedCopy", field(p, "num_aie_channels", 1)
    require(channels >= 1, op, "num_aie_channels", "at least 1", channels)
    for side in ("input", "output"):
        sizes, strides = getattr(p, f"{side}_sizes"), getattr(p, f"{side}_strides")
        require(1 <= len(sizes) <= _DIMENSIONS, op, f"{side}_sizes", f"1 to {_DIMENSIONS} dimensions", tuple(sizes))
        require(len(sizes) == len(strides), op, f"{side}_strides", f"{len(sizes)} strides", tuple(strides))
        require_multiple(op, f"{side}_sizes[-1]", sizes[-1], channels, "num_aie_channels")
    moved, stored = math.prod(p.input_sizes), math.prod(p.output_sizes)
    require(moved == stored, op, "output_sizes", f"{moved} elements, as input_sizes walks", tuple(p.output_sizes))
    require_multiple(op, "input_sizes", moved, field(p, "transfer_size", moved), "transfer_size")


def _note(p: Params, core: Core) -> str:
    return MOVES_BITS


KERNELS = (
    Kernel("Transpose", _transpose, _transpose_rules, _note, "amd/IRON iron/operators/transpose"),
    Kernel("Repeat", _repeat, _repeat_rules, _note, "amd/IRON iron/operators/repeat"),
    Kernel("StridedCopy", _strided_copy, _strided_copy_rules, _note, "amd/IRON iron/operators/strided_copy"),
)
