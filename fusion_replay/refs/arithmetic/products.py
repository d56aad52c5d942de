# SPDX-License-Identifier: Apache-2.0
"""Matrix products of stored (bf16) operands in float64, a block at a time.

A weight matrix of 525 MB must not become 2 GB of float64 at once: blocks are widened as they are needed, small enough
for a core's cache. Products of bf16 values are exact in float64; their sum's last bits depend on the order a BLAS adds
in, which one rounding to bf16 hides. Zeros are never skipped: 0 * Inf is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat as aac

from fusion_replay.model.bf16 import Array, wide

VECTOR_BLOCK = 1 << 17  # elements of the matrix widened at a time for a matrix-vector product
MATRIX_BLOCK = 1 << 23  # the same for either operand of a matrix product: 64 MiB of float64

Finish = Callable[[Array], Array]
"""float64 block of the result -> what is stored (rounded, with an epilogue before that)."""


def matvec(a: Array, b: Array, finish: Finish) -> Array:
    """(M, K) stored times (K,) float64 -> (M,), finished."""
    xp = aac.array_namespace(a)
    rows = max(1, VECTOR_BLOCK // max(1, a.shape[1]))
    blocks = [wide(a[i : i + rows]) @ b for i in range(0, a.shape[0], rows)]
    return finish(xp.concat(blocks, axis=0) if blocks else xp.zeros((0,), dtype=xp.float64))


def matmul(a: Array, b: Array, finish: Finish) -> Array:
    """(M, K) stored times (K, N) stored -> (M, N), finished block by block. Either may be a transposed view."""
    xp = aac.array_namespace(a, b)
    inner = max(1, a.shape[1])
    step = max(1, MATRIX_BLOCK // inner)
    bands = []
    for i in range(0, a.shape[0], step):
        band = wide(a[i : i + step])
        parts = [finish(band @ wide(b[:, j : j + step])) for j in range(0, b.shape[1], step)]
        bands.append(_joined(xp, parts, axis=1))
    return _joined(xp, bands, axis=0)


def _joined(xp: Any, parts: list[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=axis)
