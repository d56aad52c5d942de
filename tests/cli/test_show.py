# SPDX-License-Identifier: Apache-2.0
"""show, fsck, operators and doctor on recordings whose contents are known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.record import record


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """Step 0:0 has values to recognise, an output that equals its old contents; 1:0 raises."""
    path = tmp_path / "known.h5"
    a = np.array([[1.5, -2.0, 0.0, np.nan], [np.inf, 4.0, 0.0, -0.0]], np.float32).astype(ml_dtypes.bfloat16)
    with record(path) as rec:
        old = np.ones(8, ml_dtypes.bfloat16)
        with rec.step("MyOp", inputs={"A": a}, params={"eps": 0.5}, previous={"C": old}, values={"n": 3}) as step:
            step.outputs["C"] = old
        with pytest.raises(ZeroDivisionError), rec.step("MyOp", inputs={"A": a}, params={"eps": 0.5}):
            _ = 1 / 0
    return path


def test_overview(run, known: Path) -> None:
    result = run("show", known)
    assert result.status == 0
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[0].startswith(f"{known}: 2 steps recorded in 2 invocations")
    assert "sealed" in lines[1]
    assert any(re.fullmatch(r"  MyOp +2 .*", line) for line in lines)
    assert any(line.startswith("failed: 1:0 MyOp A -> ") and "ZeroDivisionError" in line for line in lines)
    assert "losses: none" in lines
    assert lines[-1] == f"next: fusion-replay show {known} 1:0"


def test_one_step(run, known: Path) -> None:
    out = run("show", known, "0:0").out
    row = next(line.split() for line in out.splitlines() if line.startswith("  input "))
    assert row == ["input", "A", "A", "bfloat16", "2x4", "16", "B", "-2", "4", "0.5833", "3", "1", "1"]  # mean 3.5 / 6
    assert "input A = [1.5, -2, 0, nan, ...]" in out
    assert "MyOp(eps=0.5)" in out
    assert "values    n=3" in out
    assert "output C: completed but wrote nothing: every bit is as it was before the step" in out


def test_failed_step_shows_its_inputs_and_its_error(run, known: Path) -> None:
    out = run("show", known, "1:0").out
    assert "status    failed on arrays" in out
    assert "error     ZeroDivisionError" in out
    assert "input A = [1.5, -2, 0, nan, ...]" in out


def test_list_of_steps(run, known: Path) -> None:
    assert [line.split()[0] for line in run("show", known, "--all").out.splitlines()[:-1]] == ["0:0", "1:0"]
    assert [line.split()[0] for line in run("show", known, "--invocation", 1).out.splitlines()[:-1]] == ["1:0"]
    assert [line.split()[0] for line in run("show", known, "--op", "myop").out.splitlines()[:-1]] == ["0:0", "1:0"]


def test_history_of_a_buffer(run, tmp_path: Path) -> None:
    """Two writes by two invocations of one runlist, each read once; the input is never written."""
    from fusion_replay.simulator import simulate
    from fusion_replay.simulator.operators import ElementwiseAdd

    runlist = [(ElementwiseAdd(size=1024), "a", "b", "c"), (ElementwiseAdd(size=1024), "c", "b", "d")]
    call = simulate(runlist, device="npu2", input_args=["a", "b"], output_args=["d"])
    path = tmp_path / "chain.h5"
    with record(path, call):
        call.get_buffer("a").numpy()  # all zeros: the second write of c changes nothing
        call()
        call()
    written = [json.loads(x) for x in run("show", path, "--buffer", "c", "--json").out.splitlines()]
    assert [(r["type"], r.get("address"), r.get("reads_since"), r.get("unchanged")) for r in written] == [
        ("buffer", None, None, None),
        ("write", "0:0", 1, True),
        ("write", "1:0", 1, True),
    ]
    assert (written[1]["start"], written[1]["stop"], written[1]["op"]) == (0, 2048, "ElementwiseAdd")
    outside = json.loads(run("show", path, "--buffer", "a", "--json").out)
    assert (outside["external"], outside["reads_before"], outside["nbytes"]) == (True, 2, 2048)
    assert "filled from outside; read 2 times before any write" in run("show", path, "--buffer", "a").out


def test_json_of_one_step(run, known: Path) -> None:
    step, *tensors = (json.loads(x) for x in run("show", known, "0:0", "--json").out.splitlines())
    assert (step["type"], step["address"], step["op"], step["values"]) == ("recorded_step", "0:0", "MyOp", {"n": 3})
    assert [(t["phase"], t["name"]) for t in tensors] == [("input", "A"), ("previous", "C"), ("output", "C")]
    a = tensors[0]["contents"]
    assert (a["minimum"], a["maximum"], a["zeros"], a["nans"], a["infs"]) == (-2.0, 4.0, 3, 1, 1)
    assert tensors[2]["unchanged"] is True


def test_quiet_and_verbose(run, good: Path) -> None:
    assert run("-q", "show", good).out == ""
    assert len(run("show", good, "-v").out) > len(run("show", good).out)


def test_fsck_of_a_good_file(run, good: Path) -> None:
    result = run("fsck", good)
    assert result.status == 0
    assert result.out.splitlines()[-1].startswith("PASSED in ")
    again = run("fsck", "--recover", good)
    assert again.status == 0


def test_fsck_json(run, good: Path) -> None:
    result = run("fsck", good, "--json")
    found = json.loads(result.out)
    assert (found["type"], found["ok"], found["sealed"], found["steps"]) == ("fsck", True, True, 3)
    assert result.err.startswith("PASSED in ")


KILLED = """
import os, sys
import numpy as np
import fusion_replay as fr

