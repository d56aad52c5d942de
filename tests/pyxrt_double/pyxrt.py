# SPDX-License-Identifier: Apache-2.0
"""A double of pyxrt: the classes of its public stub (see stubs/pyxrt.pyi) over a software NPU in this process.

An xclbin of it is JSON: kernel name -> operator, parameters, arg specs, device and instructions. Host and device memory
are apart: what nobody syncs, nobody sees; device memory starts poisoned. As the binding does (Xilinx/XRT
src/python/pybind11/src/pyxrt.cpp), ``kernel()`` drops arguments that it cannot take, ``run.wait`` answers a timeout
with ``ERT_CMD_STATE_TIMEOUT``, enums are no integers, and arguments go by position, which all versions take.
``bo.read`` is that of a binding built with pybind11 2.10.3 under NumPy 2: every byte is the first. As in XRT of August
2026 (src/runtime_src/core/common/api/xrt_kernel.cpp, ``~run_impl``), freeing a run that is still in progress ends the
process. As the device does, an instruction stream that is cut short is an error, an empty one completes and writes
nothing. :data:`MACHINE` says how the device behaves; a process of its own reads it from $PYXRT_DOUBLE, as JSON.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

POISON = 0x77


class _Enum:
    """pybind11's ``enum_``: a name, a number on request, and equal to its own kind alone."""

    _names: dict[int, str]

    def __init__(self, value: int, /) -> None:
        self._value = value

    def __init_subclass__(cls) -> None:
        values = {k: v for k, v in vars(cls).items() if isinstance(v, int)}
        cls._names = {value: name for name, value in values.items()}
        for name, value in values.items():
            setattr(cls, name, cls(value))

    @property
    def name(self) -> str:
        return self._names.get(self._value, "???")

    def __int__(self) -> int:
        return self._value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._value == self._value  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self._value)


class xclBOSyncDirection(_Enum):
    XCL_BO_SYNC_BO_TO_DEVICE: Any = 0
    XCL_BO_SYNC_BO_FROM_DEVICE: Any = 1


class ert_cmd_state(_Enum):
    ERT_CMD_STATE_COMPLETED: Any = 4
    ERT_CMD_STATE_ERROR: Any = 5
    ERT_CMD_STATE_ABORT: Any = 6
    ERT_CMD_STATE_TIMEOUT: Any = 8
    ERT_CMD_STATE_NORESPONSE: Any = 9


class xrt_info_device(_Enum):
    name: Any = 5  # type: ignore[assignment]


@dataclass
class Machine:
    """How the device behaves: ``honest``, ``drifted``, ``nondeterministic``, ``hanging``, ``given-up`` (by the driver,
    before the timeout), ``lost``, ``idle``.

    ``strikes``: numbers of the runs (from 0) that misbehave; None: all. ``device_name`` None: it tells none.
    ``abort``: what freeing a run in progress does; None: nothing, as in XRT 2.20.
    """

    behaviour: str = "honest"
    strikes: frozenset[int] | None = None
    device_name: str | None = "NPU Phoenix"
    abort: Callable[[], object] | None = os.abort
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


MACHINE = Machine(**json.loads(os.environ.get("PYXRT_DOUBLE", "{}")))


def enumerate_devices() -> int:
    return MACHINE.devices


class uuid:
    def __init__(self, uuid_str: str, /) -> None:
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

    def __init__(self, filename: str, /) -> None:
        try:
            self.designs: dict[str, Any] = json.loads(Path(filename).read_text())
        except ValueError:
            raise RuntimeError(f"Invalid xclbin file '{filename}'") from None

    def get_kernels(self) -> list[xclbin.xclbinkernel]:
        found = []
        for name, design in self.designs.items():
            found.append(xclbin.xclbinkernel())
            found[-1]._name, found[-1]._arguments = name, 3 + len(design["args"])
        return found

    def get_uuid(self) -> uuid:
        return uuid(json.dumps(self.designs, sort_keys=True))


class device:
    def __init__(self, index: Any, /) -> None:
        if int(index) >= MACHINE.devices:
            raise RuntimeError("Could not open device with index '0'")
        self._registered: dict[str, xclbin] = {}

    def register_xclbin(self, xclbin: xclbin, /) -> uuid:
        MACHINE.answer()
        self._registered[xclbin.get_uuid().to_string()] = xclbin
        return xclbin.get_uuid()

    def get_info(self, key: xrt_info_device, /) -> str:
        MACHINE.answer()
        if MACHINE.device_name is None:
            raise RuntimeError("No such query request")
        return MACHINE.device_name


class hw_context:
    def __init__(self, device: device, uuid: uuid, /) -> None:
        MACHINE.answer()
        MACHINE.contexts += 1
        self.image = device._registered[uuid.to_string()]

    def __del__(self) -> None:
        MACHINE.contexts -= 1


class run:
    _state, _hangs, _done = ert_cmd_state.ERT_CMD_STATE_COMPLETED, False, True

    def __init__(self, *args: Any) -> None:
        pass

    def __del__(self) -> None:
        if not self._done and MACHINE.abort is not None:
            MACHINE.abort()

    def wait(self, timeout_ms: Any = 0, /) -> ert_cmd_state:
        MACHINE.answer()
        if self._hangs:
            if not int(timeout_ms):
                raise AssertionError("a hung kernel was waited for without a timeout: nothing would ever come back")
            time.sleep(int(timeout_ms) / 1000)
            return self._state
        self._done = True
        return self._state

    def state(self) -> ert_cmd_state:
        return self._state


class kernel:
    def __init__(self, ctx: hw_context, name: str, /) -> None:
        self.context, self.name = ctx, name
        if name not in ctx.image.designs:
            raise RuntimeError(f"No such kernel '{name}'")
        self._design = ctx.image.designs[name]

    def group_id(self, index: Any, /) -> int:
        return 1 if int(index) == 1 else 0x10000 + int(index)

    def __call__(self, *args: Any) -> run:
        MACHINE.answer()
        taken = [a if isinstance(a, (bo, int)) else None for a in args]
        MACHINE.runs += 1
        if MACHINE.strikes_now("lost"):
            MACHINE.gone = True
        made = run(self)
        made._done = False
        made._hangs = MACHINE.strikes_now("hanging")
        timed_out = made._hangs or MACHINE.strikes_now("given-up")
        made._state = ert_cmd_state.ERT_CMD_STATE_TIMEOUT if timed_out else self._execute(taken)
        return made

    def _execute(self, args: list[Any]) -> ert_cmd_state:
        opcode, stream, length, *buffers = args
        MACHINE.calls.append((self.name, [b.size() for b in buffers]))
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
    class flags(_Enum):
        normal: Any = 0
        cacheable: Any = 1
        device_only: Any = 2
        host_only: Any = 3

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

    def write(self, data: Any, seek: Any, /) -> None:
        raw = np.frombuffer(data, np.uint8)
        if int(seek) + raw.size > self._size:
            raise RuntimeError("attempting to write past buffer size")
        start = self._offset + int(seek)
        self.root.host[start : start + raw.size] = raw

    def read(self, size: Any, skip: Any, /) -> np.ndarray:
        start = self._offset + int(skip)
        right = self.root.host[start : start + int(size)].view(np.int8).copy()
        return np.lib.stride_tricks.as_strided(right, strides=(0,))

    def map(self) -> memoryview:
        return memoryview(self.root.host[self._span()]).cast("B")

    def sync(self, direction: xclBOSyncDirection, /, *args: Any) -> None:
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
