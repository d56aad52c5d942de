# SPDX-License-Identifier: Apache-2.0
"""Bug reports: what they say, that they run, and that nothing private is in them, looked for in every form."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - the zstd filter, for h5py
import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
import snapshot_maker as maker
from fusion_replay.errors import TargetExistsError, UsageError
from fusion_replay.export.issue import weights_of
from fusion_replay.export.redact import Redactor
from fusion_replay.snapshot import SnapshotWriter
from fusion_replay.snapshot.binaries import KernelFiles
from fusion_replay.snapshot.describe import sequence_to_json
from fusion_replay.snapshot.fsck import check

issue = importlib.import_module("fusion_replay.export.issue")  # fr.export is the function

SECRETS = {
    "user": "janedoe",
    "host": "vault-17",
    "path": "confidential_model",
    "environment": "S3cr3tValue",
    "argument": "--unreleased-chip",
    "mail": "jane@corp.example",
    "module": "skunkworks",
    "weight": "WWEIGHTSS",
}


@pytest.fixture
def wrong_add(tmp_path: Path) -> Path:
    """Step 1:0 gives zeros; all operands are inputs of the caller."""
    path = tmp_path / "adds.h5"
    rng = np.random.default_rng(7)
    with fr.record(path) as rec:
        for i in range(3):
            a, b = (rng.standard_normal(64).astype(ml_dtypes.bfloat16) for _ in "ab")
            with rec.step("ElementwiseAdd", {"A": a, "B": b}, {"size": 64}) as step:
                step.outputs["C"] = np.zeros_like(a) if i == 1 else a + b
    return path


def run_repro(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(folder / "repro.py")], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )


def test_the_folder_reproduces_the_verdict(wrong_add: Path, tmp_path: Path) -> None:
    report = fr.export(wrong_add, tmp_path / "bug", steps="1:0", issue=True)
    assert sorted(p.name for p in report.path.iterdir()) == ["issue.md", "repro.py", "step.h5"]
    assert check(report.path / "step.h5").ok
    assert [s.address for s in fr.open(report.path / "step.h5")] == ["1:0"]
    text = (report.path / "issue.md").read_text()
    assert text.startswith("# ElementwiseAdd: 64 of 64 elements fail\n")
    for said in (
        "1:0 ElementwiseAdd A, B -> C: MISMATCH",
        "cause    zeros, proved",
        "| size | 64 |",
        "| inputs | A | A | bfloat16 | 64 | 128 |",
        "| packages.numpy |",
        "computes the verdict again",
        "2 other steps of the recording; --slice adds those that feed 1:0",
        "provenance: command",
    ):
        assert said in text, said
    ran = run_repro(report.path)
    assert ran.returncode == 1, ran.stderr
    assert "first 1:0 ElementwiseAdd A, B -> C" in ran.stdout


def test_a_step_that_matches_says_so_and_exits_with_0(wrong_add: Path, tmp_path: Path) -> None:
    report = fr.export(wrong_add, tmp_path / "fine", steps="2:0", issue=True)
    assert (report.path / "issue.md").read_text().startswith("# ElementwiseAdd: matches its reference\n")
    assert run_repro(report.path).returncode == 0


def test_weights_of_the_step_go_along_and_are_left_out_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = maker.record(tmp_path / "x.h5")
    weights = maker.bits(maker.contents(0, 0)["W"])
    for name, given in (("unasked", None), ("asked", True)):
        full = fr.export(source, tmp_path / name, steps="1:0", issue=True, with_weights=given)
        with fr.open(full.path / "step.h5") as snap:
            assert maker.bits(snap["1:0"].inputs["A"].numpy()) == weights
        assert run_repro(full.path).returncode == 1
    bare = fr.export(source, tmp_path / "bug", steps="1:0", issue=True, with_weights=False)
    monkeypatch.setattr(issue, "WEIGHTS_LIMIT", 255)  # W has 256 bytes
    large = fr.export(source, tmp_path / "large", steps="1:0", issue=True)
    for report in (bare, large):
        with fr.open(report.path / "step.h5") as snap:
            assert [t.kept for t in snap["1:0"].inputs.values()] == [False, True]
        assert (
            "contents of weights: W (256 B); repro.py can only repeat the verdict without them; --with-weights keeps "
            "them, else their digests"
        ) in report.dropped
    text = (bare.path / "issue.md").read_text()
    assert "GEMV: 8 of 8 elements fail" in text  # judged on the recording, which has them
    assert "contents of A are not in it, so `repro.py` can only repeat the verdict" in text
    ran = run_repro(bare.path)
    assert ran.returncode == 4
    assert "the contents of A were not kept" in ran.stdout
    assert "as it was reported:\n1:0 GEMV W, x -> y: MISMATCH" in ran.stdout


def test_a_slice_brings_the_steps_that_feed_it(tmp_path: Path) -> None:
    source = maker.record(tmp_path / "x.h5")
    report = fr.export(source, tmp_path / "bug", steps="1:2", issue=True, slice_=True)
    with fr.open(report.path / "step.h5") as snap:
        assert [s.address for s in snap] == ["1:0", "1:1", "1:2"]
        assert [t.buffer for t in weights_of(list(snap))] == ["W"]
    assert "`step.h5` holds 3 steps" in (report.path / "issue.md").read_text()


def test_steps_that_never_came_back_or_failed(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "k.h5")
    sequence = writer.add_sequence(maker.gemv_silu())
    maker.run(writer, sequence, maker.contents(0, 0), stop_after=3)
    writer.fail_step(0, 1, "ERT timeout in /home/janedoe/run.py")
    number = writer.begin_invocation(sequence)
    writer.begin_step(number, 1, {0: maker.contents(0, 1)["y0"]})
    writer.close()
    failed = fr.export(tmp_path / "k.h5", tmp_path / "failed", steps="0:1", issue=True)
    assert "# `SiLU: the step failed: ERT timeout in <path-1>`\n" in (failed.path / "issue.md").read_text()
    hung = fr.export(tmp_path / "k.h5", tmp_path / "hung", steps="1:1", issue=True)
    assert (hung.path / "issue.md").read_text().startswith("# SiLU: the step began and never came back\n")
    assert run_repro(hung.path).returncode == 4


def secretive(path: Path) -> Path:
    """A recording with something private in every place that holds text."""
    home = f"/home/{SECRETS['user']}/{SECRETS['path']}"
    provenance = {
        "fusion_replay": "0.1.0",
        "platform": f"Linux 6.8.0-{SECRETS['host']} x86_64",
        "command": [f"{home}/app.py", SECRETS["argument"], f"--to={SECRETS['mail']}"],
        "environment": {"XILINX_XRT": f"{home}/xrt", "OTHER": SECRETS["environment"]},
        "hostname": SECRETS["host"],
        "iron": {"commit": "abc", "path": f"{home}/iron"},
    }
    sequence = maker.gemv_silu()
    operators = list(sequence.operators)
    operators[0] = replace(operators[0], params={**operators[0].params, "cache": f"{home}/x.bin"})
    operators[1] = replace(operators[1], module=f"{SECRETS['module']}.silu", label=f"by {SECRETS['user']}")
    sequence = replace(sequence, operators=tuple(operators), origin={**sequence.origin, "caution": f"see {home}"})
    writer = SnapshotWriter(path, provenance=provenance)
    number = writer.add_sequence(sequence)
    files = (f"{SECRETS['path']}.xclbin", SECRETS["weight"].encode() * 9)
    writer.add_binaries(number, [KernelFiles(0, "k", files, files)])
    data = maker.contents(0, 0)
    data["W"] = np.frombuffer((SECRETS["weight"].encode() * 99)[:256], maker.BF16).reshape(8, 16)
    maker.run(writer, number, data, stop_after=5)
    writer.fail_step(0, 2, f"{SECRETS['environment']} of {SECRETS['user']}@{SECRETS['host']}: no {home}/k.bin")
    writer.lose("step", f"{home}/run.log: {SECRETS['mail']} {SECRETS['argument']}")
    return writer.close().path


def everything_in(folder: Path) -> str:
    """All bytes of all files, and everything that HDF5 and this package can decode from them."""
    found = [p.read_bytes().decode("latin-1") for p in folder.iterdir()]
    with fr.open(folder / "step.h5") as snap:
        index = snap.index
        texts = [index.provenance, index.details, [loss.to_dict() for loss in index.losses], index.binaries]
        found += [json.dumps(t) for t in (*texts, *(sequence_to_json(s) for s in index.sequences))]
        found += [t.numpy().tobytes().decode("latin-1") for s in snap for _, t in s.tensors() if t.kept]
    with h5py.File(folder / "step.h5") as file:

        def visit(name: str, item: h5py.HLObject) -> None:
            found.extend([name, *map(repr, item.attrs.items())])
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "SO":
                found.append(repr(item[()]))

        file.visititems(visit)
        found += map(repr, file.attrs.items())
    return "\n".join(found)


def test_nothing_private_is_in_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = secretive(tmp_path / "s.h5")
    # The search finds each of them in a bundle of the same form that was not redacted.
    plain = tmp_path / "plain"
    plain.mkdir()
    fr.export(source, plain / "step.h5")
    before = everything_in(plain)
    assert [what for what, secret in SECRETS.items() if secret not in before] == []
    monkeypatch.setattr("socket.gethostname", lambda: SECRETS["host"])
    for number, options in enumerate(({"steps": "0:0"}, {"steps": "0:2", "slice_": True}, {"steps": "0:1"})):
        report = fr.export(source, tmp_path / f"bug{number}", issue=True, with_weights=False, **options)
        found = everything_in(report.path)
        assert [what for what, secret in SECRETS.items() if secret in found] == [], options
        assert str(tmp_path) not in found
        said = "\n".join(report.dropped)
        for word in ("provenance: command, environment, hostname", "device files", "paths: ", "user or host names: "):
            assert word in said, word
        assert all(what.split(":")[0] in (report.path / "issue.md").read_text() for what in report.dropped)
        assert check(report.path / "step.h5").ok


def test_different_paths_stay_different() -> None:
    redactor = Redactor(names=("janedoe",), words=("--secret",))
    assert redactor.name("/a/b.bin and /a/c.bin and /a/b.bin") == "<path-1> and <path-2> and <path-1>"
    assert redactor.name("~/x, C:\\Users\\me\\y and a/b or 3/4") == "<path-3>, <path-4> and a/b or 3/4"
    assert redactor.name("janedoe_0 of janedoe") == "janedoe_0 of <name-1>"
    assert redactor.text("unknown option --secret") == "unknown option <dropped-1>"
    assert redactor.name("option --secret") == "option --secret"


def test_names_come_from_the_paths_of_the_recording(tmp_path: Path) -> None:
    source = maker.record(tmp_path / "x.h5", invocations=1, provenance={"command": ["/home/bob/app.py", "--slow"]})
    with fr.open(source) as snap:
        redactor = Redactor.of(snap.index)
    assert (
        redactor.text("bob broke it with --slow, bobby did not") == "<name-1> broke it with <dropped-1>, bobby did not"
    )


def test_texts_of_the_recording_are_data_in_the_script_and_in_markdown(tmp_path: Path) -> None:
    """Names made to break out of a string, a fence, a table."""
    evil = "'''\"\"\"\n```\n| <b>x</b>\nimport os; os.abort()"
    with fr.record(tmp_path / "x.h5") as rec, rec.step(evil, {"A|`": np.ones(2)}, {"p\n# p": evil}) as step:
        step.outputs["B"] = np.ones(2)
    report = fr.export(tmp_path / "x.h5", tmp_path / "bug", steps="0:0", issue=True)
    lines = (report.path / "issue.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("```")] == ["```"] * 4
    assert not any(line.startswith(("# p", "import os")) for line in lines)
    assert "<b>" not in re.sub(r"(`+)[^`].*?\1", "", "\n".join(line for line in lines if line.startswith("|")))
    ran = run_repro(report.path)
    assert ran.returncode == 4
    assert "not judged again" in ran.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "issue: expected one step, such as --step 2:0, found 3"),
        ({"steps": ["0:0", "1:0"]}, "issue: expected one step"),
        ({"steps": "0:0", "as_": "npz"}, "leave out the format npz"),
        ({"steps": "0:0", "compression": "gzip"}, "compression 'gzip'"),
    ],
)
def test_bad_input(wrong_add: Path, tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fr.export(wrong_add, tmp_path / "bug", issue=True, with_weights=False, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "bug").exists()


def test_weights_option_and_existing_folder(wrong_add: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="with_weights goes with issue"):
        fr.export(wrong_add, tmp_path / "x", with_weights=True)
    (tmp_path / "bug").mkdir()
    with pytest.raises(TargetExistsError, match="folders are never replaced"):
        fr.export(wrong_add, tmp_path / "bug", steps="1:0", issue=True, if_exists="replace")
    assert list((tmp_path / "bug").iterdir()) == []
