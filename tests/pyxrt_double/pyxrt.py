# SPDX-License-Identifier: Apache-2.0
"""A double of pyxrt: the classes of its public stub (see stubs/pyxrt.pyi) over a software NPU in this process.

An xclbin of it is JSON: kernel name -> operator, parameters, arg specs, device and instructions. Host and device memory
are apart: what nobody syncs, nobody sees; device memory starts poisoned. As the binding does (Xilinx/XRT
src/python/pybind11/src/pyxrt.cpp), ``kernel()`` drops arguments that it cannot take, and ``run.wait`` answers a timeout
with ``ERT_CMD_STATE_TIMEOUT``. As the device does, an instruction stream that is cut short is an error, an empty one
completes and writes nothing. :data:`MACHINE` says how the device behaves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

POISON = 0x77


class xclBOSyncDirection(IntEnum):
    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1


class ert_cmd_state(IntEnum):
    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ERROR = 5
    ERT_CMD_STATE_ABORT = 6
    ERT_CMD_STATE_TIMEOUT = 8
    ERT_CMD_STATE_NORESPONSE = 9


class xrt_info_device(IntEnum):
    name = 5  # type: ignore[assignment]


@dataclass
class Machine:
    """How the device behaves: ``honest``, ``drifted``, ``nondeterministic``, ``hanging``, ``lost``, ``idle``.

    ``strikes``: numbers of the runs (from 0) that misbehave; None: all.
    """

    behaviour: str = "honest"
    strikes: frozenset[int] | None = None
    device_name: str = "NPU Phoenix"
    devices: int = 1
    runs: int = 0
    gone: bool = False
    calls: list[tuple[str, list[int]]] = field(default_factory=list)
    contexts: int = 0

    def strikes_now(self, behaviour: str) -> bool:
        return self.behaviour == behaviour and (self.strikes is None or self.runs - 1 in self.strikes)

    def answer(self) -> None:
        if self.gone:
            raise RuntimeError("ioctl failed (err=19): No such device")


MACHINE = Machine()


def enumerate_devices() -> int:
    return MACHINE.devices


class uuid:
    def __init__(self, uuid_str: str) -> None:
        self._text = uuid_str

    def to_string(self) -> str:
        return self._text


class xclbin:
    class xclbinkernel:
        _name, _arguments = "", 0

        def get_name(self) -> str:
            return self._name

        def get_num_args(self) -> int:
            return self._arguments

    def __init__(self, filename: str) -> None:
        self.designs: dict[str, Any] = json.loads(Path(filename).read_text())

    def get_kernels(self) -> list[xclbin.xclbinkernel]:
        found = []
        for name, design in self.designs.items():
            found.append(xclbin.xclbinkernel())
            found[-1]._name, found[-1]._arguments = name, 3 + len(design["args"])
        return found

    def get_uuid(self) -> uuid:
        return uuid(json.dumps(self.designs, sort_keys=True))


class device:
    def __init__(self, index: Any) -> None:
        if int(index) >= MACHINE.devices:
            raise RuntimeError("Could not open device with index '0'")
        self._registered: dict[str, xclbin] = {}

    def register_xclbin(self, xclbin: xclbin) -> uuid:
        MACHINE.answer()
        self._registered[xclbin.get_uuid().to_string()] = xclbin
        return xclbin.get_uuid()

    def get_info(self, key: xrt_info_device) -> str:
        MACHINE.answer()
        return MACHINE.device_name


class hw_context:
    def __init__(self, device: device, uuid: uuid) -> None:
        MACHINE.answer()
        MACHINE.contexts += 1
        self.image = device._registered[uuid.to_string()]

    def __del__(self) -> None:
        MACHINE.contexts -= 1


class run:
    _state = ert_cmd_state.ERT_CMD_STATE_COMPLETED

    def __init__(self, *args: Any) -> None:
        pass

    def wait(self, timeout_ms: Any = 0) -> ert_cmd_state:
        MACHINE.answer()
        if self._state == ert_cmd_state.ERT_CMD_STATE_TIMEOUT and not int(timeout_ms):
            raise AssertionError("a hung kernel was waited for without a timeout: nothing would ever come back")
        return self._state

    def state(self) -> ert_cmd_state:
        return self._state


class kernel:
    def __init__(self, ctx: hw_context, name: str) -> None:
        self._context, self._name = ctx, name
        self._design = ctx.image.designs[name]

    def group_id(self, index: Any) -> int:
        return 1 if int(index) == 1 else 0x10000 + int(index)

    def __call__(self, *args: Any) -> run:
        MACHINE.answer()
        taken = [a if isinstance(a, (bo, int)) else None for a in args]
        MACHINE.runs += 1
        if MACHINE.strikes_now("lost"):
            MACHINE.gone = True
        if MACHINE.strikes_now("hanging"):
            return self._ended(ert_cmd_state.ERT_CMD_STATE_TIMEOUT)
        return self._ended(self._execute(taken))

    def _ended(self, state: ert_cmd_state) -> run:
        made = run(self)
        made._state = state
        return made

    def _execute(self, args: list[Any]) -> ert_cmd_state:
        opcode, stream, length, *buffers = args
        MACHINE.calls.append((self._name, [b.size() for b in buffers]))
        right = isinstance(stream, bo) and stream.flag == bo.cacheable and stream.group == self.group_id(1)
        if opcode != 3 or not right or len(buffers) != len(self._design["args"]):
            return ert_cmd_state.ERT_CMD_STATE_ERROR
        for index, buffer in enumerate(buffers):
            if buffer.flag != bo.host_only or buffer.root.group not in [
                self.group_id(3 + i) for i, other in enumerate(buffers) if other.root is buffer.root
            ]:
                raise RuntimeError(f"argument {3 + index}: wrong memory group")
        if not length:
            return ert_cmd_state.ERT_CMD_STATE_COMPLETED
        if stream.on_device()[:length].tobytes() != bytes.fromhex(self._design["instructions"]):
            return ert_cmd_state.ERT_CMD_STATE_ERROR
        if not MACHINE.strikes_now("idle"):
            self._compute(buffers)
        return ert_cmd_state.ERT_CMD_STATE_COMPLETED

    def _compute(self, buffers: list[bo]) -> None:
        from fusion_replay.model.runlist import ArgSpec
        from fusion_replay.simulator.alone import LoneKernel
        from fusion_replay.sources.protocol import MemoryUse

        design = self._design
        specs = [ArgSpec(n, d, tuple(shape), dtype) for n, d, shape, dtype in design["args"]]
        lone = LoneKernel(design["op"], design["params"], specs, (), design["device"])
        seen = [b.on_device()[: s.nbytes].copy() for b, s in zip(buffers, specs, strict=True)]
        ran = lone.run(seen, [MemoryUse(i, 0, s.nbytes) for i, s in enumerate(specs)], {})
        for buffer, spec, contents in zip(buffers, specs, ran.memory, strict=True):
            if spec.writes:
                buffer.on_device()[: spec.nbytes] = _spoiled(contents, design.get("error", 0))


def _spoiled(contents: np.ndarray, built_in: int) -> np.ndarray:
    """``built_in``: what the design itself adds to the bits of its first element (a miscompiled kernel)."""
    words = contents.copy().view(np.uint16)
    words[0] += built_in
    if MACHINE.strikes_now("drifted"):
        words[::7] += words[::7] < 0x8000  # one ulp up where positive: towards the true value, where it was floored
    if MACHINE.strikes_now("nondeterministic") and MACHINE.runs % 3 == 0:
        words[5:9] ^= 1
    return words.view(np.uint8)


class bo:
    class flags(IntEnum):
        normal = 0
        cacheable = 1
        device_only = 2
        host_only = 3

    normal = flags.normal
    cacheable = flags.cacheable
    device_only = flags.device_only
    host_only = flags.host_only

    def __init__(self, *args: Any) -> None:
        if isinstance(args[0], bo):
            parent, size, offset = args
            self._size, self._offset, self.root = int(size), parent._offset + int(offset), parent.root
            self.flag, self.group = parent.flag, parent.group
            return
        MACHINE.answer()
        _, size, self.flag, group = args
        self._size, self._offset, self.root, self.group = int(size), 0, self, int(group)
        self.host, self.device = np.zeros(self._size, np.uint8), np.full(self._size, POISON, np.uint8)

    def on_device(self) -> np.ndarray:
        """The device's own access; pyxrt has none."""
        memory: np.ndarray = self.root.device[self._span()]
        return memory

    def write(self, data: Any, seek: Any) -> None:
        raw = np.frombuffer(data, np.uint8)
        if int(seek) + raw.size > self._size:
            raise RuntimeError("attempting to write past buffer size")
        start = self._offset + int(seek)
        self.root.host[start : start + raw.size] = raw

    def read(self, size: Any, skip: Any) -> np.ndarray:
        start = self._offset + int(skip)
        return self.root.host[start : start + int(size)].view(np.int8).copy()

    def sync(self, direction: xclBOSyncDirection, *args: Any) -> None:
        MACHINE.answer()
        size, offset = map(int, args) if args else (self._size, 0)
        part = slice(self._offset + offset, self._offset + offset + size)
        to, origin = self.root.device, self.root.host
        if direction == xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE:
            to, origin = origin, to
        to[part] = origin[part]

    def size(self) -> int:
        return self._size

    def _span(self) -> slice:
        return slice(self._offset, self._offset + self._size)
