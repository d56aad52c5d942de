# SPDX-License-Identifier: Apache-2.0
"""SwiGLUPrefill: output = (silu(input w_gate) * (input w_up)) w_down for a run of tokens; a composite of five steps.

The weights are stored as (K, N) of their GEMM, or (N, K) with ``b_col_maj``. IRON keeps them in the operator object;
here they are arguments.
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
    down, up = (p.hidden_dim, p.embedding_dim), (p.embedding_dim, p.hidden_dim)
    if p.b_col_maj:
        down, up = up, down
    return (
        ArgSpec("input", "in", (p.seq_len, p.embedding_dim)),
        ArgSpec("w_gate", "in", up),
        ArgSpec("w_up", "in", up),
        ArgSpec("w_down", "in", down),
        ArgSpec("output", "out", (p.seq_len, p.embedding_dim)),
    )


def _runlist(p: SimpleNamespace) -> Runlist:
    accuracy = {"emulate_bf16_mmul_with_bfp16": False, "prio_accuracy": True, "round_conv_even": True}
    common = {"M": p.seq_len, "b_col_maj": p.b_col_maj, "num_aie_columns": p.num_aie_columns}
    if p.prio_accuracy:
        common |= accuracy
    wide = {**common, "K": p.embedding_dim, "N": p.hidden_dim}
    back = {**common, "K": p.hidden_dim, "N": p.embedding_dim}
    return steps("GEMM", wide, back, p.seq_len * p.hidden_dim, p.num_aie_columns)


def _products(call: Call, inputs: tuple[Array, ...], *, rounded: bool) -> Array:
    x, *weights = inputs
    gate, up, down = (w.T for w in weights) if call.params.b_col_maj else weights
    return chain(call, x, gate, up, down, rounded=rounded)


def _chain(call: Call, *inputs: Array) -> Array:
    return _products(call, inputs, rounded=True)


def _exact(call: Call, *inputs: Array) -> Array:
    return _products(call, inputs, rounded=False)


SPEC = OperatorSpec(
    type="SwiGLUPrefill",
    summary="output = (silu(input w_gate) * (input w_up)) w_down, a run of tokens",
    aliases=("swiglu_prefill", "AIESwiGLUPrefill"),
    params=(
        Param("seq_len", int, help="tokens"),
        Param("embedding_dim", int, help="elements of a token"),
        Param("hidden_dim", int, help="elements of the hidden activation of a token"),
        Param("prio_accuracy", bool, False, decides=False),
        Param("b_col_maj", bool, False, help="weights are stored as (N, K)"),
        Param("num_aie_columns", int, _COLUMNS, decides=False),
    ),
    args=_args,
    flavours=iron(_chain, exact=_exact),
    tolerance={
        "*": relative(0.08, 0.0, 0.05, range_frac=0.02).from_source(
            "amd/IRON iron/operators/swiglu_prefill/test.py: 0.08, 5 % may fail"
        )
    },
    raw=True,
    source="amd/IRON iron/operators/swiglu_prefill/op.py (090c7f50), test.py (010c2144)",
    defects=(DEFECT,),
    runlist=_runlist,
)
