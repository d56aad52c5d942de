# SPDX-License-Identifier: Apache-2.0
"""What a kernel of the software NPU is, and the checks that every family shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Array, Dispatch, Params

Compute = Callable[[Dispatch], list[Array]]
Rules = Callable[[Params, Core], None]
Note = Callable[[Params, Core], str]


def always(text: str) -> Note:
    """The note of a kernel that is exact, or as exact as this says, under every rounding state."""
    return lambda params, core: text


def when_nearest(text: str) -> Note:
    """The note of a kernel that takes what the rounding register holds, where that is nearest even."""
    return lambda params, core: text if core.rounding == "conv_even" else ""


NEVER_EXACT = always("")
ONE_ROUNDING = when_nearest(
    "one rounding to nearest even (register conv_even, left by an earlier kernel): the reference's own"
)
ONE_SUM = when_nearest(
    "float32 sums rounded once to nearest even (register conv_even): off only where they cross a tie"
)


@dataclass(frozen=True)
class Kernel:
    """One operator's kernel: its numbers, the rules its device design imposes, and when it is exact.

    Attributes:
        type: IRON's class name of the operator.
        source: where numerics and rules were read.
    """

    type: str
    compute: Compute
    rules: Rules
    note: Note = NEVER_EXACT
    source: str = ""

    def run(self, dispatch: Dispatch) -> list[Array]:
        """The outputs in arg-spec order, new arrays of the right element count; the caller shapes them.

        NaN, Inf and overflow are results here, never warnings. Designs that :meth:`check` refuses give undefined
        numbers.
        """
        with np.errstate(all="ignore"):
            return self.compute(dispatch)

    def check(self, params: Params, core: Core) -> None:
        """Whether a device design exists for these parameters.

        Raises:
            UsageError: it does not; names operator, argument, what was expected and what was found.
        """
        self.rules(params, core)

    def rounding_note(self, params: Params, core: Core) -> str:
        """Why a result without any deviation is right under the present rounding state; "" where it would not be."""
        return self.note(params, core)


def field(params: Params, name: str, default: Any = None) -> Any:
    """A design field that recordings of older versions may lack; None counts as lacking."""
    value = getattr(params, name, None)
    return default if value is None else value


def require(ok: bool, op: str, argument: str, expected: str, found: object) -> None:
    if not ok:
        raise UsageError(f"{op}: {argument}={found}: expected {expected}")


def require_columns(op: str, columns: int, core: Core) -> None:
    require(1 <= columns <= core.columns, op, "num_aie_columns", f"1 to {core.columns} on {core.generation}", columns)


def require_multiple(op: str, argument: str, value: int, unit: int, meaning: str) -> None:
    ok = value > 0 and unit > 0 and value % unit == 0
    require(ok, op, argument, f"a positive multiple of {unit} ({meaning})", value)


def streamed_rules(op: str, default_columns: int | None = None) -> Rules:
    """Rules of operators that stream ``size`` elements in tiles over columns and channels."""

    def rules(p: Params, core: Core) -> None:
        columns = field(p, "num_aie_columns", default_columns or core.columns)
        channels = field(p, "num_channels", 1)
        require_columns(op, columns, core)
        require(channels >= 1, op, "num_channels", "at least 1", channels)
        lanes = columns * channels
        tile = field(p, "tile_size", None)
        if tile is None:  # the design then takes one tile a column
            require_multiple(op, "size", p.size, lanes, "num_aie_columns * num_channels")
            return
        require(tile > 0, op, "tile_size", "a positive count of elements", tile)
        require_multiple(op, "size", p.size, tile * lanes, "tile_size * num_aie_columns * num_channels")

    return rules
