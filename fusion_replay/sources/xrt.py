# SPDX-License-Identifier: Apache-2.0
"""Runs one kernel on an NPU through pyxrt, and judges nothing.

The way of Xilinx/mlir-aie ``python/utils/hostruntime/xrtruntime/hostruntime.py``
(032d8b2c9929e4139de73488cf6b8b8654309ff1): open device 0, register the xclbin, make a hardware context of its UUID,
a kernel of context and name, put the instructions into a cacheable buffer object of the group of argument 1, the data
into ``host_only`` ones, call ``kernel(3, instructions, their length in bytes, *data)`` and wait. Data buffers get
the group of their own argument, as mlir-aie's C++ hosts do it (``runtime_lib/test_lib``). Written from public sources:
nothing here has run on hardware yet.

Importing this module imports pyxrt, so it is imported where it is needed. Whatever pyxrt raises passes unchanged;
:meth:`XrtDevice.alive` says whether the device still answers.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyxrt

from fusion_replay.errors import MissingError
from fusion_replay.sources.protocol import DispatchResult, MemoryUse

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

Bytes = npt.NDArray[np.uint8]


@dataclass(eq=False)
class XrtKernel:
    """A kernel ready to be called, with its instructions on the device."""

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
        name: as the driver gives it ("NPU Strix").
        generation: "npu1", "npu2", or None for an unknown name.

    Raises:
        MissingError: there is no device, or it cannot be opened.
    """

    def __init__(self) -> None:
        self._device = _open()
        self.name = self._device.get_info(pyxrt.xrt_info_device.name)
        self.generation = generation_of(self.name)
        self._folder = tempfile.TemporaryDirectory(prefix="fusion-replay-")
        self._loaded: dict[bytes, _Loaded] = {}

    def load(self, xclbin: bytes, instructions: bytes, kernel: str) -> XrtKernel:
        """The kernel of this name in an xclbin, driven by these instructions; loaded once.

        Raises:
            MissingError: the xclbin has no such kernel, or there are no instructions: a device completes an empty
                stream at once and writes nothing.
        """
        if not instructions:
            raise MissingError(f"kernel {kernel}: its instruction file has no bytes; expected at least one instruction")
        loaded = self._image(xclbin)
        if kernel not in loaded.arguments:
            has = ", ".join(loaded.arguments) or "none"
            raise MissingError(f"kernel {kernel}: the xclbin has no kernel of this name, but {has}")
        key = (kernel, instructions)
        if key not in loaded.kernels:
            made = pyxrt.kernel(loaded.context, kernel)
            buffer = self._buffer(len(instructions), pyxrt.bo.cacheable, made.group_id(1))
            buffer.write(instructions, 0)
            buffer.sync(pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE)
            loaded.kernels[key] = XrtKernel(made, buffer, len(instructions))
        return loaded.kernels[key]

    def run(
        self, kernel: XrtKernel, memory: Sequence[Bytes], uses: Sequence[MemoryUse], timeout: float
    ) -> DispatchResult:
        """One dispatch: send ``memory``, run, wait at most ``timeout`` seconds, fetch it again.

        ``uses``: for each argument which part of which memory it is given. Where the run does not complete, nothing is
        fetched. A timeout and a command that the driver gave up look the same (``run.wait`` says so of itself).
        """
        first = {use.memory: i for i, use in reversed(list(enumerate(uses)))}
        groups = [kernel.kernel.group_id(FIXED_ARGUMENTS + first.get(i, 0)) for i in range(len(memory))]
        host_only = pyxrt.bo.host_only
        buffers = [self._buffer(m.nbytes, host_only, g) for m, g in zip(memory, groups, strict=True)]
        for buffer, contents in zip(buffers, memory, strict=True):
            buffer.write(contents.data, 0)
            buffer.sync(pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE)
        given = [self._part(buffers[use.memory], use) for use in uses]
        started = time.perf_counter_ns()
        state = kernel.kernel(OPCODE, kernel.instructions, kernel.length, *given).wait(max(1, round(timeout * 1e3)))
        elapsed = time.perf_counter_ns() - started
        states = pyxrt.ert_cmd_state
        if state != states.ERT_CMD_STATE_COMPLETED:
            hung = state == states.ERT_CMD_STATE_TIMEOUT
            return DispatchResult(state.name, elapsed, (), completed=False, hung=hung)
        return DispatchResult(state.name, elapsed, tuple(self._fetch(b) for b in buffers), completed=True)

    def arguments(self, xclbin: bytes, kernel: str) -> int | None:
        """How many data buffers the kernel declares; None where the xclbin does not say."""
        declared = self._image(xclbin).arguments.get(kernel, 0)
        return declared - FIXED_ARGUMENTS if declared >= FIXED_ARGUMENTS else None

    def alive(self) -> bool:
        """Whether the device still answers, once everything that was loaded is let go."""
        try:
            self.release()
            return bool(self._device.get_info(pyxrt.xrt_info_device.name))
        except Exception:
            return False

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
            if len(self._loaded) >= MAX_CONTEXTS:
                self.release()
            path = Path(self._folder.name) / f"{len(list(Path(self._folder.name).iterdir()))}.xclbin"
            path.write_bytes(xclbin)
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

    def _fetch(self, buffer: pyxrt.bo) -> Bytes:
        buffer.sync(pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE)
        return np.array(buffer.read(buffer.size(), 0)).view(np.uint8)


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
