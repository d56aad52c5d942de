# SPDX-License-Identifier: Apache-2.0
"""Block floating point bfp16ebs8, which AIE2P multiplies in: what conversion leaves of bfloat16 operands."""

from __future__ import annotations

import numpy as np

from fusion_replay.compare.numerics.intervals import F32, F64

BFP_BLOCK = 8
_BFP_FRACTION = 6  # bits: the largest of a block has its leading 1 at bit 6 of a signed byte
_CHUNK = 1 << 15  # elements worked on at a time: they stay in cache


def bfp16(x: F64, mode: str) -> F64:
    """``x`` ``(rows, K)`` through bfp16ebs8: eight neighbours share an exponent, mantissas of a signed byte.

    Format: Xilinx/mlir-aie ``python/utils/bfp.py``; the conversion obeys the rounding register (issue 2983 and pull
    request 3442 there).
    """
    blocks = x.reshape(len(x), -1, BFP_BLOCK)
    exponent = np.maximum(np.frexp(np.abs(blocks).max(axis=-1, keepdims=True))[1] - 1, -126)
    step = np.ldexp(1.0, exponent - _BFP_FRACTION)
    scaled = blocks / step
    mantissa = np.floor(scaled) if mode == "floor" else np.rint(scaled)
    kept: F64 = (np.clip(mantissa, -128, 127) * step).reshape(x.shape)
    return kept


def bfp16_error(x: F64) -> F64:
    """The largest that conversion may be off by, over the modes."""
    return np.maximum(np.abs(x - bfp16(x, "floor")), np.abs(x - bfp16(x, "conv_even")))


def square_errors(x: F32) -> tuple[F32, F64, F64]:
    """``x`` ``(rows, K)``: squares of the values and, behind them, of what conversion to the nearest leaves off.

    Rows are scaled by powers of two to a largest of about 1, so that squares stay in float32; the scales and the rows'
    norms come with them. Errors of numbers below 2**-63 of their row's largest count as 0.
    """
    inner = x.shape[1]
    out = np.empty((len(x), 2 * inner), np.float32)
    scales, norms = np.empty(len(x)), np.empty(len(x))
    step = max(1, _CHUNK // max(1, inner))
    for start in range(0, len(x), step):
        cut = slice(start, start + step)
        largest = np.maximum(x[cut].max(axis=1, initial=0), -x[cut].min(axis=1, initial=0))
        exponent = np.frexp(largest)[1]
        scales[cut] = np.ldexp(1.0, exponent)
        scaled = np.ldexp(x[cut], -exponent[:, None])
        _square_errors_of(scaled, out[cut, inner:])
        np.square(scaled, out=out[cut, :inner])
        norms[cut] = np.sqrt(out[cut, :inner].sum(axis=1, dtype=np.float64)) * scales[cut] * (1 + 2.0**-20)
    return out, scales, norms


def _square_errors_of(x: F32, out: F32) -> None:
    blocks = x.reshape(-1, BFP_BLOCK)
    size = np.abs(blocks)
    largest = size[:, 0].copy()
    for i in range(1, BFP_BLOCK):
        np.maximum(largest, size[:, i], out=largest)
    top = (largest.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)[:, None]
    magic = top * np.float32(1.5 * 2.0 ** (23 - _BFP_FRACTION))  # adding it rounds to a multiple of the block's step
    kept = blocks + magic
    kept -= magic
    np.minimum(kept, top * np.float32(127 / 64), out=kept)
    np.maximum(kept, top * np.float32(-2), out=kept)
    kept -= blocks
    np.square(kept, out=kept)
    out[...] = kept.reshape(x.shape)
