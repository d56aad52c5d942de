# SPDX-License-Identifier: Apache-2.0
"""V3': andrej/IRON ``iron/common/sequence.py`` at 75db99b719712ddc1e4f4eaa09f6a169d83115cb.

As V2, but a policy's hook is ``compile(seq)`` and there are no artifacts. Differences as in V2.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from iron_doubles import layout, v2
from iron_doubles.machine import MACHINE

logger = logging.getLogger(__name__)


class SequenceDispatch:
    name: str | None = None

    def resolve(self, device: Any) -> Any:
        return self

    def compile(self, seq: Any) -> Any:
        raise NotImplementedError

    def make_callable(self, seq: Any) -> Any:
        raise NotImplementedError


class FusedDispatch(SequenceDispatch):
    name = "fused"

    def compile(self, seq: Any) -> None: ...

    def make_callable(self, seq: Any) -> Any:
        return v2.SequenceFullELFCallable(seq)


class SeparateDispatch(SequenceDispatch):
    name = "separate"

    def __init__(self) -> None:
        self.combined_xclbin: Any = None
        self.op_xclbin_map: dict[int, str] = {}
        self.op_insts_map: dict[int, str] = {}
        self.op_kernel_name_map: dict[int, str] = {}

    def compile(self, seq: Any) -> None:
        for index, op in enumerate(layout.unique(seq.runlist)):
            name = layout.label(seq.name, index)
            MACHINE.designs[name] = op
            self.op_xclbin_map[id(op)] = self.combined_xclbin = f"{name}.xclbin"
            self.op_insts_map[id(op)], self.op_kernel_name_map[id(op)] = f"{name}.bin", name

    def make_callable(self, seq: Any) -> Any:
        return SequenceXclbinCallable(seq, self)


class CompareDispatch(SeparateDispatch):
    name = "compare"

    def __init__(self, rel_tol: float = 0.05, abs_tol: float = 1e-2, raise_on_mismatch: bool = True) -> None:
        super().__init__()
        self.rel_tol, self.abs_tol, self.raise_on_mismatch = rel_tol, abs_tol, raise_on_mismatch

    def make_callable(self, seq: Any) -> Any:
        return SequenceCompareCallable(seq, self)


class OperatorSequence(v2.OperatorSequence):
    aliases: ClassVar[dict[str, Any]] = {
        "auto": SeparateDispatch,
        "fused": FusedDispatch,
        "separate": SeparateDispatch,
        "compare": CompareDispatch,
    }

    def compile(self) -> Any:
        self.subbuffer_layout, self.buffer_sizes, self.slice_info = self.calculate_buffer_layout()
        self._dispatch = self._dispatch.resolve(None)
        self.compilable = self._dispatch.compile(self)
        return self


class SequenceXclbinCallable(v2.SequenceXclbinCallable): ...


class SequenceCompareCallable(v2.SequenceCompareCallable):
    logger = logger
