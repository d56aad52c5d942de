# SPDX-License-Identifier: Apache-2.0
"""bfloat16 for references and statistics: one correctly rounded step from float64, on numpy and on torch.

numpy's (ml_dtypes) and torch's own float64 -> bfloat16 conversions go through float32 and so round twice:
``1 + 2**-8 + 2**-40`` gives 1.0 there, 1.0078125 here. Everything works on float64 arrays whose values are
bf16 values ("wide" arrays); only :func:`narrow` makes 16-bit ones.

bfloat16: 1 sign, 8 exponent, 7 fraction bits; smallest subnormal 2**-133, smallest normal 2**-126,
largest 0x7f7f = (2 - 2**-7) * 2**127.
"""

from __future__ import annotations

from typing import Any

import array_api_compat as aac
import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = Any
"""A numpy array, or a torch tensor where the caller brought torch."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
CANONICAL_NAN = 0x7FC0

_DROPPED = 52 - 7  # float64 fraction bits below bf16's seven
_SUBNORMAL_MAGIC = 1.5 * 2.0 ** (52 - 133)  # adding it leaves a multiple of 2**-133, ties to even
_MIN_NORMAL = 2.0**-126
_OVERFLOW = 2.0**128
BLOCK = 1 << 15  # elements; the work of one block fits in a core's cache


def is_torch(x: Array) -> bool:
    """Whether it is a torch tensor; never imports torch."""
    return bool(aac.is_torch_array(x))


def wide(x: Array) -> Array:
    """The values of ``x`` as float64, exactly; numpy bf16 goes by its bits, since ml_dtypes casts one by one."""
    if is_torch(x):
        return x.double()
    if x.dtype == BFLOAT16:
        return _values(x.view(np.uint16))
    return np.asarray(x, dtype=np.float64)


def bits_to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """bf16 bit patterns -> the float32 values they stand for (exact: bf16 is float32's upper half)."""
    return np.left_shift(bits, np.uint32(16), dtype=np.uint32).view(np.float32)


def bits_of(x: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """float64 -> bf16 bit patterns, rounded once, ties to even; NaN becomes :data:`CANONICAL_NAN`.

    Goes through float32 rounded to *odd* (the last bit set where anything was lost), after which a second rounding
    cannot see a tie that is none: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008.
    Shape is kept. Works in blocks that stay in cache.
    """
    source = np.ascontiguousarray(x).reshape(-1)
    out = np.empty(source.shape, np.uint16)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for start in range(0, source.size, BLOCK):
            exact = source[start : start + BLOCK]
            single = exact.astype(np.float32)
            back = single.astype(np.float64)
            bits = single.view(np.uint32)
            bits -= np.abs(back) > np.abs(exact)  # towards zero ...
            bits |= back != exact  # ... then odd where inexact
            bits += ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
            bits >>= np.uint32(16)
            nan = exact != exact
            if nan.any():
                bits[nan] = CANONICAL_NAN
            out[start : start + BLOCK] = bits
    return out.reshape(np.shape(x))


def unrounded(x: Array) -> Array:
    """``x`` as it is. As the rounder of a reference: nothing is rounded, what it stores neither."""
    return x


def round_bf16(x: Array) -> Array:
    """``x`` (float64) rounded to the nearest bf16 value, ties to even, still float64.

    NaN stays NaN; beyond the largest bf16 plus half a step it is Inf, as IEEE 754 asks. Shape is kept.
    """
    if not is_torch(x):
        return _values(bits_of(x))
    xp = aac.array_namespace(x)
    bits = x.view(xp.int64)
    # Round half to even on the integer: add just under half, plus one where the last kept bit is odd.
    lsb = (bits >> _DROPPED) & 1
    rounded = ((bits + ((1 << (_DROPPED - 1)) - 1) + lsb) >> _DROPPED) << _DROPPED
    out = rounded.view(xp.float64)
    magnitude = xp.abs(x)
    tiny = magnitude < _MIN_NORMAL
    if xp.any(tiny):
        small = xp.where(tiny, x, xp.zeros_like(x))
        # copysign keeps -0.0 and results that round to zero on their side.
        out = xp.where(tiny, xp.copysign((small + _SUBNORMAL_MAGIC) - _SUBNORMAL_MAGIC, x), out)
    special = ~(xp.abs(out) < _OVERFLOW)
    if xp.any(special):
        infinite = xp.copysign(xp.full_like(x, float("inf")), x)
        out = xp.where(special, xp.where(xp.isnan(x), x, infinite), out)
    return out


def narrow(x: Array) -> Array:
    """float64 -> bf16 (ml_dtypes.bfloat16 or torch.bfloat16), rounded once; every NaN becomes 0x7fc0.

    The canonical NaN is there because the sign of a computed NaN differs between processors.
    """
    if not is_torch(x):
        return bits_of(x).view(BFLOAT16)
    import torch

    rounded = round_bf16(x)
    out = rounded.to(torch.bfloat16)  # exact by now
    return torch.where(torch.isnan(rounded), torch.full_like(out, float("nan")), out)


def _values(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # a signalling NaN turning quiet is no event here
        return bits_to_float32(bits).astype(np.float64)
