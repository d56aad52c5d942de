# SPDX-License-Identifier: Apache-2.0
"""GEMV and FusedQKVProj: float32 accumulators in vector lanes, one rounding at the end, batches one after another.

amd/IRON ``aie_kernels/generic/mv.cc``: products of two bfloat16 values are exact in float32, each lane adds every
``kernel_vector_size``-th of them, a reduction tree adds the lanes. The one rounding at the end is the register's, floor
on a fresh device; newer vector kernels select conv_even themselves, which a decode has anyway after its first RMSNorm.
Every addition is an explicit elementwise one in that order, so every host gets the same bits; no BLAS is involved.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fusion_replay.simulator.core import Core, Float32, halve, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import ONE_SUM, Kernel, field, require, require_columns, require_multiple
from fusion_replay.simulator.kernels.activation import gelu

_WIDTHS = (64, 32, 16)  # vector widths that the kernel is built for, widest first
_BLOCK_BYTES = 1 << 19  # float32 products of one block of rows: fits in a core's second-level cache


def _gemv(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    batches, repeat = field(p, "num_batches", 1), field(p, "repeat", 1)
    matrices = d.inputs[0].reshape(batches // repeat, p.M, p.K)
    vectors = widen(d.inputs[1]).reshape(batches, p.K)
    sums = np.empty((batches, p.M), np.float32)
    for batch, (vector, out) in enumerate(zip(vectors, sums, strict=True)):
        dot_rows(matrices[batch // repeat], vector, lanes_of(p), out)
    result = core.store_bf16(sums)
    if field(p, "epilogue", "none") == "gelu":  # in place on the rounded output tile
        result = core.store_bf16(gelu(core, widen(result)))
    return [result]


def dot_rows(matrix: Array, vector: Float32, lanes: int, out: Float32) -> None:
    """``matrix`` bfloat16 ``(M, K)``, ``vector`` and ``out`` float32 ``(K,)`` and ``(M,)``; a few rows at a time, since
    half a gigabyte of weights must not become a gigabyte of float32."""
    rows, columns = matrix.shape
    block = max(1, _BLOCK_BYTES // (4 * columns))
    for start in range(0, rows, block):
        products = widen(matrix[start : start + block])
        products *= vector
        parts = products.reshape(len(products), columns // lanes, lanes)
        sums = parts[:, 0]
        for i in range(1, parts.shape[1]):
            sums += parts[:, i]
        out[start : start + block] = halve(sums)


def lanes_of(p: Params) -> int:
    """The widest vector, up to ``kernel_vector_size``, that divides K; 0 where none does."""
    limit = field(p, "kernel_vector_size", _WIDTHS[0])
    return next((w for w in _WIDTHS if w <= limit and p.K % w == 0), 0)


def _rules(p: Params, core: Core) -> None:
    op, columns = "GEMV", field(p, "num_aie_columns", 1)
    require_columns(op, columns, core)
    batches = field(p, "num_batches", 1)
    require(batches >= 1, op, "num_batches", "at least 1", batches)
    require_multiple(op, "num_batches", batches, field(p, "repeat", 1), "repeat")
    require(p.K > 0 and lanes_of(p) > 0, op, "K", f"a positive multiple of {_WIDTHS[-1]}, the narrowest vector", p.K)
    tile_in = field(p, "tile_size_input", 2)
    tile_out = field(p, "tile_size_output", tile_in)
    require(tile_in > 0, op, "tile_size_input", "a positive count of rows", tile_in)
    require_multiple(op, "tile_size_output", tile_out, tile_in, "tile_size_input")
    require_multiple(op, "M", p.M, columns * tile_out, "num_aie_columns * tile_size_output")
    epilogue = field(p, "epilogue", "none")
    require(epilogue in ("none", "gelu"), op, "epilogue", "'none' or 'gelu'", repr(epilogue))
    if epilogue == "gelu":
        require(core.generation == "npu2", op, "epilogue", "'none' on npu1, whose GELU has no in-place form", "'gelu'")
        require_multiple(op, "tile_size_output", tile_out, 16, "the GELU epilogue's vector")


def _note(p: Params, core: Core) -> str:
    return ONE_SUM(p, core) if field(p, "epilogue", "none") == "none" else ""


def _as_gemv(p: Params) -> Params:
    """FusedQKVProj is a GEMV of the three matrices' rows (amd/IRON ``iron/operators/fused_qkv_proj/design.py``)."""
    rows, columns = p.q_dim + p.k_dim + p.v_dim, field(p, "num_aie_columns", 4)
    tiles = {"tile_size_input": field(p, "tile_size_input", 4)}
    tiles["tile_size_output"] = field(p, "tile_size_output", rows // max(1, columns))
    return Params(M=rows, K=p.embedding_dim, num_aie_columns=columns, **tiles)


def _qkv(d: Dispatch) -> list[Array]:
    return _gemv(replace(d, params=_as_gemv(d.params)))


def _qkv_rules(p: Params, core: Core) -> None:
    _rules(_as_gemv(p), core)


KERNELS = (
    Kernel("GEMV", _gemv, _rules, _note, "amd/IRON aie_kernels/generic/mv.cc"),
    Kernel("FusedQKVProj", _qkv, _qkv_rules, ONE_SUM, "amd/IRON aie_kernels/generic/mv.cc"),
)
