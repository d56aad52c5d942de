# SPDX-License-Identifier: Apache-2.0
"""Two GEMVs on one vector, fused with SiLU and a product: ``silu(W1 x) * (W2 x)``.

amd/IRON ``aie_kernels/aie2/dual_gemv_silu_mul.cc``, ``aie2p/dual_gemv_silu_mul.cc`` and
``iron/operators/dual_gemv_silu_mul``: both products go through bfloat16 buffers in the core, SiLU rounds three times,
the last product once more. The GEMV phase sets conv_even and leaves it so. The weights come as one matrix, blocks of
``tile_size_output`` rows of W1 and of W2 in turn.
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
)
