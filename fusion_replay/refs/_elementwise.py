# SPDX-License-Identifier: Apache-2.0
"""What the element-by-element operators share: their parameters in IRON's order, and their arg specs.

amd/IRON iron/common/operator_bases.py: the binary elementwise and the channelled unary base classes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Param

BINARY_PARAMS = (
    Param("size", int, help="elements"),
    Param("tile_size", int, None, decides=False),
    Param("num_aie_columns", int, 8, decides=False),
)

CHANNELLED_PARAMS = (
    Param("size", int, help="elements"),
    Param("num_aie_columns", int, 1, decides=False),
    Param("num_channels", int, 1, decides=False),
    Param("tile_size", int, None, decides=False),
)

ONE_ULP = Tolerance(
    ulps=1,
    atol=2.0**-126,  # the smallest normal bf16: AIE cores flush what lies below to zero
    source="Xilinx/mlir-aie python/iron/kernels/eltwise.py, one rounding of a float32 result (floor: 1 ULP low)",
)
"""For kernels that compute in float32 and store once, in whatever rounding mode the core is."""


def binary_args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    """A, B -> C, all of ``size`` elements."""
    return ArgSpec("A", "in", (p.size,)), ArgSpec("B", "in", (p.size,)), ArgSpec("C", "out", (p.size,))


def unary_args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    """A -> C, both of ``size`` elements."""
    return ArgSpec("A", "in", (p.size,)), ArgSpec("C", "out", (p.size,))


def through_float32(xp: Any, x: Array) -> Array:
    """float64 rounded to float32, as float64: where IRON's form has a float32 in between that bf16 can tell."""
    return xp.astype(xp.astype(x, xp.float32), xp.float64)


def no_reference(op: str) -> Callable[[SimpleNamespace, str], str | None]:
    """``iron_fails`` of an operator that had a golden generator but no ``reference()`` in pull request 117."""

    def fails(_params: SimpleNamespace, flavour: str) -> str | None:
        if flavour == "pr117":
            return f"IRON's {op} of pull request 117 has no reference(): compare mode skips the step or raises"
        return None

    return fails
