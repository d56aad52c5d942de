# SPDX-License-Identifier: Apache-2.0
"""Emit: every output word is one row of a small program, ``(planes[plane, index] * scale + bias) << shift``.

amd/IRON ``iron/operators/emit.py``: wrapping 32-bit integers on the scalar unit; the first ``slots`` rows make the
image, the rest the state.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, always, require

_ROW = 5  # words of a program row: plane, index, scale, bias, shift


def _emit(d: Dispatch) -> list[Array]:
    p = d.params
    planes = d.inputs[1].reshape(2, p.carried)
    words = [_word(r, row, planes) for r, row in enumerate(d.inputs[0].reshape(-1, _ROW).tolist())]
    wrapped = np.array([w & 0xFFFFFFFF for w in words], np.uint32).view(np.int32)
    return [wrapped[: p.slots], wrapped[p.slots :]]


def _word(number: int, row: list[int], planes: Array) -> int:
    plane, index, scale, bias, shift = row
    if not (0 <= plane < 2 and 0 <= index < planes.shape[1]):
        found = f"plane {plane}, index {index}"
        raise UsageError(
            f"Emit: program row {number}: expected a plane 0 or 1 and an index below {planes.shape[1]}, found {found}"
        )
    if not 0 <= shift < 32:
        raise UsageError(f"Emit: program row {number}: expected a shift of 0 to 31, found {shift}")
    return (int(planes[plane, index]) * scale + bias) << shift


def _rules(p: Params, core: Core) -> None:
    for name in ("slots", "carried"):
        value = getattr(p, name)
        require(value >= 1, "Emit", name, "at least 1", value)


_NOTE = always("integer arithmetic: exact under every rounding state")

KERNELS = (Kernel("Emit", _emit, _rules, _NOTE, "amd/IRON iron/operators/emit.py"),)
