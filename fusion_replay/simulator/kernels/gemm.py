# SPDX-License-Identifier: Apache-2.0
"""GEMM: float32 accumulators fed eight elements of K at a time, C rounded to bfloat16 between K tiles.

amd/IRON ``aie_kernels/aie2p/mm.cc``, ``aie_kernels/aie2/mm.cc``, ``iron/operators/gemm``. On npu2 the kernel *sets* the
rounding register, to conv_even with ``round_conv_even`` and to floor without, and leaves it so; on npu1 it swaps
conv_even in and puts the old state back. npu2 multiplies in bfp16 blocks unless ``emulate_bf16_mmul_with_bfp16`` is
off; npu1 has only the native bfloat16 product. With ``prio_accuracy`` C stays in float32 until K is through.

Products of eight elements go through float64 BLAS: products of bfloat16 values have 16 significant bits, so such a
short sum is exact in float64 unless its terms differ by more than 2**30, and the order in which an instruction set adds
them is not seen after the rounding to float32 that follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fusion_replay.simulator.core import Core, Float32, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, field, require, require_columns, require_multiple
from fusion_replay.simulator.kernels.activation import gelu
from fusion_replay.simulator.kernels.bfp16 import through_bfp16

_ROWS = 4  # rows of cores, each with its own block of A
_STEP = 8  # elements of K in one mmul instruction, on both generations
_BLOCK_M, _BLOCK_N = 128, 256  # work that stays in cache; has no influence on the numbers

Float64 = npt.NDArray[np.float64]


def _gemm(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    before = core.rounding
    _set_rounding(core, p)
    a, b = _operands(core, p, d.inputs)  # (M, K) and (N, K): K is contiguous in both
    c = np.zeros((p.M, p.N), np.float32)
    for m in range(0, p.M, _BLOCK_M):
        for n in range(0, p.N, _BLOCK_N):
            c[m : m + _BLOCK_M, n : n + _BLOCK_N] = _block(core, p, a[m : m + _BLOCK_M], b[n : n + _BLOCK_N])
    if field(p, "epilogue", "none") == "gelu":  # in place on the rounded tile, as GEMV's
        c = gelu(core, core.round_bf16(c))
    result = core.store_bf16(c.T if field(p, "c_col_maj", False) else c)
    if core.generation == "npu1":
        core.rounding = before
    return [result]


def _set_rounding(core: Core, p: Params) -> None:
    if field(p, "round_conv_even", True):
        core.rounding = "conv_even"
    elif core.generation == "npu2":
        core.rounding = "floor"


def _operands(core: Core, p: Params, inputs: Sequence[Array]) -> tuple[Float64, Float64]:
    a = widen(inputs[0]).reshape(p.M, p.K)
    b = widen(inputs[1])
    b = b.reshape(p.N, p.K) if field(p, "b_col_maj", False) else np.ascontiguousarray(b.reshape(p.K, p.N).T)
    if _emulates(core, p):
        return through_bfp16(a, core.rounding), through_bfp16(b, core.rounding)
    return a.astype(np.float64), b.astype(np.float64)


def _block(core: Core, p: Params, a: Float64, b: Float64) -> Float32:
    """One block of C: ``a`` ``(m, K)``, ``b`` ``(n, K)``."""
    tile = field(p, "tile_k", 64)
    between = not field(p, "prio_accuracy", False)
    c = np.zeros((len(a), len(b)), np.float32)
    partial = np.empty(c.shape, np.float64)
    for k in range(0, p.K, _STEP):
        np.matmul(a[:, k : k + _STEP], b[:, k : k + _STEP].T, out=partial)
        np.add(c, partial, out=c, casting="same_kind")  # in float64, rounded to float32 once
        if between and (k + _STEP) % tile == 0:
            c = core.round_bf16(c)
    return c


def _emulates(core: Core, p: Params) -> bool:
    return core.generation == "npu2" and bool(field(p, "emulate_bf16_mmul_with_bfp16", True))


def _mmul(core: Core, p: Params) -> tuple[int, int, int]:
    """Multiples that tile_m, tile_k and tile_n need: the mmul shape times how often the kernel unrolls it."""
    if core.generation == "npu1":
        return 4 * 4, _STEP, 4 * 4  # 4x8x4, unrolled 4 by 4
    return (2 * 8, _STEP, 2 * 8) if _emulates(core, p) else (2 * 4, _STEP, 2 * 8)  # 8x8x8 or 4x8x8, unrolled 2 by 2


def _rules(p: Params, core: Core) -> None:
    op, columns = "GEMM", field(p, "num_aie_columns", core.columns)
    require_columns(op, columns, core)
    require(columns & (columns - 1) == 0, op, "num_aie_columns", "1, 2, 4 or 8", columns)
    for name in ("dtype_in", "dtype_out"):
        dtype = field(p, name, "bf16")
        require(dtype in ("bf16", "bfloat16"), op, name, "bf16, the only type the software NPU multiplies", dtype)
    tiles = {name: field(p, name, 64) for name in ("tile_m", "tile_k", "tile_n")}
    for (name, tile), unit in zip(tiles.items(), _mmul(core, p), strict=True):
        require_multiple(op, name, tile, unit, f"the mmul shape on {core.generation}")
    require_multiple(op, "M", p.M, _ROWS * tiles["tile_m"], "4 * tile_m")
    require_multiple(op, "K", p.K, tiles["tile_k"], "tile_k")
    require_multiple(op, "N", p.N, tiles["tile_n"] * columns, "tile_n * num_aie_columns")
    require(field(p, "partition_N", 1) >= 1, op, "partition_N", "at least 1", field(p, "partition_N", 1))
    epilogue = field(p, "epilogue", "none")
    require(epilogue in ("none", "gelu"), op, "epilogue", "'none' or 'gelu'", repr(epilogue))


def _note(p: Params, core: Core) -> str:
    nearest = field(p, "round_conv_even", True) or core.rounding == "conv_even"
    one_rounding = field(p, "prio_accuracy", False) or field(p, "tile_k", 64) == p.K
    plain = field(p, "epilogue", "none") == "none"
    if nearest and one_rounding and plain and not _emulates(core, p):
        return "native product, float32 sums rounded once to nearest even: off only where they cross a tie"
    return ""


KERNELS = (Kernel("GEMM", _gemm, _rules, _note, "amd/IRON aie_kernels/aie2/mm.cc, aie2p/mm.cc, iron/operators/gemm"),)
