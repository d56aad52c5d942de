# SPDX-License-Identifier: Apache-2.0
"""bfp16ebs8, AIE2P's block floating point: eight values share one exponent, each has an 8-bit signed mantissa.

With ``emulate_bf16_mmul_with_bfp16`` the matrix unit converts both operands of every 8x8x8 product to this format,
in blocks of eight along the reduction axis. The conversion obeys the rounding register: under floor every element
errs in the same direction, a bias of about -0.07 for each element of K in the case of Xilinx/mlir-aie issue 2983;
pull request 3442 there reports a relative L2 error of 9.83e-3 under floor and 7.42e-3 under conv_even.
Format: Xilinx/mlir-aie ``python/utils/bfp.py``.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fusion_replay.simulator.core import Rounding

Float64 = npt.NDArray[np.float64]

BLOCK = 8
_MANTISSA_BITS = 6  # fraction bits: the block's largest value has its leading 1 at bit 6 of the signed byte


def through_bfp16(x: npt.NDArray[Any], rounding: Rounding) -> Float64:
    """What is left of ``x`` (bfloat16 or float values) after conversion, as float64.

    Blocks are eight neighbours on the last axis, whose length is a multiple of eight. A mantissa that rounds up to 128
    saturates at 127. A block that holds Inf or NaN becomes NaN: the format has neither, and what hardware makes of
    them is not documented.
    """
    blocks = x.astype(np.float64).reshape(*x.shape[:-1], -1, BLOCK)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    # frexp counts from 0.5, the format from 1; the exponent field ends at -126, where subnormal numbers share it.
    exponent = np.maximum(np.frexp(largest)[1] - 1, -126)
    step = np.ldexp(1.0, exponent - _MANTISSA_BITS)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = blocks / step
        mantissa = np.floor(scaled) if rounding == "floor" else np.rint(scaled)
        kept = np.clip(mantissa, -128, 127) * step
    kept[~np.isfinite(largest[..., 0])] = np.nan
    return cast(Float64, kept.reshape(x.shape))
