# SPDX-License-Identifier: Apache-2.0
"""What a matrix product does to its result before it is stored: rounding, and IRON's optional fused activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, narrow, round_bf16, unrounded
from fusion_replay.refs.arithmetic.activation import gelu_tanh
from fusion_replay.refs.arithmetic.products import Finish


def check_epilogue(op: str, epilogue: str) -> None:
    """
    Raises:
        UsageError: neither "none" nor "gelu".
    """
    if epilogue not in ("none", "gelu"):
        raise UsageError(f"{op}: epilogue {epilogue!r}: expected 'none' or 'gelu'")


def finisher(
    xp: Any,
    epilogue: str,
    dtype: str = "bfloat16",
    *,
    round_before: bool = True,
    rounder: Callable[[Array], Array] = round_bf16,
) -> Finish:
    """The function from a float64 product to the stored result.

    Args:
        epilogue: "none" or "gelu" (tanh approximation).
        dtype: of the stored result, "bfloat16" or "float32".
        round_before: IRON's forms round the product to bf16 before the epilogue; the exact meaning does not.
        rounder: does that rounding (``call.rounder``); ``unrounded`` leaves the stored result as it is, too.
    """

    def finish(product: Array) -> Array:
        if epilogue == "gelu":
            product = gelu_tanh(xp, rounder(product) if round_before else product)
        if rounder is unrounded:
            return product
        return narrow(product) if dtype == "bfloat16" else xp.astype(product, xp.float32)

    return finish
