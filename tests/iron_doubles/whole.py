# SPDX-License-Identifier: Apache-2.0
"""Callables that run a whole runlist in one dispatch over three arenas, in which ``get_buffer`` gives views.

``FullELF`` follows ``SequenceFullELFCallable`` of amd/IRON ``iron/common/image/callable.py`` at
0934fae68bb18dd828248afbae5b0ff16e7b8f73: input and scratch go to the device as the runtime takes them, the output arena
alone is asserted device-written and brought back. Differences: no ELF, no scratchpad, no trace buffer; the machine logs
one dispatch with the bytes of the three arenas.
"""

from __future__ import annotations

import time
from typing import Any

from iron_doubles.machine import MACHINE, Dispatch
from iron_doubles.operators import BF16
from iron_doubles.tensors import XRTTensor


def run_whole(callable_: Any, arenas: list[Any], values: Any = None) -> None:
    """Every step on device memory, no host in between."""
    for arena in arenas:
        arena.to("npu")
    memory = [arena.on_device() for arena in arenas]
    before = [m.copy() for m in memory]
    if len(MACHINE.log) == MACHINE.fail_at:
        raise RuntimeError("Kernel returned ert_cmd_state.ERT_CMD_STATE_TIMEOUT")
    for entry in callable_.op.runlist:
        op, *names = entry
        step = [callable_.get_buffer(name).on_device() for name in names]
        old = [m.copy() for m in step]
        op.device(step, values or {})
        if MACHINE.broken is not None:
            MACHINE.broken(entry, callable_.calls, step, old)
    callable_.calls += 1
    MACHINE.log.append(Dispatch(callable_.op, before, [m.copy() for m in memory], {}))


class FullELF:
    """``tensor`` makes an arena; ``view`` a part of one, from and of so many bytes."""

    tensor: Any = XRTTensor

    def __init__(self, op: Any) -> None:
        self.op, self.last_elapsed, self._buffer_cache, self.calls = op, 0.0, {}, 0
        sizes = (max(n, 2) // 2 for n in op.buffer_sizes)
        self.input_buffer, self.output_buffer, self.scratch_buffer = (self.tensor((n,), BF16) for n in sizes)

    def view(self, arena: Any, offset: int, nbytes: int, dtype: Any) -> Any:
        return arena.subview(offset, (nbytes // dtype.itemsize,), dtype)

    def get_buffer(self, name: str) -> Any:
        if name not in self._buffer_cache:
            base, start, end = self.op.slice_info.get(name, (name, 0, None))
            kind, offset, nbytes = self.op.subbuffer_layout[base]
            dtype = self.op.buffer_dtype(name) if hasattr(self.op, "buffer_dtype") else BF16
            length = nbytes if end is None else end - start
            self._buffer_cache[name] = self.view(getattr(self, f"{kind}_buffer"), offset + start, length, dtype)
        return self._buffer_cache[name]

    def __call__(self) -> None:
        t0 = time.perf_counter()
        run_whole(self, [self.input_buffer, self.output_buffer, self.scratch_buffer])
        self.last_elapsed = time.perf_counter() - t0
        self.output_buffer.device = "npu"
        self.output_buffer.to("cpu")
