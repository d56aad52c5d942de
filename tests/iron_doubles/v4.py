# SPDX-License-Identifier: Apache-2.0
"""V4: amd/IRON ``iron/common/sequence.py``, later in August 2026 (commit not known).

``mode`` and a table of modes in place of policies; paths on ``seq._image`` (``XclbinChain``). Differences: nothing is
linked; a later state of the file already passes per-call scalars (``dispatch_values``), which this one does not.
"""

from __future__ import annotations

import logging
from typing import Any

from iron_doubles import layout, v2
from iron_doubles.machine import MACHINE, NPUKernel

logger = logging.getLogger(__name__)


class XclbinChain:
    def __init__(self) -> None:
        self.combined_xclbin_path: Any = None
        self.op_xclbin_path_map: dict[int, str] = {}
        self.op_insts_path_map: dict[int, str] = {}
        self.op_kernel_name_map: dict[int, str] = {}

    def link(self, seq: Any) -> Any:
        for index, op in enumerate(layout.unique(seq.runlist)):
            name = layout.label(seq.name, index)
            MACHINE.designs[name] = op
            self.op_xclbin_path_map[id(op)] = self.combined_xclbin_path = f"{name}.xclbin"
            self.op_insts_path_map[id(op)], self.op_kernel_name_map[id(op)] = f"{name}.bin", name
        return self.combined_xclbin_path


class SequenceXclbinCallable(v2.SequenceXclbinCallable):
    def __init__(self, seq: Any) -> None:
        super().__init__(seq, None)
        del self._dispatch

    def _kernels(self) -> dict[int, Any]:
        chain = self.op._image
        return {
            key: NPUKernel(chain.combined_xclbin_path, path, kernel_name=chain.op_kernel_name_map[key])
            for key, path in chain.op_insts_path_map.items()
        }


class SequenceCompareCallable(v2.ComparesSteps, SequenceXclbinCallable):
    logger = logger

    def __init__(self, seq: Any, rel_tol: float = 0.05, abs_tol: float = 1e-2, raise_on_mismatch: bool = True) -> None:
        super().__init__(seq)
        self.rel_tol, self.abs_tol, self.raise_on_mismatch = rel_tol, abs_tol, raise_on_mismatch
        self.last_step_stats = []


_MODES: dict[str, tuple[Any, Any]] = {
    "separate": (XclbinChain, SequenceXclbinCallable),
    "compare": (XclbinChain, SequenceCompareCallable),
    "fused": (XclbinChain, v2.SequenceFullELFCallable),
}


class OperatorSequence:
    def __init__(
        self,
        name: str,
        runlist: Any,
        input_args: Any,
        output_args: Any,
        buffer_sizes: Any = None,
        plan_scratch: bool = True,
        dispatch: str = "auto",
    ) -> None:
        self.name, self.runlist, self.input_args, self.output_args = name, runlist, input_args, output_args
        self.explicit_buffer_sizes, self.plan_scratch = buffer_sizes or {}, plan_scratch
        self.mode = "separate" if dispatch == "auto" else dispatch
        self._image = _MODES[self.mode][0]()

    def compile(self) -> Any:
        self.subbuffer_layout, self.buffer_sizes, self.slice_info = layout.calculate(
            self.runlist, self.input_args, self.output_args, self.explicit_buffer_sizes
        )
        self.image = self._image.link(self)
        return self

    def get_callable(self) -> Any:
        if not hasattr(self, "subbuffer_layout"):
            self.compile()
        return _MODES[self.mode][1](self)
