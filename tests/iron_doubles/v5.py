# SPDX-License-Identifier: Apache-2.0
"""V5: amd/IRON ``iron/common/image/callable.py`` at 0934fae68bb18dd828248afbae5b0ff16e7b8f73.

numpy in place of torch, declared operators, buffers of their own dtype, per-call scalars, outputs asserted device-
resident before they are pulled. Differences: nothing is compiled; ``aie.utils.verify`` is a pair ``(rtol, atol)``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from iron_doubles import layout, v1, v2
from iron_doubles.machine import MACHINE, DispatchKernel
from iron_doubles.operators import BF16, device_symbol
from iron_doubles.tensors import XRTTensor

logger = logging.getLogger(__name__)

__all__ = ["OperatorSequence", "SequenceCompareCallable", "SequenceXclbinCallable", "device_symbol"]


class XclbinChain:
    def __init__(self, seq: Any) -> None:
        self.image, self.labels, self.designs = "chain.xclbin", {}, {}
        for index, op in enumerate(layout.unique(seq.runlist)):
            self.labels[id(op)] = layout.label(seq.name, index)
            self.designs[id(op)] = op
            MACHINE.designs[self.labels[id(op)]] = op

    def kernels(self) -> dict[int, DispatchKernel]:
        return {
            key: DispatchKernel(
                self.image,
                insts_path=None if op.symbols else f"{self.labels[key]}.bin",
                kernel_name=self.labels[key],
                dispatch_params=tuple(op.symbols.values()),
            )
            for key, op in self.designs.items()
        }


class OperatorSequence:
    def __init__(
        self,
        name: str,
        runlist: Any,
        input_args: Any,
        output_args: Any,
        buffer_sizes: Any = None,
        dispatch: str = "auto",
    ) -> None:
        self.name, self.runlist, self.input_args, self.output_args = name, runlist, input_args, output_args
        self.explicit_buffer_sizes, self.mode = buffer_sizes or {}, "separate" if dispatch == "auto" else dispatch

    def compile(self) -> Any:
        self.subbuffer_layout, self.buffer_sizes, self.slice_info = layout.calculate(
            self.runlist, self.input_args, self.output_args, self.explicit_buffer_sizes
        )
        self._image = XclbinChain(self)
        return self

    def buffer_dtype(self, name: str) -> np.dtype[Any]:
        for op, *names in self.runlist:
            for used, spec in zip(names, op.buffers, strict=True):
                if used == name:
                    return np.dtype(spec.dtype)
        return BF16

    def get_callable(self) -> Any:
        modes = {"compare": SequenceCompareCallable, "fused": v2.SequenceFullELFCallable}
        return modes.get(self.mode, SequenceXclbinCallable)(self)


class SequenceXclbinCallable(v1.SequenceCallable):
    def _allocate_buffers(self) -> None:
        self.dispatch_values: dict[str, Any] = {}
        self._buffers = {}
        for name, (_, _, nbytes) in self.op.subbuffer_layout.items():
            dtype = self.op.buffer_dtype(name)
            self._buffers[name] = XRTTensor((max(nbytes, dtype.itemsize) // dtype.itemsize,), dtype)
        self._op_callable_map = self.op._image.kernels()
        self._execution_plan = [
            (self._op_callable_map[id(op)], [self._resolve_buffer(n) for n in names]) for op, *names in self.op.runlist
        ]

    def _make_subbuffer(self, parent: Any, offset: int, size: int) -> Any:
        return parent.subview(offset, (size // 2,), BF16)

    def write_values(self, values: Mapping[str, Any]) -> None:
        self.dispatch_values = dict(values)

    def _run(self) -> None:
        for index, ((kernel, args), step) in enumerate(zip(self._execution_plan, self._iter_steps(), strict=True)):
            self._run_step(index, kernel, args, step)

    def _run_step(self, step_idx: int, kernel: Any, args: Any, step: Any) -> None:
        kernel(*args, **{name: self.dispatch_values[name] for name in kernel.dispatch_params})

    def _sync_outputs(self) -> None:
        for name in self.op.subbuffer_layout:
            if name not in self.op.input_args:
                self._buffers[name].device = "npu"
                self._buffers[name].to("cpu")


class SequenceCompareCallable(v2.ComparesSteps, SequenceXclbinCallable):
    logger = logger
    FALLBACK_TOLERANCE = (0.025, 1e-2)

    def __init__(self, seq: Any, tolerance: Any = None, raise_on_mismatch: bool = True) -> None:
        super().__init__(seq)
        self.tolerance, self.raise_on_mismatch = tolerance, raise_on_mismatch
        self.last_step_stats = []

    def _dispatch_step(self, step_idx: int, kernel: Any, args: Any) -> None:
        SequenceXclbinCallable._run_step(self, step_idx, kernel, args, None)

    def _fails(self, op: Any, npu: Any, entry: dict[str, Any]) -> bool:
        rtol, atol = self.tolerance or self.FALLBACK_TOLERANCE
        return bool(entry["max_abs"] > atol and entry["max_rel"] > rtol)
