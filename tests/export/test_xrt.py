# SPDX-License-Identifier: Apache-2.0
"""XRT's replay format on a three-step recording: field by field against what XRT documents and reads, then executed.

XRT publishes a JSON schema for recipes only; what it says of replay files is in ``replay.md`` ("Replay JSON Schema")
and in the code that reads them, ``replay.cpp``, both in Xilinx/XRT ``src/runtime_src/core/common/runner`` at
963c58ee224491e191b3be78d76f51e55e152177. FIELDS below was written by hand from the two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import fusion_replay as fr
import snapshot_maker as maker
from fusion_replay.errors import MissingError, TargetExistsError
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.binaries import KernelFiles

XCLBIN = b"xclbin2\0" + bytes(range(256))
STREAMS = [bytes([7 + i]) * (16 * (i + 1)) for i in range(3)]


@dataclass(frozen=True)
class Field:
    """One member: where, of which JSON type, whether the reader throws without it, and the line that says so."""

    path: str
    type: type
    needed: bool
    source: str


FIELDS = (
    Field("version", str, False, "replay.md: Replay JSON Schema"),
    Field("resources", dict, True, "replay.cpp: m_replay.at(resources)"),
    Field("resources.buffers[]", dict, True, "replay.cpp: create_buffers"),
    Field("resources.buffers[].name", str, True, "replay.cpp: create_buffers"),
    Field("resources.buffers[].size", int, True, "replay.cpp: create_buffer"),
    Field("resources.buffers[].type", str, False, "replay.md: always inout"),
    Field("resources.buffers[].memgrp", int, False, "replay.cpp: create_buffer, legacy xclbin flow"),
    Field("resources.buffers[].flags", int, False, "replay.cpp: create_buffer, xrt::bo::flags as a number"),
    Field("resources.hwctxs[]", dict, True, "replay.cpp: create_hwctxs"),
    Field("resources.hwctxs[].name", str, True, "replay.cpp: create_hwctxs"),
    Field("resources.hwctxs[].cfg", dict, False, "replay.cpp: create_hwctx, values are strings"),
    Field("resources.hwctxs[].xclbin", str, True, "replay.cpp: create_hwctx, xclbin flow"),
    Field("resources.kernels[]", dict, True, "replay.cpp: create_kernels"),
    Field("resources.kernels[].name", str, True, "replay.cpp: create_kernels"),
    Field("resources.kernels[].instance", str, True, "replay.cpp: create_kernel"),
    Field("resources.kernels[].hwctx", str, True, "replay.cpp: create_kernels"),
    Field("resources.kernels[].ctrlcode", str, False, "replay.cpp: create_kernel, empty without a control code ELF"),
    Field("resources.runs[]", dict, True, "replay.cpp: create_runs"),
    Field("resources.runs[].name", str, True, "replay.cpp: create_runs"),
    Field("resources.runs[].kernel", str, True, "replay.cpp: create_runs"),
    Field("resources.runs[].arguments[]", dict, True, "replay.cpp: create_run"),
    Field("resources.runs[].arguments[].bo", str, True, "replay.cpp: create_run"),
    Field("resources.runs[].arguments[].argidx", int, True, "replay.cpp: create_run"),
    Field("resources.runs[].arguments[].type", str, False, "replay.md: always inout"),
    Field("resources.runs[].constants[]", dict, True, "replay.cpp: create_run"),
    Field("resources.runs[].constants[].argidx", int, True, "replay.cpp: create_run"),
    Field("resources.runs[].constants[].value", int, True, "replay.cpp: create_run, uint64"),
    Field("resources.runs[].constants[].type", str, False, "replay.md: always int"),
    Field("execution", dict, True, "replay.cpp: m_replay.at(execution)"),
    Field("execution.threads[]", str, True, "replay.cpp: create_threads"),
    Field("execution.frames[]", dict, True, "replay.cpp: create_frames"),
    Field("execution.frames[].name", str, True, "replay.cpp: create_frames"),
    Field("execution.frames[].tid", str, True, "replay.cpp: frame::frame"),
    Field("execution.frames[].waits[]", str, True, "replay.cpp: frame::frame"),
    Field("execution.frames[].runs[]", dict, True, "replay.cpp: create_executor, at least one"),
    Field("execution.frames[].runs[].run", str, True, "replay.cpp: create_executor"),
    Field("execution.frames[].runs[].arguments[]", dict, False, "replay.cpp: create_initializer"),
    Field("execution.frames[].runs[].arguments[].bo", str, True, "replay.cpp: create_initializer"),
    Field("execution.frames[].runs[].arguments[].fnm", str, True, "replay.cpp: create_initializer"),
    Field("execution.frames[].runs[].arguments[].argidx", int, False, "capture.cpp: replay_execution_frame_arguments"),
)


def found_fields(value: Any, path: str = "") -> dict[str, list[Any]]:
    """Every member of the file by its path; ``cfg`` has members of its own choosing."""
    found: dict[str, list[Any]] = {}
    if isinstance(value, list):
        for item in value:
            found.setdefault(f"{path}[]", []).append(item)
            for key, values in found_fields(item, f"{path}[]").items():
                found.setdefault(key, []).extend(values)
    elif isinstance(value, dict) and not path.endswith(".cfg"):
        for name, item in value.items():
            here = f"{path}.{name}".lstrip(".")
            if not isinstance(item, list):
                found.setdefault(here, []).append(item)
            for key, values in found_fields(item, here).items():
                found.setdefault(key, []).extend(values)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two invocations of three steps, with device files of every operator."""
    return recording(tmp_path / "x.h5")


