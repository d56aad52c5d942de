# SPDX-License-Identifier: Apache-2.0
"""One fault as data: its kind, which dispatches it strikes, and its arguments.

Tested in tests/simulator/test_faults.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fusion_replay.model.runlist import format_address
from fusion_replay.simulator.dispatch import StepDispatch


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: ``kind`` strikes either the dispatch ``invocation``:``step`` or every dispatch of operator ``op``.

    ``entry``: of a fault of fusion, the runlist entry that has it, in whatever sequence that stands.
    """

    kind: str
    op: str | None = None
    invocation: int | None = None
    step: int | None = None
    args: tuple[int | str, ...] = ()
    entry: tuple[Any, ...] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        where = self.op if self.op is not None else format_address(self.invocation or 0, self.step or 0)
        return ":".join([where, self.kind, *map(str, self.args)])

    def matches(self, dispatch: StepDispatch) -> bool:
        if self.op is not None:
            return self.op == dispatch.spec.type
        return (self.invocation, self.step) == (dispatch.invocation, dispatch.step)
