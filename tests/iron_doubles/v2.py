# SPDX-License-Identifier: Apache-2.0
"""V2: amd/IRON ``iron/common/sequence.py`` at 979f9b4e24bc33bda28a871b91f519e69194cb3b, pull request 117 as merged.

Policy objects (``SequenceDispatch``) decide how a sequence is compiled and which callable it gets; ``_run_step`` is
what compare mode overrides. Differences: nothing is compiled; tensors' raw views are numpy arrays; the mode "auto"
means "separate" (no NPU2 here), "fused" runs the steps without an ELF, "reference" is not modelled.
"""

from __future__ import annotations

import logging
from typing import Any

from iron_doubles import layout, stats, v1, whole
from iron_doubles.machine import MACHINE, NPUKernel
from iron_doubles.operators import BF16, SpecOperator
from iron_doubles.tensors import XRTTensor

logger = logging.getLogger(__name__)


class SequenceDispatch:
    name: str | None = None

    def resolve(self, device: Any) -> Any:
        return self

    def set_up_artifacts(self, seq: Any) -> None:
        raise NotImplementedError

    def make_callable(self, seq: Any) -> Any:
        raise NotImplementedError


class FusedDispatch(SequenceDispatch):
    name = "fused"

    def set_up_artifacts(self, seq: Any) -> None: ...

    def make_callable(self, seq: Any) -> Any:
        return SequenceFullELFCallable(seq)


class SeparateDispatch(SequenceDispatch):
    name = "separate"

    def __init__(self) -> None:
        self.combined_xclbin: Any = None
        self.op_xclbin_map: dict[int, str] = {}
        self.op_insts_map: dict[int, str] = {}
        self.op_kernel_name_map: dict[int, str] = {}

    def set_up_artifacts(self, seq: Any) -> None:
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


_DISPATCH_ALIASES: dict[str, type[SequenceDispatch]] = {
    "auto": SeparateDispatch,
    "fused": FusedDispatch,
    "separate": SeparateDispatch,
    "compare": CompareDispatch,
}


class OperatorSequence:
    aliases = _DISPATCH_ALIASES

    def __init__(
        self,
        name: str,
        runlist: Any,
        input_args: Any,
        output_args: Any,
        buffer_sizes: Any = None,
        dispatch: Any = "auto",
        extra_flags: Any = None,
        trace_size: int = 0,
        share_designs: bool = False,
    ) -> None:
        if not all(isinstance(op, SpecOperator) for op, *_ in runlist):
            raise TypeError("runlist entries must be (MLIROperator, *str) tuples")
        self._dispatch = self._coerce_dispatch(dispatch)
        self.runlist, self.input_args, self.output_args = runlist, input_args, output_args
        self.name = name + "_shared" if share_designs else name
        self.explicit_buffer_sizes = buffer_sizes or {}
        self.extra_flags, self.trace_size, self.share_designs = extra_flags or [], trace_size, share_designs

    @classmethod
    def _coerce_dispatch(cls, dispatch: Any) -> Any:
        base = cls.aliases["separate"].__mro__[-2]
        if isinstance(dispatch, base):
            return dispatch
        if isinstance(dispatch, str) and dispatch in cls.aliases:
            return cls.aliases[dispatch]()
        raise TypeError("selected dispatch mode not supported")

    def calculate_buffer_layout(self) -> Any:
        return layout.calculate(self.runlist, self.input_args, self.output_args, self.explicit_buffer_sizes)

    def set_up_artifacts(self) -> None:
        self.subbuffer_layout, self.buffer_sizes, self.slice_info = self.calculate_buffer_layout()
        self._dispatch = self._dispatch.resolve(None)
        self._dispatch.set_up_artifacts(self)

    def compile(self) -> Any:
        self.set_up_artifacts()
        return self

    def get_arg_spec(self) -> Any:
        raise NotImplementedError("OperatorSequence does not expose a unified arg spec")

    def get_callable(self) -> Any:
        return self._dispatch.make_callable(self)


class SequenceFullELFCallable(whole.FullELF):
    """No step to be seen."""


class SequenceXclbinCallable(v1.SequenceCallable):
    def __init__(self, op: Any, dispatch: Any) -> None:
        self._dispatch = dispatch
        super().__init__(op)

    def _make_buffer(self, n_elements: int) -> Any:
        return XRTTensor((n_elements,), BF16)

    def _make_subbuffer(self, parent: Any, offset: int, size: int) -> Any:
        return parent.subview(offset, (size // 2,), BF16)

    def _kernels(self) -> dict[int, Any]:
        d = self._dispatch
        combined = getattr(d, "combined_xclbin_path", None) or d.combined_xclbin
        insts = getattr(d, "op_insts_path_map", None) or d.op_insts_map
        return {key: NPUKernel(combined, path, kernel_name=d.op_kernel_name_map[key]) for key, path in insts.items()}

    def _run(self) -> None:
        for index, ((kernel, args), step) in enumerate(zip(self._execution_plan, self._iter_steps(), strict=True)):
            self._run_step(index, kernel, args, step)

    def _run_step(self, step_idx: int, kernel: Any, args: Any, step: Any) -> None:
        kernel(*args)


class ComparesSteps:
    """``_run_step`` of compare mode in V2 to V4: raises before it keeps the failing step's entry."""

    logger = logger

    def _run(self) -> None:
        self.last_step_stats: list[dict[str, Any]] = []
        super()._run()  # type: ignore[misc]

    def _run_step(self: Any, step_idx: int, kernel: Any, args: Any, step: Any) -> None:
        op, in_names, in_specs, out_name, out_spec = step
        inputs = [v1._read(self._resolve_buffer(n), s) for n, s in zip(in_names, in_specs, strict=True)]
        self._dispatch_step(step_idx, kernel, args)
        npu = v1._read(self._resolve_buffer(out_name), out_spec)
        entry = stats.head(step_idx, op, in_names, out_name) | stats.figures(npu, op.reference(*inputs))
        fail = entry["mismatch"] = self._fails(op, npu, entry)
        stats.log(self.logger, logging.ERROR if fail else logging.INFO, entry, fail)
        if fail and self.raise_on_mismatch:
            raise stats.error(entry)
        self.last_step_stats.append(entry)

    def _dispatch_step(self, step_idx: int, kernel: Any, args: Any) -> None:
        kernel(*args)

    def _fails(self: Any, op: Any, npu: Any, entry: dict[str, Any]) -> bool:
        return bool(entry["max_abs"] > self.abs_tol and entry["max_rel"] > self.rel_tol)


class SequenceCompareCallable(ComparesSteps, SequenceXclbinCallable):
    def __init__(self, op: Any, dispatch: Any) -> None:
        super().__init__(op, dispatch)
        self.rel_tol, self.abs_tol = dispatch.rel_tol, dispatch.abs_tol
        self.raise_on_mismatch = dispatch.raise_on_mismatch
        self.last_step_stats = []
