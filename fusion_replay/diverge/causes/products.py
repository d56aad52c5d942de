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
from fusion_replay.diverge.causes.spans import F64, Index

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
    """Which matrix serves which vector: another one, or tiled where each is repeated."""
    p = kernel.bound_params
    matrices = p.num_batches // p.repeat
    if matrices < 2:
        return
    for what, which in _others(matrices, "batch", "matrix"):
        yield Variant("head-mapping", what, 4, inputs={0: partial(np.take, indices=which, axis=0)})
    here = np.arange(p.num_batches)
    if p.epilogue == "none" and (here % matrices != here // p.repeat).any():

        def tiled(x: Sequence[F64]) -> F64:
            a, b = x[0].reshape(-1, p.M, p.K), x[1].reshape(-1, p.K)
            return np.stack([a[i % matrices] @ b[i] for i in here])

        yield Variant("head-mapping", "matrices are tiled where each is repeated", 4, formula=tiled)


def _others(count: int, of: str, what: str) -> Iterator[tuple[str, Index]]:
    """Ways to take another of ``count``: none twice."""
    here, seen = np.arange(count), {tuple(range(count))}
    for told, which in (
        (f"every {of} has the first {what}", here * 0),
        (f"every {of} has the next {what}, the last the first", np.roll(here, -1)),
        (f"every {of} has the {what} before its own, the first the last", np.roll(here, 1)),
        (f"every {of} has the next {what}", np.minimum(here + 1, count - 1)),
        (f"every {of} has the {what} before its own", np.maximum(here - 1, 0)),
        (f"every {of} has the {what} in reverse order", here[::-1]),
    ):
        if tuple(which.tolist()) not in seen:
            seen.add(tuple(which.tolist()))
            yield told, which


def of_groups(kernel: Kernel) -> Iterator[Variant]:
    p = kernel.bound_params
    for what, which in _others(p.groups, "head", "key-value head"):
        yield Variant("head-mapping", what, 4, inputs={0: partial(np.take, indices=which, axis=0)})
    heads = np.arange(p.groups * p.heads_per_group)
    if (heads % p.groups != heads // p.heads_per_group).any():

        def tiled(x: Sequence[F64]) -> F64:
            weights = x[1].reshape(heads.size, 1, p.seq_len)
            caches = x[0].reshape(p.groups, p.seq_len, p.head_dim)[heads % p.groups]
            return np.asarray(weights @ caches).reshape(-1)

        yield Variant("head-mapping", "key-value heads are tiled where each is repeated", 4, formula=tiled)
    yield from _part_of_k(p.seq_len, 1)


def of_attention(kernel: Kernel) -> Iterator[Variant]:
    """Query heads that read other key-value heads; masks; keys and values in each other's place."""
    p = kernel.bound_params
    shared = int(p.num_KV_heads or p.num_heads)
    axis, share = int(bool(p.heads_interleaved)), p.num_heads // shared

    for what, which in _others(shared, "head", "key-value head"):
        moved = partial(np.take, indices=which, axis=axis)
        yield Variant("head-mapping", what, 4, inputs={1: moved, 2: moved})
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
