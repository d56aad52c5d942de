# SPDX-License-Identifier: Apache-2.0
"""What a product may have computed instead: part of its terms, other operands, other matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.causes.formulas import ACTIVATIONS
from fusion_replay.diverge.causes.kernel import Kernel, Variant, swapped
from fusion_replay.diverge.causes.spans import F64

NDArray = npt.NDArray[Any]
Change = Callable[[NDArray], NDArray]


def of_product(kernel: Kernel) -> Iterator[Variant]:
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
        yield Variant("operand-order", "B A for A B", 4, inputs=swapped(kernel))
    if gemm and p.M == p.K:
        yield Variant("transposed-operand", "A is read transposed", 4, inputs={0: lambda a: a.reshape(p.M, p.K).T})
    if gemm and p.K != p.N:
        wrong = {1: lambda b: b.reshape(p.K, p.N).T if p.b_col_maj else b.reshape(p.N, p.K).T}
        yield Variant("transposed-operand", "B is read as if it were stored the other way", 4, inputs=wrong)
    if not gemm and p.M == p.K and p.num_batches == 1:
        yield Variant("transposed-operand", "A is read transposed", 4, inputs={0: lambda a: a.reshape(p.M, p.K).T})
    if not gemm and p.num_batches > 1:
        yield from _batches(kernel)


def _part_of_k(total: int, axis: int, own: int = 64) -> Iterator[Variant]:
    """Part of the first operand's terms, which lie along ``axis``, is left out."""
    seen = set()
    for size in dict.fromkeys((own, 64, 32, 16, 128, 256, 8, total // 2, total // 4)):
        if not 0 < size < total or total // size > 64:
            continue
        tiles = [(k, min(k + size, total)) for k in range(0, total, size)]
        for cut in [*tiles, *((lo, total) for lo, _ in tiles[1:]), *((0, lo) for lo, _ in tiles[1:])]:
            if cut not in seen:
                seen.add(cut)
                detail = f"k {cut[0]} to {cut[1] - 1} of {total} is left out"
                yield Variant("part-of-k", detail, 4, inputs={0: _without(axis, *cut)})


def _lost_k(kernel: Kernel, gemm: bool) -> Iterator[Variant]:
    """Part of K only, and a tile of K that is used in another's place."""
    p = kernel.bound_params
    along = {0: 1, 1: 1 if gemm and p.b_col_maj else 0} if gemm else {0: -1, 1: -1}
    shapes = [x.shape for x in kernel.inputs]
    own = getattr(p, "tile_k", None) or getattr(p, "kernel_vector_size", None) or 64
    yield from _part_of_k(p.K, along[0], own)
    for size in dict.fromkeys((own, 64, 32)):
        if not 0 < size < p.K or p.K // size > 64 or p.K % size:
            continue
        tiles = [(k, k + size) for k in range(0, p.K, size)]
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
        ("every batch has the next one's matrix, the last the first", (here // p.repeat + 1) % max(matrices, 1)),
        ("every batch has the one's matrix before it", np.maximum(here // p.repeat - 1, 0)),
        ("every batch has the one's matrix before it, the first the last", (here // p.repeat - 1) % max(matrices, 1)),
        ("matrices in reverse", (matrices - 1) - here // p.repeat),
    ):
        if matrices > 1 and p.epilogue == "none" and (rows != here // p.repeat).any():
            yield Variant("head-mapping", what, 4, formula=mapped(rows))


def of_groups(kernel: Kernel) -> Iterator[Variant]:
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
        ("every head has the next key-value head, the last the first", (group + 1) % p.groups),
        ("every head has the key-value head before its own", np.maximum(group - 1, 0)),
        ("every head has the key-value head before its own, the first the last", (group - 1) % p.groups),
        ("key-value heads in reverse", p.groups - 1 - group),
    ):
        if (rows != group).any():
            yield Variant("head-mapping", what, 4, formula=mapped(rows))
    yield from _part_of_k(p.seq_len, 1)


def of_attention(kernel: Kernel) -> Iterator[Variant]:
    """Query heads that read other key-value heads; masks; keys and values in each other's place."""
    p = kernel.bound_params
    shared = int(p.num_KV_heads or p.num_heads)
    axis, share = int(bool(p.heads_interleaved)), p.num_heads // shared

    def taken(which: Sequence[int]) -> Mapping[int, Change]:
        return {i: partial(np.take, indices=np.asarray(which), axis=axis) for i in (1, 2)}

    here = np.arange(shared)
    maps = {
        tuple(rows.tolist()): what
        for what, rows in (
            ("key-value heads in reverse", here[::-1]),
            ("every head has the key-value head before its own", np.roll(here, 1)),
            ("every head has the next key-value head", np.roll(here, -1)),
            ("every head has the first key-value head", here * 0),
        )
        if (rows != here).any()
    }
    for which, what in maps.items():
        yield Variant("head-mapping", what, 4, inputs=taken(which))
    if shared > 1 and share > 1:  # head h reads h % shared: as if heads stood in another order
        order = np.argsort(np.arange(p.num_heads) % shared, kind="stable")
        back, shape = np.argsort(order), kernel.inputs[0].shape
        yield Variant(
            "head-mapping",
            "key-value heads are tiled where each is repeated",
            4,
            inputs={0: partial(np.take, indices=order, axis=axis)},
            after=lambda y: np.take(y.reshape(shape), back, axis=axis).reshape(-1),
        )
    if share == 1:
        yield Variant("operand-order", "keys and queries exchanged", 4, inputs=_exchanged(kernel, 0, 1))
    yield Variant("operand-order", "keys and values exchanged", 4, inputs=_exchanged(kernel, 1, 2))
    for scale in (8.0, 0.125, 2.0, 0.5):
        changed = {0: partial(_times, factor=scale)}
        yield Variant("formula", f"of scores times {scale:g}", 4, inputs=changed)
    yield Variant("mask", "no causal mask", 4, formula=partial(_unmasked, p=p))


def _exchanged(kernel: Kernel, i: int, j: int) -> Mapping[int, Change]:
    one, other = kernel.inputs[i], kernel.inputs[j]
    return {i: lambda _: other, j: lambda _: one}


def _times(x: NDArray, factor: float) -> NDArray:
    return np.asarray((np.asarray(x, np.float32) * np.float32(factor)).astype(x.dtype))


def _unmasked(x: Sequence[F64], *, p: Any) -> F64:
    """Attention in which each row sees every row that is no padding."""
    q, k, v = (t.swapaxes(0, 1) if p.heads_interleaved else t for t in x)
    share = len(q) // len(k)
    out = np.zeros_like(q)
    for h in range(len(q)):
        scores = q[h, : p.seq_len] @ k[h // share, : p.seq_len].T / np.sqrt(q.shape[-1])
        power = np.exp(scores - scores.max(-1, keepdims=True))
        out[h, : p.seq_len] = power @ v[h // share, : p.seq_len] / power.sum(-1, keepdims=True)
    return np.asarray(out.swapaxes(0, 1) if p.heads_interleaved else out)


def of_gate(kernel: Kernel) -> Iterator[Variant]:
    p = kernel.bound_params
    yield from _part_of_k(p.K, -1)
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
