# SPDX-License-Identifier: Apache-2.0
"""Runs one kernel on an NPU through pyxrt, and judges nothing.

The way of Xilinx/mlir-aie ``python/utils/hostruntime/xrtruntime/hostruntime.py``
(032d8b2c9929e4139de73488cf6b8b8654309ff1): open device 0, register the xclbin, make a hardware context of its UUID,
a kernel of context and name, put the instructions into a cacheable buffer object of the group of argument 1, the data
into ``host_only`` ones, call ``kernel(3, instructions, their length in bytes, *data)`` and wait. Data buffers get
the group of their own argument, as mlir-aie's C++ hosts do it (``runtime_lib/test_lib``). Written from public sources:
nothing here has run on hardware yet.

What differs between bindings is not relied on (Xilinx/XRT 963c58ee224491e191b3be78d76f51e55e152177,
``src/python/pybind11/src/pyxrt.cpp``): arguments go by position, enums have ``name`` and ``int()`` alone, results are
fetched through ``bo.map()``, for ``bo.read()`` of one built with pybind11 2.10 or 2.11 repeats the first byte under
NumPy 2. XRT of 2026 ends the process where a run is freed that is still in progress (the same commit's
``src/runtime_src/core/common/api/xrt_kernel.cpp``, ``~run_impl``), so such a run is never freed.

Importing this module imports pyxrt, so it is imported where it is needed. What pyxrt raises before a dispatch is told
as a :class:`MissingError`; after it, it passes unchanged, and :meth:`XrtDevice.alive` says whether the device answers.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyxrt

from fusion_replay.errors import MissingError
from fusion_replay.sources.protocol import DispatchResult, MemoryUse
from fusion_replay.system.messages import in_words
from fusion_replay.system.unfinished import keep_for_ever

OPCODE = 3
"""Run the transaction in the instruction buffer (the kernel's first argument)."""
FIXED_ARGUMENTS = 3
"""Opcode, instruction buffer, its length; then the data."""

GENERATIONS = {
    "npu1": ("npu1", "Phoenix"),
    "npu2": ("npu4", "Strix", "npu5", "npu6", "Krackan", "Gorgon Point"),
}
"""What the device's name contains (``XRTHostRuntime.NPU_MODELS`` of the file above)."""

MAX_CONTEXTS = 4
"""xclbins loaded at once. Phoenix has room for six contexts in all, and wants all of ours gone before a new one."""

PROBE = 4096
"""Bytes of the buffer that shows whether the driver still answers."""

Bytes = npt.NDArray[np.uint8]


@dataclass(eq=False)
class XrtKernel:
    """A kernel ready to be called, with its instructions on the device."""

    name: str
    kernel: pyxrt.kernel
    instructions: pyxrt.bo
    length: int


@dataclass(eq=False)
class _Loaded:
    context: pyxrt.hw_context
    arguments: dict[str, int]
    kernels: dict[tuple[str, bytes], XrtKernel]


class XrtDevice:
    """Device 0 of this machine.

    Attributes:
        name: as the driver gives it ("NPU Strix"); "" where it gives none.
        generation: "npu1", "npu2", or None for a name that nobody knows.

    Raises:
        MissingError: there is no device, or it cannot be opened.
    """

    def __init__(self) -> None:
        self._device = _open()
        self.name = _name(self._device)
        self.generation = generation_of(self.name)
        self._folder = tempfile.TemporaryDirectory(prefix="fusion-replay-")
        self._loaded: dict[bytes, _Loaded] = {}
        self._in_flight = 0  # runs that never came back, each with a context

    def load(self, xclbin: bytes, instructions: bytes, kernel: str) -> XrtKernel:
        """The kernel of this name in an xclbin, driven by these instructions; loaded once.

        Raises:
            MissingError: the xclbin cannot be loaded or has no such kernel, or there are no instructions: a device
                completes an empty stream at once and writes nothing.
        """
        if not instructions:
            raise MissingError(f"kernel {kernel}: its instruction file has no bytes; expected at least one instruction")
        loaded = self._image(xclbin)
        if kernel not in loaded.arguments:
            has = ", ".join(loaded.arguments) or "none"
            raise MissingError(f"kernel {kernel}: the xclbin has no kernel of this name, but {has}")
        key = (kernel, instructions)
        if key not in loaded.kernels:
            with _before_dispatch(f"kernel {kernel} cannot be made ready"):
                made = pyxrt.kernel(loaded.context, kernel)
                buffer = self._buffer(len(instructions), pyxrt.bo.cacheable, made.group_id(1))
                _send(buffer, instructions)
            loaded.kernels[key] = XrtKernel(kernel, made, buffer, len(instructions))
        return loaded.kernels[key]

    def run(
        self, kernel: XrtKernel, memory: Sequence[Bytes], uses: Sequence[MemoryUse], timeout: float
    ) -> DispatchResult:
        """One dispatch: send ``memory``, run, wait at most ``timeout`` seconds, fetch it again.

        ``uses``: for each argument which part of which memory it is given. Where the run does not complete, nothing is
        fetched. A timeout and a command that the driver gave up look the same (``run.wait`` says so of itself), but for
        the time that it took.

        Raises:
            MissingError: its buffers cannot be made; nothing was dispatched.
        """
        with _before_dispatch(f"the buffers of kernel {kernel.name} cannot be made"):
            first = {use.memory: i for i, use in reversed(list(enumerate(uses)))}
            groups = [kernel.kernel.group_id(FIXED_ARGUMENTS + first.get(i, 0)) for i in range(len(memory))]
            host_only = pyxrt.bo.host_only
            buffers = [self._buffer(m.nbytes, host_only, g) for m, g in zip(memory, groups, strict=True)]
            for buffer, contents in zip(buffers, memory, strict=True):
                _send(buffer, contents.data)
            given = [self._part(buffers[use.memory], use) for use in uses]
        started = time.perf_counter_ns()
        run = kernel.kernel(OPCODE, kernel.instructions, kernel.length, *given)
        state = None
        try:
            state = run.wait(max(1, round(timeout * 1e3)))
        finally:
            if state in (None, pyxrt.ert_cmd_state.ERT_CMD_STATE_TIMEOUT):  # the device may still be at it
                keep_for_ever(run, kernel, buffers, given)
                self._in_flight += 1
        elapsed = time.perf_counter_ns() - started
        if state != pyxrt.ert_cmd_state.ERT_CMD_STATE_COMPLETED:
            hung = state == pyxrt.ert_cmd_state.ERT_CMD_STATE_TIMEOUT
            return DispatchResult(_called(state), elapsed, (), completed=False, hung=hung)
        return DispatchResult(_called(state), elapsed, tuple(_fetch(b) for b in buffers), completed=True)

    def arguments(self, xclbin: bytes, kernel: str) -> int | None:
        """How many data buffers the kernel declares; None where the xclbin does not say."""
        declared = self._image(xclbin).arguments.get(kernel, 0)
        return declared - FIXED_ARGUMENTS if declared >= FIXED_ARGUMENTS else None

    def alive(self) -> bool:
        """Whether the device still answers, once everything that was loaded is let go."""
        try:
            self.release()
            self._buffer(PROBE, pyxrt.bo.host_only, 0)
        except Exception:
            return False
        return True

    def release(self) -> None:
        """Let go of every context; kernels and instructions first, which depend on them."""
        for loaded in self._loaded.values():
            loaded.kernels.clear()
        self._loaded.clear()
        gc.collect()

    def close(self) -> None:
        self.release()
        self._folder.cleanup()

    # --- pyxrt ------------------------------------------------------------------------------------------------------

    def _image(self, xclbin: bytes) -> _Loaded:
        if xclbin not in self._loaded:
            if len(self._loaded) >= max(1, MAX_CONTEXTS - self._in_flight):
                self.release()
            path = Path(self._folder.name) / f"{len(list(Path(self._folder.name).iterdir()))}.xclbin"
            path.write_bytes(xclbin)
            with _before_dispatch("the xclbin cannot be loaded"):
                image = pyxrt.xclbin(str(path))
                self._device.register_xclbin(image)
                context = pyxrt.hw_context(self._device, image.get_uuid())
                arguments = {k.get_name(): k.get_num_args() for k in image.get_kernels()}
            self._loaded[xclbin] = _Loaded(context, arguments, {})
        return self._loaded[xclbin]

    def _buffer(self, nbytes: int, flags: pyxrt.bo.flags, group: int) -> pyxrt.bo:
        return pyxrt.bo(self._device, nbytes, flags, group)

    def _part(self, buffer: pyxrt.bo, use: MemoryUse) -> pyxrt.bo:
        if (use.offset, use.nbytes) == (0, buffer.size()):
            return buffer
        return pyxrt.bo(buffer, use.nbytes, use.offset)


def _send(buffer: pyxrt.bo, contents: bytes | memoryview) -> None:
    buffer.write(contents, 0)
    buffer.sync(pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE)


def _fetch(buffer: pyxrt.bo) -> Bytes:
    buffer.sync(pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE)
    return np.frombuffer(buffer.map(), np.uint8).copy()


def _called(state: pyxrt.ert_cmd_state) -> str:
    """The name of a state; of one that the binding does not know ("???") the number."""
    return state.name if state.name.isidentifier() else f"state {int(state)}"


def _name(device: pyxrt.device) -> str:
    try:
        return device.get_info(pyxrt.xrt_info_device.name)
    except RuntimeError:  # "No such query request": a driver need not answer
        return ""


@contextmanager
def _before_dispatch(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever pyxrt makes of it
        raise MissingError(f"{what} ({in_words(error)})") from error


def generation_of(name: str) -> str | None:
    """The generation of a device by its name, None for an unknown one."""
    return next((g for g, words in GENERATIONS.items() if any(word in name for word in words)), None)


def _open() -> pyxrt.device:
    try:
        if pyxrt.enumerate_devices() < 1:
            raise MissingError("NPU: expected a device, XRT finds none; see `xrt-smi examine` and the amdxdna driver")
        return pyxrt.device(0)
    except RuntimeError as error:
        raise MissingError(f"NPU: device 0 cannot be opened ({error}); see `xrt-smi examine`") from error


__all__ = ["GENERATIONS", "XrtDevice", "XrtKernel", "generation_of"]
