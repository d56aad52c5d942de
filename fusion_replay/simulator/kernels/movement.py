# SPDX-License-Identifier: Apache-2.0
"""Transpose, Repeat, StridedCopy, Copy, MemCopy: every bit arrives, NaN payloads included. Any element type."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, always, field, require, require_columns, require_multiple

Elements = npt.NDArray[np.int64]

_DIMENSIONS = 4  # of a shim DMA descriptor, as IRON's design pads them


def _transpose(d: Dispatch) -> list[Array]:
    p = d.params
    matrices = d.inputs[0].reshape(-1, p.M, p.N)
    return [np.ascontiguousarray(_bits(matrices).swapaxes(1, 2)).view(d.inputs[0].dtype)]


def _repeat(d: Dispatch) -> list[Array]:
    p = d.params
    rows = _bits(d.inputs[0]).reshape(p.rows, 1, p.cols)
    out = np.empty((p.rows, p.repeat, p.cols), rows.dtype)
    out[...] = rows  # whole rows at a time: several times faster than np.repeat
    return [out.reshape(p.rows * p.repeat, p.cols).view(d.inputs[0].dtype)]


def _strided_copy(d: Dispatch) -> list[Array]:
    """Runtime offsets (elements) add to the design's (amd/IRON ``iron/operators/strided_copy/design.py``)."""
    p = d.params
    channels = field(p, "num_aie_channels", 1)
    shift_in, shift_out = int(d.values.get("input_offset", 0)), int(d.values.get("output_offset", 0))
    reads = _walks(p.input_sizes, p.input_strides, field(p, "input_offset", 0) + shift_in, channels)
    writes = _walks(p.output_sizes, p.output_strides, field(p, "output_offset", 0) + shift_out, channels)
    return [_moved("StridedCopy", d.inputs[0], d.previous[0], reads, writes)]


def _copy(d: Dispatch) -> list[Array]:
    """As StridedCopy, its walks named ``src`` and ``dst`` (amd/IRON ``iron/operators/copy.py``)."""
    p = d.params
    channels = field(p, "num_channels", 1)
    walks = []
    for side, shift, size in (("src", "in_offset", d.inputs[0].size), ("dst", "out_offset", d.previous[0].size)):
        offset, sizes, strides = walk_of(p, side, size, d.values.get(f"{side}_valid"))
        walks.append(_walks(sizes, strides, offset + int(d.values.get(shift, 0)), channels))
    return [_moved("Copy", d.inputs[0], d.previous[0], *walks)]


