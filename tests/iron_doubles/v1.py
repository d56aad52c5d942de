# SPDX-License-Identifier: Apache-2.0
"""V1 and V1b: amd/IRON ``iron/common/sequence.py`` while pull request 117 was being written (commits not known).

V1: four callables of their own, the plan walked inline, slices without a parent though the class takes one. V1b:
``SequenceCallable`` with ``_iter_steps`` and ``_run``, slices that know their parent. Differences: nothing is compiled;
the statistics are computed in numpy; the reference mode is not modelled beyond its refusal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from iron_doubles import layout, stats, v0
from iron_doubles.machine import NPUKernel
from iron_doubles.old_tensors import FlaggingSubBuffer, XRTTensor
from iron_doubles.operators import BF16
from iron_doubles.whole import FullELF

logger = logging.getLogger(__name__)


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
        self.explicit_buffer_sizes, self._mode = buffer_sizes or {}, dispatch

    def calculate_buffer_layout(self) -> Any:
        return layout.calculate(self.runlist, self.input_args, self.output_args, self.explicit_buffer_sizes)

    def compile(self) -> Any:
        self.subbuffer_layout, self.buffer_sizes, self.slice_info = self.calculate_buffer_layout()
        v0.link(self)
        return self

    def get_callable(self) -> Any:
        modes = {"compare": SequenceCompareCallable, "fused": SequenceFullELFCallable}
        return modes.get(self._mode, SequenceXclbinCallable)(self)


class SequenceFullELFCallable(FullELF):
    tensor = XRTTensor

    def view(self, arena: Any, offset: int, nbytes: int, dtype: Any) -> Any:
        return FlaggingSubBuffer(arena.buffer_object(), offset, nbytes, (nbytes // 2,), BF16, arena)


class SequenceXclbinCallable(v0.FusedXclbinCallable):
    def _slice(self, base: str, bo: Any, start: int, size: int) -> Any:
        return FlaggingSubBuffer(parent_bo=bo, offset_bytes=start, size_bytes=size, shape=(size // 2,), dtype=BF16)

    def _sync(self, side: str) -> None:
        for name in self.op.subbuffer_layout:
            if (name in self.op.input_args) == (side == "npu"):
                self._buffers[name].to(side)

    def __call__(self) -> None:
        self._sync("npu")
        t0 = time.perf_counter()
        for kernel, args in self._execution_plan:
            kernel(*args)
        self.last_elapsed = time.perf_counter() - t0
        self._sync("cpu")


def _read(buf: Any, spec: Any) -> Any:
    buf.to("cpu")
    n = 1
    for extent in (spec.shape,) if isinstance(spec.shape, int) else spec.shape:
        n *= extent
    return buf.torch_view().reshape(-1)[:n].copy().reshape(spec.shape)


def compare_step(self: Any, index: int, op: Any, names: list[str], kernel: Any, args: list[Any]) -> None:
    """Compare mode of V1 and V1b: warns, never raises, keeps every entry."""
    *in_specs, out_spec = op.get_arg_spec()
    *in_names, out_name = names
    inputs = [_read(self._resolve_buffer(n), s) for n, s in zip(in_names, in_specs, strict=True)]
    kernel(*args)
    npu = _read(self._resolve_buffer(out_name), out_spec)
    entry = stats.head(index, op, in_names, out_name)
    reference = getattr(op, "reference", None)
    if reference is None:
        entry["skipped"] = True
        logger.info(stats.SKIPPED, index, entry["op"], out_name)
    else:
        entry |= stats.figures(npu, reference(*inputs))
        fail = entry["max_abs"] > self.abs_tol and entry["max_rel"] > self.rel_tol
        if hasattr(self, "_iter_steps"):
            entry["mismatch"] = fail
        stats.log(logger, logging.WARNING if fail else logging.INFO, entry, fail)
    self.last_step_stats.append(entry)


class SequenceCompareCallable(SequenceXclbinCallable):
    def __init__(self, op: Any, rel_tol: float = 0.05, abs_tol: float = 1e-2) -> None:
        super().__init__(op)
        self.rel_tol, self.abs_tol = rel_tol, abs_tol
        self.last_step_stats: list[dict[str, Any]] = []

    def __call__(self) -> None:
        self._sync("npu")
        self.last_step_stats = []
        for index, (kernel, args) in enumerate(self._execution_plan):
            op, *names = self.op.runlist[index]
            compare_step(self, index, op, names, kernel, args)
        self._sync("cpu")


# --- V1b ----------------------------------------------------------------------------------------------------------


class SequenceCallable:
    """What V1b to V4 share: one tensor per name, steps zipped with the runlist."""

    def __init__(self, op: Any) -> None:
        self.op, self.last_elapsed = op, 0.0
        self._buffer_cache: dict[str, Any] = {}
        self._allocate_buffers()

    def _make_buffer(self, n_elements: int) -> Any:
        return XRTTensor((n_elements,), BF16)

    def _make_subbuffer(self, parent: Any, offset: int, size: int) -> Any:
        return FlaggingSubBuffer(parent.buffer_object(), offset, size, (size // 2,), BF16, parent)

    def _allocate_buffers(self) -> None:
        self._buffers = {
            n: self._make_buffer(max(size, 2) // 2) for n, (_, _, size) in self.op.subbuffer_layout.items()
        }
        self._op_callable_map = self._kernels()
        self._execution_plan = [
            (self._op_callable_map[id(op)], [self._resolve_buffer(n) for n in names]) for op, *names in self.op.runlist
        ]

    def _kernels(self) -> dict[int, Any]:
        op = self.op
        return {
            key: NPUKernel(op.combined_xclbin, op._op_insts_map[key], kernel_name=op._op_kernel_name_map[key])
            for key in op._op_xclbin_map
        }

    def _resolve_buffer(self, name: str) -> Any:
        if name not in self._buffers:
            base, start, end = self.op.slice_info[name]
            self._buffers[name] = self._make_subbuffer(self._buffers[base], start, end - start)
        return self._buffers[name]

    def get_buffer(self, name: str) -> Any:
        if name not in self._buffer_cache:
            self._buffer_cache[name] = self._resolve_buffer(name)
        return self._buffer_cache[name]

    def _iter_steps(self) -> Iterator[tuple[Any, list[str], list[Any], str, Any]]:
        for op, *names in self.op.runlist:
            *in_specs, out_spec = layout.arguments(op)
            *in_names, out_name = names
            yield op, in_names, in_specs, out_name, out_spec

    def _sync_inputs(self) -> None:
        for name in self.op.input_args:
            self._buffers[name].to("npu")

    def _sync_outputs(self) -> None:
        for name in self.op.subbuffer_layout:
            if name not in self.op.input_args:
                self._buffers[name].to("cpu")

    def _run(self) -> None:
        for kernel, args in self._execution_plan:
            kernel(*args)

    def __call__(self) -> None:
        self._sync_inputs()
        t0 = time.perf_counter()
        self._run()
        self.last_elapsed = time.perf_counter() - t0
        self._sync_outputs()


class SequenceXclbinCallableV1b(SequenceCallable): ...


class SequenceCompareCallableV1b(SequenceCallable):
    def __init__(self, op: Any, rel_tol: float = 0.05, abs_tol: float = 1e-2) -> None:
        super().__init__(op)
        self.rel_tol, self.abs_tol = rel_tol, abs_tol
        self.last_step_stats: list[dict[str, Any]] = []

    def _run(self) -> None:
        self.last_step_stats = []
        for index, ((kernel, args), step) in enumerate(zip(self._execution_plan, self._iter_steps(), strict=True)):
            compare_step(self, index, step[0], [*step[1], step[3]], kernel, args)


class OperatorSequenceV1b(OperatorSequence):
    def get_callable(self) -> Any:
        modes = {"compare": SequenceCompareCallableV1b, "fused": SequenceFullELFCallable}
        return modes.get(self._mode, SequenceXclbinCallableV1b)(self)