def recording(path: Path, kernels: list[KernelFiles] | None = None, keep: bool = True) -> Path:
    writer = SnapshotWriter(path)
    sequence = writer.add_sequence(maker.gemv_silu())
    given = [KernelFiles(i, f"f0_op{i}", ("all.xclbin", XCLBIN), (f"op{i}.bin", STREAMS[i])) for i in range(3)]
    writer.add_binaries(sequence, given if kernels is None else kernels, keep=keep)
    for number in range(2):
        maker.run(writer, sequence, maker.contents(0, number))
    return writer.close().path


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return fr.export(source, tmp_path / "out", "xrt", invocation=1).path


def test_every_field_is_one_that_xrt_documents_or_reads(folder: Path) -> None:
    known = {field.path: field for field in FIELDS}
    found = found_fields(json.loads((folder / "replay.json").read_text()))
    assert set(found) == set(known), "a member that the table lacks, or one of the table that three steps never use"
    for path, values in found.items():
        assert all(type(value) is known[path].type for value in values), path
    counts = {path: len(values) for path, values in found.items()}
    for field in FIELDS:  # what the reader needs is in every object of its kind
        parent = field.path.rpartition(".")[0]
        if field.needed and parent and not field.path.endswith("[]"):
            assert counts[field.path] == counts[parent], field


def test_references_resolve_and_files_lie_in_the_folder(folder: Path) -> None:
    data = json.loads((folder / "replay.json").read_text())
    names = {kind: [r["name"] for r in data["resources"][kind]] for kind in data["resources"]}
    for kind, found in names.items():
        assert len(found) == len(set(found)), kind
    for kernel in data["resources"]["kernels"]:
        assert kernel["hwctx"] in names["hwctxs"]
    for run in data["resources"]["runs"]:
        assert run["kernel"] in names["kernels"]
        assert {a["bo"] for a in run["arguments"]} <= set(names["buffers"])
    files = [context["xclbin"] for context in data["resources"]["hwctxs"]]
    for frame in data["execution"]["frames"]:
        assert frame["tid"] in data["execution"]["threads"]
        for run in frame["runs"]:
            assert run["run"] in names["runs"]
            files += [a["fnm"] for a in run["arguments"]]
    for name in files:  # repo.cpp refuses keys that leave the folder
        assert "/" not in name
        assert (folder / name).is_file()
    assert {p.name for p in folder.iterdir()} == {*files, "replay.json", "frames.json"}