def walk_of(
    p: Params, side: str, size: int, valid: int | float | None = None
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Offset, sizes and strides of a walk in elements; one that is not given takes the whole buffer in order.

    ``valid`` is this dispatch's size of the walk's bounded axis, where it has one.
    """
    walk = field(p, side)
    if walk is None:
        return 0, (size,), (1,)
    names = ("offset", "sizes", "strides", "bounded")
    given: Mapping[str, Any] = walk if isinstance(walk, Mapping) else {k: getattr(walk, k, None) for k in names}
    sizes, bounded = list(given["sizes"]), given.get("bounded")
    if valid is not None:
        require(bounded is not None, "Copy", f"{side}_valid", "no value, the walk has no bounded axis", valid)
        sizes[int(bounded or 0)] = int(valid)
    return int(given.get("offset") or 0), tuple(sizes), tuple(given["strides"])


def _moved(op: str, source: Array, old: Array, reads: Iterable[Elements], writes: Iterable[Elements]) -> Array:
    """The k-th element of the source walk goes to the k-th place of the destination walk; the rest keeps its value.

    With several channels the innermost dimension of either side is split among them, and each channel copies its own
    walk.
    """
    flat, target = _bits(source).reshape(-1), _bits(old).reshape(-1).copy()
    for read, write in zip(reads, writes, strict=True):
        _require_inside(op, "input", read, flat.size)
        _require_inside(op, "output", write, target.size)
        target[write] = flat[read]
    return target.view(old.dtype).reshape(old.shape)


def _mem_copy(d: Dispatch) -> list[Array]:
    return [d.inputs[0].copy()]


def _walks(sizes: Sequence[int], strides: Sequence[int], offset: int, channels: int) -> Iterator[Elements]:
    """Element indices in the order in which each channel visits them."""
    share = sizes[-1] // channels
    for channel in range(channels):
        index = np.zeros((), np.int64) + (offset + channel * share * strides[-1])
        for size, stride in zip([*sizes[:-1], share], strides, strict=True):
            index = index[..., None] + np.arange(size, dtype=np.int64) * stride
        yield index.reshape(-1)


def _require_inside(op: str, side: str, index: Elements, size: int) -> None:
    if index.size:
        low, high = int(index.min()), int(index.max())
        expected = f"element offsets within the {side} buffer's {size} elements"
        require(low >= 0 and high < size, op, f"{side} walk", expected, f"{low}..{high}")


def _bits(x: Array) -> Array:
    """The same memory as unsigned integers: numpy copies those faster than the bfloat16 extension type."""
    return x.view(np.dtype(f"u{x.dtype.itemsize}"))


def _transpose_rules(p: Params, core: Core) -> None:
    op = "Transpose"
    columns, channels = field(p, "num_aie_columns", 1), field(p, "num_channels", 1)
    require_columns(op, columns, core)
    batches = field(p, "num_batches", 1)
    require(batches >= 1, op, "num_batches", "at least 1", batches)
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
    walks = {side: (getattr(p, f"{side}_sizes"), getattr(p, f"{side}_strides")) for side in ("input", "output")}
    names = {side: (f"{side}_sizes", f"{side}_strides") for side in walks}
    _walk_rules("StridedCopy", walks, names, "num_aie_channels", field(p, "num_aie_channels", 1))
    moved = math.prod(p.input_sizes)
    require_multiple("StridedCopy", "input_sizes", moved, field(p, "transfer_size", moved), "transfer_size")


def _copy_rules(p: Params, core: Core) -> None:
    source = walk_of(p, "src", p.input_buffer_size)
    moved = math.prod(source[1])
    target = walk_of(p, "dst", field(p, "output_buffer_size", moved))
    channels = field(p, "num_channels", 1)
    names = {side: (f"{side}.sizes", f"{side}.strides") for side in ("src", "dst")}
    _walk_rules("Copy", {"src": source[1:], "dst": target[1:]}, names, "num_channels", channels)
    share = moved // channels
    require_multiple("Copy", "src.sizes", share, field(p, "tile_size", share), "tile_size, per channel")


def _walk_rules(
    op: str,
    walks: Mapping[str, tuple[Sequence[int], ...]],
    names: Mapping[str, tuple[str, str]],
    channels_name: str,
    channels: int,
) -> None:
    require(channels >= 1, op, channels_name, "at least 1", channels)
    for side, (sizes, strides) in walks.items():
        sizes_name, strides_name = names[side]
        require(1 <= len(sizes) <= _DIMENSIONS, op, sizes_name, f"1 to {_DIMENSIONS} dimensions", tuple(sizes))
        require(len(sizes) == len(strides), op, strides_name, f"{len(sizes)} strides", tuple(strides))
        require_multiple(op, f"{sizes_name}[-1]", sizes[-1], channels, channels_name)
        require(min(sizes) >= 1, op, sizes_name, "each at least 1", tuple(sizes))
        require(min(strides) >= 0, op, strides_name, "none below 0, a DMA cannot walk backwards", tuple(strides))
    (first, (sizes, _)), (second, (others, jumps)) = walks.items()
    moved, stored = math.prod(sizes), math.prod(others)
    require(moved == stored, op, names[second][0], f"{moved} elements, as {names[first][0]} walks", tuple(others))
    once = "jumps that write no element twice"
    require(not _meets_itself(others, jumps), op, names[second][1], once, tuple(jumps))


def _meets_itself(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a walk comes to an element twice; counted out only where its loops do not nest."""
    room = 1
    for stride, size in sorted((stride, size) for size, stride in zip(sizes, strides, strict=True) if size > 1):
        if stride < room:
            visited = np.concatenate(list(_walks(sizes, strides, 0, 1)))
            return len(np.unique(visited)) < len(visited)
        room = stride * (size - 1) + room
    return False


def _mem_copy_rules(p: Params, core: Core) -> None:
    """Any size: the design pads the last tile itself (amd/IRON ``iron/operators/mem_copy/design.py``)."""
    op, channels = "MemCopy", field(p, "num_channels", 1)
    require(p.size >= 1, op, "size", "at least 1", p.size)
    require(field(p, "tile_size", 1) >= 1, op, "tile_size", "a positive count of elements", field(p, "tile_size", 1))
    require(1 <= channels <= 2, op, "num_channels", "1 or 2, the DMA channels of a column", channels)
    cores, most = field(p, "num_cores", 1), core.columns * channels
    require(1 <= cores <= most, op, "num_cores", f"1 to {most} on {core.generation}", cores)


_NOTE = always("moves bits and computes nothing: exact under every rounding state")

KERNELS = (
    Kernel("Transpose", _transpose, _transpose_rules, _NOTE, "amd/IRON iron/operators/transpose"),
    Kernel("Repeat", _repeat, _repeat_rules, _NOTE, "amd/IRON iron/operators/repeat"),
    Kernel("StridedCopy", _strided_copy, _strided_copy_rules, _NOTE, "amd/IRON iron/operators/strided_copy"),
    Kernel("Copy", _copy, _copy_rules, _NOTE, "amd/IRON iron/operators/copy.py"),
    Kernel("MemCopy", _mem_copy, _mem_copy_rules, _NOTE, "amd/IRON iron/operators/mem_copy"),
)
