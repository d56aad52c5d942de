# SPDX-License-Identifier: Apache-2.0
"""Two GEMVs on one vector, fused with SiLU and a product: ``silu(W1 x) * (W2 x)``.

amd/IRON ``aie_kernels/aie2/dual_gemv_silu_mul.cc``, ``aie2p/dual_gemv_silu_mul.cc`` and
``iron/operators/dual_gemv_silu_mul``: both products go through bfloat16 buffers in the core, SiLU rounds three times,
the last product once more. The GEMV phase sets conv_even and leaves it so. The weights come as one matrix, blocks of
``tile_size_output`` rows of W1 and of W2 in turn.

SwiGLUFusedDecode (amd/IRON ``aie_kernels/aie2/swiglu_fused.cc``, ``aie2p/``) is the same in each column, and a second
core that multiplies the column's share of the third matrix by what the first hands over.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.simulator.core import Core, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, field, require, require_columns, require_multiple
from fusion_replay.simulator.kernels.activation import silu
from fusion_replay.simulator.kernels.gemv import dot_rows

_LANES = 64
_SILU_LANES = 16
_MOST_ROWS = 2048  # of the buffers in the core's memory


def _dual(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    core.rounding = "conv_even"
    weights = d.inputs[0].reshape(-1, 2, _rows_together(p), p.K).swapaxes(0, 1)
    vector = widen(d.inputs[1]).reshape(p.K)
    left, right = (_product(core, w.reshape(p.M, p.K), vector) for w in weights)
    return [core.store_bf16(silu(core, left) * right)]


def _rows_together(p: Params) -> int:
    return int(field(p, "tile_size_output", p.M // field(p, "num_aie_columns", 4)))


def _product(core: Core, matrix: Array, vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Array:
    sums = np.empty(len(matrix), np.float32)
    dot_rows(matrix, vector, _LANES, sums)
    return core.round_bf16(sums)


def _swiglu(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    core.rounding = "conv_even"
    columns, inner = field(p, "num_aie_columns", 4), p.embedding_dim
    share, split = p.hidden_dim // columns, 2 * p.hidden_dim * inner
    pairs = d.inputs[0][:split].reshape(columns, 2, share, inner)
    downs = d.inputs[0][split:].reshape(columns, inner, share)
    vector = widen(d.inputs[1]).reshape(inner)
    partials = []
    for (gate, up), down in zip(pairs, downs, strict=True):
        hidden = core.round_bf16(silu(core, _product(core, gate, vector)) * _product(core, up, vector))
        partials.append(_product(core, down, hidden))
    return [core.store_bf16(np.stack(partials))]


def _swiglu_rules(p: Params, core: Core) -> None:
    op, columns = "SwiGLUFusedDecode", field(p, "num_aie_columns", 4)
    require_columns(op, columns, core)
    require_multiple(op, "embedding_dim", p.embedding_dim, _LANES, "the kernel's vector")
    require_multiple(op, "hidden_dim", p.hidden_dim, columns * _LANES, "num_aie_columns * the kernel's vector")
    share = p.hidden_dim // columns
    handed = field(p, "m_output_stage1", share)
    require(handed == share, op, "m_output_stage1", f"{share}, all of a column's hidden rows", handed)
    require(share <= _MOST_ROWS, op, "hidden_dim", f"at most {_MOST_ROWS} a column, the core's buffers", p.hidden_dim)
    require_multiple(op, "hidden_dim", share, field(p, "m_input_stage1", 4), "m_input_stage1, in each column")
    chunk = field(p, "m_output_stage2", p.embedding_dim)
    require_multiple(op, "m_output_stage2", chunk, field(p, "m_input_stage2", 1), "m_input_stage2")
    require_multiple(op, "embedding_dim", p.embedding_dim, chunk, "m_output_stage2")


def _rules(p: Params, core: Core) -> None:
    op, columns = _TYPE, field(p, "num_aie_columns", 4)
    require_columns(op, columns, core)
    require_multiple(op, "K", p.K, _LANES, "the kernel's vector")
    require_multiple(op, "M", p.M, columns, "num_aie_columns")
    tile_in = field(p, "tile_size_input", 4)
    tile_out = _rows_together(p)
    require_multiple(op, "tile_size_output", tile_out, tile_in, "tile_size_input")
    require_multiple(op, "tile_size_output", tile_out, _SILU_LANES, "the SiLU's vector")
    require(tile_out <= _MOST_ROWS, op, "tile_size_output", f"at most {_MOST_ROWS}, the core's buffers", tile_out)
    require_multiple(op, "M", p.M, columns * tile_out, "num_aie_columns * tile_size_output")


_TYPE = "DualGEMVSiLUMul"

KERNELS = (
    Kernel(
        _TYPE,
        _dual,
        _rules,
        source="amd/IRON aie_kernels/aie2/dual_gemv_silu_mul.cc, aie2p/dual_gemv_silu_mul.cc",
    ),
    Kernel(
        "SwiGLUFusedDecode",
        _swiglu,
        _swiglu_rules,
        source="amd/IRON aie_kernels/aie2/swiglu_fused.cc, aie2p/swiglu_fused.cc",
    ),
)