class Runner:
    """Does what replay.cpp does with the file, in its order, with bytearrays for buffer objects.

    ``dispatched``: per run, what the kernel would have found: instance, xclbin, and its arguments by index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, data = folder, json.loads((folder / "replay.json").read_text())
        resources, execution = data["resources"], data["execution"]
        self.buffers = {b["name"]: bytearray(b["size"]) for b in resources["buffers"]}
        self.placed = {b["name"]: (b.get("memgrp", 0), b.get("flags")) for b in resources["buffers"]}
        contexts = {h["name"]: (folder / h["xclbin"]).read_bytes() for h in resources["hwctxs"]}
        kernels = {k["name"]: (k["instance"], contexts[k["hwctx"]]) for k in resources["kernels"]}
        self.runs = {r["name"]: (kernels[r["kernel"]], r) for r in resources["runs"]}
        self.dispatched: list[tuple[tuple[str, bytes], dict[int, int | bytes], dict[int, str]]] = []
        frames = dict(sorted((f["name"], f) for f in execution["frames"]))  # std::map: by name, as text
        for tid in execution["threads"]:
            for frame in (f for f in frames.values() if f["tid"] == tid):
                self.execute(frame)
                assert all(frames[name] is frame for name in frame["waits"])

    def execute(self, frame: dict[str, Any]) -> None:
        loaded: dict[str, str] = {}
        for run in frame["runs"]:
            for argument in run["arguments"]:
                assert loaded.setdefault(argument["bo"], argument["fnm"]) == argument["fnm"], "unexpected reinit"
        for name, file in loaded.items():
            data = (self.folder / file).read_bytes()
            assert len(data) <= len(self.buffers[name]), "size mismatch during buffer initialization"
            self.buffers[name][: len(data)] = data
        for run in frame["runs"]:
            kernel, resource = self.runs[run["run"]]
            seen: dict[int, int | bytes] = {c["argidx"]: c["value"] for c in resource["constants"]}
            seen |= {a["argidx"]: bytes(self.buffers[a["bo"]]) for a in resource["arguments"]}
            self.dispatched.append((kernel, seen, {a["argidx"]: a["bo"] for a in resource["arguments"]}))


def test_the_kernels_would_find_what_the_recorded_steps_read(folder: Path) -> None:
    """Opcode 3, instructions, their length in bytes, then the operands: by hand from IRON's own dispatch."""
    runner = Runner(folder)
    data = maker.contents(0, 1)
    gemv, silu, bump = runner.dispatched
    assert [kernel for kernel, _, _ in runner.dispatched] == [(f"f0_op{i}", XCLBIN) for i in range(3)]
    for i, (_, arguments, buffers) in enumerate(runner.dispatched):
        assert (arguments[0], arguments[1], arguments[2]) == (3, STREAMS[i], len(STREAMS[i]))
        assert runner.placed[buffers[1]] == (1, 1 << 24)  # bank SRAM, XCL_BO_FLAGS_CACHEABLE
        assert all(runner.placed[buffers[n]] == (0, None) for n in arguments if n >= 3)
    assert (gemv[1][3], gemv[1][4]) == (maker.bits(data["W"]), maker.bits(data["x"]))
    assert len(gemv[1][5]) == 16  # type: ignore[arg-type]
    assert silu[1][3] == maker.bits(data["y0"])
    assert silu[2][3] == silu[2][4]  # in place: one buffer, two arguments
    assert bump[1][3] == maker.bits(data["y1"][4:])


