# SPDX-License-Identifier: Apache-2.0
"""WeightedRMSNorm: RMSNorm times a weight row, as a class of its own, as IRON had it for a time in September 2026.

Its meaning is RMSNorm's of that month with ``weighted=True``: the normalised row is rounded, then multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy.typing as npt

from fusion_replay.compare.numerics.stages import Numerics, Stage, sets_conv_even
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import OperatorSpec, Param
from fusion_replay.operators.tiling import Tiling
from fusion_replay.refs.rms_norm import NUMERICS
from fusion_replay.refs.rms_norm import SPEC as _PLAIN


def _weighted(p: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(p), "size": None, "weighted": True})


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    return _PLAIN.args(_weighted(p))


def _tiling(p: SimpleNamespace) -> Tiling | None:
    return _PLAIN.tiling(_weighted(p)) if _PLAIN.tiling is not None else None


def _arrange(
    p: SimpleNamespace, values: Mapping[str, int | float], inputs: Sequence[npt.NDArray[Any]]
) -> Mapping[str, npt.NDArray[Any]]:
    return NUMERICS.arrange(_weighted(p), values, inputs)


def _stages(p: SimpleNamespace, device: str) -> tuple[Stage, ...]:
    return NUMERICS.stages(_weighted(p), device)


SPEC = OperatorSpec(
    type="WeightedRMSNorm",
    summary="C = A / sqrt(mean(A*A) + epsilon) * B, row by row",
    aliases=("weighted_rms_norm",),
    home="rms_norm",
    params=(
        Param("rows", int),
        Param("tile_size", int, help="elements per row"),
        Param("num_aie_columns", int, 1, decides=False),
        Param("num_channels", int, 1, decides=False),
        Param("epsilon", float, 1e-5),
    ),
    args=_args,
    flavours={"iron-2026-09": _PLAIN.flavours["iron-2026-09"], "exact": _PLAIN.flavours["exact"]},
    tolerance=_PLAIN.tolerance,
    tiling=_tiling,
    numerics=Numerics(_stages, NUMERICS.source, _arrange, sets=sets_conv_even),
    source="amd/IRON iron/operators/rms_norm.py (a stored form of September 2026 before RMSNorm(weighted=True))",
)
