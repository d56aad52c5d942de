# SPDX-License-Identifier: Apache-2.0
"""Recorded steps on devices that are honest, drifted, nondeterministic, hanging, lost and idle."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import MismatchError, MissingDependencyError, MissingError, UsageError
from fusion_replay.replaying.redispatch import outcome
from fusion_replay.snapshot.binaries import KernelFiles
from replaying.redispatch.conftest import DOUBLE, N, instructions, kernel_files, write

ROOT = Path(__file__).parents[3]
ADDRESSES = ["0:0", "0:1", "0:2", "0:3", "0:4"]


def verdicts(report: Any) -> list[str]:
    return [s.verdict for s in report.steps]


# --- devices ----------------------------------------------------------------------------------------------------------


def test_an_honest_device_gives_unchanged_bits(machine: Any, recording: Path) -> None:
    report = fr.redispatch(recording)
    assert verdicts(report) == ["unchanged bits"] * 5
    assert report.passed
    assert report.exit_status == 0
    assert report.device == "NPU Phoenix (npu1)"
    assert {s.binaries for s in report.steps} == {"recorded"}
    assert [s.right for s in report.steps] == [True] * 5
    report.check()
    # what each dispatch was given: the in-place step one buffer twice, the slices their own bytes
    assert [sizes for _, sizes in machine.calls] == [[512] * 3, [512] * 2, [512, 1024], [512] * 2, [512] * 3]
    assert machine.contexts == 0, "contexts are few: none is kept"
    assert not list(recording.parent.glob("*.jsonl")), "nothing hung: no journal stays"


def test_a_drifted_device_is_inside_tolerance_where_that_is_allowed(machine: Any, recording: Path) -> None:
    machine.behaviour = "drifted"
    report = fr.redispatch(recording)
    inside, wrong = "changed, inside tolerance", "newly wrong"
    assert verdicts(report) == [inside, inside, wrong, wrong, inside], "a copy and ReLU are exact or wrong"
    assert [s.right for s in report.steps] == [True, True, False, False, True]
    assert report.exit_status == 1
    with pytest.raises(MismatchError, match="2 of 5 steps failed, first 0:2 StridedCopy"):
        report.check()


def test_a_nondeterministic_device_gets_a_certificate(machine: Any, recording: Path) -> None:
    machine.behaviour = "nondeterministic"
    report = fr.redispatch(recording, repeat=6, steps="0:0")
    (step,) = report.steps
    found = step.certificate
    assert found is not None
    assert not found.deterministic
    # The double flips the last bit of elements 5 to 8 in every third run.
    assert found.pattern == (0, 0, 1, 0, 0, 1)
    assert [n for _, n in found.distinct] == [4, 2]
    (varying,) = found.varying
    assert (varying.name, varying.count, varying.first, varying.last, varying.box) == ("C", 4, 5, 8, ((5, 8),))
    assert step.verdict == "changed, inside tolerance", "the worse of the two outputs"
    assert step.failed, "not the same every time"
    assert report.exit_status == 1
    assert "pattern AABAAB; C: 4 elements differ, 5 to 8, box 5..8" in str(report)


def test_repetitions_that_agree_are_certified(machine: Any, recording: Path) -> None:
    report = fr.redispatch(recording, repeat=3)
    assert all(s.certificate is not None and s.certificate.deterministic for s in report.steps)
    assert all(s.certificate.distinct[0][1] == 3 for s in report.steps if s.certificate)
    assert report.passed
    assert machine.runs == 15


def test_a_step_that_hangs_is_skipped_next_time(machine: Any, recording: Path) -> None:
    machine.behaviour, machine.strikes = "hanging", frozenset({1})
    report = fr.redispatch(recording, timeout=0.05)
    assert verdicts(report) == ["unchanged bits", "hung", *["unchanged bits"] * 3]
    assert report.steps[1].detail == "ERT_CMD_STATE_TIMEOUT after 0.05 s"
    assert report.exit_status == 1
    (journal,) = recording.parent.glob("block.h5.redispatch-*.jsonl")
    assert report.journal == str(journal)

    machine.behaviour, machine.runs = "honest", 0
    again = fr.redispatch(recording)
    assert machine.runs == 0, "finished steps are taken over, what hung is not tried again"
    assert verdicts(again) == verdicts(report)
    assert again.steps[1].detail == f"hung in an earlier run, not tried again; remove {journal} to try"
    assert "5 of them were run before" in str(again)
    assert again.exit_status == 1

    journal.unlink()
    assert fr.redispatch(recording).passed
    assert not journal.exists()


def test_what_the_driver_gave_up_was_not_waited_for(machine: Any, recording: Path) -> None:
    machine.behaviour, machine.strikes = "given-up", frozenset({1})
    report = fr.redispatch(recording)
    assert verdicts(report) == ["unchanged bits", "hung", *["unchanged bits"] * 3]
    assert report.steps[1].detail == "ERT_CMD_STATE_TIMEOUT before 10 s were over: the driver gave it up"


@pytest.mark.parametrize("xrt", ["2026", pytest.param("2.20", marks=pytest.mark.long)])
def test_a_hung_run_does_not_take_the_process_with_it(recording: Path, xrt: str) -> None:
    """XRT of 2026 ends the process where a run in progress is freed, at the interpreter's end too."""
    behaviour = {"behaviour": "hanging", "strikes": [1], **({"abort": None} if xrt == "2.20" else {})}
    words = ["-m", "fusion_replay", "replay", str(recording), "--on", "npu", "--timeout", "0.05"]
    ended = python(behaviour, *words)
    assert (ended.returncode, ended.stderr) == (1, "")
    first, *_, last = ended.stdout.splitlines()
    assert first.startswith("1 of 5 steps failed, first 0:1 SiLU")
    assert last.startswith("FAILED in ")
    (journal,) = recording.parent.glob("*.jsonl")
    assert [json.loads(line)["done"] for line in journal.read_text().splitlines() if "done" in line] == ADDRESSES
    assert python(behaviour, *words).returncode == 1, "its journal is gone on with"


