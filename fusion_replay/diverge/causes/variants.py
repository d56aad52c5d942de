# SPDX-License-Identifier: Apache-2.0
"""What a kernel may have computed instead: each parameter of its spec flipped, operands and parts of them exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.causes.formulas import ACTIVATIONS, BINARY
from fusion_replay.diverge.causes.kernel import PRODUCTS, UNARY, Kernel, Variant
from fusion_replay.diverge.causes.spans import F64
from fusion_replay.model.bf16 import BFLOAT16, wide

NDArray = npt.NDArray[Any]
Change = Callable[[NDArray], NDArray]

_EPSILONS = (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_CHOICES: dict[str, tuple[Any, ...]] = {
    "method_type": (0, 1),
    "epilogue": ("none", "gelu"),
    "epsilon": _EPSILONS,
    "alpha": (0.0, 0.01, 0.1, 0.2, 0.25, 1.0),
    "scalar_factor": (0.01, 1.0, 3.0),
    "num_KV_heads": (1, 2, 4, 8),
}
_FLOAT_BITS = (16, 12, 8, *(n for n in range(31, 0, -1) if n not in (16, 12, 8)))


def variants(kernel: Kernel) -> Iterator[Variant]:
    """Hypotheses from the operator's spec, from one operator type's own, then from the history of its inputs."""
    yield from _flipped(kernel)
    yield from _truncated(kernel)
    yield from _own(kernel)
    yield from _operands(kernel)
    yield from _stale(kernel)


# --- parameters -----------------------------------------------------------------------------------------------------


def _flipped(kernel: Kernel) -> Iterator[Variant]:
    bound = vars(kernel.bound_params)
    for param in kernel.spec.params:
        here = bound[param.name]
        if not param.decides:
            continue
        others = _CHOICES.get(param.name, (not here,) if isinstance(here, bool) else ())
        for other in others:
            if other != here:
                yield Variant(
                    _name_of(param.name), f"{param.name} {other!r} for {here!r}", 4, params={param.name: other}
                )
    if kernel.spec.type != "RMSNorm":
        for flavour in ("pr117",):
            if kernel.spec.flavour(flavour)[1] is not kernel.spec.flavour("exact")[1] and not kernel.spec.raw:
                yield Variant("parameter", f"as IRON's reference of {flavour} computes it", 6, flavour=flavour)


def _name_of(param: str) -> str:
    return {"b_col_maj": "transposed-operand", "epilogue": "activation", "alpha": "parameter"}.get(param, "parameter")


def _truncated(kernel: Kernel) -> Iterator[Variant]:
    """Floats keep the upper bits of their float32 pattern, runtime integers their lower ones, or are off by one."""
    for name, value in kernel.params.items():
        if isinstance(value, float) and hasattr(kernel.bound_params, name):
            seen = {value}
            for bits in _FLOAT_BITS:
                kept = _upper(value, bits)
                if kept not in seen and np.isfinite(kept):
                    seen.add(kept)
                    yield Variant(
                        "truncated-scalar",
                        f"{name} {value:g} lost all but {bits} bits: {kept:g}",
                        5,
                        params={name: kept},
                    )
    whole = {k: v for k, v in kernel.values.items() if isinstance(v, int) and not isinstance(v, bool)}
    for by in (-1, 1):
        for name, value in whole.items():
            yield Variant("mask", f"{name} {value + by} for {value}", 4, values={name: value + by})
    for name in kernel.spec.values:
        compiled = getattr(kernel.bound_params, f"rtp_{name}", None)
        if not isinstance(compiled, int) or whole:
            continue
        for by in (-1, 1):
            yield Variant("mask", f"{name} {compiled + by} for {compiled}", 4, params={f"rtp_{name}": compiled + by})
    known = set()
    for bits in (8, 16, *(n for n in range(31, 0, -1) if n not in (8, 16))):
        kept_values = {k: v & ((1 << bits) - 1) for k, v in whole.items()}
        if kept_values != whole and tuple(kept_values.values()) not in known:
            known.add(tuple(kept_values.values()))
            detail = ", ".join(f"{k} {whole[k]} -> {v}" for k, v in kept_values.items() if v != whole[k])
            yield Variant("truncated-scalar", f"{detail}: {bits} bits are left", 5, values=kept_values)


def _upper(value: float, bits: int) -> float:
    word = np.float32(value).view(np.uint32) & np.uint32((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF)
    return float(word.view(np.float32))


# --- one operator's own ---------------------------------------------------------------------------------------------


def _own(kernel: Kernel) -> Iterator[Variant]:
    op = kernel.spec.type
    if op in UNARY:
        mine = kernel.exact()
        for what, function in ACTIVATIONS.items():
            same = kernel.exact(_formula(what, function))
            if mine is None or same is None or not np.allclose(mine[0], same[0], rtol=1e-9, atol=0, equal_nan=True):
                yield _formula(what, function)
    elif op in ("ElementwiseAdd", "ElementwiseMul"):
        mine_name = "A + B" if op == "ElementwiseAdd" else "A B"
        for what, both in BINARY.items():
            if what != mine_name:
                yield Variant("formula", f"{what} for {mine_name}", 4, formula=partial(_joined, both))
    elif op in PRODUCTS:
        yield from _product(kernel)
    elif op == "RoPE":
        yield from _rope(kernel)
    elif op in ("RMSNorm", "LayerNorm"):
        yield from _norm(kernel)
    elif op == "Softmax":
        yield from _softmax(kernel)
    elif op == "Dequant":
        yield from _dequant(kernel)
    elif op == "DualGEMVSiLUMul":
        yield from _gated(kernel)
    elif op == "AXPY":
        yield Variant("formula", "the scalar multiplies the other operand", 4, inputs=_swapped(kernel))
    elif op == "GQAContext":
        yield from _groups(kernel)


def _formula(what: str, function: Callable[[F64], F64]) -> Variant:
    return Variant("activation", f"{what} instead", 4, formula=lambda x: function(x[0].reshape(-1)))


def _joined(function: Callable[[F64, F64], F64], x: Sequence[F64]) -> F64:
    return function(x[0].reshape(-1), x[1].reshape(-1))


def _swapped(kernel: Kernel) -> Mapping[int, Change]:
    a, b = kernel.inputs[:2]
    return {0: lambda _: b, 1: lambda _: a}


def _product(kernel: Kernel) -> Iterator[Variant]:
    p = kernel.bound_params
    gemm = kernel.spec.type == "GEMM"
    if p.epilogue == "none":
        for what in ("GELU by tanh", "GELU by erf", "SiLU", "ReLU", "quick GELU, x sigmoid(1.702 x)"):
            yield Variant("activation", f"{what} applied to the product", 5, after=ACTIVATIONS[what])
    else:
        plain = {"epilogue": "none"}
        for what, function in ACTIVATIONS.items():
            if what not in ("no activation", "GELU by tanh"):
                yield Variant("activation", f"{what} for GELU", 5, params=plain, after=function)
    yield from _lost_k(kernel, gemm)
    if gemm and p.M == p.K == p.N:
        yield Variant("operand-order", "B A for A B", 4, inputs=_swapped(kernel))
    if gemm and p.M == p.K:
        yield Variant("transposed-operand", "A is read transposed", 4, inputs={0: lambda a: a.reshape(p.M, p.K).T})
    if gemm and p.K != p.N:
        wrong = {1: lambda b: b.reshape(p.K, p.N).T if p.b_col_maj else b.reshape(p.N, p.K).T}
        yield Variant("transposed-operand", "B is read as if it were stored the other way", 4, inputs=wrong)
    if not gemm and p.M == p.K and p.num_batches == 1:
        yield Variant("transposed-operand", "A is read transposed", 4, inputs={0: lambda a: a.reshape(p.M, p.K).T})
    if not gemm and p.num_batches > 1:
        yield from _batches(kernel)


def _lost_k(kernel: Kernel, gemm: bool) -> Iterator[Variant]:
    """Part of K only, and a tile of K that is used in another's place."""
    p = kernel.bound_params
    along = {0: 1, 1: 1 if gemm and p.b_col_maj else 0} if gemm else {0: -1, 1: -1}
    shapes = [x.shape for x in kernel.inputs]
    own = getattr(p, "tile_k", None) or getattr(p, "kernel_vector_size", None) or 64
    seen = set()
    for size in dict.fromkeys((own, 64, 32, 16, 128, 256, 8, p.K // 2, p.K // 4)):
        if not 0 < size < p.K or p.K // size > 64:
            continue
        tiles = [(k, min(k + size, p.K)) for k in range(0, p.K, size)]
        for cut in (
            [(lo, hi) for lo, hi in tiles] + [(lo, p.K) for lo, _ in tiles[1:]] + [(0, lo) for lo, _ in tiles[1:]]
        ):
            if cut not in seen:
                seen.add(cut)
                yield Variant(
                    "part-of-k",
                    f"k {cut[0]} to {cut[1] - 1} of {p.K} is left out",
                    4,
                    inputs={0: _without(along[0], *cut)},
                )
        if size not in (own, 64, 32) or p.K % size:
            continue
        for i in range(len(tiles)):
            for j in dict.fromkeys((i - 1, 0, i + 1, len(tiles) - 1)):
                if not 0 <= j < len(tiles) or j == i:
                    continue
                for which, name in ((0, "A"), (1, "B")):
                    move = _reused(along[which], tiles[i][0], tiles[j][0], size, shapes[which])
                    detail = f"K tile {i} (of {size}) of {name} is tile {j}'s"
                    yield Variant("k-tile-reused", detail, 4, inputs={which: move})
        for which, name in ((0, "A"), (1, "B")):
            move = _always_first(along[which], size, shapes[which])
            yield Variant("k-tile-reused", f"every K tile (of {size}) of {name} is the first", 4, inputs={which: move})


def _without(axis: int, lo: int, hi: int) -> Change:
    def change(x: NDArray) -> NDArray:
        out = np.moveaxis(x.copy(), axis, -1)
        out[..., lo:hi] = 0
        return np.moveaxis(out, -1, axis)

    return change


def _reused(axis: int, into: int, of: int, size: int, _shape: tuple[int, ...]) -> Change:
    def change(x: NDArray) -> NDArray:
        out = np.moveaxis(x.copy(), axis, -1)
        out[..., into : into + size] = out[..., of : of + size].copy()
        return np.moveaxis(out, -1, axis)

    return change


def _always_first(axis: int, size: int, _shape: tuple[int, ...]) -> Change:
    def change(x: NDArray) -> NDArray:
        moved = np.moveaxis(x, axis, -1)
        return np.moveaxis(np.tile(moved[..., :size], moved.shape[-1] // size), -1, axis)

    return change


def _batches(kernel: Kernel) -> Iterator[Variant]:
    """Which matrix serves which vector: repeated for a run of vectors, or tiled."""
    p = kernel.bound_params
    matrices = p.num_batches // p.repeat

    def mapped(rows: npt.NDArray[np.int64]) -> Callable[[Sequence[F64]], F64]:
        return lambda x: np.stack(
            [x[0].reshape(-1, p.M, p.K)[j] @ x[1].reshape(-1, p.K)[i] for i, j in enumerate(rows)]
        )

    here = np.arange(p.num_batches)
    for what, rows in (
        ("matrices are tiled where each is repeated", here % matrices),
        ("every batch has the first matrix", here * 0),
        ("every batch has the next one's matrix", np.minimum(here // p.repeat + 1, matrices - 1)),
        ("every batch has the one's matrix before it", np.maximum(here // p.repeat - 1, 0)),
        ("matrices in reverse", (matrices - 1) - here // p.repeat),
    ):
        if matrices > 1 and p.epilogue == "none" and (rows != here // p.repeat).any():
            yield Variant("head-mapping", what, 4, formula=mapped(rows))


def _groups(kernel: Kernel) -> Iterator[Variant]:
    p = kernel.bound_params
    heads, here = p.groups * p.heads_per_group, np.arange(p.groups * p.heads_per_group)

    def mapped(rows: npt.NDArray[np.int64]) -> Callable[[Sequence[F64]], F64]:
        def formula(x: Sequence[F64]) -> F64:
            weights = x[1].reshape(heads, 1, p.seq_len)
            return (weights @ x[0].reshape(p.groups, p.seq_len, p.head_dim)[rows]).reshape(-1)

        return formula

    group = here // p.heads_per_group
    for what, rows in (
        ("key-value heads are tiled where each is repeated", here % p.groups),
        ("every head has the first key-value head", here * 0),
        ("every head has the next key-value head", np.minimum(group + 1, p.groups - 1)),
        ("every head has the key-value head before its own", np.maximum(group - 1, 0)),
    ):
        if (rows != group).any():
            yield Variant("head-mapping", what, 4, formula=mapped(rows))


def _rope(kernel: Kernel) -> Iterator[Variant]:
    p = kernel.bound_params

    def table(change: Callable[[F64, F64], tuple[F64, F64]]) -> Mapping[int, Change]:
        def changed(angles: NDArray) -> NDArray:
            out = angles.copy()
            cos, sin = change(angles[..., 0::2], angles[..., 1::2])
            out[..., 0::2], out[..., 1::2] = cos, sin
            return out

        return {1: changed}

    yield Variant("formula", "rotated the other way (the sine's sign)", 4, inputs=table(lambda c, s: (c, -s)))
    yield Variant("formula", "sine and cosine exchanged", 4, inputs=table(lambda c, s: (s, c)))
    yield Variant("formula", "not rotated", 4, formula=lambda x: x[0])
    half = {1: lambda angles: _halves(angles)}
    yield Variant("formula", "angles read as cosines, then sines", 4, inputs=half)
    rows = kernel.inputs[1].reshape(-1, p.cols).shape[0]
    if rows > 1:
        for by in (1, -1):
            move = {1: partial(_rolled, cols=p.cols, by=by)}
            yield Variant("formula", f"angles of the position {'after' if by > 0 else 'before'}", 4, inputs=move)
        yield Variant("formula", "the first row's angles in every row", 4, inputs={1: lambda a: _first_row(a, p.cols)})


def _rolled(angles: NDArray, cols: int, by: int) -> NDArray:
    return np.roll(angles.reshape(-1, cols), -by, axis=0)


def _halves(angles: NDArray) -> NDArray:
    out, n = angles.copy(), angles.shape[-1] // 2
    out[..., 0::2], out[..., 1::2] = angles[..., :n], angles[..., n:]
    return out


def _first_row(angles: NDArray, cols: int) -> NDArray:
    rows = angles.reshape(-1, cols)
    return np.tile(rows[:1], (len(rows), 1))


def _norm(kernel: Kernel) -> Iterator[Variant]:
    p = kernel.bound_params
    width = p.tile_size
    eps = getattr(p, "epsilon", 1e-5)
    rms = kernel.spec.type == "RMSNorm"

    def normal(x: F64, *, centred: bool, epsilon: float, over: float = 1.0, outside: bool = False) -> F64:
        x = x.reshape(-1, width)
        x = x - x.mean(-1, keepdims=True) if centred else x
        square = (x * x).mean(-1, keepdims=True) / over
        return np.asarray(x / (np.sqrt(square) + epsilon) if outside else x / np.sqrt(square + epsilon))

    def weighed(what: Callable[[F64], F64], weigh: Callable[[F64, F64], F64]) -> Callable[[Sequence[F64]], F64]:
        return lambda x: weigh(what(x[0]), x[1].reshape(-1)) if len(x) > 1 else what(x[0])

    def told(detail: str, weigh: Callable[[F64, F64], F64] = lambda y, w: y * w, **how: Any) -> Variant:
        given = {"centred": not rms, "epsilon": eps, **how}
        return Variant("formula", detail, 4, formula=weighed(lambda x: normal(x, **given), weigh))

    yield told("the mean is taken off too" if rms else "the mean is not taken off", centred=rms)
    yield told(f"the mean over {width - 1} elements", over=(width - 1) / width)
    yield told("epsilon is added outside the root", outside=True)
    if len(kernel.inputs) > 1:
        if not rms:
            yield told("without the weights", lambda y, _: y)
        yield told("weights are 1 + w", lambda y, w: y * (1 + w))
        yield told("divided by the weights", lambda y, w: y / w)
    for over in (2.0, 0.5):
        yield told(f"the sum of squares over {width * over:g} elements", over=over)
    whole = Variant("formula", "over the whole output instead of each row", 4, formula=_over_all(not rms, eps, width))
    yield whole
    for n in (width // 2, width - 16, width - 1):
        if 0 < n < width:
            yield Variant(
                "formula", f"over the first {n} elements of a row", 4, formula=_over_some(not rms, eps, width, n)
            )


def _over_all(centred: bool, eps: float, width: int) -> Callable[[Sequence[F64]], F64]:
    def formula(x: Sequence[F64]) -> F64:
        y = x[0] - x[0].mean() if centred else x[0]
        y = (y / np.sqrt((y * y).mean() + eps)).reshape(-1, width)
        return np.asarray(y * x[1].reshape(-1) if len(x) > 1 else y)

    return formula


def _over_some(centred: bool, eps: float, width: int, n: int) -> Callable[[Sequence[F64]], F64]:
    def formula(x: Sequence[F64]) -> F64:
        y = x[0].reshape(-1, width)
        y = y - y[:, :n].mean(-1, keepdims=True) if centred else y
        y = y / np.sqrt((y[:, :n] ** 2).mean(-1, keepdims=True) + eps)
        return np.asarray(y * x[1].reshape(-1) if len(x) > 1 else y)

    return formula


def _softmax(kernel: Kernel) -> Iterator[Variant]:
    cols = kernel.bound_params.cols

    def of(change: Callable[[F64], F64], power: Callable[[F64], F64] = np.exp) -> Callable[[Sequence[F64]], F64]:
        def formula(x: Sequence[F64]) -> F64:
            y = change(x[0].reshape(-1, cols))
            y = power(y - y.max(-1, keepdims=True))
            return np.asarray(y / y.sum(-1, keepdims=True))

        return formula

    def before(x: Sequence[F64]) -> F64:
        y = x[0].reshape(-1, cols)
        return np.asarray(np.exp(y - y.max(-1, keepdims=True)))

    if "vector_size" in kernel.values or kernel.bound_params.rtp_vector_size:
        yield Variant("mask", "the mask is left out", 4, formula=of(lambda y: y))
    yield Variant("formula", "not divided by the sum", 4, formula=before)
    yield Variant("formula", "powers of 2 for powers of e", 4, formula=of(lambda y: y, np.exp2))
    yield Variant("formula", "of the negated scores", 4, formula=of(lambda y: -y))
    for scale in (2.0, 0.5, 0.125, 8.0, float(cols) ** -0.5):
        yield Variant("formula", f"of scores times {scale:g}", 4, formula=of(partial(np.multiply, scale)))
    for n in (cols - 1, cols - 16, cols // 2):
        if 0 < n < cols:
            yield Variant("mask", f"over the first {n} of {cols} elements", 4, formula=of(partial(_masked, n=n)))
    for zeros in (1, 8, 16, 32, 64):
        yield Variant("formula", f"{zeros} padded zeros are counted in the sum", 4, formula=_padded(cols, zeros))
    yield Variant("mask", "each row sees as many elements as its number says (causal)", 4, formula=of(_causal))
    yield Variant("formula", "over columns instead of rows", 5, formula=lambda x: _down(x[0].reshape(-1, cols)))


def _masked(y: F64, n: int) -> F64:
    out = y.copy()
    out[:, n:] = -np.inf
    return out


def _causal(y: F64) -> F64:
    return np.where(np.arange(y.shape[1])[None, :] > np.arange(y.shape[0])[:, None], -np.inf, y)


def _padded(cols: int, zeros: int) -> Callable[[Sequence[F64]], F64]:
    def formula(x: Sequence[F64]) -> F64:
        y = x[0].reshape(-1, cols)
        top = np.maximum(y.max(-1, keepdims=True), 0)
        power = np.exp(y - top)
        return np.asarray(power / (power.sum(-1, keepdims=True) + zeros * np.exp(-top)))

    return formula


def _down(y: F64) -> F64:
    power = np.exp(y - y.max(0, keepdims=True))
    return np.asarray(power / power.sum(0, keepdims=True))


def _dequant(kernel: Kernel) -> Iterator[Variant]:
    from fusion_replay.refs.dequant import geometry

    p = kernel.bound_params
    tiles, groups, nbytes = geometry(p)
    split = nbytes - 2 * groups

    def of(unpack: Callable[[NDArray], NDArray]) -> Callable[[Sequence[F64]], F64]:
        def formula(_: Sequence[F64]) -> F64:
            packed = kernel.inputs[0].reshape(tiles, nbytes)
            scales = wide(np.ascontiguousarray(packed[:, split:]).view(BFLOAT16)).reshape(tiles, groups, 1)
            return np.asarray(unpack(packed[:, :split]).astype(np.float64).reshape(tiles, groups, -1) * scales)

        return formula

    def pairs(b: NDArray) -> NDArray:
        return np.stack((b & 15, b >> 4), -1).reshape(len(b), -1).astype(np.int64)

    def planes(b: NDArray) -> NDArray:
        return np.concatenate((b & 15, b >> 4), -1).astype(np.int64)

    def swapped(b: NDArray) -> NDArray:
        return np.stack((b >> 4, b & 15), -1).reshape(len(b), -1).astype(np.int64)

    def high_plane(b: NDArray) -> NDArray:
        return np.concatenate((b >> 4, b & 15), -1).astype(np.int64)

    orders = {"": pairs, "the high nibble first": swapped, "low nibbles first, then the high ones": planes,
              "high nibbles first, then the low ones": high_plane}  # fmt: skip
    signs: dict[str, Callable[[NDArray], NDArray]] = {
        "": lambda n: n,
        "nibbles are signed": lambda n: np.where(n > 7, n - 16, n),
        "the zero point is 8": lambda n: n - 8,
    }
    for order, unpack in orders.items():
        for sign, read in signs.items():
            if order or sign:
                detail = ", ".join(filter(None, (order, sign)))
                yield Variant("int4-order" if order else "zero-point", detail, 4,
                              formula=of(partial(_read, read, unpack)))  # fmt: skip


def _read(read: Change, unpack: Change, packed: NDArray) -> NDArray:
    return read(unpack(packed))


def _gated(kernel: Kernel) -> Iterator[Variant]:
    p = kernel.bound_params
    rows = p.tile_size_output or p.M // p.num_aie_columns

    def of(join: Callable[[F64, F64], F64]) -> Callable[[Sequence[F64]], F64]:
        def formula(x: Sequence[F64]) -> F64:
            both = (x[0].reshape(-1, p.K) @ x[1].reshape(-1)).reshape(-1, 2, rows)
            return join(both[:, 0], both[:, 1]).reshape(-1)

        return formula

    for what in ("no activation", "GELU by tanh", "GELU by erf", "sigmoid", "ReLU", "quick GELU, x sigmoid(1.702 x)"):
        yield Variant("activation", f"{what} for SiLU", 4, formula=of(partial(_gate, ACTIVATIONS[what])))
    yield Variant("operand-order", "the two matrices exchanged", 4, formula=of(lambda g, u: ACTIVATIONS["SiLU"](u) * g))
    yield Variant("formula", "the first matrix alone", 4, formula=of(lambda g, _: ACTIVATIONS["SiLU"](g)))
    yield Variant("formula", "the second matrix alone", 4, formula=of(lambda _, u: u))


def _gate(function: Callable[[F64], F64], gate: F64, up: F64) -> F64:
    return function(gate) * up


# --- operands -------------------------------------------------------------------------------------------------------


def _operands(kernel: Kernel) -> Iterator[Variant]:
    """Signs lost, operands negated or exchanged."""
    floats = [i for i, x in enumerate(kernel.inputs) if x.dtype == BFLOAT16 or x.dtype.kind == "f"]
    names = {i: s.name for i, s in enumerate(a for a in kernel.spec.arg_specs(kernel.params) if a.reads)}
    if kernel.spec.type in UNARY or kernel.spec.exact_bits:
        floats = []
    for i in floats:
        yield Variant("signs-lost", f"|{names[i]}| for {names[i]}", 4, inputs={i: np.abs})
    if len(floats) > 1:
        told = " and ".join(f"|{names[i]}|" for i in floats)
        yield Variant(
            "signs-lost", f"{told}: signs are lost before the operation", 4, inputs=dict.fromkeys(floats, np.abs)
        )
    if len(kernel.inputs) == 2 and kernel.inputs[0].size == kernel.inputs[1].size and kernel.spec.type != "AXPY":
        yield Variant("operand-order", "the operands exchanged", 5, inputs=_swapped(kernel))


def _stale(kernel: Kernel) -> Iterator[Variant]:
    """One input, or all that the runlist fills, as they were some time before: whole, or in part."""
    together: dict[int, Change] = {}
    older: list[str] = []
    for i, versions in kernel.versions.items():
        name = _called(kernel, i)
        for number, version in enumerate(versions):
            old = version.read()
            yield Variant("stale-input", f"input {name} is {version.what}", 6, inputs={i: partial(_instead, old)})
            if number == 0:
                together[i] = partial(_instead, old)
                older.append(f"{name} is {version.what}")
                for parts, what in ((2, "half"), (8, "eighth")):
                    for part in range(parts) if old.size % parts == 0 else ():
                        detail = f"{what} {part} of input {name} is {version.what}"
                        yield Variant("stale-input", detail, 7, inputs={i: _partly(old, parts, part)})
    for i in range(len(kernel.inputs)):  # never transferred: https://github.com/amd/IRON/issues/181
        detail = f"input {_called(kernel, i)} is read as zeros"
        yield Variant("stale-input", detail, 6, inputs={i: np.zeros_like})
    if len(together) > 1:
        yield Variant("stale-input", f"inputs are older ones: {', '.join(older)}", 6, inputs=together)
    if len(kernel.versions) > 1:
        blank = dict.fromkeys(kernel.versions, np.zeros_like)
        yield Variant("stale-input", "all inputs that the runlist fills are read as zeros", 6, inputs=blank)


def _called(kernel: Kernel, i: int) -> str:
    return kernel.names[i] if i < len(kernel.names) else str(i)


def _instead(old: NDArray, _now: NDArray) -> NDArray:
    return old


def _partly(old: NDArray, parts: int, part: int) -> Change:
    def change(x: NDArray) -> NDArray:
        out, size = x.reshape(-1).copy(), x.size // parts
        out[part * size : (part + 1) * size] = old.reshape(-1)[part * size : (part + 1) * size]
        return out.reshape(x.shape)

    return change
