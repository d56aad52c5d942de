# SPDX-License-Identifier: Apache-2.0
"""SwiGLUFusedDecode: the feed-forward block of one token in one design, one partial result per column.

Column c has its share of the hidden rows: output_partials[c] = Wdown[:, c] (silu(Wgate[c] x) * (Wup[c] x)); the host
adds the partials. ``weights_all`` is Wgate and Wup interleaved column by column, then Wdown cut into the columns'
shares, each row by row. Products, activation and gated product are rounded to bf16 as in IRON's golden generator and on
the device; ``exact`` rounds once.
"""

from __future__ import annotations

from types import SimpleNamespace

from fusion_replay.compare.tolerance import relative
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, narrow, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param, iron
from fusion_replay.operators.tiling import Tiling, grid
from fusion_replay.refs.arithmetic.activation import silu
from fusion_replay.refs.arithmetic.products import matvec


def _share(p: SimpleNamespace) -> int:
    """Hidden rows of one column.

    Raises:
        UsageError: columns that do not divide them, or a chunk that the second core does not wait for.
    """
    columns = p.num_aie_columns
    if columns < 1 or p.hidden_dim % columns:
        raise UsageError(
            f"SwiGLUFusedDecode: hidden_dim {p.hidden_dim}: expected a multiple of num_aie_columns, found {columns}"
        )
    share = p.hidden_dim // columns
    if p.m_output_stage1 not in (None, share):
        raise UsageError(
            f"SwiGLUFusedDecode: m_output_stage1 {p.m_output_stage1}: expected hidden_dim / num_aie_columns = {share}, "
            "the one chunk that the second core takes"
        )
    return int(share)


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    _share(p)
    return (
        ArgSpec("weights_all", "in", (3 * p.hidden_dim * p.embedding_dim,)),
        ArgSpec("input", "in", (p.embedding_dim,)),
        ArgSpec("output_partials", "out", (p.num_aie_columns, p.embedding_dim)),
    )


def _partials(call: Call, weights: Array, x: Array, *, rounded: bool) -> Array:
    xp, p, share = call.xp, call.params, _share(call.params)
    once = call.round if rounded else (lambda product: product)
    split = 2 * p.hidden_dim * p.embedding_dim
    pairs = xp.reshape(weights[:split], (p.num_aie_columns, 2, share, p.embedding_dim))
    downs = xp.reshape(weights[split:], (p.num_aie_columns, p.embedding_dim, share))
    vector, found = wide(x), []
    for column in range(p.num_aie_columns):
        gate, up = (matvec(pairs[column, i], vector, once) for i in (0, 1))
        found.append(matvec(downs[column], once(once(silu(xp, gate)) * up), narrow))
    return xp.stack(found)


def _rounded(call: Call, weights: Array, x: Array) -> Array:
    return _partials(call, weights, x, rounded=True)


def _exact(call: Call, weights: Array, x: Array) -> Array:
    return _partials(call, weights, x, rounded=False)


def _tiling(p: SimpleNamespace) -> Tiling | None:
    axes = (("column", p.num_aie_columns), ("", p.embedding_dim))
    source = "amd/IRON iron/operators/swiglu_fused_decode/design.py, C_taps"
    return grid(p.num_aie_columns * p.embedding_dim, axes, source)


SPEC = OperatorSpec(
    type="SwiGLUFusedDecode",
    summary="output_partials = Wdown (silu(Wgate input) * (Wup input)), one partial per column",
    aliases=("swiglu_fused_decode", "AIESwiGLUFusedDecode"),
    params=(
        Param("embedding_dim", int, help="elements of a token"),
        Param("hidden_dim", int, help="elements of the hidden activation"),
        Param("num_aie_columns", int, 4, help="partial results"),
        Param("m_input_stage1", int, 4, decides=False),
        Param("m_output_stage1", int, None, help="hidden rows handed over at once; known for all of a column's alone"),
        Param("m_input_stage2", int, 1, decides=False),
        Param("m_output_stage2", int, None, decides=False),
    ),
    args=_args,
    flavours=iron(_rounded, exact=_exact),
    tolerance={
        "*": relative(0.07, 0.0, range_frac=0.01).from_source(
            "amd/IRON iron/operators/swiglu_fused_decode/test.py: 0.07 (its sum of partials 0.3 / 1.0); range: as "
            "SwiGLUDecode's"
        )
    },
    raw=True,
    tiling=_tiling,
    source="amd/IRON iron/operators/swiglu_fused_decode/{op,reference}.py (116b2477, 50e35ad9)",
    no_reference=("pr117", "iron-2026-08", "iron-2026-09"),
)
