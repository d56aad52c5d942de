# SPDX-License-Identifier: Apache-2.0
"""Operators of autumn 2026: folds, placements, per-call offsets, names that two packages share.

Follows amd/IRON ``iron/common/declare/operator.py`` (``Operator``, ``Link``, ``_bind``, ``placed``, ``gate``; the
newest stored form, no commit known), ``iron/operators/gemv.py`` at 028e9cd9e04b61748324b0989db68452df8f9718,
``iron/operators/rms_norm.py`` and ``iron/operators/flm/gemm/op.py`` (the newest stored forms; the second has the class
name of the plain one and takes a packed B). Run by the sequence and the callable of :mod:`.v6`. Differences: nothing is
compiled or resolved; the members are one method, ``declared()``; a packed B is B with its columns reversed, not blocks
of bfp16; ``aie.utils.verify.Tolerance`` is a data class of the same fields; a reference composes its folds as the
device does, on all elements at once.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from iron_doubles.operators import BF16, Direction, Verdict, f32


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """Xilinx/mlir-aie ``python/utils/verify.py``."""

    rtol: float | None = None
    atol: float | None = None
    ulps: int | None = None
    range_frac: float | None = None
    max_mismatch_frac: float = 0.0
    note: str = ""

    def __iter__(self) -> Iterator[float]:
        return iter((self.rtol or 0.0, self.atol or 0.0))


@dataclasses.dataclass(frozen=True)
class Link:
    op: Operator
    at: int = 0


@dataclasses.dataclass(frozen=True)
class BoundBuffer:
    name: str
    direction: Direction
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    placement: tuple[int, int]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Of the buffer that it is a run of, where it is placed."""
        return self.placement[0] * self.dtype.itemsize


