# SPDX-License-Identifier: Apache-2.0
"""V2h: ``iron/common/sequence.py`` of the HRX fork, July 2026 (commit not known).

Policies as in V2, but no combined xclbin: the plan holds loaded handles, ``_run`` submits all of it as one chain and
compare mode runs step by step. Differences: the file refuses slices (its runtime binds no offsets) and its auto mode is
"separate" everywhere; here slices are subviews, so that the same block runs.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from iron_doubles import v2
from iron_doubles.machine import DefaultNPURuntime, NPUKernel

logger = logging.getLogger(__name__)


class SeparateDispatch(v2.SeparateDispatch):
    def __init__(self) -> None:
        super().__init__()
        del self.combined_xclbin

    def make_callable(self, seq: Any) -> Any:
        return SequenceXclbinCallable(seq, self)


class CompareDispatch(SeparateDispatch):
    name = "compare"
    rel_tol, abs_tol, raise_on_mismatch = 0.05, 1e-2, True

    def make_callable(self, seq: Any) -> Any:
        return SequenceCompareCallable(seq, self)


class OperatorSequence(v2.OperatorSequence):
    aliases: ClassVar[dict[str, Any]] = {
        **v2._DISPATCH_ALIASES,
        "auto": SeparateDispatch,
        "separate": SeparateDispatch,
        "compare": CompareDispatch,
    }


class SequenceXclbinCallable(v2.SequenceXclbinCallable):
    def _kernels(self) -> dict[int, Any]:
        d = self._dispatch
        self._op_handle_map = {
            key: DefaultNPURuntime.load(NPUKernel(path, d.op_insts_map[key], kernel_name=d.op_kernel_name_map[key]))
            for key, path in d.op_xclbin_map.items()
        }
        return self._op_handle_map

    def _run(self) -> None:
        DefaultNPURuntime.run_chain(list(self._execution_plan))

    def _run_step(self, step_idx: int, handle: Any, args: Any, step: Any) -> None:
        DefaultNPURuntime.run(handle, args)


class SequenceCompareCallable(v2.ComparesSteps, SequenceXclbinCallable):
    logger = logger

    def __init__(self, op: Any, dispatch: Any) -> None:
        super().__init__(op, dispatch)
        self.rel_tol, self.abs_tol = dispatch.rel_tol, dispatch.abs_tol
        self.raise_on_mismatch = dispatch.raise_on_mismatch
        self.last_step_stats = []

    def _run(self) -> None:
        self.last_step_stats = []
        for index, ((handle, args), step) in enumerate(zip(self._execution_plan, self._iter_steps(), strict=True)):
            self._run_step(index, handle, args, step)

    def _dispatch_step(self, step_idx: int, kernel: Any, args: Any) -> None:
        DefaultNPURuntime.run(kernel, args)
