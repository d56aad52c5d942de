# SPDX-License-Identifier: Apache-2.0
"""What ``xrt-runner --replay replay.json --dir FOLDER`` runs: XRT's own replay format, each step on what it read.

Written after Xilinx/XRT ``src/runtime_src/core/common/runner`` (963c58ee224491e191b3be78d76f51e55e152177): the fields
are those that ``replay.cpp`` reads and ``replay.md`` documents. It is the *replay* format; *recipe* and *profile* of
the same runner are others, and not written: they have no place for the memory group of an instruction buffer.

A dispatch is IRON's: kernel arguments are opcode, instruction buffer, its length in bytes, then the operands
(Xilinx/mlir-aie ``python/utils/hostruntime/xrtruntime/hostruntime.py``, 032d8b2c9929e4139de73488cf6b8b8654309ff1).
Not run on hardware yet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import MissingError
from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.target import output
from fusion_replay.snapshot import DeviceFile

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import KernelBinaries, Snapshot

OPCODE = 3
"""Run the transactions of the instruction buffer."""
FIXED_ARGUMENTS = 3
CACHEABLE = 1 << 24
"""``XCL_BO_FLAGS_CACHEABLE`` (src/runtime_src/core/include/xrt/detail/xrt_mem.h): how IRON allocates instructions."""
INSTRUCTION_BANK = 1
"""Memory bank of the kernel argument ``instr`` in every xclbin of aiecc: ``SRAM``, the second entry of ``mem_topology``
(Xilinx/mlir-aie ``python/compiler/aiecc/main.py``, 0088ed62a0190ace101885efbf913543d7dd9939)."""
THREAD = "0"

Json = dict[str, Any]


def export(request: Request) -> ExportReport:
    """A folder: ``replay.json``, the files it names, and ``frames.json``, which says what each frame is.

    Raises:
        MissingError: a step's device files or inputs are not in the snapshot.
    """
    made = XrtReplay(request.snapshot)
    for step in request.steps:
        made.add(step)
    with output(request.target, request.if_exists, folder=True) as out:
        _write_json(out.part / "replay.json", made.replay())
        _write_json(out.part / "frames.json", {**request.head, "frames": made.notes})
        for name, source in request.each(list(made.files.items())):
            _write(out.part / name, source)
    return request.report("xrt", out.path, len(made.files), notes=made.cautions())


@dataclass
class XrtReplay:
    """The replay under construction: every resource once, in the order in which steps need it."""

    snapshot: Snapshot
    files: dict[str, RecordedTensor | DeviceFile] = field(default_factory=dict)
    notes: list[Json] = field(default_factory=list)
    _buffers: dict[str, Json] = field(default_factory=dict)
    _contexts: dict[str, Json] = field(default_factory=dict)
    _kernels: dict[tuple[str, str], Json] = field(default_factory=dict)
    _runs: dict[str, Json] = field(default_factory=dict)
    _frames: list[Json] = field(default_factory=list)
    _overlapping: int = 0
    _valued: int = 0
    _unfinished: int = 0

    def add(self, step: Step) -> None:
        """One frame with one run: the step's inputs loaded, the kernel started and waited for."""
        sequence = int(self.snapshot.index.invocations["sequence"][step.invocation])
        binaries = self._binaries_of(sequence, step)
        contents: dict[str, str] = {}  # buffer -> the file to load into it
        arguments = [self._argument(1, self._instructions(binaries, contents))]
        before = {t.position: t for t in step.inputs.values()}
        before |= {t.position: t.previous for t in step.outputs.values() if t.previous is not None}
        for position, use in enumerate(step.description.operands):
            name = f"{sequence}/{use.label}/{use.spec.nbytes}"
            if not use.spec.nbytes:
                raise MissingError(f"step {step.label}: argument {use.spec.name} has no bytes; XRT has no such buffer")
            self._buffers.setdefault(name, {"name": name, "size": use.spec.nbytes, "type": "inout"})
            arguments.append(self._argument(FIXED_ARGUMENTS + position, name))
            if position in before:
                contents[name] = self._data(before[position])
        length = binaries.instructions.nbytes if binaries.instructions is not None else 0
        constants = [self._constant(0, OPCODE), self._constant(2, length)]
        run = self._run(self._kernel(binaries), arguments, constants)
        # XRT runs frames in the order of their names as text (std::map in replay.cpp): so they are padded.
        frame = f"frame_{len(self._frames):08d}"
        loads = [
            {"argidx": a["argidx"], "bo": a["bo"], "fnm": contents.pop(a["bo"])}
            for a in arguments
            if a["bo"] in contents
        ]
        self._frames.append(
            {"name": frame, "tid": THREAD, "runs": [{"run": run, "arguments": loads}], "waits": [frame]}
        )
        self.notes.append(_note(frame, step))
        self._overlapping += _overlaps(step)
        self._valued += bool(step.values)
        self._unfinished += step.status != "complete"

    def replay(self) -> Json:
        return {
            "version": "1.0",
            "resources": {
                "hwctxs": list(self._contexts.values()),
                "buffers": list(self._buffers.values()),
                "kernels": list(self._kernels.values()),
                "runs": list(self._runs.values()),
            },
            "execution": {"threads": [THREAD], "frames": self._frames},
        }

    def cautions(self) -> tuple[str, ...]:
        """What the format, or what is known here, can't promise."""
        found = ["xrt-runner compares nothing: outputs and their digests stand in frames.json"]
        if self._unfinished:
            found.append(f"{self._unfinished} steps did not complete when they were recorded: they may hang the device")
        if self._overlapping:
            found.append(
                f"{self._overlapping} steps read and write overlapping parts of a buffer: separate buffers here"
            )
        if self._valued:
            found.append(f"{self._valued} steps had runtime values, which their instruction files may not have")
        if len(self._contexts) > 1:
            found.append(f"{len(self._contexts)} xclbins: instruction buffers are asked for in slot 0 of each")
        return tuple(found)

    # --- resources ----------------------------------------------------------------------------------------------

    def _binaries_of(self, sequence: int, step: Step) -> KernelBinaries:
        key = (sequence, step.description.operator)
        found = next((b for b in self.snapshot.binaries if (b.sequence, b.operator) == key), None)
        if found is None:
            raise MissingError(
                f"step {step.label}: snapshot without binaries for {step.op.type}: XRT needs its xclbin and its "
                "instruction file, which recordings on hardware hold unless --no-binaries was given"
            )
        for what, file in (("xclbin", found.xclbin), ("instruction file", found.instructions)):
            if file is None or not file.kept:
                why = found.absent if file is None else "only its digest was kept"
                raise MissingError(f"step {step.label}: its {what} is not in the snapshot: {why or 'not found'}")
            if not file.nbytes:
                raise MissingError(f"step {step.label}: its {what} {file.name} has no bytes; nothing would run")
        if not found.kernel:
            raise MissingError(f"step {step.label}: the recording does not name its kernel in the xclbin")
        return found

    def _instructions(self, binaries: KernelBinaries, contents: dict[str, str]) -> str:
        file = binaries.instructions
        assert file is not None
        name = f"instructions/{file.digest}"
        self._buffers.setdefault(
            name,
            {"name": name, "size": file.nbytes, "type": "inout", "memgrp": INSTRUCTION_BANK, "flags": CACHEABLE},
        )
        contents[name] = self._file(f"{file.digest}.bin", file)
        return name

    def _kernel(self, binaries: KernelBinaries) -> str:
        file = binaries.xclbin
        assert file is not None
        context = f"hwctx_{file.digest}"
        entry = {"name": context, "cfg": {}, "xclbin": self._file(f"{file.digest}.xclbin", file)}
        self._contexts.setdefault(context, entry)
        key = (context, binaries.kernel)
        kernel = {"name": f"kernel_{len(self._kernels)}", "instance": binaries.kernel, "hwctx": context}
        return str(self._kernels.setdefault(key, {**kernel, "ctrlcode": ""})["name"])

    def _run(self, kernel: str, arguments: list[Json], constants: list[Json]) -> str:
        run = {"kernel": kernel, "arguments": arguments, "constants": constants}
        key = json.dumps(run, sort_keys=True)
        return str(self._runs.setdefault(key, {"name": f"run_{len(self._runs)}", **run})["name"])

    def _data(self, tensor: RecordedTensor) -> str:
        if not tensor.kept:
            seen = "only its digest was kept" if tensor.digest else "it was not recorded"
            raise MissingError(f"{tensor.what}: {seen}; XRT needs its contents")
        return self._file(f"{tensor.digest}.bin", tensor)

    def _file(self, name: str, source: RecordedTensor | DeviceFile) -> str:
        self.files.setdefault(name, source)
        return name

    @staticmethod
    def _argument(index: int, buffer: str) -> Json:
        return {"bo": buffer, "argidx": index, "type": "inout"}

    @staticmethod
    def _constant(index: int, value: int) -> Json:
        return {"value": value, "argidx": index, "type": "int"}


def _note(frame: str, step: Step) -> Json:
    outputs = [{"argument": t.name, "buffer": t.buffer, "digest": t.digest} for t in step.outputs.values()]
    return {"frame": frame, "address": step.address, "label": step.label, "outputs": outputs}


def _overlaps(step: Step) -> bool:
    """Whether two operands see parts of one buffer that overlap and are not the same part."""
    spans = {(u.buffer, u.start, u.end) for u in step.description.operands}
    return any(a < b and a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in spans for b in spans)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _write(path: Path, source: RecordedTensor | DeviceFile) -> None:
    if isinstance(source, DeviceFile):
        path.write_bytes(source.read())  # about to run on a device: its SHA-256 is checked too
    else:
        source.numpy().reshape(-1).view("uint8").tofile(path)
