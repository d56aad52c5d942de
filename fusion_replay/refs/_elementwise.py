# SPDX-License-Identifier: Apache-2.0
"""What the element-by-element operators share: their parameters in IRON's order, and their arg specs.

amd/IRON iron/common/operator_bases.py: the binary elementwise and the channelled unary base classes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fusion_replay.compare.tolerance import Tolerance, relative
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

ACTIVATIONS = "Xilinx/mlir-aie python/iron/kernels/activation.py"


def table_limit(atol: float, note: str = "") -> Tolerance:
    """For kernels that read a lookup table, with a floor of ``atol`` where results are small."""
    return relative(0.128, atol).from_source(f"{ACTIVATIONS}: canonical limit of lookup-table kernels{note}")


def binary_args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    """A, B -> C, all of ``size`` elements."""
    return ArgSpec("A", "in", (p.size,)), ArgSpec("B", "in", (p.size,)), ArgSpec("C", "out", (p.size,))


def unary_args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    """A -> C, both of ``size`` elements."""
    return ArgSpec("A", "in", (p.size,)), ArgSpec("C", "out", (p.size,))


def through_float32(xp: Any, x: Array) -> Array:
    """float64 rounded to float32, as float64: where IRON's form has a float32 in between that bf16 can tell."""
    return xp.astype(xp.astype(x, xp.float32), xp.float64)