def test_a_hung_run_does_not_take_a_program_with_it(recording: Path) -> None:
    code = "import sys, fusion_replay as fr; print(len(fr.redispatch(sys.argv[1], timeout=0.05).failures)); sys.exit(7)"
    ended = python({"behaviour": "hanging"}, "-c", code, str(recording))
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "5\n", "")


def python(behaviour: dict[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(DOUBLE), str(ROOT)])
    environment = {**os.environ, "PYXRT_DOUBLE": json.dumps(behaviour), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_process_that_ended_inside_a_step_left_its_address(
    machine: Any, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyxrt  # type: ignore[import-not-found]

    def die(*_: Any) -> None:
        raise KeyboardInterrupt  # as near to the power button as a test gets

    wait = pyxrt.run.wait
    with monkeypatch.context() as patch:
        patch.setattr(pyxrt.run, "wait", lambda run, ms: die() if machine.runs == 3 else wait(run, ms))
        with pytest.raises(KeyboardInterrupt):
            fr.redispatch(recording)
    report = fr.redispatch(recording)
    assert verdicts(report) == ["unchanged bits", "unchanged bits", "hung", "unchanged bits", "unchanged bits"]
    assert report.steps[2].detail.startswith("an earlier run ended while it ran, not tried again; remove ")
    assert [s.continued for s in report.steps] == [True, True, True, False, False]


def test_a_lost_device_is_one_failure_and_the_rest_is_not_run(machine: Any, recording: Path) -> None:
    machine.behaviour, machine.strikes = "lost", frozenset({1})
    report = fr.redispatch(recording)
    assert verdicts(report) == ["unchanged bits", "device lost", "not run", "not run", "not run"]
    assert len(report.failures) == 1
    assert {s.detail for s in report.steps[2:]} == {"the device was lost at 0:1"}
    assert "No such device" in report.steps[1].detail
    assert report.exit_status == 1
    assert not report.passed


def test_an_idle_device_wrote_nothing(machine: Any, recording: Path) -> None:
    machine.behaviour = "idle"
    report = fr.redispatch(recording)
    assert verdicts(report) == ["wrote nothing"] * 5, "in place and partial writers too"
    assert report.exit_status == 1


def test_idle_once_in_many_repetitions_is_found(machine: Any, recording: Path) -> None:
    machine.behaviour, machine.strikes = "idle", frozenset({3})
    report = fr.redispatch(recording, repeat=5, steps="0:1")
    assert verdicts(report) == ["wrote nothing"]
    assert "repetition 4 of 5" in report.steps[0].detail


def test_an_error_that_the_device_survives_is_one_failed_step(
    machine: Any, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyxrt  # type: ignore[import-not-found]

    original = pyxrt.kernel.__call__

    def refuse_once(self: Any, *args: Any) -> Any:
        if self.name.endswith("_op1"):
            raise RuntimeError("DRM_IOCTL_AMDXDNA_EXEC_CMD IOCTL failed (err=22): Invalid argument")
        return original(self, *args)

    monkeypatch.setattr(pyxrt.kernel, "__call__", refuse_once)
    report = fr.redispatch(recording)
    assert verdicts(report) == ["unchanged bits", "failed", *["unchanged bits"] * 3]
    assert "Invalid argument" in report.steps[1].detail


def test_a_state_that_the_binding_does_not_know_has_a_number(
    machine: Any, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyxrt  # type: ignore[import-not-found]

    wait = pyxrt.run.wait
    monkeypatch.setattr(pyxrt.run, "wait", lambda run, ms: wait(run, ms) and pyxrt.ert_cmd_state(12))
    (step,) = fr.redispatch(recording, steps="0:0").steps
    assert (step.verdict, step.detail) == ("failed", "state 12")


def test_a_state_other_than_completed_is_a_failure(machine: Any, tmp_path: Path) -> None:
    def cut(sequence: Any) -> list[KernelFiles]:
        first, *rest = kernel_files(sequence)
        return [replace(first, instructions=("a.bin", instructions("ElementwiseAdd")[:-4])), *rest]

    report = fr.redispatch(write(tmp_path / "x.h5", files=cut))
    assert verdicts(report) == ["failed", *["unchanged bits"] * 4]
    assert report.steps[0].detail == "ERT_CMD_STATE_ERROR"


# --- right and wrong, then and now ------------------------------------------------------------------------------------


def test_newly_right_and_unchanged_but_wrong(machine: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", faults=["0:0:shift"])
    report = fr.redispatch(path, steps="0:0")
    assert verdicts(report) == ["newly right"]
    assert report.passed

    def miscompiled(sequence: Any) -> list[KernelFiles]:
        return kernel_files(sequence, errors={0: 0x100})

    wrong = write(tmp_path / "y.h5", faults=["0:0:shift"], files=miscompiled)
    assert verdicts(fr.redispatch(wrong, steps="0:0")) == ["changed, still wrong"]
    with fr.open(wrong) as snap:
        assert not fr.replay(snap, steps="0:0").passed
    on_sim = fr.redispatch(write(tmp_path / "z.h5", faults=["0:0:zeros"], files=None), on="sim", steps="0:1")
    assert verdicts(on_sim) == ["unchanged bits"]


def test_old_contents_that_are_right_are_no_sign_of_an_idle_device(machine: Any, tmp_path: Path) -> None:
    """An unrecorded call left the right rows in the cache, the recorded one wrong ones; now they are right again."""
    path = write(tmp_path / "x.h5", warm=True, faults=["1:2:shift"])
    with fr.open(path) as snap:
        assert not fr.replay(snap, steps="0:2").passed
    assert verdicts(fr.redispatch(path, steps="0:2")) == ["newly right"]
    assert verdicts(fr.redispatch(path, on="sim", steps="0:2")) == ["newly right"]


def test_unchanged_bits_that_are_wrong_are_no_pass(machine: Any, tmp_path: Path) -> None:
    def miscompiled(sequence: Any) -> list[KernelFiles]:
        return kernel_files(sequence, errors={0: 0x100})

    path = tmp_path / "x.h5"
    x = np.ones(N, "bfloat16")
    with fr.record(path) as rec:
        with rec.step("ElementwiseAdd", {"A": x, "B": x}, {"size": N, "num_aie_columns": 4, "tile_size": 64}) as step:
            wrong = (x + x).view(np.uint16).copy()
            wrong[0] += 0x100
            step.outputs["C"] = wrong.view(x.dtype)
        with fr.open(f"{path}.journal") as running:
            sequence = running.sequences[0]
        rec.recording.writer.add_binaries(0, miscompiled(sequence))
    report = fr.redispatch(path, force=True)
    assert verdicts(report) == ["unchanged bits"]
    assert report.steps[0].detail == "wrong by the reference, as it was recorded"
    assert report.exit_status == 1


def test_a_new_build_is_matched_by_operator(machine: Any, recording: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    build.mkdir()
    with fr.open(recording) as snap:
        files = kernel_files(snap.sequences[0], errors={0: 0x100})
    for file in files:
        if file.operator in (0, 2):
            for found in (file.xclbin, file.instructions):
                assert found is not None
                (build / found[0]).write_bytes(found[1])
    report = fr.redispatch(recording, build_dir=build)
    assert verdicts(report) == ["newly wrong", *["unchanged bits"] * 4]
    assert [s.binaries for s in report.steps] == ["new", "recorded", "new", "recorded", "recorded"]
    assert "; new binaries for 2, recorded binaries for 3" in report.terms


def test_a_new_build_serves_a_recording_without_binaries(machine: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", files=None)
    with fr.open(path) as snap:
        for file in kernel_files(snap.sequences[0]):
            for found in (file.xclbin, file.instructions):
                assert found is not None
                (tmp_path / found[0]).write_bytes(found[1])
    report = fr.redispatch(path, build_dir=tmp_path)
    assert verdicts(report) == ["unchanged bits"] * 5
    assert {s.binaries for s in report.steps} == {"new"}


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_no_pyxrt(recording: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"pyxrt: expected XRT's Python binding, found none .*source"):
        fr.redispatch(recording)


def test_no_device(machine: Any, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.devices = 0
    with pytest.raises(MissingError, match="NPU: expected a device, XRT finds none; see"):
        fr.redispatch(recording)
    import pyxrt  # type: ignore[import-not-found]

    monkeypatch.setattr(pyxrt, "enumerate_devices", lambda: 1)
    with pytest.raises(MissingError, match="device 0 cannot be opened"):
        fr.redispatch(recording)


def test_no_separate_dispatch(machine: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5")
    with fr.open(path) as snap:
        from fusion_replay.model.runlist import WHOLE_CALL

        whole = replace(snap.sequences[0], origin={"dispatch": WHOLE_CALL})
        snap.index.sequences = snap.sequences = (whole,)
        with pytest.raises(MissingError, match=r"no separate dispatch in the recording, only whole calls.*--separate"):
            fr.redispatch(snap)


def test_a_snapshot_without_binaries(machine: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"x\.h5: no step could be run: the recording has no binaries.*--build-dir"):
        fr.redispatch(write(tmp_path / "x.h5", files=None))
    with pytest.raises(MissingError, match=r"was not kept \(--no-binaries\), only its digest; give --build-dir"):
        fr.redispatch(write(tmp_path / "y.h5", keep=False))
    assert machine.runs == 0


def test_binaries_missing_for_one_operator(machine: Any, tmp_path: Path) -> None:
    def without_last(sequence: Any) -> list[KernelFiles]:
        *files, last = kernel_files(sequence)
        return [*files, replace(last, instructions=None, absent="the instructions are made at each dispatch, from n")]

    report = fr.redispatch(write(tmp_path / "x.h5", files=without_last))
    assert verdicts(report) == [*["unchanged bits"] * 4, "not run"]
    assert report.steps[4].detail.startswith("the instructions are made at each dispatch, from n; give --build-dir")
    assert report.exit_status == 4
    with pytest.raises(MissingError):
        report.check()


def test_another_generation_needs_force(machine: Any, recording: Path) -> None:
    machine.device_name = "NPU Strix"
    with pytest.raises(MissingError, match=r"recorded on npu1, the device here is NPU Strix \(npu2\).*--force runs it"):
        fr.redispatch(recording)
    assert machine.runs == 0
    assert verdicts(fr.redispatch(recording, force=True)) == ["unchanged bits"] * 5
    machine.device_name = "NPU Next"
    with pytest.raises(MissingError, match="unknown generation"):
        fr.redispatch(recording)


@pytest.mark.parametrize(
    ("behaviour", "found"),
    [
        ("honest", ["unchanged bits"] * 5),
        ("hanging", ["unchanged bits", "hung", *["unchanged bits"] * 3]),
        ("lost", ["unchanged bits", "device lost", *["not run"] * 3]),
    ],
)
def test_a_device_need_not_tell_its_name(machine: Any, recording: Path, behaviour: str, found: list[str]) -> None:
    machine.device_name, machine.behaviour, machine.strikes = None, behaviour, frozenset({1})
    report = fr.redispatch(recording, timeout=0.05)
    assert verdicts(report) == found
    assert report.device == "an NPU that tells no name"
    assert report.exit_status == (behaviour != "honest")


def other_file(sequence: Any, operator: int, xclbin: bytes) -> list[KernelFiles]:
    files = kernel_files(sequence)
    own = files[operator].xclbin
    assert own is not None
    files[operator] = replace(files[operator], xclbin=(own[0], xclbin))
    return files


MISFITS = {
    b"\x00 no xclbin": r"the xclbin cannot be loaded \(RuntimeError: Invalid xclbin file",
    b'{"other": {"args": [1, 2, 3]}}': r"kernel f\w+_op1: the xclbin has no kernel of this name, but other$",
    b'{"NAME": {"args": [1]}}': r"kernel f\w+_op1 takes 1 buffers, the recorded step has 2; it is another op",
}


@pytest.mark.parametrize("xclbin", MISFITS)
def test_binaries_that_do_not_fit_are_no_verdict_on_the_npu(machine: Any, tmp_path: Path, xclbin: bytes) -> None:
    def misfit(sequence: Any) -> list[KernelFiles]:
        name = kernel_files(sequence)[1].kernel
        return other_file(sequence, 1, xclbin.replace(b"NAME", name.encode()))

    path = write(tmp_path / "x.h5", files=misfit)
    report = fr.redispatch(path)
    assert verdicts(report) == ["unchanged bits", "not run", *["unchanged bits"] * 3]
    assert re.match(f"nothing was dispatched, the recorded binaries: {MISFITS[xclbin]}", report.steps[1].detail)
    assert (report.exit_status, machine.runs) == (4, 4)
    with pytest.raises(MissingError, match="no step could be run: nothing was dispatched, the recorded binaries: "):
        fr.redispatch(path, steps="0:1")
    assert not list(tmp_path.glob("*.jsonl"))

    build = tmp_path / "build"
    build.mkdir()
    with fr.open(path) as snap:
        for file in misfit(snap.sequences[0])[1:2]:
            for found in (file.xclbin, file.instructions):
                assert found is not None
                (build / found[0]).write_bytes(found[1])
    (step,) = [s for s in fr.redispatch(write(tmp_path / "y.h5"), build_dir=build).steps if s.missing]
    assert step.detail.startswith(f"nothing was dispatched, --build-dir {build}: ")


def test_a_device_without_memory_is_no_verdict_on_the_npu(
    machine: Any, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyxrt  # type: ignore[import-not-found]

    def full(*_: Any) -> None:
        raise RuntimeError("DRM_IOCTL_AMDXDNA_SYNC_BO IOCTL failed (err=12): Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(pyxrt.bo, "write", full)
        with pytest.raises(
            MissingError, match=r"nothing was dispatched, the recorded binaries: kernel .* cannot be made"
        ):
            fr.redispatch(recording)
    machine.behaviour, machine.strikes = "hanging", frozenset({0})
    wait = pyxrt.run.wait
    with monkeypatch.context() as patch:  # once a step hung, no other one can be loaded; the journal stays
        patch.setattr(pyxrt.run, "wait", lambda run, ms: (wait(run, ms), patch.setattr(pyxrt.bo, "write", full))[0])
        report = fr.redispatch(recording, timeout=0.05)
    assert verdicts(report) == ["hung", *["not run"] * 4]
    again = fr.redispatch(recording, timeout=0.05)
    assert verdicts(again) == ["hung", *["unchanged bits"] * 4], "what was missing is tried again"


def test_an_instruction_file_of_zero_length(machine: Any, tmp_path: Path) -> None:
    def empty(sequence: Any) -> list[KernelFiles]:
        return [replace(f, instructions=("empty.bin", b"")) for f in kernel_files(sequence)]

    with pytest.raises(MissingError, match=r"instruction file empty\.bin has 0 bytes: a device completes it"):
        fr.redispatch(write(tmp_path / "x.h5", files=empty))
    assert machine.runs == 0


def test_build_folders_that_do_not_fit(machine: Any, recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--build-dir .*: has the files of none of the operators; expected such as f"):
        fr.redispatch(recording, build_dir=tmp_path)
    with pytest.raises(UsageError, match="expected a folder with IRON's build"):
        fr.redispatch(recording, build_dir=tmp_path / "nothing")
    with fr.open(recording) as snap:
        first = kernel_files(snap.sequences[0])[0]
    assert first.instructions is not None
    (tmp_path / first.instructions[0]).write_bytes(b"1234")
    report = fr.redispatch(recording, build_dir=tmp_path)
    assert report.steps[0].verdict == "not run"
    assert "a kernel needs both of one build" in report.steps[0].detail
    assert report.exit_status == 4


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"on": "gpu"}, "expected npu or sim"),
        ({"repeat": 0}, "expected at least 1"),
        ({"timeout": 0}, "timeout 0: expected seconds"),
        ({"timeout": float("nan")}, "expected seconds"),
        ({"rule": "nice"}, "expected one of"),
        ({"on": "sim", "build_dir": "."}, "the software NPU runs no binaries"),
        ({"device": "npu1"}, "is for --on sim"),
        ({"on": "sim", "device": "npu3"}, "expected npu1 or npu2"),
        ({"op": "GEMV", "on": "sim"}, "no recorded step matches"),
    ],
)
def test_usage(recording: Path, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        fr.redispatch(recording, **wrong)


# --- the software NPU -------------------------------------------------------------------------------------------------


def test_the_software_npu_runs_its_own_recording_again(recording: Path) -> None:
    report = fr.redispatch(recording, on="sim", repeat=2)
    assert verdicts(report) == ["unchanged bits"] * 5
    assert report.device == "the software NPU (npu1)"
    assert report.journal is None
    assert not list(recording.parent.glob("*.jsonl"))


def test_the_other_generation_of_it_needs_force_too(recording: Path) -> None:
    with pytest.raises(MissingError, match=r"recorded on npu1, the device here is the software NPU \(npu2\): binaries"):
        fr.redispatch(recording, on="sim", device="npu2")
    report = fr.redispatch(recording, on="sim", device="npu2", force=True)
    assert report.ran == 5


def test_the_report_is_the_same_data_however_it_came(machine: Any, recording: Path) -> None:
    machine.behaviour = "nondeterministic"
    report = fr.redispatch(recording, repeat=4)
    for step in report.steps:
        again = outcome.StepOutcome.from_dict(step.to_dict())
        assert replace(again, continued=False) == step
    assert report.digest == replace(report, journal="elsewhere").digest
    kinds = [r["type"] for r in report.records()]
    assert kinds == ["redispatch", *["redispatched_step"] * 5, "redispatch_summary"]


def test_steps_without_a_recorded_output_are_not_run(machine: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(RuntimeError):
        write(path, faults=["0:1:timeout"], files=None)
    report = fr.redispatch(path, on="sim")
    assert verdicts(report) == ["unchanged bits", "not run"]
    assert report.steps[1].detail == "its recording is failed: there is no output to compare with"
    assert report.passed, "a fact of the recording, as in a replay"


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_from_iron_to_pyxrt(machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence of IRON recorded where its build lies, then run again from the file alone."""
    from iron_doubles import VARIANTS
    from iron_doubles import machine as iron

    monkeypatch.chdir(tmp_path)
    iron.MACHINE.__init__()  # type: ignore[misc]
    v3 = next(v for v in VARIANTS if v.label == "V3")
    x = np.linspace(-3, 3, N).astype("bfloat16")

    def record(name: str) -> None:
        callable_ = v3.build([(v3.ops.ElementwiseAdd(N), "x", "y", "z"), (v3.ops.SiLU(N), "z", "z")], ["x", "y"], ["z"])
        for buffer in ("x", "y"):
            v3.write(callable_, buffer, x)
        with fr.record(name, callable_):
            callable_()

    record("first.h5")
    with fr.open("first.h5") as snap:
        assert {b.absent is None for b in snap.binaries} == {False}, "nothing was built yet"
        for file in kernel_files(with_columns(snap.sequences[0])):
            for found in (file.xclbin, file.instructions):
                assert found is not None
                Path(found[0]).write_bytes(found[1])
    record("second.h5")
    for built in [*Path().glob("*.xclbin"), *Path().glob("*.bin")]:
        built.unlink()
    report = fr.redispatch("second.h5", repeat=2)
    assert [s.op for s in report.steps] == ["ElementwiseAdd", "SiLU"]
    assert {s.binaries for s in report.steps} == {"recorded"}
    assert report.passed, str(report)
    assert machine.runs == 4


def with_columns(sequence: Any) -> Any:
    """The doubles' operators have sizes alone; a design for the software NPU says how they are spread."""
    spread = {"num_aie_columns": 4, "tile_size": N // 4}
    return replace(sequence, operators=tuple(replace(o, params={**o.params, **spread}) for o in sequence.operators))
