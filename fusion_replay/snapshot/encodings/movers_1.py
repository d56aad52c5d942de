# SPDX-License-Identifier: Apache-2.0
"""Movers, version 1: what Repeat, Transpose, MemCopy, Copy and StridedCopy make of their inputs, byte for byte. Frozen.

A file says of each derived content which version made it, and this one gives the same bytes for ever, whatever becomes
of the operators in :mod:`fusion_replay.refs`: it shares no code with them. What has to change is written beside it, as
the next version. Everything that comes from a file is checked before anything is allocated by it.

Sizes, offsets and strides are in elements. A walk is an offset with sizes and strides, last index fastest; several
channels split the innermost dimension of both walks of a copy and move their shares one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import HostileFileError
from fusion_replay.model.runlist import DTYPE_BYTES, ArgSpec

Bytes = npt.NDArray[np.uint8]
Params = Mapping[str, Any]
Values = Mapping[str, int | float]

_NAMES = {
    "Repeat": ("repeat", "AIERepeat"),
    "Transpose": ("transpose", "AIETranspose"),
    "MemCopy": ("mem_copy", "AIEMemCopy"),
    "Copy": ("copy", "AIECopy"),
    "StridedCopy": ("strided_copy", "AIEStridedCopy"),
}
_BY_NAME = {name: op for op, names in _NAMES.items() for name in (op, *names)}
_PARTIAL = ("Copy", "StridedCopy")
_SHORT = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "ui8": "uint8",
}
_MOST = 1 << 40
_AXES = 64


def moves(op: str) -> bool:
    """Whether an operator of this type or alias is one of the five."""
    return op in _BY_NAME


def partial(op: str) -> bool:
    """Whether it leaves old contents of its output where it writes nothing."""
    return _BY_NAME[op] in _PARTIAL


def moved(
    op: str,
    params: Params,
    specs: Sequence[ArgSpec],
    inputs: Sequence[Bytes],
    previous: Sequence[Bytes | None],
    values: Values,
) -> dict[int, Bytes]:
    """The bytes of the output by operand position. ``specs``: the operands as the runlist has them.

    Raises:
        HostileFileError: none of the five, or parameters that can't be, or disagree with the runlist.
    """
    kind = _BY_NAME.get(op)
    if kind is None:
        raise HostileFileError(f"{op} is no operator that only moves data")
    taken, given, dtype = _sizes(kind, params)
    if [(s.direction, s.size, s.dtype) for s in specs] != [("in", taken, dtype), ("out", given, dtype)]:
        raise HostileFileError(f"{op}: its parameters and its runlist entry disagree")
    if len(inputs) != 1 or inputs[0].size != specs[0].nbytes:
        raise HostileFileError(f"{op}: one input of {specs[0].nbytes} bytes expected")
    source = _elements(inputs[0], dtype)
    if kind in _PARTIAL:
        old = previous[0] if len(previous) == 1 else None
        if old is None or old.size != specs[1].nbytes:
            raise HostileFileError(f"{op}: the old contents of its output are needed, {specs[1].nbytes} bytes")
        result = _copied(kind, params, values, source, _elements(old, dtype))
    elif kind == "Repeat":
        rows = _integer(params, "rows")
        result = np.repeat(source.reshape(rows, taken // max(1, rows)), _integer(params, "repeat"), axis=0)
    elif kind == "Transpose":
        shape = _integer(params, "num_batches", 1), _integer(params, "M"), _integer(params, "N")
        result = source.reshape(shape).transpose(0, 2, 1)
    else:
        result = source.copy()
    return {1: np.ascontiguousarray(result).reshape(-1).view(np.uint8)}


def _sizes(kind: str, params: Params) -> tuple[int, int, str]:
    """Elements of the input and of the output, and their type."""
    if kind == "Repeat":
        rows, cols, seq = _integer(params, "rows"), _integer(params, "cols"), _integer(params, "seq", 1)
        return rows * seq * cols, rows * _integer(params, "repeat") * seq * cols, _dtype(params)
    if kind == "Transpose":
        size = _integer(params, "num_batches", 1) * _integer(params, "M") * _integer(params, "N")
        return size, size, "bfloat16"
    if kind == "MemCopy":
        return _integer(params, "size"), _integer(params, "size"), "bfloat16"
    source, target = (_walk(kind, params, side) for side in (0, 1))
    if source.count != target.count:
        raise HostileFileError(f"{kind}: its walks are of {source.count} and {target.count} elements")
    return source.buffer, target.buffer, _dtype(params)


@dataclass(frozen=True, slots=True)
class _Walk:
    buffer: int
    offset: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.sizes)

    def check(self, channels: int) -> None:
        """Raises HostileFileError unless it stays inside its buffer and is no longer than it."""
        sizes, strides = self.sizes, self.strides
        sound = sizes and len(sizes) == len(strides) and min(sizes) >= 1 and min(strides) >= 0 and channels >= 1
        if sound and not sizes[-1] % channels and self.offset >= 0:
            last = self.offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
            if last < self.buffer:
                return
        raise HostileFileError(f"a walk of {sizes} by {strides} from {self.offset} on a buffer of {self.buffer}")

    def elements(self) -> npt.NDArray[np.int64]:
        """Their numbers, in the order they are visited."""
        at = np.array([self.offset], np.int64)
        for n, stride in zip(self.sizes, self.strides, strict=True):
            steps = np.arange(n, dtype=np.int64)
            steps *= stride
            at = (at[:, None] + steps).reshape(-1)
        return at

    def share(self, channel: int, channels: int) -> _Walk:
        length = self.sizes[-1] // channels
        return replace(self, offset=self.offset + channel * length * self.strides[-1], sizes=(*self.sizes[:-1], length))


def _walk(kind: str, params: Params, side: int) -> _Walk:
    """The walk over the input (0) or the output (1), as the parameters say it."""
    word = ("input", "output")[side]
    if kind == "StridedCopy":
        sizes, strides = (_integers(f"{word}_{name}", params.get(f"{word}_{name}")) for name in ("sizes", "strides"))
        offset = _integer(params, f"{word}_offset", low=-_MOST)
        return _Walk(_integer(params, f"{word}_buffer_size"), offset, sizes, strides)
    given = params.get(("src", "dst")[side])
    buffer = None if side and params.get("output_buffer_size") is None else _integer(params, f"{word}_buffer_size")
    if given is None:
        whole = _walk(kind, params, 0).count if buffer is None else buffer
        return _Walk(whole, 0, (whole,), (1,))
    if not isinstance(given, Mapping):
        raise HostileFileError(f"{kind}: {given!r} is no walk")
    sizes, strides = (_integers(name, given.get(name)) for name in ("sizes", "strides"))
    count = _walk(kind, params, 0).count if buffer is None else buffer
    offset = 0 if given.get("offset") is None else _integer(given, "offset", low=-_MOST)
    return _Walk(count, offset, sizes, strides)


def _copied(kind: str, params: Params, values: Values, source: Any, old: Any) -> Any:
    """``old`` with what one walk puts there of what the other takes from ``source``."""
    strided = kind == "StridedCopy"
    channels = _integer(params, "num_aie_channels" if strided else "num_channels", 1)
    names = ("input_offset", "output_offset") if strided else ("in_offset", "out_offset")
    walks = []
    for side in (0, 1):
        walk = _walk(kind, params, side) if strided else _bounded(params, values, side)
        walk = replace(walk, offset=walk.offset + _offset(params, values, names[side]))
        walk.check(channels)
        if walk.count > old.size:  # then something would be written twice, which it must not
            raise HostileFileError(f"{kind}: a walk longer than the buffer it writes to")
        walks.append(walk)
    take, put = walks
    if take.count != put.count or _reached(put, old.size) < put.count:
        raise HostileFileError(f"{kind}: walks of different lengths, or an element written twice")
    new = old.copy()
    for channel in range(channels):
        new[put.share(channel, channels).elements()] = source[take.share(channel, channels).elements()]
    return new


def _reached(walk: _Walk, size: int) -> int:
    """How many of so many elements it visits; a byte each, where sorting their numbers would take 24."""
    seen = np.zeros(size, np.bool_)
    seen[walk.elements()] = True
    return int(np.count_nonzero(seen))


def _bounded(params: Params, values: Values, side: int) -> _Walk:
    """Copy's walk with the size that this dispatch gives its bounded dimension."""
    name, walk = ("src", "dst")[side], _walk("Copy", params, side)
    valid, given = values.get(f"{name}_valid"), params.get(name)
    if valid is None:
        return walk
    axis = given.get("bounded") if isinstance(given, Mapping) else None
    if not isinstance(axis, int) or not 0 <= axis < len(walk.sizes) or not 1 <= valid <= walk.sizes[axis]:
        raise HostileFileError(f"Copy: runtime value {name}_valid {valid} does not fit its walk")
    return replace(walk, sizes=(*walk.sizes[:axis], int(valid), *walk.sizes[axis + 1 :]))


