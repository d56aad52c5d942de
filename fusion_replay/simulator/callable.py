# SPDX-License-Identifier: Apache-2.0
"""A compiled sequence on the software NPU, shaped like ``SequenceXclbinCallable`` (amd/IRON iron/common/sequence.py).

One call runs the runlist once: inputs to the device, every step's kernel in turn, outputs back. A recorder wraps the
kernels in ``_execution_plan``, exactly as it does on hardware.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import parse_buffer
from fusion_replay.simulator.device import Injection, power_up
from fusion_replay.simulator.faults import check_faults
from fusion_replay.simulator.faults.catalogue import KINDS
from fusion_replay.simulator.faults.kind import ArmedFault
from fusion_replay.simulator.kernel import SimulatedKernel
from fusion_replay.simulator.kernels import find_kernel
from fusion_replay.simulator.tensor import NpuTensor

if TYPE_CHECKING:
    from fusion_replay.simulator.sequence import SimulatedSequence


class SimulatedCallable:
    """Run a :class:`SimulatedSequence`; made by its ``get_callable()`` or by :func:`..simulate`.

    Attributes:
        op: the sequence.
        device: "npu1" or "npu2".
        npu: that device; its ``seed`` is what faults choose by.
        last_elapsed: seconds the steps of the last call took, transfers left out.
        invocations: calls begun so far.
        dispatch_values: symbol -> number, as given to :meth:`write_values`.
        origin: what a recording says of where it came from.
    """

    def __init__(self, op: SimulatedSequence) -> None:
        self.op = op
        self.last_elapsed = 0.0
        self.invocations = 0
        self.dispatch_values: dict[str, int | float] = {}
        self.device = op.device
        self.npu = power_up(op.device, op.seed)
        self.origin = {
            "variant": "simulator",
            "device": op.device,
            "flavour": "iron-2026-09",
            "dispatch": "separate",
        }
        self.faults = check_faults(op.faults, op.steps, fused=op.mode == "fused")
        self._written = op.written_buffers()
        self._op_callable_map = self._kernels()
        self._buffer_cache: dict[str, NpuTensor] = {}
        self._buffers: dict[str, NpuTensor] = {}
        self._place()

    def _place(self) -> None:
        for name, (_, _, nbytes) in self.op.subbuffer_layout.items():
            self._buffers[name] = NpuTensor((element_count(nbytes),), ml_dtypes.bfloat16)
        self._execution_plan = [
            (self._op_callable_map[id(step.op)], [self._resolve_buffer(name) for name in step.names])
            for step in self.op.steps
        ]

    @property
    def exact_kinds(self) -> dict[str, tuple[str, ...]]:
        """Reason -> operator types whose every kernel run so far may equal the reference to the bit for that reason:
        the rounding state explains it, so a deviation of zero there is no sign of a model without numerics."""
        kinds: dict[str, list[str]] = {}
        for op_type, reasons in self.npu.exact.items():
            if "" not in reasons:
                kinds.setdefault("; ".join(sorted(reasons)), []).append(op_type)
        return {reason: tuple(sorted(types)) for reason, types in sorted(kinds.items())}

    @property
    def injected(self) -> tuple[Injection, ...]:
        """The faults that struck so far, and what they changed."""
        return tuple(self.npu.injected)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names of the runtime values that the runlist's operators ask for."""
        return tuple(dict.fromkeys(s for k in self._op_callable_map.values() for s in k.dispatch_params))

    def get_buffer(self, name: str) -> NpuTensor:
        """The tensor of a buffer, or of a slice that the runlist names.

        Raises:
            UsageError: no such buffer.
        """
        if name not in self._buffer_cache:
            self._buffer_cache[name] = self._resolve_buffer(name)
        return self._buffer_cache[name]

    def write_values(self, values: Mapping[str, int | float]) -> None:
        """Set runtime values for the calls to come, by symbol; the others keep theirs.

        Raises:
            UsageError: a symbol that no operator of the runlist asks for.
        """
        unknown = [s for s in values if s not in self.symbols]
        if unknown:
            raise UsageError(
                f"runtime value {', '.join(unknown)}: no step asks for it; expected {', '.join(self.symbols) or 'none'}"
            )
        self.dispatch_values.update(values)

    def __call__(self) -> None:
        """Run the runlist once.

        Raises:
            HostRuntimeError: a kernel did not complete; the steps before it have run.
            UsageError: a runtime value was never written.
        """
        self.npu.position.invocation = self.invocations
        self.invocations += 1
        try:
            self._sync_inputs()
            begin = time.perf_counter()
            self._run()
            self.last_elapsed = time.perf_counter() - begin
            self._sync_outputs()
        finally:
            self.npu.position.invocation = self.npu.position.step = -1

    def _run(self) -> None:
        for index, ((kernel, args), step) in enumerate(zip(self._execution_plan, self._iter_steps(), strict=True)):
            self.npu.position.step = index
            self._run_step(index, kernel, args, step)

    def _run_step(self, step_idx: int, kernel: Any, args: list[NpuTensor], step: Any) -> None:
        kernel(*args, **{s: self.dispatch_values[s] for s in kernel.dispatch_params if s in self.dispatch_values})

    def _iter_steps(self) -> Iterator[tuple[Any, list[str], list[Any], str, Any]]:
        """``(op, in_names, in_specs, out_name, out_spec)`` per step: as in IRON, the last argument is the output."""
        for step in self.op.steps:
            *in_names, out_name = step.names
            *in_specs, out_spec = step.args
            yield step.op, in_names, in_specs, out_name, out_spec

    def _sync_inputs(self) -> None:
        for name in self.op.input_args:
            self._buffers[name].to("npu")

    def _sync_outputs(self) -> None:
        # IRON (until V5) brings every buffer but the inputs back and so claims all of them for the host. Buffers that
        # no step writes are left out here: their host copy is current, and claiming them would send all weights again.
        for name in self.op.subbuffer_layout:
            if name not in self.op.input_args and name in self._written:
                self._buffers[name].to("cpu")

    def _resolve_buffer(self, name: str) -> NpuTensor:
        if name in self._buffers:
            return self._buffers[name]
        if name not in self.op.slice_info:
            some = ", ".join(list(self.op.subbuffer_layout)[:12])
            raise UsageError(f"buffer {name!r}: the runlist has no such buffer; it has {some}")
        base, start, stop = self.op.slice_info[name]
        view = self._buffers[base].subview(start, (element_count(stop - start),))
        self._buffers[name] = view
        return view

    def _kernels(self) -> dict[int, SimulatedKernel]:
        armed = [
            ArmedFault(f, KINDS[f.kind], self.npu) for f in self.faults if KINDS[f.kind].built_in(f, self.op.steps)
        ]
        external: dict[int, dict[int, tuple[bool, ...]]] = {}
        for step in self.op.steps:
            for fault in armed:
                if fault.kind.refuses(fault.fault, step):
                    fault.spare(step.index)
            external.setdefault(id(step.op), {})[step.index] = tuple(
                parse_buffer(name)[0] not in self._written
                for name, arg in zip(step.names, step.args, strict=True)
                if arg.reads
            )
        label = hashlib.sha1(self.op.name.encode(), usedforsecurity=False).hexdigest()[:6]
        first = {id(s.op): s for s in reversed(self.op.steps)}
        return {
            id(op): SimulatedKernel(
                first[id(op)],
                find_kernel(first[id(op)].spec.type),
                self.npu,
                f"f{label}_op{index}",
                armed,
                external[id(op)],
            )
            for index, op in enumerate(self.op.unique_operators())
        }


def element_count(nbytes: int) -> int:
    """bf16 elements of a buffer: IRON allocates every buffer as bf16, whatever its arg specs say (until V5)."""
    return max(math.ceil(nbytes / 2), 1)