rec = fr.record(sys.argv[1]).__enter__()
with rec.step("MyOp", inputs={"A": np.arange(4.0)}) as step:
    step.outputs["C"] = np.arange(4.0)
rec.step("MyOp", inputs={"A": np.arange(4.0)}).__enter__()
os._exit(9)
"""


def test_recording_not_closed(run, tmp_path: Path) -> None:
    """show falls back to the journal with one note, fsck says 3, --recover seals."""
    path = tmp_path / "killed.h5"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9

    shown = run("show", path)
    assert shown.status == 0
    assert shown.err.count("note: ") == 1
    assert "in_flight: 1:0 MyOp" in shown.out
    for name in (path, f"{path}.journal"):
        told = run("fsck", name)
        assert (told.status, (told.out + told.err).count("--recover")) == (3, 1)
        assert told.out.endswith(f"next: fusion-replay fsck --recover {path}\n")
    recovered = run("fsck", "--recover", path)
    assert (recovered.status, recovered.out.splitlines()[-1][:9]) == (0, "PASSED in")
    assert run("fsck", path).status == 0
    assert not list(tmp_path.glob("*.journal"))
    assert "in_flight: 1:0 MyOp" in run("show", path).out


def test_operators(run) -> None:
    table = run("operators")
    assert table.status == 0
    named = {line.split()[0] for line in table.out.splitlines()}
    assert {"ElementwiseAdd", "GEMM", "GEMV", "RMSNorm", "RoPE", "Softmax", "StridedCopy", "LayerNorm"} <= named
    one = run("operators", "rms_norm")
    assert one.out.startswith("RMSNorm")
    records = [json.loads(x) for x in run("operators", "--json").out.splitlines()]
    assert {r["type"] for r in records} == {"operator"}
    add = next(r for r in records if r["op"] == "ElementwiseAdd")
    assert add["params"][0]["name"] == "size"
    assert add["params"][0]["required"] is True


def test_operators_says_devices_flavours_sources_and_defects(run) -> None:
    rows = {line.split()[0]: line for line in run("operators").out.splitlines()}
    assert "no design" in rows["MHA"]
    assert "npu1, npu2" not in rows["MHA"]
    assert "npu1, npu2" in rows["StridedCopy"]
    assert rows["StridedCopy"].endswith("amd/IRON iron/operators/strided_copy")
    records = {r["op"]: r for r in map(json.loads, run("operators", "--json").out.splitlines())}
    assert records["MHA"]["devices"] == list(records["MHA"]["tolerance"]) == ["npu2"]
    assert records["Sample"]["answers"]["pr117"] in records["Sample"]["flavours"]
    assert all(set(r["answers"]) == {"pr117", "iron-2026-08", "iron-2026-09", "exact"} for r in records.values())
    assert any("wipes the cache" in defect for defect in records["StridedCopy"]["defects"])
    assert records["SwiGLUDecode"]["runlist"] is True


def test_one_operator_is_told_in_full(run) -> None:
    """All that --json has of an operator stands in the text too, StridedCopy's and Sample's rarer facts included."""
    for known in map(json.loads, run("operators", "--json").out.splitlines()):
        text = run("operators", known["op"]).out
        facts = [known["summary"], known["source"], *known["aliases"], *known["devices"], *known["answers"]]
        facts += [*known["values"], *known["defects"], *(p["name"] for p in known["params"])]
        facts += [limit["source"] for limit in known["tolerance"].values()]
        assert [fact for fact in facts if fact not in text] == [], known["op"]