def _offset(params: Params, values: Values, name: str) -> int:
    """What this dispatch adds to a walk's offset, under its name or the symbol that a parameter gives it."""
    symbol = params.get(f"{name}_parameter")
    if isinstance(symbol, str):
        if symbol not in values and name not in values:
            raise HostileFileError(f"runtime value {name} (symbol {symbol!r}) is missing")
        return int(values.get(symbol, values.get(name, 0)))
    return int(values.get(name, 0))


def _elements(data: Bytes, dtype: str) -> Any:
    return data.view(f"<u{DTYPE_BYTES[dtype]}")


def _dtype(params: Params) -> str:
    given = params.get("dtype", "bfloat16")
    text = str(getattr(given, "__name__", None) or given).removeprefix("<class '").removesuffix("'>")
    name = text.rpartition(".")[2]
    name = _SHORT.get(name, name)
    if name not in DTYPE_BYTES:
        raise HostileFileError(f"dtype {given!r} is no element type")
    return name


def _integer(params: Params, name: str, default: int | None = None, *, low: int = 0) -> int:
    (number,) = _integers(name, [params.get(name, default)], low)
    return number


def _integers(name: str, value: Any, low: int = 0) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)) and len(value) <= _AXES:
        numbers = [n for n in value if isinstance(n, (int, float, np.number)) and not isinstance(n, bool)]
        if len(numbers) == len(value) and all(low <= n <= _MOST and n == int(n) for n in numbers):
            return tuple(int(n) for n in numbers)
    raise HostileFileError(f"{name} {str(value)[:200]}: expected whole numbers from {low} to {_MOST}")
