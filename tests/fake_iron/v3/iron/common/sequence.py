# SPDX-License-Identifier: Apache-2.0
import logging

import aie.utils as aie_utils
import numpy as np
from aie.iron.device import NPU2
from aie.utils.hostruntime.tensor_class import Tensor
from aie.utils.npukernel import NPUKernel

from .base import BUILD, AIEOperatorBase, MLIROperator

logger = logging.getLogger(__name__)


class SequenceDispatch:
    name = ""

    def resolve(self, device):
        return self

    def set_up_artifacts(self, seq):
        pass


class AutoDispatch(SequenceDispatch):
    name = "auto"

    def resolve(self, device):
        return FusedDispatch() if isinstance(device, NPU2) else SeparateDispatch()


class FusedDispatch(SequenceDispatch):
    name = "fused"

    def make_callable(self, seq):
        return SequenceFullELFCallable(seq)


class SeparateDispatch(SequenceDispatch):
    name = "separate"

    def make_callable(self, seq):
        return SequenceXclbinCallable(seq)


class CompareDispatch(SeparateDispatch):
    name = "compare"

    def make_callable(self, seq):
        return SequenceCompareCallable(seq)


_DISPATCH_ALIASES = {cls.name: cls for cls in (AutoDispatch, FusedDispatch, SeparateDispatch, CompareDispatch)}


class OperatorSequence(AIEOperatorBase):
    def __init__(
        self,
        name,
        runlist,
        input_args,
        output_args,
        buffer_sizes=None,
        buffer_offsets=None,
        plan_scratch=True,
        dispatch="auto",
        *args,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if not all(isinstance(op, MLIROperator) for op, *_ in runlist):
            raise TypeError("runlist entries must be (MLIROperator, *str) tuples")
        self.name, self.runlist, self.input_args, self.output_args = name, runlist, input_args, output_args
        self.explicit_buffer_sizes = buffer_sizes or {}
        self.buffer_offsets, self.plan_scratch = buffer_offsets, plan_scratch
        self._dispatch = _DISPATCH_ALIASES[dispatch]() if isinstance(dispatch, str) else dispatch

    def get_arg_spec(self):
        raise NotImplementedError

    def compile(self, dry_run=False):
        self.subbuffer_layout, self.slice_info = {}, {}
        for op, *names in self.runlist:
            for name, spec in zip(names, op.get_arg_spec(), strict=True):
                kind = "input" if name in self.input_args else "output" if name in self.output_args else "scratch"
                self.subbuffer_layout.setdefault(name, (kind, 0, int(np.prod(spec.shape)) * 2))
        self._dispatch = self._dispatch.resolve(aie_utils.get_current_device())
        return self

    def get_callable(self):
        if not hasattr(self, "subbuffer_layout"):
            self.compile()
        return self._dispatch.make_callable(self)


class SequenceCallable:
    def __init__(self, seq):
        self.op, self._dispatch, self.last_elapsed, self._buffer_cache = seq, seq._dispatch, 0.0, {}
        self._buffers = {n: Tensor((size // 2,)) for n, (_, _, size) in seq.subbuffer_layout.items()}
        self._allocate()

    def get_buffer(self, name):
        return self._buffers[name]

    def _iter_steps(self):
        for op, *names in self.op.runlist:
            *in_specs, out_spec = op.get_arg_spec()
            yield op, names[:-1], in_specs, names[-1], out_spec

    def __call__(self):
        for name in self.op.input_args:
            self._buffers[name].to("npu")
        self._run()
        for name in self.op.subbuffer_layout:
            if name not in self.op.input_args:
                self._buffers[name].to("cpu")


class SequenceFullELFCallable(SequenceCallable):
    def _allocate(self):
        elf = BUILD / f"{self.op.name}.elf"
        elf.write_text("")
        self._handle = aie_utils.DefaultNPURuntime.load(NPUKernel(elf_path=str(elf)))

    def _run(self):
        aie_utils.DefaultNPURuntime.run(self._handle, list(self._buffers.values()))


class SequenceXclbinCallable(SequenceCallable):
    def _allocate(self):
        self._op_callable_map = {}
        for op, *_ in self.op.runlist:
            op.compile()
            self._op_callable_map.setdefault(id(op), NPUKernel(str(op._xclbin_path), str(op._insts_path)))
        self._execution_plan = [
            (self._op_callable_map[id(op)], [self.get_buffer(n) for n in names]) for op, *names in self.op.runlist
        ]

    def _run(self):
        for i, ((kernel, args), step) in enumerate(zip(self._execution_plan, self._iter_steps(), strict=True)):
            self._run_step(i, kernel, args, step)

    def _run_step(self, step_idx, kernel, args, step):
        kernel(*args)


class SequenceCompareCallable(SequenceXclbinCallable):
    def _run(self):
        self.last_step_stats = []
        super()._run()

    def _run_step(self, step_idx, kernel, args, step):
        super()._run_step(step_idx, kernel, args, step)
        op, in_names, _, out_name, _ = step
        entry = {"step": step_idx, "op": type(op).__name__, "op_name": "", "inputs": in_names, "output": out_name}
        figures = {"max_abs": 0.25 * step_idx, "mean_abs": 0.0, "max_rel": 0.0, "ref_max": 1.0}
        self.last_step_stats.append({**entry, "skipped": False, **figures, "mismatch": False})