def test_frames_are_in_order_by_name_beyond_ten(tmp_path: Path) -> None:
    """XRT's own capture calls them frame_2 and frame_10, and runs 10 first."""
    writer = SnapshotWriter(tmp_path / "x.h5")
    sequence = writer.add_sequence(maker.gemv_silu())
    writer.add_binaries(sequence, [KernelFiles(i, f"k{i}", ("x", XCLBIN), ("i", STREAMS[i])) for i in range(3)])
    for number in range(5):
        maker.run(writer, sequence, maker.contents(0, number))
    folder = fr.export(writer.close().path, tmp_path / "out", "xrt").path
    frames = [f["name"] for f in json.loads((folder / "replay.json").read_text())["execution"]["frames"]]
    assert frames == sorted(frames)
    assert len(frames) == 15
    assert Runner(folder).dispatched[13][1][3] == maker.bits(maker.contents(0, 4)["y0"])


def test_frames_json_says_what_a_frame_is(source: Path, folder: Path) -> None:
    frames = json.loads((folder / "frames.json").read_text())["frames"]
    assert [f["address"] for f in frames] == ["1:0", "1:1", "1:2"]
    with fr.open(source) as snap:
        assert frames[2]["outputs"][0]["digest"] == snap["1:2"].outputs[0].digest


def test_equal_contents_are_one_file_and_one_kernel_object(source: Path, tmp_path: Path) -> None:
    report = fr.export(source, tmp_path / "both", "xrt")
    data = json.loads((report.path / "replay.json").read_text())
    assert len(data["execution"]["frames"]) == 6
    assert len(data["resources"]["runs"]) == 3
    weights = maker.bits(maker.contents(0, 0)["W"])
    assert sum(p.read_bytes() == weights for p in report.path.iterdir()) == 1


def test_what_the_format_cannot_promise_is_said(source: Path, tmp_path: Path) -> None:
    report = fr.export(source, tmp_path / "out", "xrt")
    assert any("2 steps had runtime values" in note for note in report.notes)
    assert any("compares nothing" in note for note in report.notes)


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ([], r"0:0 GEMV W, x -> y: snapshot without binaries for GEMV"),
        ([KernelFiles(0, "k", None, ("i", b"1"), absent="all.xclbin was gone")], r"xclbin is not in .*was gone"),
        ([KernelFiles(0, "k", ("x", XCLBIN), None)], r"instruction file is not in the snapshot: not found"),
        ([KernelFiles(0, "k", ("x", XCLBIN), ("i.bin", b""))], r"instruction file i.bin has no bytes"),
        ([KernelFiles(0, "", ("x", XCLBIN), ("i", b"1"))], r"does not name its kernel"),
    ],
)
def test_refusals(tmp_path: Path, kernels: list[KernelFiles], said: str) -> None:
    source = recording(tmp_path / "x.h5", kernels)
    with pytest.raises(MissingError, match=said):
        fr.export(source, tmp_path / "out", "xrt")
    assert not (tmp_path / "out").exists()


def test_digests_alone_are_refused(source: Path, tmp_path: Path) -> None:
    from fusion_replay.snapshot.seal.subset import subset, write_subset

    with fr.open(source) as snap:
        row = snap["0:0"].inputs["B"].row
        assert row is not None
        write_subset(subset(snap, list(snap), drop=[row]), tmp_path / "bare.h5")
    with pytest.raises(MissingError, match=r"0:0 GEMV, input B \(x\): only its digest was kept"):
        fr.export(tmp_path / "bare.h5", tmp_path / "out", "xrt")
    only_named = recording(tmp_path / "named.h5", keep=False)
    with pytest.raises(MissingError, match="its xclbin is not in the snapshot: only its digest was kept"):
        fr.export(only_named, tmp_path / "out", "xrt")


def test_an_existing_folder_stays(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(TargetExistsError, match="folders are never replaced"):
        fr.export(source, tmp_path / "out", "xrt", if_exists="replace")
    assert fr.export(source, tmp_path / "out", "xrt", if_exists="number").path.name == "out-001"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out-001", "x.h5"]
    assert list((tmp_path / "out").iterdir()) == []
