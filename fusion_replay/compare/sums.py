# SPDX-License-Identifier: Apache-2.0
"""Sums in one order, whatever the processor: BLAS adds in another one for each, and the last digit shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

LANES = 128
"""Summands whose numbers agree modulo this are added one after the other, then the lanes exactly."""


def dot(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """The sum of ``a * b``, two vectors of one length; NaN where it has no value or is beyond float64."""
    products = np.zeros(-(-a.size // LANES) * LANES)
    with np.errstate(over="ignore", invalid="ignore"):
        np.multiply(a, b, out=products[: a.size])
        return fsum(products.reshape(-1, LANES).sum(axis=0).tolist())


def norm(a: npt.NDArray[np.float64]) -> float:
    """The Euclidean norm of a vector."""
    return math.sqrt(dot(a, a))


def fsum(lanes: Iterable[float]) -> float:
    """The exact sum, rounded once; NaN where there is none."""
    try:
        return math.fsum(lanes)
    except (OverflowError, ValueError):  # float64 tensors beyond 1e154: no figure
        return math.nan


__all__ = ["LANES", "dot", "fsum", "norm"]
