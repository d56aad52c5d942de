# SPDX-License-Identifier: Apache-2.0
"""Kinds of faults for step_injections.py: what a kernel may compute instead, written from public reports, apart from
the hypotheses. ``BLIND`` are kinds that nothing was written to name: for these a mere place is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np

from fusion_replay import refs
from fusion_replay.simulator.dispatch import Dispatch

BF = ml_dtypes.bfloat16
Array = np.ndarray[Any, Any]
UNARY = ("GELU", "SiLU", "Sigmoid", "Tanh", "ReLU", "LeakyReLU", "Clamp")
OPERATORS = (*UNARY, "ElementwiseAdd", "ElementwiseMul", "AXPY", "RMSNorm", "LayerNorm", "Softmax", "RoPE", "GEMV",
             "GEMM", "Dequant", "DepthwiseConv1d", "GQAContext", "DualGEMVSiLUMul", "MHA")  # fmt: skip
NORMS = ("RMSNorm", "LayerNorm")
PRODUCTS = ("GEMM", "GEMV")


@dataclass(frozen=True)
class Fault:
    """``names``: the causes that it is; none: it can't be told from the output. ``apply``: kernel, dispatch and honest
    output -> the wrong one."""

    told: str
    names: tuple[str, ...]
    apply: Callable[[Any, Any, Array], Array] = field(default=lambda _k, _d, out: out)


@dataclass(frozen=True)
class Kind:
    make: Callable[[str, dict[str, Any], list[Array], np.random.Generator, str], Fault | None]
    ops: tuple[str, ...] | None = None


KINDS: dict[str, Kind] = {}
BLIND: set[str] = set()


def kind(*ops: str, blind: bool = False) -> Callable[[Any], Any]:
    def keep(make: Any) -> Any:
        name = make.__name__.strip("_").replace("_", "-")
        KINDS[name] = Kind(make, ops or None)
        if blind:
            BLIND.add(name)
        return make

    return keep


def bf(x: Any) -> Array:
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(np.asarray(x, np.float64).astype(np.float32)).astype(BF).reshape(-1)


def wide(x: Array) -> Array:
    return x.astype(np.float64)


# --- what is drawn --------------------------------------------------------------------------------------------------


def drawn(op: str, device: str, r: np.random.Generator) -> tuple[dict[str, Any], float]:
    """(parameters, scale of the inputs)."""

    def one(*choices: Any) -> Any:
        return choices[r.integers(len(choices))]

    scale = one(1.0, 1.0, 4.0, 0.02)
    width, rows = one(64, 128, 256), one(16, 32)
    if op == "RMSNorm":
        return {"size": rows * width, "tile_size": width, "weighted": one(True, False)}, one(1.0, 0.01, 0.002)
    if op == "LayerNorm":
        return {"size": rows * width, "tile_size": width}, one(1.0, 0.01)
    if op == "Softmax":
        return {"rows": rows, "cols": width, "rtp_vector_size": one(None, None, width - 5)}, one(1.0, 2.0, 4.0)
    if op == "RoPE":
        return {"rows": rows, "cols": 64, "angle_rows": one(1, 4, rows), "method_type": one(0, 1)}, scale
    if op == "GEMV":
        batches = one(1, 4, 8)
        gelu = {"epilogue": "gelu"} if device == "npu2" and one(True, False, False) else {}
        return {"M": 256 // batches, "K": one(128, 256), "num_batches": batches, "repeat": 1 if batches == 1 else 2,
                **gelu}, one(1.0, 0.1)  # fmt: skip
    if op == "GEMM":
        gelu = {"epilogue": "gelu"} if one(True, False, False) else {}
        return {"M": 64, "K": one(128, 256, 512), "N": one(64, 128), "tile_m": 16, "tile_k": one(32, 64), "tile_n": 16,
                "num_aie_columns": 4, "b_col_maj": one(True, False), "prio_accuracy": one(True, False),
                "emulate_bf16_mmul_with_bfp16": one(True, False), **gelu}, one(1.0, 0.1)  # fmt: skip
    if op == "Dequant":
        return {"size": 4096, "tile_size": 1024, "group_size": 32}, 1.0
    if op == "DepthwiseConv1d":
        return {"rows": 32, "channels": 64, "num_aie_columns": 1}, scale
    if op == "GQAContext":
        return {"groups": 4, "heads_per_group": 4, "seq_len": one(64, 128)}, scale
    if op == "DualGEMVSiLUMul":
        return {"M": 256, "K": 128, "num_aie_columns": 4}, 0.2
    if op == "MHA":
        return {"num_heads": 4, "seq_len": 64, "num_KV_heads": one(1, 2, 4)}, 1.0
    extra = {"AXPY": {"scalar_factor": float(r.uniform(0.3, 4))}, "Clamp": {"low": -0.75, "high": 1.25}}
    extra["LeakyReLU"] = {"alpha": float(one(0.01, 0.1, 0.3))}
    return {"size": one(2048, 4096), **extra.get(op, {})}, scale


def inputs_of(op: str, params: dict[str, Any], r: np.random.Generator, scale: float) -> list[Array]:
    spec = refs.find(op)
    found = []
    for arg in (a for a in spec.arg_specs(params) if a.reads):
        if arg.dtype == "uint8":
            tile = params["tile_size"]
            groups = tile // params["group_size"]
            count = params["size"] // tile
            scales = bf(np.exp(r.standard_normal((count, groups))) / 50).reshape(count, groups).view(np.uint8)
            nibbles = r.integers(0, 256, (count, tile // 2)).astype(np.uint8)
            found.append(np.concatenate([nibbles, scales.reshape(count, -1)], axis=1).reshape(-1))
        elif op == "RoPE" and arg.name != spec.arg_specs(params)[0].name:
            rows, cols = arg.size // params["cols"], params["cols"]
            turns = (3 + np.arange(rows))[:, None] * 10000.0 ** (-np.arange(0, cols, 2) / cols)
            found.append(bf(np.stack([np.cos(turns), np.sin(turns)], -1)).reshape(arg.shape))
        elif op == "RMSNorm" and arg.name != "A":
            found.append(bf(1 + 0.3 * r.standard_normal(arg.size)).reshape(arg.shape))
        else:
            spread = np.exp(0.5 * r.standard_normal((arg.size // arg.shape[-1], 1)))  # rows are not alike
            values = r.standard_normal((arg.size // arg.shape[-1], arg.shape[-1])) * scale
            found.append(bf(values * spread if len(arg.shape) > 1 else values).reshape(arg.shape))
    if op in NORMS:  # rows of several sizes
        x = wide(found[0]).reshape(-1, params["tile_size"])
        found[0] = bf(x * np.exp(0.7 * r.standard_normal((len(x), 1)))).reshape(found[0].shape)
    return found


def again(kernel: Any, d: Any, *, params: dict[str, Any] | None = None, inputs: Sequence[Any] | None = None,
          values: dict[str, Any] | None = None, device: str | None = None) -> Array:  # fmt: skip
    """The same kernel, told otherwise."""
    from fusion_replay.simulator.core import Core

    core = Core(device or d.core.generation, d.core.rounding)
    given = SimpleNamespace(**{**vars(d.params), **(params or {})})
    others = [*(inputs or []), *[None] * len(d.inputs)]
    each = [x if n is None else n.reshape(x.shape) for x, n in zip(d.inputs, others, strict=False)]
    return kernel.run(Dispatch(core, given, each, d.previous, {**d.values, **(values or {})}))[0].reshape(-1)  # type: ignore[no-any-return]


def told_otherwise(told: str, names: tuple[str, ...], **how: Any) -> Fault:
    return Fault(told, names, lambda k, d, _out: again(k, d, **how))


# --- parameters and formulas ----------------------------------------------------------------------------------------


@kind("RMSNorm", "LayerNorm")
def epsilon(op, p, x, r, device):
    eps = float(r.choice([1e-6, 1e-8, 1e-4, 1e-3, 3e-5, 2e-4, 0.0]))
    width, names = p["tile_size"], ("parameter", "truncated-scalar")

    def apply(_k, _d, _out):
        y = wide(x[0]).reshape(-1, width)
        y = y - y.mean(1, keepdims=True) if op == "LayerNorm" else y
        y = y / np.sqrt((y * y).mean(1, keepdims=True) + eps)
        return bf(y * wide(x[1]).reshape(-1) if len(x) > 1 else y)

    return Fault(f"epsilon {eps:g}", names, apply)


@kind("RMSNorm", "LayerNorm")
def norm_formula(op, p, x, r, device):
    width, which = p["tile_size"], int(r.integers(6))
    told = (
        "over padded elements",
        "without weights",
        "weights 1 + w",
        "mean taken off or not",
        "n - 1",
        "whole output",
    )
    if which in (1, 2) and len(x) < 2:
        return None
    pad = int(r.choice([16, 32, 64]))

    def apply(_k, _d, _out):
        y, w = wide(x[0]).reshape(-1, width), wide(x[1]).reshape(-1) if len(x) > 1 else 1.0
        y = y - (y.mean() if which == 5 else y.mean(1, keepdims=True)) if (op == "LayerNorm") != (which == 3) else y
        n = width + pad if which == 0 else width - 1 if which == 4 else width
        square = (y * y).sum(1, keepdims=True) / n
        square = square.mean() if which == 5 else square
        w = np.ones(width) if which == 1 else 1 + w if which == 2 else w
        return bf(y / np.sqrt(square + 1e-5) * w)

    names = ("formula", "scaled") if which in (0, 4) else ("formula", "parameter")
    return Fault(f"{told[which]} {pad if which == 0 else ''}", names, apply)


@kind("RoPE")
def rope_method(op, p, x, r, device):
    return told_otherwise("method_type", ("parameter",), params={"method_type": 1 - p["method_type"]})


@kind("RoPE")
def rope_angles(op, p, x, r, device):
    which = int(r.integers(4))
    a = x[1].reshape(-1, p["cols"]).copy()
    if which == 0:
        a[:, 1::2] = bf(-wide(a[:, 1::2])).reshape(a[:, 1::2].shape)
    elif which == 1:
        a = np.concatenate([a[:, 0::2], a[:, 1::2]], 1)
        a = np.stack([a[:, : a.shape[1] // 2], a[:, a.shape[1] // 2 :]], -1).reshape(a.shape)[:, ::-1].copy()
        a = a.reshape(len(a), -1, 2)[:, ::-1].reshape(len(a), -1).copy()  # sine first
    elif len(a) < 2:
        return None
    else:
        a = np.roll(a, 1 if which == 2 else -1, axis=0)
    names = ("formula", "shifted", "tiles-permuted", "operand-order", "parameter")
    told = ("sign of sine", "sine first", "row before", "row after")[which]
    return told_otherwise(told, names, inputs=[None, a])


@kind("GEMM", "GEMV")
def epilogue(op, p, x, r, device):
    if op == "GEMV" and device == "npu1":
        return None
    other = "none" if p.get("epilogue") == "gelu" else "gelu"
    return told_otherwise(f"epilogue {other}", ("activation", "parameter"), params={"epilogue": other})


@kind("GEMM")
def b_read_otherwise(op, p, x, r, device):
    return told_otherwise("b_col_maj", ("transposed-operand",), params={"b_col_maj": not p["b_col_maj"]})


@kind("AXPY", "LeakyReLU")
def scalar(op, p, x, r, device):
    name = "alpha" if op == "LeakyReLU" else "scalar_factor"
    bits = int(r.integers(9, 14))
    value = np.float32(p[name]).view(np.uint32) & np.uint32((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF)
    kept = float(value.view(np.float32))
    if kept == p[name]:
        return None
    return told_otherwise(
        f"{name} {p[name]:g} -> {kept:g}", ("truncated-scalar", "parameter", "scaled"), params={name: kept}
    )


@kind("Softmax")
def mask(op, p, x, r, device):
    here = p["rtp_vector_size"] or p["cols"]
    other = int(r.choice([here - 1, here + 1, p["cols"], here - 16]))
    if not 0 < other <= p["cols"] or other == here:
        return None
    names = ("mask", "zeros") if other < here else ("mask",)
    return told_otherwise(f"vector_size {other} for {here}", names, params={"rtp_vector_size": other})


@kind("Softmax")
def softmax_formula(op, p, x, r, device):
    cols, which = p["cols"], int(r.integers(4))
    if p["rtp_vector_size"]:
        return None

    def apply(_k, _d, _out):
        y = wide(x[0]).reshape(-1, cols)
        power = np.exp2 if which == 0 else np.exp
        y = -y if which == 1 else y * 0.125 if which == 2 else y
        e = power(y - y.max(1, keepdims=True))
        return bf(e if which == 3 else e / e.sum(1, keepdims=True))

    return Fault(("base 2", "negated", "times 1/8", "not divided")[which], ("formula",), apply)


@kind(*UNARY)
def activation(op, p, x, r, device):
    def sig(v):
        return 1 / (1 + np.exp(-v))

    forms = {
        "SiLU": lambda v: v * sig(v), "Sigmoid": sig, "Tanh": np.tanh, "ReLU": lambda v: np.maximum(v, 0),
        "quick GELU": lambda v: v * sig(1.702 * v), "none": lambda v: v, "ReLU6": lambda v: np.clip(v, 0, 6),
        "GELU": lambda v: 0.5 * v * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
        "erf": lambda v: 0.5 * v * (1 + np.vectorize(math.erf)(v / math.sqrt(2))),
        "leaky 0.2": lambda v: np.where(v < 0, 0.2 * v, v), "softplus": lambda v: np.logaddexp(0, v),
    }  # fmt: skip
    what = str(r.choice([f for f in forms if f != op]))
    names = (
        ("activation", "saturated", "signs-lost", "zeros") if op in ("ReLU", "LeakyReLU", "Clamp") else ("activation",)
    )
    return Fault(what, (*names, "parameter"), lambda _k, _d, _o: bf(forms[what](wide(x[0]))))


@kind("ElementwiseAdd", "ElementwiseMul")
def other_operation(op, p, x, r, device):
    a, b = wide(x[0]), wide(x[1])
    forms = {"a - b": a - b, "b - a": b - a, "max": np.maximum(a, b), "a": a, "b": b}
    forms["a b"] = a * b
    forms["a + b"] = a + b
    what = str(r.choice([f for f in forms if f != ("a + b" if op == "ElementwiseAdd" else "a b")]))
    return Fault(
        what, ("formula", "signs-lost", "stale-input", "operand-order", "part-of-k"), lambda _k, _d, _o: bf(forms[what])
    )


@kind("GEMM", "GEMV", "GQAContext", "DualGEMVSiLUMul")
def lost_k(op, p, x, r, device):
    total = p.get("K") or p["seq_len"]
    size = int(r.choice([s for s in (16, 32, 64, total // 2) if s < total]))
    lo = int(r.integers(total // size)) * size
    a = x[0].copy()
    if op == "GQAContext":
        a.reshape(p["groups"], total, -1)[:, lo : lo + size] = 0
    else:
        a.reshape(-1, total)[:, lo : lo + size] = 0
    return told_otherwise(f"k {lo} to {lo + size} of {total}", ("part-of-k",), inputs=[a])


@kind("GEMM", "GEMV")
def k_tile_again(op, p, x, r, device):
    size, a = 64, x[0].copy()
    tiles = p["K"] // size
    if tiles < 2:
        return None
    i = int(r.integers(1, tiles))
    rows = a.reshape(-1, p["K"])
    rows[:, i * size : (i + 1) * size] = rows[:, (i - 1) * size : i * size]
    return told_otherwise(f"K tile {i} is {i - 1}'s", ("k-tile-reused",), inputs=[a])


@kind("GEMM", "GEMV", "ElementwiseAdd", "ElementwiseMul", "AXPY", "RoPE", "GQAContext", "DepthwiseConv1d", "MHA")
def signs_lost(op, p, x, r, device):
    which = int(r.integers(3))
    given = [None] * len(x)
    for i in range(len(x)):
        if which == 2 or i == which % len(x):
            given[i] = bf(np.abs(wide(x[i]))).reshape(x[i].shape)
    return told_otherwise(f"|{which}|", ("signs-lost", "formula"), inputs=given)


@kind("AXPY")
def operands_exchanged(op, p, x, r, device):
    return told_otherwise("x and y exchanged", ("operand-order", "formula"), inputs=[x[1], x[0]])


@kind("GEMM")
def a_transposed(op, p, x, r, device):
    if p["M"] != p["K"]:
        return None
    return told_otherwise("A transposed", ("transposed-operand",), inputs=[np.ascontiguousarray(x[0].T)])


@kind("GQAContext", "GEMV", "MHA")
def heads(op, p, x, r, device):
    if op == "GEMV":
        if p["num_batches"] < 4:
            return None
        m = x[0].reshape(p["num_batches"] // p["repeat"], p["M"], p["K"])
        which = int(r.integers(3))
        m = (np.roll(m, -1, 0), m[::-1], np.repeat(m[:1], len(m), 0))[which]
        return told_otherwise(
            "matrices of other batches", ("head-mapping", "tiles-permuted", "batch-repeated"), inputs=[m.copy()]
        )
    if op == "MHA":
        count = p["num_KV_heads"]
        k, v = (t.reshape(count, -1, t.shape[-1]) for t in x[1:])
        if count < 2:
            return None
        which = int(r.integers(2))
        turned = [(np.roll(t, -1, 0) if which else np.repeat(t[:1], count, 0)).copy() for t in (k, v)]
        return told_otherwise(
            "keys and values of other heads", ("head-mapping", "batches-swapped"), inputs=[None, *turned]
        )
    cache = x[0].reshape(p["groups"], p["seq_len"], -1)
    group = np.arange(p["groups"] * p["heads_per_group"])
    tiled = cache[group % p["groups"]]
    weights = wide(x[1]).reshape(len(group), 1, -1)
    return Fault("tiled for repeated", ("head-mapping",), lambda _k, _d, _o: bf(weights @ wide(tiled)))


@kind("Dequant")
def nibbles(op, p, x, r, device):
    tile, g = p["tile_size"], p["tile_size"] // p["group_size"]
    packed = x[0].reshape(-1, tile // 2 + 2 * g)
    low, high = (packed[:, : tile // 2] & 15).astype(int), (packed[:, : tile // 2] >> 4).astype(int)
    scales = wide(np.ascontiguousarray(packed[:, tile // 2 :]).view(BF)).reshape(-1, g, 1)
    which = int(r.integers(4))
    n = np.stack([low, high], -1).reshape(len(low), -1)
    n = (
        n - 8,
        np.where(n > 7, n - 16, n),
        np.stack([high, low], -1).reshape(n.shape),
        np.concatenate([low, high], -1),
    )[which]
    told = ("zero point 8", "signed", "high first", "planes")[which]
    return Fault(told, ("int4-order", "zero-point"), lambda _k, _d, _o: bf(n.reshape(-1, g, p["group_size"]) * scales))


@kind("GEMM", "GEMV")
def summed_in_bf16(op, p, x, r, device):
    if p.get("epilogue") == "gelu" or op == "GEMV":
        return None
    a, b = wide(x[0]).reshape(-1, p["K"]), wide(x[1])
    b = b.reshape(p["N"], p["K"]).T if p["b_col_maj"] else b.reshape(p["K"], p["N"])

    def apply(_k, _d, _out):
        total = np.zeros((p["M"], p["N"]))
        for k in range(0, p["K"], 8):
            total = wide(bf(total + a[:, k : k + 8] @ b[k : k + 8])).reshape(total.shape)
        return bf(total)

    return Fault("bf16 sums after every 8", ("accumulation", "bfp16", "rounding"), apply)


@kind("ElementwiseAdd", "ElementwiseMul", "RoPE", "GEMV", "GQAContext", "AXPY", "RMSNorm", "SiLU", "Softmax")
def input_zero(op, p, x, r, device):
    i = int(r.integers(len(x)))
    return told_otherwise(f"input {i} is zeros", ("stale-input", "zeros", "formula", "part-of-k", "constant"),
                          inputs=[np.zeros_like(v) if j == i else None for j, v in enumerate(x)])  # fmt: skip


# --- outputs --------------------------------------------------------------------------------------------------------


def _rows(op, p, size):
    width = p.get("tile_size") or p.get("cols") or p.get("N") or 64
    return width if size % width == 0 and size > width else 64


@kind()
def zeros(op, p, x, r, device):
    which = int(r.integers(5))

    def apply(_k, _d, out):
        v = out.reshape(-1, _rows(op, p, out.size))
        if which == 0:
            v[:] = 0
        elif which == 1:
            v[:: int(r.choice([2, 4]))] = 0
        elif which == 2:
            v[r.integers(len(v))] = BF(-0.0)
        elif which == 3:
            v[:, : v.shape[1] // 4] = 0
        else:
            out[:: int(r.choice([3, 8]))] = 0
        return out

    return Fault(
        ("all", "rows", "a row of -0", "columns", "stride")[which], ("zeros", "dropped-tile", "never-written"), apply
    )


@kind()
def times(op, p, x, r, device):
    factor = float(r.choice([1.004, 1.01, 0.98, 1.06, 2.0, 0.5, 3.3]))
    return Fault(f"times {factor}", ("scaled",), lambda _k, _d, out: bf(wide(out) * factor))


@kind()
def plus(op, p, x, r, device):
    def apply(_k, _d, out):
        v = wide(out)
        return bf(v + 0.25 * (np.abs(v).max() or 1))

    return Fault("plus a quarter of the largest", ("offset",), apply)


@kind()
def flipped_bit(op, p, x, r, device):
    bit, count = int(r.integers(5, 16)), int(r.choice([1, 1, 2]))

    def apply(_k, _d, out):
        at = r.choice(out.size, count, replace=False)
        out.view(np.uint16)[at] ^= np.uint16(1 << bit)
        return out

    return Fault(f"bit {bit} of {count}", ("bit-flip", "nan", "inf", "zeros", "sign-flipped"), apply)


@kind()
def not_a_number(op, p, x, r, device):
    def apply(_k, _d, out):
        out[int(r.integers(out.size)) :][: int(r.choice([1, 64]))] = np.nan if r.random() < 0.7 else np.inf
        return out

    return Fault("NaN or Inf", ("nan", "inf"), apply)


@kind()
def clipped(op, p, x, r, device):
    def apply(_k, _d, out):
        v = wide(out)
        top = np.quantile(np.abs(v), 0.9)
        return bf(np.clip(v, -top, top))

    return Fault("clipped at the 9th decile", ("saturated",), apply)


@kind()
def moved(op, p, x, r, device):
    which = int(r.integers(4))

    def apply(_k, _d, out):
        v = out.reshape(-1, _rows(op, p, out.size))
        if which == 0:
            v[1:] = v[:-1].copy()
        elif which == 1:
            i, j = r.choice(len(v), 2, replace=False)
            v[[i, j]] = v[[j, i]]
        elif which == 2:
            v[:] = v[r.permutation(len(v))]
        else:
            out[:] = np.roll(out, int(r.choice([1, 16, 64])))
        return out

    names = ("shifted", "tiles-permuted", "neighbour-data", "columns-swapped", "batches-swapped", "halves-swapped",
             "rows-swapped", "batch-repeated", "formula", "head-mapping", "transposed")  # fmt: skip
    return Fault(("rows one further", "two rows", "rows permuted", "rolled")[which], names, apply)


@kind()
def negated(op, p, x, r, device):
    part = bool(r.integers(2))

    def apply(_k, _d, out):
        v = out.reshape(-1, _rows(op, p, out.size))
        at = slice(0, len(v) // 4) if part else slice(None)
        v[at] = bf(-wide(v[at])).reshape(v[at].shape)
        return out

    return Fault(
        "some rows" if part else "all", ("sign-flipped", "scaled", "operand-order", "formula", "activation"), apply
    )


@kind()
def one_value(op, p, x, r, device):
    def apply(_k, _d, out):
        out[out.size // 4 : out.size // 2] = bf([7.25])[0]
        return out

    return Fault("a constant in a quarter", ("constant",), apply)


import step_faults_blind  # noqa: E402, F401 - they add themselves
