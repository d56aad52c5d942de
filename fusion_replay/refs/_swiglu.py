# SPDX-License-Identifier: Apache-2.0
"""The feed-forward block of a llama model, a chain of five operators: down(silu(gate x) * (up x)).

amd/IRON iron/operators/swiglu_decode/{op,reference}.py (090c7f50, 010c2144) and iron/operators/swiglu_prefill/op.py.
The golden generator is torch, operation by operation: gate, up, silu and product are rounded to bf16 each, and so are
the steps on the device; ``exact`` rounds once.
"""

from __future__ import annotations

from fusion_replay.model.bf16 import Array
from fusion_replay.operators import Call, Runlist
from fusion_replay.refs.arithmetic.activation import silu
from fusion_replay.refs.arithmetic.products import matmul

DEFECT = (
    "A composite: IRON runs it through a callable of its own, so neither compare mode nor a recording of a sequence "
    "sees it as one step; its steps are judged one by one."
)


def chain(call: Call, x: Array, gate: Array, up: Array, down: Array, *, rounded: bool) -> Array:
    """x (rows, E), gate and up (E, H), down (H, E), all stored -> (rows, E) float64."""
    xp = call.xp
    once = call.round if rounded else _kept
    activated = once(silu(xp, once(matmul(x, gate, _kept))))
    return matmul(once(activated * once(matmul(x, up, _kept))), down, _kept)


def _kept(x: Array) -> Array:
    return x


def steps(product: str, projection: dict[str, object], output: dict[str, object], size: int, columns: int) -> Runlist:
    """gate, up, SiLU, product and down projection over buffers named as in IRON's golden generator.

    Args:
        product: "GEMV" (matrix first) or "GEMM" (matrix second).
        projection, output: parameters of the first two and of the last product.
        size: elements of the hidden activation.
        columns: AI engine columns of the element-by-element steps.
    """

    def operands(x: str, matrix: str, out: str) -> tuple[str, ...]:
        return (matrix, x, out) if product == "GEMV" else (x, matrix, out)

    tiles = {"size": size, "num_aie_columns": columns, "tile_size": size // columns}
    return (
        (product, dict(projection), operands("input", "w_gate", "left")),
        (product, dict(projection), operands("input", "w_up", "right")),
        ("SiLU", dict(tiles), ("left", "left_swished")),
        ("ElementwiseMul", dict(tiles), ("left_swished", "right", "intermediate")),
        (product, dict(output), operands("intermediate", "w_down", "output")),
    )
