# SPDX-License-Identifier: Apache-2.0
"""Kinds of faults that no hypothesis was written for: a mere place is right, a proof of something else is wrong.

From what people report of kernels: quantised on the way, noise, stuck bits, swapped bytes, drifting sums, accumulators
that are not cleared, operands in another order than each other's, coefficients of approximations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from step_faults import BLIND, KINDS, NORMS, PRODUCTS, Array, Fault, Kind, _rows, bf, told_otherwise, wide

Rng = np.random.Generator


def _rows_of(v: Array, width: int) -> Array:
    return v.reshape(-1, width)


def _bits(v: Array, change: Callable[[Array], Array]) -> Array:
    return change(bf(v).view(np.uint16)).view(ml_dtypes.bfloat16).astype(np.float64)


def _permuted(n: int) -> Array:
    """Bit-reversed order, as far as ``n`` is a power of two."""
    bits = max(1, n.bit_length() - 1)
    index = np.arange(n)
    turned = sum(((index >> b) & 1) << (bits - 1 - b) for b in range(bits))
    return np.where(turned < n, turned, index)


# Of any output: values v, rows of w elements, random r -> other values.
OUTPUTS: dict[str, tuple[Callable[[Array, int, Rng], Array], tuple[str, ...]]] = {
    "noise of 5 %": (lambda v, w, r: v * (1 + 0.05 * r.standard_normal(v.size)), ()),
    "noise of 3 ulps": (lambda v, w, r: v * (1 + 2.0**-7 * r.integers(-3, 4, v.size)), ()),
    "noise in one row": (lambda v, w, r: _one_row(v, w, r, lambda x: x + r.standard_normal(x.size)), ()),
    "noise in one column": (lambda v, w, r: _one_column(v, w, r), ()),
    "random rows factors": (
        lambda v, w, r: (_rows_of(v, w) * r.uniform(0.5, 2, (v.size // w, 1))).reshape(-1),
        ("row-scaled",),
    ),
    "random column factors": (lambda v, w, r: (_rows_of(v, w) * r.uniform(0.5, 2, (1, w))).reshape(-1), ()),
    "through float8 e4m3": (
        lambda v, w, r: v.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64),
        (),
    ),
    "through float8 e5m2": (lambda v, w, r: v.astype(np.float32).astype(ml_dtypes.float8_e5m2).astype(np.float64), ()),
    "through int8": (lambda v, w, r: np.rint(v / (np.abs(v).max() / 127 or 1)) * (np.abs(v).max() / 127), ()),
    "through int4": (lambda v, w, r: np.rint(v / (np.abs(v).max() / 7 or 1)) * (np.abs(v).max() / 7), ("zeros",)),
    "four bits of fraction": (lambda v, w, r: _bits(v, lambda b: b & np.uint16(0xFFF8)), ("rounding",)),
    "wrapped beyond a limit": (lambda v, w, r: _wrapped(v), ()),
    "a bit stuck at 1": (lambda v, w, r: _bits(v, lambda b: b | np.uint16(1 << 5)), ()),
    "a bit stuck at 0": (lambda v, w, r: _bits(v, lambda b: b & np.uint16(0xFFFF ^ (1 << 5))), ()),
    "bytes swapped": (lambda v, w, r: _bits(v, lambda b: b.byteswap()), ()),
    "every row sorted": (lambda v, w, r: np.sort(_rows_of(v, w), 1).reshape(-1), ()),
    "every row reversed": (lambda v, w, r: _rows_of(v, w)[:, ::-1].reshape(-1), ("tiles-permuted",)),
    "bit-reversed order": (lambda v, w, r: _rows_of(v, w)[:, _permuted(w)].reshape(-1), ("tiles-permuted", "shifted")),
    "pairs swapped": (lambda v, w, r: v.reshape(-1, 2)[:, ::-1].reshape(-1), ("shifted", "int4-order")),
    "halves interleaved": (lambda v, w, r: v.reshape(2, -1).T.reshape(-1), ("transposed",)),
    "elements in any order": (lambda v, w, r: r.permutation(v), ()),
    "neighbours averaged": (lambda v, w, r: (v + np.roll(v, 1)) / 2, ()),
    "differences of neighbours": (lambda v, w, r: v - np.roll(v, 1), ()),
    "sums drift": (lambda v, w, r: v + 0.01 * np.cumsum(np.abs(v)), ()),
    "a ramp added": (lambda v, w, r: v + np.linspace(0, np.abs(v).max() or 1, v.size), ()),
    "a window applied": (lambda v, w, r: v * np.hanning(v.size + 2)[1:-1], ()),
    "row ends of the next row": (lambda v, w, r: _ends(v, w), ("neighbour-data", "shifted")),
    "squared": (lambda v, w, r: v * v * np.sign(v), ("activation",)),
    "square root": (lambda v, w, r: np.sqrt(np.abs(v)) * np.sign(v), ()),
    "logarithm": (lambda v, w, r: np.log1p(np.abs(v)) * np.sign(v), ()),
    "others in a tenth": (lambda v, w, r: np.where(r.random(v.size) < 0.1, r.standard_normal(v.size), v), ()),
    "soft clipped": (lambda v, w, r: np.tanh(v / (np.abs(v).max() or 1)) * (np.abs(v).max() or 1), ()),
    "every element a third off": (lambda v, w, r: v * r.choice([2 / 3, 4 / 3], v.size), ()),
    "magnitudes of the row before": (lambda v, w, r: np.abs(np.roll(v, w)) * np.sign(v), ("shifted", "tiles-permuted")),
}


def _one_row(v: Array, w: int, r: Rng, change: Callable[[Array], Array]) -> Array:
    out = _rows_of(v.copy(), w)
    i = r.integers(len(out))
    out[i] = change(out[i])
    return out.reshape(-1)


def _one_column(v: Array, w: int, r: Rng) -> Array:
    out = _rows_of(v.copy(), w)
    out[:, r.integers(w)] += 1 + r.standard_normal(len(out)) ** 2
    return out.reshape(-1)


def _wrapped(v: Array) -> Array:
    limit = np.quantile(np.abs(v), 0.8) or 1
    return (v + limit) % (2 * limit) - limit


def _ends(v: Array, w: int) -> Array:
    out = _rows_of(v.copy(), w)
    out[:-1, -8:] = _rows_of(v, w)[1:, -8:]
    return out.reshape(-1)


# Of any operator with bfloat16 inputs: an input's values and random r -> other values.
INPUTS: dict[str, Callable[[Array, Rng], Array]] = {
    "an input through float8": lambda v, r: v.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64),
    "an input with 3 bits of fraction": lambda v, r: _bits(v, lambda b: b & np.uint16(0xFFF0)),
    "an input clipped": lambda v, r: np.clip(v, *np.quantile(v, [0.1, 0.9])),
    "an input reversed": lambda v, r: v[::-1],
    "an input shuffled": lambda v, r: r.permutation(v),
    "an input with noise": lambda v, r: v + np.abs(v).mean() * r.standard_normal(v.size),
    "an input's small values lost": lambda v, r: np.where(np.abs(v) < np.median(np.abs(v)), 0, v),
    "an input squared": lambda v, r: v * v,
    "an input rolled by 3": lambda v, r: np.roll(v, 3),
    "an input's pairs swapped": lambda v, r: v.reshape(-1, 2)[:, ::-1].reshape(-1) if v.size % 2 == 0 else v,
    "an input times 1.3": lambda v, r: v * 1.3,
}


def _sigmoid(v: Array) -> Array:
    return 1 / (1 + np.exp(-v))


def _schraudolph(v: Array) -> Array:
    bits = np.clip(12102203.16 * v + 1064866805, 0, 2139095039).astype(np.int32)
    return bits.view(np.float32).astype(np.float64)


def _rational_tanh(v: Array) -> Array:
    return np.clip(v * (27 + v * v) / (27 + 9 * v * v), -1, 1)


UNARY: dict[str, Callable[[Array], Array]] = {
    "GELU by 0.04": lambda v: 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.04 * v**3))),
    "SiLU of 1.1 x": lambda v: v * _sigmoid(1.1 * v),
    "a rational tanh": lambda v: 0.5 * v * (1 + _rational_tanh(v)),
    "exp by bits": lambda v: v / (1 + _schraudolph(-v)),
    "a sine": np.sin,
    "x / (1 + |x|)": lambda v: v / (1 + np.abs(v)),
    "arctan": np.arctan,
}


def _norm(which: int) -> Callable[[Array, float], Array]:
    def change(y: Array, eps: float) -> Array:
        size = (np.abs(y).mean(1), np.abs(y).max(1), np.median(np.abs(y), 1), (y**4).mean(1) ** 0.25)[which]
        return y / (size[:, None] + eps)

    return change


NORM = {"L1 norm": _norm(0), "largest": _norm(1), "median": _norm(2), "fourth powers": _norm(3)}


def _operands(op: str, p: dict[str, Any], x: list[Array]) -> tuple[Array, Array]:
    a, b = wide(x[0]).reshape(-1, p["K"]), wide(x[1])
    return a, b.reshape(p["N"], p["K"]).T if p["b_col_maj"] else b.reshape(p["K"], p["N"])


def _twice(a: Array, b: Array) -> Array:
    return a @ b + a[:, :32] @ b[:32]


def _tile_sign(a: Array, b: Array) -> Array:
    return a @ b - 2 * a[:, 32:64] @ b[32:64]


def _k_order(a: Array, b: Array) -> Array:
    return a.reshape(len(a), -1, 4).swapaxes(1, 2).reshape(a.shape) @ b


def _tiles_turned(a: Array, b: Array) -> Array:
    tiles = b.reshape(b.shape[0] // 8, 8, b.shape[1] // 8, 8).transpose(0, 3, 2, 1)
    return a @ tiles.reshape(b.shape)


def _not_cleared(a: Array, b: Array) -> Array:
    c = a @ b
    c[:, 16:] += c[:, :-16].copy()
    return c


_SAME = {
    "an input rolled by 3": ("shifted",),
    "an input shuffled": ("tiles-permuted",),
    "an input reversed": ("shifted",),
    "an input's pairs swapped": ("shifted", "tiles-permuted"),
    "an input's small values lost": ("zeros",),
    "an input times 1.3": ("scaled",),
    "an input clipped": ("saturated",),
    "accumulators start at 1": ("offset",),
}
"""Names that are as right: of one input and one output, moving either is the same."""

GEMM: dict[str, Callable[[Array, Array], Array]] = {
    "a K tile counted twice": _twice,
    "a K tile with the other sign": _tile_sign,
    "K in another order in A": _k_order,
    "tiles of B transposed": _tiles_turned,
    "accumulators not cleared": _not_cleared,
    "accumulators start at 1": lambda a, b: a @ b + 1,
    "rows of A rolled in the second half of K": lambda a, b: _second_half(a) @ b,
    "products rounded to 4 bits": lambda a, b: _bits(a, lambda v: v & np.uint16(0xFFF8)).reshape(a.shape) @ b,
}


def _second_half(a: Array) -> Array:
    out, half = a.copy(), a.shape[1] // 2
    out[:, half:] = np.roll(a[:, half:], 1, 0)
    return out


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "a + b / 2": lambda a, b: a + b / 2,
    "hypotenuse": np.hypot,
    "a b + a": lambda a, b: a * b + a,
    "a + b rolled": lambda a, b: a + np.roll(b, 1),
    "a b^2": lambda a, b: a * b * b,
}


def _declare() -> None:
    def put(name: str, ops: tuple[str, ...] | None, make: Callable[..., Fault | None]) -> None:
        KINDS[name], _ = Kind(make, ops), BLIND.add(name)

    for told, (change, names) in OUTPUTS.items():
        put(told, None, lambda op, p, x, r, d, change=change, names=names, told=told: Fault(
            told, names, lambda _k, _d, out: bf(change(wide(out), _rows(op, p, out.size), r))))  # fmt: skip
    for told, spoil in INPUTS.items():
        put(told, None, lambda op, p, x, r, d, spoil=spoil, told=told: _with_input(told, spoil, op, x, r))
    for told, form in UNARY.items():
        put(told, ("GELU", "SiLU", "Tanh", "Sigmoid"), lambda op, p, x, r, d, form=form, told=told: Fault(
            told, ("activation",), lambda _k, _d, _o: bf(form(wide(x[0])))))  # fmt: skip
    rows = ("row-scaled",)
    for told, norm in NORM.items():
        put(told, NORMS, lambda op, p, x, r, d, norm=norm, told=told: Fault(
            told, rows, lambda _k, _d, _o: bf(norm(_rows_of(wide(x[0]), p["tile_size"]), 1e-5))))  # fmt: skip
    for told, product in GEMM.items():
        put(told, PRODUCTS[:1], lambda op, p, x, r, d, product=product, told=told: Fault(
            told, _SAME.get(told, ()), lambda _k, _d, _o: bf(product(*_operands(op, p, x)))))  # fmt: skip
    for told, both in BINARY.items():
        put(told, ("ElementwiseAdd", "ElementwiseMul"), lambda op, p, x, r, d, both=both, told=told: Fault(
            told, (), lambda _k, _d, _o: bf(both(wide(x[0]), wide(x[1])))))  # fmt: skip


def _with_input(told: str, spoil: Any, op: str, x: list[Array], r: Rng) -> Fault | None:
    i = int(r.integers(len(x)))
    if x[i].dtype == np.uint8:
        return None
    changed = bf(spoil(wide(x[i]).reshape(-1), r)).reshape(x[i].shape)
    return told_otherwise(
        f"{told} ({i})", _SAME.get(told, ()), inputs=[changed if j == i else None for j in range(len(x))]
    )


_declare()
