# SPDX-License-Identifier: Apache-2.0
"""Operators with IRON's names and fields, in the two shapes that IRON has had; their kernels are plain numpy.

``SpecOperator``: amd/IRON ``iron/common/base.py`` (``MLIROperator``, ``AIERuntimeArgSpec``; 08f707bf by the notes that
these doubles were written from). ``DeclaredOperator``: ``iron/common/declare/operator.py`` as ``iron/common/image/
callable.py`` uses it (``buffers``, ``values``, ``bound_values``, ``bound_extents``, ``call_reference``, ``judge``).
Differences: the real ones build MLIR; arg specs come here from one method for both shapes; a declared operator's
parameters are dataclass fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)


def f32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


class Computes:
    """What both shapes share: ``args()`` as ``(name, direction, shape, dtype)``, ``compute(arrays, values)``."""

    asks: tuple[str, ...] = ()
    """Per-call values by name, and the device symbol each is bound to."""
    symbols: Mapping[str, str] = {}

    def args(self) -> list[tuple[str, str, Any, Any]]:
        raise NotImplementedError

    def compute(self, arrays: list[np.ndarray], values: Mapping[str, Any]) -> None:
        """Write the outputs in place."""
        raise NotImplementedError

    def windows(self, memory: list[np.ndarray], scalars: Mapping[str, Any]) -> list[np.ndarray]:
        """Each argument's bytes as its spec sees them."""
        shaped = []
        for m, (_, _, shape, dtype) in zip(memory, self.args(), strict=True):
            shape = (shape,) if isinstance(shape, int) else shape
            nbytes = math.prod(shape) * np.dtype(dtype).itemsize
            shaped.append(m[:nbytes].view(dtype).reshape(shape))
        return shaped

    def device(self, memory: list[np.ndarray], scalars: Mapping[str, Any]) -> None:
        values = {name: scalars[self.symbols[name]] for name in self.asks if self.symbols.get(name) in scalars}
        self.compute(self.windows(memory, scalars), values)

    def expected(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs for these inputs, from zeroed outputs."""
        given = iter(inputs)
        arrays = []
        for _, direction, shape, dtype in self.args():
            arrays.append(np.array(next(given)) if direction != "out" else np.zeros(shape, dtype))
        self.compute(arrays, {})
        return [a for a, (_, direction, *_) in zip(arrays, self.args(), strict=True) if direction != "in"]


@dataclass
class RMSNorm(Computes):
    size: int
    num_aie_columns: int = 1
    num_channels: int = 1
    tile_size: int = 0
    weighted: bool = True

    def args(self) -> Any:
        rows = (self.size // self.tile_size, self.tile_size)
        return [("A", "in", rows, BF16), ("B", "in", (self.tile_size,), BF16), ("C", "out", rows, BF16)]

    def compute(self, arrays: Any, values: Any) -> None:
        x, w, y = arrays
        y[...] = f32(x) / np.sqrt(np.mean(f32(x) ** 2, -1, keepdims=True) + 1e-5) * f32(w)


@dataclass
class GEMV(Computes):
    M: int
    K: int
    num_aie_columns: int = 1
    num_batches: int = 1

    def args(self) -> Any:
        lead = (self.num_batches,) if self.num_batches > 1 else ()
        return [
            ("A", "in", (*lead, self.M, self.K), BF16),
            ("B", "in", (*lead, self.K), BF16),
            ("C", "out", (*lead, self.M), BF16),
        ]

    def compute(self, arrays: Any, values: Any) -> None:
        a, b, c = arrays
        c[...] = (f32(a) @ f32(b)[..., None])[..., 0]


@dataclass
class RoPE(Computes):
    rows: int
    cols: int
    angle_rows: int = 1

    def args(self) -> Any:
        x = (self.rows, self.cols)
        return [("A", "in", x, BF16), ("angles", "in", (self.angle_rows, self.cols), BF16), ("C", "out", x, BF16)]

    def compute(self, arrays: Any, values: Any) -> None:
        x, angles, y = (f32(a) for a in arrays)
        c, s, half = angles[:, 0::2], angles[:, 1::2], self.cols // 2
        y = np.concatenate([x[:, :half] * c - x[:, half:] * s, x[:, half:] * c + x[:, :half] * s], -1)
        arrays[2][...] = y


@dataclass
class StridedCopy(Computes):
    """Row ``r`` of ``(rows, cols)`` goes to element ``output_offset + r * stride``; the rest of the output stays."""

    input_sizes: tuple[int, ...]
    input_strides: tuple[int, ...]
    input_offset: int
    output_sizes: tuple[int, ...]
    output_strides: tuple[int, ...]
    output_offset: int
    input_buffer_size: int
    output_buffer_size: int
    output_offset_parameter: str | None = None
    bare_shape: bool = field(default=False, repr=False)

    asks = ("output_offset",)

    @property
    def symbols(self) -> Mapping[str, str]:  # type: ignore[override]
        return {"output_offset": self.output_offset_parameter} if self.output_offset_parameter else {}

    def args(self) -> Any:
        shapes: list[Any] = [self.input_buffer_size, self.output_buffer_size]
        if not self.bare_shape:
            shapes = [(n,) for n in shapes]
        return [("A", "in", shapes[0], BF16), ("C", "out", shapes[1], BF16)]

    def compute(self, arrays: Any, values: Any) -> None:
        x, y = arrays
        rows, cols = self.input_sizes
        start = self.output_offset + int(values.get("output_offset", 0))
        for r in range(rows):
            at = start + r * self.output_strides[0]
            y[at : at + cols] = x[r * cols : (r + 1) * cols]


@dataclass
class Repeat(Computes):
    rows: int
    cols: int
    repeat: int

    def args(self) -> Any:
        return [("A", "in", (self.rows, self.cols), BF16), ("C", "out", (self.rows * self.repeat, self.cols), BF16)]

    def compute(self, arrays: Any, values: Any) -> None:
        arrays[1][...] = np.repeat(arrays[0], self.repeat, 0)


@dataclass
class _Binary(Computes):
    size: int
    tile_size: int = 32
    num_aie_columns: int = 8

    def args(self) -> Any:
        return [(n, d, (self.size,), BF16) for n, d in (("A", "in"), ("B", "in"), ("C", "out"))]


@dataclass
class ElementwiseAdd(_Binary):
    def compute(self, arrays: Any, values: Any) -> None:
        arrays[2][...] = f32(arrays[0]) + f32(arrays[1])


@dataclass
class ElementwiseMul(_Binary):
    def compute(self, arrays: Any, values: Any) -> None:
        arrays[2][...] = f32(arrays[0]) * f32(arrays[1])


@dataclass
class SiLU(Computes):
    size: int
    tile_size: int = 32
    num_aie_columns: int = 8

    def args(self) -> Any:
        return [("A", "in", (self.size,), BF16), ("C", "out", (self.size,), BF16)]

    def compute(self, arrays: Any, values: Any) -> None:
        arrays[1][...] = f32(arrays[0]) / (1 + np.exp(-f32(arrays[0])))


@dataclass
class Softmax(Computes):
    rows: int
    cols: int
    vector_size_parameter: str | None = None

    asks = ("vector_size",)

    @property
    def symbols(self) -> Mapping[str, str]:  # type: ignore[override]
        return {"vector_size": self.vector_size_parameter} if self.vector_size_parameter else {}

    def args(self) -> Any:
        return [("A", "in", (self.rows, self.cols), BF16), ("C", "out", (self.rows, self.cols), BF16)]

    def compute(self, arrays: Any, values: Any) -> None:
        n = int(values.get("vector_size", self.cols))
        e = np.exp(f32(arrays[0])[:, :n] - f32(arrays[0])[:, :n].max(-1, keepdims=True))
        arrays[1][...] = 0
        arrays[1][:, :n] = e / e.sum(-1, keepdims=True)


@dataclass
class Transpose(Computes):
    M: int
    N: int

    def args(self) -> Any:
        return [("A", "in", (self.M * self.N,), BF16), ("C", "out", (self.M * self.N,), BF16)]

    def compute(self, arrays: Any, values: Any) -> None:
        arrays[1][...] = arrays[0].reshape(self.M, self.N).T.reshape(-1)


# --- strangers: what the adapter must not take for granted --------------------------------------------------------


@dataclass
class SplitSigns(Computes):
    """An output between its inputs, and a second one: positives into C, the counts of both into N (int32)."""

    size: int

    def args(self) -> Any:
        n = (self.size,)
        return [("A", "in", n, BF16), ("C", "out", n, BF16), ("N", "out", (16,), np.int32), ("B", "in", n, np.uint8)]

    def compute(self, arrays: Any, values: Any) -> None:
        a, c, n, b = arrays
        c[...] = np.maximum(f32(a), b.astype(np.float32))
        n[:] = int((f32(a) > 0).sum())


@dataclass
class Accumulate(Computes):
    size: int

    def args(self) -> Any:
        return [("S", "inout", (self.size,), np.int32), ("X", "in", (self.size,), np.int32)]

    def compute(self, arrays: Any, values: Any) -> None:
        arrays[0][...] += arrays[1]


@dataclass
class Scatter(Computes):
    """A placed output (September 2026): its spec is the window, ``y_offset`` moves it within its buffer."""

    size: int
    place: int = 32
    offset_symbol: str = "position"

    def args(self) -> Any:
        return [("x", "in", (self.size,), BF16), ("y", "out", (self.size,), BF16)]

    asks = ("y_offset",)

    @property
    def symbols(self) -> Mapping[str, str]:  # type: ignore[override]
        return {"y_offset": self.offset_symbol}

    def windows(self, memory: Any, scalars: Any) -> Any:
        at = (self.place + int(scalars[self.offset_symbol])) * 2
        return super().windows([memory[0], memory[1][at:]], scalars)

    def compute(self, arrays: Any, values: Any) -> None:
        arrays[1][...] = arrays[0]


# --- the two shapes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AIERuntimeArgSpec:
    direction: str
    shape: Any
    dtype: Any = ml_dtypes.bfloat16


class SpecOperator(Computes):
    def get_arg_spec(self) -> list[AIERuntimeArgSpec]:
        return [AIERuntimeArgSpec(direction, shape, dtype) for _, direction, shape, dtype in self.args()]

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        return self.expected(*inputs)[-1]


@dataclass(frozen=True)
class Direction:
    fills: bool
    drains: bool


@dataclass(frozen=True)
class Buffer:
    name: str
    direction: Direction
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    placement: tuple[str, int]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


@dataclass(frozen=True)
class Verdict:
    ok: bool
    max_abs_err: float
    detail: str = ""

    def __bool__(self) -> bool:
        return self.ok


class DeclaredOperator(Computes):
    bound_extents: Mapping[str, Any] = {}

    @property
    def buffers(self) -> list[Buffer]:
        return [
            Buffer(
                name,
                Direction(direction != "out", direction != "in"),
                (shape,) if isinstance(shape, int) else tuple(shape),
                np.dtype(dtype),
                (name, getattr(self, "place", 0) if direction == "out" else 0),
            )
            for name, direction, shape, dtype in self.args()
        ]

    @property
    def inputs(self) -> list[Buffer]:
        return [b for b in self.buffers if b.direction.fills]

    @property
    def outputs(self) -> list[Buffer]:
        return [b for b in self.buffers if b.direction.drains]

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(SimpleNamespace(name=name) for name in self.symbols)

    @property
    def bound_values(self) -> Mapping[str, str]:
        return dict(self.symbols)

    def value(self, name: str) -> Any:
        return next(v for v in self.values if v.name == name)

    def resolved(self) -> DeclaredOperator:
        return self

    def tolerance(self) -> Any:
        return None

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        return self.expected(*inputs)[-1]


class CallsReference(DeclaredOperator):
    """September 2026: references are called by name, with the outputs' old contents and the values."""

    reference = None  # type: ignore[assignment]

    def call_reference(self, inputs: Any, outputs: Any, values: Any) -> dict[str, np.ndarray]:
        held = {**{k: v.copy() for k, v in outputs.items()}, **{k: v.copy() for k, v in inputs.items()}}
        arrays = [held[b.name] for b in self.buffers]
        self.compute(arrays, values)
        return {b.name: held[b.name] for b in self.outputs}

    def judge(self, inputs: Any, written: Any, tol: Any, expected: Any) -> dict[str, Verdict]:
        rtol, atol = tol
        found = {}
        for name, actual in written.items():
            want = f32(expected[name].reshape(-1))
            off = np.abs(f32(actual.reshape(-1)) - want)
            found[name] = Verdict(bool((off <= atol + rtol * np.abs(want)).all()), float(off.max()), "too far off")
        return found


_KINDS = (RMSNorm, GEMV, RoPE, StridedCopy, Repeat, ElementwiseAdd, ElementwiseMul, SiLU, Softmax, Transpose)
_STRANGERS = (SplitSigns, Accumulate, Scatter)


_HOMES = [
    "rms_norm",
    "gemv",
    "rope",
    "strided_copy",
    "repeat",
    "elementwise_add",
    "elementwise_mul",
    "silu",
    "softmax",
    "transpose",
]


def of_shape(shape: type) -> SimpleNamespace:
    """All operators in one of the two shapes, under IRON's class names and in its modules (``gemv/op.py``)."""
    made = {k.__name__: type(k.__name__, (k, shape), {}) for k in (*_KINDS, *_STRANGERS)}
    for kind, home in zip(_KINDS, _HOMES, strict=True):
        made[kind.__name__].__module__ = f"iron.operators.{home}.op"
    return SimpleNamespace(**made)


SPEC, DECLARED, CALLED = of_shape(SpecOperator), of_shape(DeclaredOperator), of_shape(CallsReference)


def device_symbol(operator: Any, value: Any) -> str:
    return str(operator.symbols[value.name])
