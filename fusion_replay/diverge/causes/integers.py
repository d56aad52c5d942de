# SPDX-License-Identifier: Apache-2.0
"""What integers may have been taken for: nibbles in another order, zero points, signs, narrow or saturating sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.diverge.causes.kernel import Kernel, Variant
from fusion_replay.diverge.causes.spans import F64
from fusion_replay.model.bf16 import BFLOAT16, wide

NDArray = npt.NDArray[Any]
Change = Callable[[NDArray], NDArray]


def of_dequant(kernel: Kernel) -> Iterator[Variant]:
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


def of_whole_product(kernel: Kernel) -> Iterator[Variant]:
    """Of an integer GEMM: how its sum is kept, scaled and narrowed, and how its operands are read."""
    p = kernel.bound_params
    bits = 8 * np.dtype(str(kernel.spec.arg_specs(kernel.params)[-1].dtype)).itemsize
    given = 8 * kernel.inputs[0].dtype.itemsize

    def product(x: Sequence[F64], read: Sequence[Change] = (_as_it_is, _as_it_is)) -> F64:
        a, b = read[0](x[0]), read[1](x[1])
        c = a @ (b.T if p.b_col_maj else b)
        return np.asarray(c.T if p.c_col_maj else c)

    def of(after: Change, read: Sequence[Change] = (_as_it_is, _as_it_is)) -> Callable[[Sequence[F64]], F64]:
        return lambda x: after(product(x, read))

    narrow = partial(_wrapped, bits=bits)
    yield Variant(
        "saturated", f"sums saturate at {bits} bits where they wrap", 4, formula=of(partial(_clipped, bits=bits))
    )
    for less in (8, 16, 20, 24):
        if less < bits:
            yield Variant("accumulation", f"sums wrap at {less} bits", 4, formula=of(partial(_wrapped, bits=less)))
            yield Variant("accumulation", f"sums saturate at {less} bits", 4, formula=of(partial(_clipped, bits=less)))
    for name, i in (("A", 0), ("B", 1)):
        for told, cause, change in (
            ("is read without sign", "signs-lost", partial(_unsigned, bits=given)),
            *(
                (f"has {z} taken off each element", "zero-point", partial(_less, z=z))
                for z in (128, -128, 8, -8, 1, -1)
            ),
        ):
            read = (change, _as_it_is) if i == 0 else (_as_it_is, change)
            yield Variant(cause, f"{name} {told}", 4, formula=of(narrow, read))
    for shift in range(1, 17):
        for told, store in (("cut", np.floor), ("rounded to nearest", np.rint)):
            for end, keep in (("wraps", _wrapped), ("saturates", _clipped)):
                detail = f"sums shifted right by {shift} bits, {told}; what is too large {end}"
                yield Variant(
                    "scaled", detail, 5, formula=of(partial(_shifted, shift=shift, store=store, keep=keep, bits=bits))
                )


def _as_it_is(x: NDArray) -> NDArray:
    return x


def _wrapped(x: F64, bits: int) -> F64:
    return np.asarray((x + 2.0 ** (bits - 1)) % 2.0**bits - 2.0 ** (bits - 1))


def _clipped(x: F64, bits: int) -> F64:
    return np.clip(x, -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)


def _unsigned(x: F64, bits: int) -> F64:
    return np.where(x < 0, x + 2.0**bits, x)


def _less(x: F64, z: int) -> F64:
    return x - z


def _shifted(x: F64, shift: int, store: Change, keep: Callable[..., F64], bits: int) -> F64:
    return keep(store(x / 2.0**shift), bits=bits)
