# SPDX-License-Identifier: Apache-2.0
"""V6: amd/IRON ``iron/common/image/callable.py``, September 2026, ``StepCallable`` (commit not known).

``_steps`` in place of the plan, rebuilt when the shared arena has grown; buffers placed within their tensors; outputs
only marked device-resident after the call. Differences: nothing is compiled; ``aie.utils.verify`` is a pair
``(rtol, atol)``; every scratch buffer is a resident where an arena is given.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from iron_doubles import layout, v5
from iron_doubles.memory import GRANULE
from iron_doubles.operators import BF16, device_symbol
from iron_doubles.tensors import XRTTensor
from iron_doubles.whole import FullELF, run_whole

logger = logging.getLogger(__name__)


class ScratchArena:
    """One buffer that several callables share; it grows, keeping its contents, and every view has to be made anew."""

    def __init__(self, nbytes: int) -> None:
        self.generation = 1
        self.tensor = XRTTensor((nbytes // 2,), BF16)

    def grow(self, nbytes: int) -> None:
        old = self.tensor.numpy()
        self.tensor = XRTTensor((nbytes // 2,), BF16)
        self.tensor.numpy_view()[: old.size] = old
        self.generation += 1


class OperatorSequence(v5.OperatorSequence):
    residents: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        runlist: Any,
        input_args: Any,
        output_args: Any,
        buffer_sizes: Any = None,
        buffer_offsets: Any = None,
        plan_scratch: bool = True,
        dispatch: Any = "auto",
        extra_flags: Any = None,
        share_designs: bool = False,
        shared_words: Any = None,
        feedback_args: Any = (),
        coresident: Any = (),
    ) -> None:
        label = name + "_shared" if share_designs else name
        super().__init__(label, runlist, input_args, output_args, buffer_sizes, dispatch)
        self.buffer_offsets, self.plan_scratch = buffer_offsets, plan_scratch
        self.extra_flags, self.share_designs, self.shared_words = extra_flags or [], share_designs, shared_words or {}
        self.feedback_args, self.coresident = list(feedback_args), tuple(coresident)

    def infer_buffer_offsets(self) -> dict[str, int]:
        return layout.plan(self.runlist, {*self.input_args, *self.output_args, *self.explicit_buffer_sizes})

    def compile(self) -> Any:
        super().compile()
        if self.mode == "fused":
            offsets = self.buffer_offsets
            if offsets is None and self.plan_scratch:
                offsets = self.infer_buffer_offsets()
            self.subbuffer_layout, self.buffer_sizes, self.slice_info = layout.planned(
                self.runlist, self.input_args, self.output_args, self.explicit_buffer_sizes, offsets or {}
            )
        return self

    def get_callable(self, arena: ScratchArena | None = None) -> Any:
        if self.mode == "fused":
            return FullELFCallable(self)
        return StepCallable(self, compare=self.mode == "compare", arena=arena)


class FullELFRun:
    """One run with per-call values of its own, which nothing on the host shows."""

    def __init__(self, callable_: Any) -> None:
        self._callable, self._scratchpad = callable_, dict[str, Any]()

    def write_values(self, values: Mapping[str, Any]) -> None:
        self._scratchpad.update(values)

    def start(self) -> None:
        run_whole(self._callable, self._callable.arenas, self._scratchpad)

    def wait(self) -> None: ...


class FullELFCallable(FullELF):
    """``FullELFCallable`` of the same file, newest stored form: runs, ``start()`` and ``wait()``; nothing is brought
    back after a call, since every argument is device-resident from the push on and a read pulls."""

    def __init__(self, seq: Any) -> None:
        super().__init__(seq)
        self.arenas = [self.input_buffer, self.output_buffer, self.scratch_buffer]
        self._run = self.new_run()

    def new_run(self) -> FullELFRun:
        return FullELFRun(self)

    def write_values(self, values: Mapping[str, Any]) -> None:
        self._run.write_values(values)

    def start(self, *runs: FullELFRun) -> None:
        for arena in self.arenas:
            arena.to("npu")
        for run in runs:
            run.start()

    def wait(self, *runs: FullELFRun) -> None:
        for run in runs:
            run.wait()
        if any(arena.device == "cpu" for arena in self.arenas):
            raise RuntimeError(f"{self.op.name}: the host wrote while a run was out")

    def __call__(self, *runs: FullELFRun) -> None:
        runs = runs or (self._run,)
        for arena in self.arenas:
            arena.to("npu")
        t0 = time.perf_counter()
        for run in runs:
            run.start()
        for run in runs:
            run.wait()
        self.last_elapsed = time.perf_counter() - t0


class StepCallable:
    FALLBACK_TOLERANCE = (0.025, 1e-2)

    def __init__(self, seq: Any, compare: bool = False, arena: ScratchArena | None = None) -> None:
        self.op, self.compare, self.arena = seq, compare, arena
        self.tolerance: Any = None
        self.last_elapsed = 0.0
        self.dispatch_values: dict[str, Any] = {}
        self._on_npu = True
        self._arena_generation: int | None = None
        if arena is not None:
            self._place(seq)
        self._buffers: dict[str, Any] = {}
        self._storage: dict[str, Any] = {}
        for name, (_, _, nbytes) in seq.subbuffer_layout.items():
            if name not in seq.residents:
                dtype = seq.buffer_dtype(name)
                self._buffers[name] = XRTTensor((max(nbytes, dtype.itemsize) // dtype.itemsize,), dtype)
        self._steps: list[Any] = []
        self._follow_arena()
        kernels = seq._image.kernels()
        for op, *names in seq.runlist:
            self._steps.append((op, kernels[id(op)], names, [self.get_buffer(name) for name in names]))

    @staticmethod
    def _place(seq: Any) -> None:
        seq.residents = tuple(n for n, (kind, *_) in seq.subbuffer_layout.items() if kind == "scratch")
        at = 0
        for name in seq.residents:
            kind, _, nbytes = seq.subbuffer_layout[name]
            seq.subbuffer_layout[name] = (kind, at, nbytes)
            at += -(-nbytes // GRANULE) * GRANULE

    def _follow_arena(self) -> None:
        if self.arena is None or self.arena.generation == self._arena_generation:
            return
        parent, self._arena_generation = self.arena.tensor, self.arena.generation
        for name in self.op.residents:
            _, offset, nbytes = self.op.subbuffer_layout[name]
            dtype = self.op.buffer_dtype(name)
            lines = -(-nbytes // GRANULE) * GRANULE
            self._storage[name] = parent.subview(offset, (lines // dtype.itemsize,), dtype)
            self._buffers[name] = (
                self._storage[name] if nbytes % GRANULE else parent.subview(offset, (nbytes // dtype.itemsize,), dtype)
            )
        for name, (base, _, _) in self.op.slice_info.items():
            if base in self.op.residents:
                self._buffers.pop(name, None)
        self._steps = [(op, k, names, [self.get_buffer(n) for n in names]) for op, k, names, _ in self._steps]

    def get_buffer(self, name: str) -> Any:
        self._follow_arena()
        if name not in self._buffers:
            base, start, end = self.op.slice_info[name]
            dtype = self.op.buffer_dtype(name)
            self._buffers[name] = self._buffers[base].subview(start, ((end - start) // dtype.itemsize,), dtype)
        return self._buffers[name]

    def get_storage(self, name: str) -> Any:
        self._follow_arena()
        return self._storage.get(name) or self.get_buffer(name)

    def write_values(self, values: Mapping[str, Any]) -> None:
        self.dispatch_values = dict(values)

    def __call__(self) -> None:
        self._follow_arena()
        for name in self.op.input_args:
            self._buffers[name].to("npu")
        t0 = time.perf_counter()
        for index, (op, kernel, names, args) in enumerate(self._steps):
            at = {}
            for spec in op.buffers:
                at[spec.name] = spec.placement[1]
                if f"{spec.name}_offset" in op.bound_values:
                    word = op.value(f"{spec.name}_offset")
                    at[spec.name] += int(self.dispatch_values[device_symbol(op, word)])
            if self.compare:
                inputs, expected = self._reference(op, args, at)
            kernel(*args, **{name: self.dispatch_values[name] for name in kernel.dispatch_params})
            if self.compare:
                self._check(index, op, names, args, at, inputs, expected)
        self.last_elapsed = time.perf_counter() - t0
        for name in self.op.subbuffer_layout:
            if name not in self.op.input_args:
                self.get_storage(name).device = "npu"

    def _reference(self, op: Any, args: Any, at: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        held = {
            s.name: b.numpy().reshape(-1)[at[s.name] :][: s.elements].reshape(s.shape).copy()
            for b, s in zip(args, op.buffers, strict=True)
        }
        inputs = {b.name: held[b.name] for b in op.inputs}
        outputs = {b.name: held[b.name] for b in op.outputs if not b.direction.fills}
        symbols = {v.name: device_symbol(op, v) for v in op.values}
        values = {n: self.dispatch_values[s] for n, s in symbols.items() if s in self.dispatch_values}
        return inputs, op.call_reference(inputs, outputs, values)

    def _check(self, index: int, op: Any, names: Any, args: Any, at: Any, inputs: Any, expected: Any) -> None:
        tol = self.tolerance or op.resolved().tolerance() or self.FALLBACK_TOLERANCE
        held = {spec.name: name for name, spec in zip(names, op.buffers, strict=True)}
        written = {
            spec.name: buf.numpy()[at[spec.name] :][: spec.elements]
            for buf, spec in zip(args, op.buffers, strict=True)
            if spec.direction.drains
        }
        for name, verdict in op.judge(inputs, written, tol, expected).items():
            kind = type(op).__name__
            logger.info("[compare step %d] %s -> %s: max_abs=%.4g", index, kind, held[name], verdict.max_abs_err)
            if not verdict:
                raise RuntimeError(f"[compare step {index}] {kind} -> {held[name]}: NPU output deviates from reference")


class StepCallableV6a(StepCallable):
    """Another stored form of the file, older: one output per step, its four figures in one text."""

    def _check(self, index: int, op: Any, names: Any, args: Any, at: Any, inputs: Any, expected: Any) -> None:
        (spec,) = op.outputs
        npu = args[-1].numpy().reshape(-1)[at[spec.name] :][: spec.elements].astype(np.float32)
        ref = expected[spec.name].reshape(-1).astype(np.float32)
        diff = np.abs(npu - ref)
        figures = (
            f"max_abs={diff.max():.4g}, mean_abs={diff.mean():.4g}, "
            f"max_rel={(diff / (np.abs(ref) + 1e-6)).max():.4g}, ref_max={np.abs(ref).max():.4g}"
        )
        logger.info("[compare step %d] %s -> %s: %s", index, type(op).__name__, names[-1], figures)