@dataclasses.dataclass(eq=False, kw_only=True)
class Operator:
    trace: Any = dataclasses.field(default=None, repr=False)
    bound_values: dict[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    pinned: frozenset[str] = dataclasses.field(default=frozenset(), repr=False, compare=False)
    finish: tuple[Link, ...] = dataclasses.field(default=(), repr=False, compare=False)
    finishes: tuple[tuple[Link, ...], ...] = dataclasses.field(default=(), repr=False, compare=False)
    prepare: tuple[Link, ...] = dataclasses.field(default=(), repr=False, compare=False)
    prepares: tuple[tuple[Link, ...], ...] = dataclasses.field(default=(), repr=False, compare=False)
    placements: tuple[tuple[str, int, int], ...] = dataclasses.field(default=(), repr=False, compare=False)

    prepared: ClassVar[str | None] = None
    limits: ClassVar[Tolerance | None] = None
    bound_extents: ClassVar[Mapping[str, Any]] = {}

    # --- what a kind of operator says -------------------------------------------------------------------------

    def declared(self) -> list[tuple[str, str, tuple[int, ...]]]:
        raise NotImplementedError

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        """In float32; the one output."""
        raise NotImplementedError

    # --- the members ------------------------------------------------------------------------------------------

    def _operands(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """The declared ones, then a prologue's other inputs, then a finish's."""
        found = list(self.declared())
        into = next((shape for name, _, shape in found if name == self.prepared), ())
        out = next(shape for _, direction, shape in found if direction == "out")
        for kind, chain, shape in (("prepare", self.prepare, into[-1:]), ("finish", self.finish, out)):
            for i, link in enumerate(chain):
                others = [name for k, (name, d, _) in enumerate(link.op.declared()) if d == "in" and k != link.at]
                found += [(f"{kind}{i}_{name}", "in", shape) for name in others]
        return found

    def dtype_of(self, name: str) -> np.dtype[Any]:
        return BF16

    @property
    def buffers(self) -> list[BoundBuffer]:
        places = {operand: (into, start) for operand, into, start in self.placements}
        return [
            BoundBuffer(
                name,
                Direction(direction != "out", direction != "in"),
                shape,
                self.dtype_of(name),
                places.get(name, (math.prod(shape), 0)),
            )
            for name, direction, shape in self._operands()
        ]

    @property
    def inputs(self) -> list[BoundBuffer]:
        return [b for b in self.buffers if b.direction.fills]

    @property
    def outputs(self) -> list[BoundBuffer]:
        return [b for b in self.buffers if b.direction.drains]

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def symbols(self) -> Mapping[str, str]:
        return self.bound_values

    @property
    def values(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.bound_values]

    def value(self, name: str) -> Any:
        return next(v for v in self.values if v.name == name)

    def resolved(self) -> Operator:
        return self

    def tolerance(self) -> Tolerance | None:
        """Of the kernels that run in turn: what one may be off, the next takes in."""
        folded = [link.op.limits for link in (*self.prepare, *self.finish)]
        if self.limits is None or not folded:
            return self.limits
        every = [self.limits, *(limit for limit in folded if limit is not None)]
        rtol = sum((t.rtol or 0) + (t.ulps or 0) * 2.0**-7 for t in every)
        return Tolerance(rtol=rtol, atol=sum(t.atol or 0 for t in every))

    def gate(self) -> Tolerance | None:
        return self.tolerance()

    # --- running ----------------------------------------------------------------------------------------------

    def result(self, held: Mapping[str, np.ndarray]) -> np.ndarray:
        given = dict(held)
        if self.prepare:
            for i, link in enumerate(self.prepare):
                given[self.prepared or ""] = _applied(link, given[self.prepared or ""], held, f"prepare{i}_")
        reads = [name for name, direction, _ in self.declared() if direction != "out"]
        tile = self.compute(*(given[name] for name in reads)).astype(BF16)
        for i, link in enumerate(self.finish):
            tile = _applied(link, tile, held, f"finish{i}_")
        return tile

    def device(self, memory: list[np.ndarray], scalars: Mapping[str, Any]) -> None:
        held = {}
        for raw, b in zip(memory, self.buffers, strict=True):
            start = b.placement[1]
            if f"{b.name}_offset" in self.bound_values:
                start += int(scalars[self.bound_values[f"{b.name}_offset"]])
            at = start * b.dtype.itemsize
            held[b.name] = raw[at : at + b.elements * b.dtype.itemsize].view(b.dtype).reshape(b.shape)
        result = getattr(self, "device_result", self.result)(held)  # a test may make the device alone wrong
        held[self.outputs[0].name][...] = result.reshape(self.outputs[0].shape)

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        return self.result({b.name: x for b, x in zip(self.inputs, inputs, strict=True)})

    def call_reference(self, inputs: Any, outputs: Any, values: Any) -> dict[str, np.ndarray]:
        return {self.outputs[0].name: self.reference(*(inputs[b.name] for b in self.inputs))}

    def judge(self, inputs: Any, written: Any, tol: Any, expected: Any) -> dict[str, Verdict]:
        rtol, atol = tol
        off = {n: np.abs(f32(a.reshape(-1)) - f32(expected[n].reshape(-1))) for n, a in written.items()}
        return {
            n: Verdict(bool((o <= atol + rtol * np.abs(f32(expected[n].reshape(-1)))).all()), float(o.max()))
            for n, o in off.items()
        }


def _applied(link: Link, tile: np.ndarray, held: Mapping[str, np.ndarray], prefix: str) -> np.ndarray:
    """``link`` on every row that is as long as what it declares, or on all elements."""
    names = [name for name, direction, _ in link.op.declared() if direction == "in"]
    others = [held[f"{prefix}{name}"] for k, name in enumerate(names) if k != link.at]
    others.insert(link.at, tile)
    return link.op.compute(*others).astype(BF16).reshape(tile.shape)


# --- kinds ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False, kw_only=True)
class GEMV(Operator):
    M: int
    K: int
    num_batches: int = 1
    repeat: int = 1
    num_matrices: int | None = None
    num_aie_columns: int | None = None
    tile_size_input: int | None = None
    tile_size_output: int | None = None
    kernel_vector_size: int | None = None
    epilogue: str = "none"

    _auto_fields = ("num_aie_columns", "tile_size_input", "tile_size_output", "kernel_vector_size")
    _derived_params: ClassVar[dict[str, Any]] = {"num_matrices": lambda op: op.num_batches // op.repeat}
    prepared = "B"
    limits = Tolerance(rtol=0.04, atol=1e-3)

    def __post_init__(self) -> None:
        self.num_matrices = self.num_batches // self.repeat

    def declared(self) -> Any:
        lead = (self.num_batches,) if self.num_batches > 1 else ()
        return [("A", "in", (*lead, self.M, self.K)), ("B", "in", (*lead, self.K)), ("C", "out", (*lead, self.M))]

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        a, b = inputs
        return (f32(a) @ f32(b)[..., None])[..., 0]


@dataclasses.dataclass(eq=False, kw_only=True)
class GEMM(Operator):
    M: int
    K: int
    N: int

    def declared(self) -> Any:
        return [("A", "in", (self.M, self.K)), ("B", "in", (self.K, self.N)), ("C", "out", (self.M, self.N))]

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        return f32(inputs[0]) @ f32(inputs[1])


class Epilogue(enum.Enum):
    NONE = 0
    SILU = 1


@dataclasses.dataclass(eq=False, kw_only=True)
class PackedGEMM(GEMM):
    epilogue: Epilogue = Epilogue.NONE
    clamp: tuple[float, float] | None = None
    epilogue_modes: tuple[Epilogue, ...] = tuple(Epilogue)

    limits = Tolerance(rtol=0.01, atol=0.01)

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        return f32(inputs[0]) @ f32(inputs[1])[:, ::-1]


@dataclasses.dataclass(eq=False, kw_only=True)
class Elementwise(Operator):
    size: int
    num_aie_columns: int | None = None
    num_channels: int | None = None
    tile_size: int | None = None

    _auto_fields = ("num_aie_columns", "num_channels", "tile_size")
    arguments: ClassVar[tuple[str, ...]] = ("x", "y")

    def declared(self) -> Any:
        return [(n, "out" if n == self.arguments[-1] else "in", (self.size,)) for n in self.arguments]


class SiLU(Elementwise):
    limits = Tolerance(rtol=0.08, atol=0.02)  # Xilinx/mlir-aie python/iron/kernels/activation.py, npu2

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        return f32(inputs[0]) / (1 + np.exp(-f32(inputs[0])))


class ElementwiseMul(Elementwise):
    limits = Tolerance(rtol=2.0**-7)
    arguments = ("a", "b", "c")

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        return f32(inputs[0]) * f32(inputs[1])


class ElementwiseAdd(Elementwise):
    arguments = ("a", "b", "c")

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        return f32(inputs[0]) + f32(inputs[1])


@dataclasses.dataclass(eq=False, kw_only=True)
class RMSNorm(Operator):
    rows: int
    tile_size: int
    epsilon: float = 1e-5
    weighted: bool = False

    limits = Tolerance(ulps=2, atol=2.0**-126)

    def declared(self) -> Any:
        x = (self.rows, self.tile_size)
        return [("x", "in", x), *([("weight", "in", x[1:])] if self.weighted else []), ("y", "out", x)]

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        x = f32(inputs[0])
        y = (x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.epsilon)).astype(BF16)
        return f32(y) * f32(inputs[1]) if self.weighted else f32(y)


class TensorAccessPattern:
    """Xilinx/mlir-aie ``python/helpers/taplib/tap.py``: private attributes, shown by properties."""

    def __init__(self, tensor_dims: Any, offset: int, sizes: Any, strides: Any) -> None:
        self._tensor_dims, self._offset, self._sizes, self._strides = tensor_dims, offset, sizes, strides

    tensor_dims = property(lambda self: self._tensor_dims)
    offset = property(lambda self: self._offset)
    sizes = property(lambda self: self._sizes)
    strides = property(lambda self: self._strides)


@dataclasses.dataclass(eq=False, kw_only=True)
class Copy(Operator):
    """amd/IRON ``iron/operators/copy.py`` (newest stored form), one channel."""

    input_buffer_size: int
    src: TensorAccessPattern
    output_buffer_size: int
    dst: TensorAccessPattern
    src_bound: int | None = None
    dst_bound: int | None = None
    tile_size: int | None = None
    num_channels: int = 1
    dtype: Any = dataclasses.field(default=BF16.type, repr=False)

    _auto_fields = ("tile_size", "num_channels")
    limits = Tolerance(rtol=0.0, atol=0.0)

    def declared(self) -> Any:
        return [("x", "in", (self.input_buffer_size,)), ("y", "out", (self.output_buffer_size,))]

    def device(self, memory: list[np.ndarray], scalars: Mapping[str, Any]) -> None:
        self._moved(*memory, {name: int(scalars[symbol]) for name, symbol in self.bound_values.items()})

    def _moved(self, x: np.ndarray, y: np.ndarray, values: Mapping[str, int]) -> None:
        at = []
        for tap, bound, valid, word in (
            (self.src, self.src_bound, "src_valid", "in_offset"),
            (self.dst, self.dst_bound, "dst_valid", "out_offset"),
        ):
            sizes = [values[valid] if i == bound and valid in values else n for i, n in enumerate(tap.sizes)]
            start = tap.offset + values.get(word, 0)
            at.append([start + int(np.dot(i, tap.strides)) for i in np.ndindex(*sizes)])
        y.reshape(-1).view(np.uint8).reshape(-1, 2)[at[1]] = x.reshape(-1).view(np.uint8).reshape(-1, 2)[at[0]]

    def call_reference(self, inputs: Any, outputs: Any, values: Any) -> dict[str, np.ndarray]:
        self._moved(inputs["x"], outputs["y"], {k: int(v) for k, v in values.items()})
        return {"y": outputs["y"]}


@dataclasses.dataclass(eq=False, kw_only=True)
class Whirl(Operator):
    """An operator that nobody has seen, with a field of every sort; its output is its input, turned and scaled."""

    size: int
    walk: Any = None
    mode: Any = Epilogue.SILU
    tags: frozenset[str] = frozenset({"b", "a"})
    trouble: Any = None  # what its reference does wrong

    def declared(self) -> Any:
        return [("x", "in", (self.size,)), ("y", "out", (self.size,))]

    def compute(self, *inputs: np.ndarray) -> np.ndarray:
        return f32(inputs[0])[::-1] * 3

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        if self.trouble is not None:
            self.trouble(*inputs)
        return super().reference(*inputs)


for _kind, _home in (
    (GEMV, "gemv"),
    (GEMM, "gemm"),
    (SiLU, "silu"),
    (ElementwiseMul, "elementwise_mul"),
    (ElementwiseAdd, "elementwise_add"),
    (RMSNorm, "rms_norm"),
    (Copy, "copy"),
):
    _kind.__module__ = f"iron.operators.{_home}"
PackedGEMM.__module__, PackedGEMM.__name__ = "iron.operators.flm.gemm.op", "GEMM"
