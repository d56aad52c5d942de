# SPDX-License-Identifier: Apache-2.0
"""GQAContext: every head's attention weights times its group's cached values, the bits of the GEMV it replaces.

amd/IRON ``iron/operators/gqa_context.py``: position ``lanes * i + j`` of the context adds to lane ``j`` in float32, the
lanes are halved, and the sum is rounded to nearest even; the kernel puts the register back.
"""

from __future__ import annotations

import numpy as np

from fusion_replay.simulator.core import Core, halve, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, always, field, require, require_multiple

_WIDTHS = (64, 32, 16)
_ROWS = 4  # cores in a column, one for each head of a group


def _context(d: Dispatch) -> list[Array]:
    core, p = d.core, d.params
    before, core.rounding = core.rounding, "conv_even"
    dim, lanes = field(p, "head_dim", 64), _lanes(p)
    cache = widen(d.inputs[0]).reshape(p.groups, 1, p.seq_len // lanes, lanes, dim)
    weights = widen(d.inputs[1]).reshape(p.groups, p.heads_per_group, p.seq_len // lanes, lanes, 1)
    sums = cache[:, :, 0] * weights[:, :, 0]
    for i in range(1, p.seq_len // lanes):
        sums += cache[:, :, i] * weights[:, :, i]
    result = core.store_bf16(halve(np.moveaxis(sums, 2, -1)))
    core.rounding = before
    return [result]


def _lanes(p: Params) -> int:
    return next((w for w in _WIDTHS if p.seq_len % w == 0 and p.seq_len >= 2 * w), 0)


def _rules(p: Params, core: Core) -> None:
    op, heads = "GQAContext", p.heads_per_group
    require(
        1 <= p.groups <= core.columns,
        op,
        "groups",
        f"1 to {core.columns}, a column each on {core.generation}",
        p.groups,
    )
    require(1 <= heads <= _ROWS, op, "heads_per_group", f"1 to {_ROWS}, a core each", heads)
    require_multiple(op, "seq_len", p.seq_len, 64, "the widest vector")
    require_multiple(op, "head_dim", field(p, "head_dim", 64), 16, "the narrowest vector")
    chunk = field(p, "chunk", 128 if p.seq_len % 128 == 0 else 64)
    require_multiple(op, "seq_len", p.seq_len, chunk, "chunk")


_NOTE = always("float32 sums in the reference's own order, rounded once to nearest even (set by the kernel)")

KERNELS = (Kernel("GQAContext", _context, _rules, _NOTE, "amd/IRON iron/operators/gqa_context.py"),)
