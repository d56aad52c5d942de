# SPDX-License-Identifier: Apache-2.0
"""What an operator is, as data: parameters, arg specs, reference in several flavours, tolerance, tiling.

Each file of :mod:`fusion_replay.refs` declares one :class:`OperatorSpec` named ``SPEC``; a user's operator is one
decorated function. :func:`evaluate` evaluates any of them on numpy arrays or torch tensors.

A *flavour* says whose rounding a reference follows:

``pr117``        amd/IRON pull request 117 (July 2026), torch bf16 operation by operation
``iron-2026-08`` August 2026
``iron-2026-09`` the newest numpy form (September 2026)
``exact``        the true value, rounded to bf16 once
"""

from __future__ import annotations

from fusion_replay.operators.evaluation import evaluate
from fusion_replay.operators.flavours import FLAVOURS, Flavour, FlavourFn, every, iron, pointwise
from fusion_replay.operators.spec import REQUIRED, Call, OperatorSpec, Param, Runlist, runtime_values

__all__ = [
    "FLAVOURS",
    "REQUIRED",
    "Call",
    "Flavour",
    "FlavourFn",
    "OperatorSpec",
    "Param",
    "Runlist",
    "evaluate",
    "every",
    "iron",
    "pointwise",
    "runtime_values",
]
