# SPDX-License-Identifier: Apache-2.0
"""How far a recorded tensor is from the model's: the figures that people use for that, and where the error sits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.sums import dot
from fusion_replay.model import serialise

Array = npt.NDArray[Any]

CARRIERS = 4
"""Coordinates of an axis that are named, at most."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of all elements of the model's tensor. Where any is not finite on either side, all but ``max_abs`` are NaN: the
    finite rest is not the tensor.

    Attributes:
        nrmse: RMS of the error over the RMS of the model's values.
        max_abs, mean_abs: of the error; ``max_abs`` is infinite where something is not finite.
        cosine: as vectors. ``pcc``: the same after subtracting the means; shown, never a rule.
        sqnr: signal to error in dB; infinite where there is no error.
        finite: elements that are finite on both sides, of ``n``.
    """

    nrmse: float
    max_abs: float
    mean_abs: float
    cosine: float
    pcc: float
    sqnr: float
    finite: int
    n: int

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class Carrier:
    """One coordinate of an axis and its share of the squared error; ``expected`` is what it would be if all carried
    the same."""

    axis: int
    at: int
    share: float
    expected: float

    to_dict = serialise.to_dict


def nrmse(found: Array, model: Array) -> float:
    """``|found - model| / |model|``; NaN where something is not finite, infinite where the model is zero alone."""
    with np.errstate(all="ignore"):
        error, size = _power(found - model), _power(model)
    if not (math.isfinite(error) and math.isfinite(size)):
        return math.nan
    return _six(math.sqrt(error / size)) if size else (0.0 if not error else math.inf)


def figures(found: Array, model: Array) -> Figures:
    """Both float64, of one shape."""
    finite = int(np.count_nonzero(np.isfinite(found) & np.isfinite(model)))
    if finite < model.size or not model.size:
        nan = math.nan
        return Figures(nan, math.inf if model.size else 0.0, nan, nan, nan, nan, finite, model.size)
    error = found - model
    ratio = nrmse(found, model)
    magnitude = np.abs(error)
    return Figures(
        nrmse=ratio,
        max_abs=_six(float(magnitude.max())),
        mean_abs=_six(_total(magnitude) / model.size),
        cosine=_cosine(found, model),
        pcc=_cosine(found - _total(found) / model.size, model - _total(model) / model.size),
        sqnr=math.inf if not ratio else _six(-20 * math.log10(ratio)) if math.isfinite(ratio) else -math.inf,
        finite=finite,
        n=model.size,
    )


def carriers(found: Array, model: Array) -> tuple[Carrier, ...]:
    """The coordinates that carry far more of the squared error than others of their axis, the largest share first."""
    with np.errstate(all="ignore"):
        squared = np.square(found - model)
    whole = float(squared.sum())
    if not whole or not math.isfinite(whole):
        return _not_finite(found, model)
    named = []
    for axis in range(squared.ndim):
        others = tuple(a for a in range(squared.ndim) if a != axis)
        shares = squared.sum(axis=others) / whole
        even = 1 / len(shares)
        for at in np.argsort(-shares, kind="stable")[:CARRIERS].tolist():
            if shares[at] >= max(4 * even, 0.1) and len(shares) > 1:
                named.append(Carrier(axis, at, float(shares[at]), even))
    return tuple(sorted(named, key=lambda c: (-c.share, c.axis, c.at)))


# --- parts ----------------------------------------------------------------------------------------------------------


def _not_finite(found: Array, model: Array) -> tuple[Carrier, ...]:
    bad = ~(np.isfinite(found) & np.isfinite(model))
    if not bad.any() or bad.all():
        return ()
    named = []
    for axis in range(bad.ndim):
        others = tuple(a for a in range(bad.ndim) if a != axis)
        shares = bad.sum(axis=others) / bad.sum()
        at = int(np.argmax(shares))
        named.append(Carrier(axis, at, float(shares[at]), 1 / len(shares)))
    return tuple(named)


def _power(x: Array) -> float:
    flat = x.reshape(-1).astype(np.float64)
    return dot(flat, flat)


def _total(x: Array) -> float:
    flat = x.reshape(-1).astype(np.float64)
    return dot(flat, np.ones_like(flat))


def _cosine(a: Array, b: Array) -> float:
    lengths = math.sqrt(_power(a)) * math.sqrt(_power(b))
    if not lengths:
        return 1.0 if not a.any() and not b.any() else 0.0
    return _six(min(1.0, max(-1.0, dot(a.reshape(-1), b.reshape(-1)) / lengths)))


def _six(x: float) -> float:
    """Six digits: BLAS adds in another order on each processor, and a report is the same on all."""
    return float(f"{x:.6g}")


__all__ = ["CARRIERS", "Carrier", "Figures", "carriers", "figures", "nrmse"]
