# SPDX-License-Identifier: Apache-2.0
"""Emit: the words from which the next call's scratchpad and carried state start, computed on the device.

Row r of the program is (plane, index, scale, bias, shift) and gives (planes[plane, index] * scale + bias) << shift in
wrapping 32-bit arithmetic; plane 0 holds the carried values this call started from, plane 1 those it computed. The
first ``slots`` rows are the image, the rest the state: both are written wholly, an all-zero row writes 0.
"""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.tolerance import exact
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param

_ROW = 5  # plane, index, scale, bias, shift


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    rows = p.slots + p.carried
    if p.rows not in (None, rows):
        raise UsageError(f"Emit: rows {p.rows}: expected slots + carried = {p.slots} + {p.carried}")
    return (
        ArgSpec("program", "in", (rows, _ROW), "int32"),
        ArgSpec("planes", "in", (2, p.carried), "int32"),
        ArgSpec("image", "out", (p.slots,), "int32"),
        ArgSpec("state", "out", (p.carried,), "int32"),
    )


def _emit(call: Call, program: Array, planes: Array) -> tuple[Array, Array]:
    xp, p = call.xp, call.params
    plane, index, scale, bias, shift = (xp.astype(program[:, i], xp.int64) for i in range(_ROW))
    for name, column, end in (("plane", plane, 2), ("index", index, p.carried), ("shift", shift, 32)):
        outside = (column < 0) | (column >= end)
        if xp.any(outside):
            row = int(xp.argmax(xp.astype(outside, xp.int64)))
            raise UsageError(f"Emit: argument program, row {row}: {name} {int(column[row])}: expected 0 to {end - 1}")
    flat = xp.astype(xp.reshape(planes, (-1,)), xp.int64)
    value = _wrapped(xp.take(flat, plane * p.carried + index, axis=0) * scale + bias)
    words = xp.astype(_wrapped(value << shift), xp.int32)
    return words[: p.slots], words[p.slots :]


def _wrapped(x: Array) -> Array:
    """int64 -> the signed value of its low 32 bits, still int64."""
    low = x & 0xFFFFFFFF
    return low - ((low >> 31) << 32)


SPEC = OperatorSpec(
    type="Emit",
    summary="image, state = (planes[plane, index] * scale + bias) << shift, row by row of the program",
    aliases=("emit",),
    params=(
        Param("slots", int, help="words of the image"),
        Param("carried", int, help="words of the state, and values per plane"),
        Param("rows", int, None, decides=False, help="slots + carried"),
    ),
    args=_args,
    flavours={"iron-2026-09": _emit, "exact": _emit},
    tolerance={"*": exact().from_source("amd/IRON iron/operators/emit.py: integer arithmetic, gated exactly")},
    raw=True,
    exact_bits=True,
    source="amd/IRON iron/operators/emit.py (24ff49eb)",
)
