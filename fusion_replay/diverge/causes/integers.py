# SPDX-License-Identifier: Apache-2.0
"""What integers may have been taken for: nibbles in another order, another zero point."""

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
