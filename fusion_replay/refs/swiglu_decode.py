# SPDX-License-Identifier: Apache-2.0
"""SwiGLUDecode: output = w_down (silu(w_gate input) * (w_up input)) for one token; a composite of five steps.

The weights are stored as (rows, columns) of their GEMV. IRON keeps them in the operator object; here they are
arguments.
"""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.tolerance import relative
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, Runlist, iron
from fusion_replay.refs._swiglu import DEFECT, chain, steps

_COLUMNS = 8


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    return (
        ArgSpec("input", "in", (p.embedding_dim,)),
        ArgSpec("w_gate", "in", (p.hidden_dim, p.embedding_dim)),
        ArgSpec("w_up", "in", (p.hidden_dim, p.embedding_dim)),
        ArgSpec("w_down", "in", (p.embedding_dim, p.hidden_dim)),
        ArgSpec("output", "out", (p.embedding_dim,)),
    )


def _runlist(p: SimpleNamespace) -> Runlist:
    columns = p.num_aie_columns
    wide = {"M": p.hidden_dim, "K": p.embedding_dim, "num_aie_columns": columns, "tile_size_input": 4}
    back = {"M": p.embedding_dim, "K": p.hidden_dim, "num_aie_columns": columns, "tile_size_input": 1}
    for product in (wide, back):
        product["tile_size_output"] = product["M"] // columns
    return steps("GEMV", wide, back, p.hidden_dim, columns)


def _chain(call: Call, x: Array, gate: Array, up: Array, down: Array) -> Array:
    return chain(call, x[None, :], gate.T, up.T, down.T, rounded=True)


def _exact(call: Call, x: Array, gate: Array, up: Array, down: Array) -> Array:
    return chain(call, x[None, :], gate.T, up.T, down.T, rounded=False)


SPEC = OperatorSpec(
    type="SwiGLUDecode",
    summary="output = w_down (silu(w_gate input) * (w_up input)), one token",
    aliases=("swiglu_decode", "AIESwiGLUDecode"),
    params=(
        Param("embedding_dim", int, help="elements of a token"),
        Param("hidden_dim", int, help="elements of the hidden activation"),
        Param("prio_accuracy", bool, False, decides=False),
        Param("num_aie_columns", int, _COLUMNS, decides=False),
    ),
    args=_args,
    flavours=iron(_chain, exact=_exact),
    tolerance={
        "*": relative(0.07, 0.0, range_frac=0.01).from_source(
            "amd/IRON iron/operators/swiglu_decode/test.py: 0.07 on intermediates, 0.04 on the output"
        )
    },
    raw=True,
    source="amd/IRON iron/operators/swiglu_decode/op.py (090c7f50), reference.py (010c2144)",
    defects=(DEFECT,),
    runlist=_runlist,
)
