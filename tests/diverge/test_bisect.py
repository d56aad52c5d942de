# SPDX-License-Identifier: Apache-2.0
"""Bisection of recordings whose fault is known, its evaluations counted, killed at each of them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.__main__ import main
from fusion_replay.diverge.hybrid import Hybrid, max_abs, rel_l2
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.report.jsonl import encode, schema
from fusion_replay.simulator.workloads import find, llama

BF16 = ml_dtypes.bfloat16


def decode(path: Path, *faults: str, **options: Any) -> Path:
    run = find("llama-decode").build("npu2", faults, {"tokens": 2, "context": 64, **options})
    with fr.record(path, run.callable, on_error="raise"):
        run.execute()
    return path


@pytest.mark.parametrize("fault", ["0:2:zeros", "0:29:shift", "1:37:stale", "1:38:bitflip", "1:79:nan"])
def test_the_step_that_introduced_it(fault: str, tmp_path: Path) -> None:
    found = fr.bisect(decode(tmp_path / "a.h5", fault))
    assert found
    assert found.step is not None
    assert found.step.address == fault.rpartition(":")[0]
    assert found.monotone
    assert len(found.evaluations) <= 1 + 8, "159 steps"
    assert found.share > 0.5
    assert found.sentence.startswith(found.step.label)
    with fr.open(tmp_path / "a.h5") as snap:
        assert {e.k for e in found.evaluations} <= set(range(len(snap)))


@pytest.mark.long
def test_882_steps_take_at_most_12_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(llama.CONFIGS, "tiny", replace(llama.CONFIGS["tiny"], layers=23))
    found = fr.bisect(decode(tmp_path / "a.h5", "0:451:zeros", tokens=1))
    assert found.steps >= 882
    assert found.monotone
    assert len(found.evaluations) <= 12
    assert found.step is not None
    assert found.step.address == "0:451"


def test_by_hand(tmp_path: Path) -> None:
    """y = relu(relu(x) + 1 + 1): the second addition is wrong by 3 in one element of four."""
    x, one = np.array([-1, 2, 3, 4], BF16), np.ones(4, BF16)
    path = tmp_path / "a.h5"
    from fusion_replay.simulator.operators import ElementwiseAdd, ReLU

    size = 1024
    runlist = [
        (ReLU(size=size), "x", "a"),
        (ElementwiseAdd(size=size), "a", "one", "b"),
        (ElementwiseAdd(size=size), "b", "one", "c"),
        (ReLU(size=size), "c", "y"),
    ]
    call = fr.simulate(runlist, device="npu2", faults=["0:2:shift:512"])
    call.get_buffer("x").numpy_view()[:] = np.resize(x, size)
    call.get_buffer("one").numpy_view()[:] = np.resize(one, size)
    with fr.record(path, call):
        call()
    truth = np.maximum(np.resize(x, size).astype(np.float64), 0) + 2
    with fr.open(path) as snap:
        hybrid = Hybrid(snap)
        assert [s.address for s in hybrid.steps] == ["0:0", "0:1", "0:2", "0:3"]
        for k in (0, 1, 2):
            np.testing.assert_array_equal(hybrid.run(k), truth)
        written = snap["0:2"].outputs[0].numpy().astype(np.float64)
        for k in (3, 4):
            np.testing.assert_array_equal(hybrid.run(k), np.maximum(written, 0))
        np.testing.assert_array_equal(hybrid.recorded(), np.maximum(written, 0))
    found = fr.bisect(path)
    if np.array_equal(written, truth):
        assert found.step is None
        assert "nothing to bisect" in str(found)
    else:
        assert found.step is not None
        assert found.step.address == "0:2"
        assert found.total == pytest.approx(np.linalg.norm(np.maximum(written, 0) - truth) / np.linalg.norm(truth))


def test_honest_rounding_blames_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = decode(tmp_path / "a.h5", tokens=1, layers=1)
    found = fr.bisect(path)
    assert not found
    assert found.step is not None
    assert "no step by itself is to blame" in found.sentence
    assert main(["bisect", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("PASSED")


def test_a_step_without_a_reference_is_stood_in_for(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    x = np.arange(8).astype(BF16)
    with fr.record(path) as rec, rec.step("Unheard", {"A": x}) as s:
        s.outputs["C"] = x
    found = fr.bisect(path)
    assert found.stand_ins == ("0:0",)
    assert found.step is None


def test_the_terminal_and_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = decode(tmp_path / "a.h5", "1:37:zeros")
    assert main(["bisect", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1:37 GEMV W_ffn_down_0, ffn_hidden -> ffn_output introduced the error of logits of invocation 1"
    assert max(map(len, lines[:-1])) <= 100
    assert lines[-1].endswith(f"show {path} 1:37")
    validator = jsonschema.Draft202012Validator(schema())
    assert main(["bisect", str(path), "--json"]) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for record in records:
        validator.validate(record)
    assert [r["type"] for r in records] == ["evaluation"] * (len(records) - 2) + ["explanation", "divergence"]
    alone = [encode(r) for r in fr.bisect(path).records()]
    assert alone == [encode(r) for r in records if r["type"] != "explanation"], "the same every time"
    assert list(tmp_path.iterdir()) == [path], "no journal is left"


KILLED = """
import os, signal, sys
import fusion_replay as fr
from fusion_replay.diverge import hybrid
left = int(sys.argv[2])
run = hybrid.Hybrid.run
def counted(self, k):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return run(self, k)
hybrid.Hybrid.run = counted
print(fr.bisect(sys.argv[1], journal=sys.argv[1] + ".bisect").step.address, -left)
"""


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_killed_at_any_evaluation_it_goes_on_with_the_same_answer(tmp_path: Path, every: bool) -> None:
    """In the short run at the first, the last and a seeded one between them."""
    path = decode(tmp_path / "a.h5", "0:29:shift", layers=1, tokens=1)

    def go(left: int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(path), str(left)], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    whole = fr.bisect(path)
    last = len(whole.evaluations) - 1
    assert last > 3
    for i in range(1, last + 1) if every else (1, random.Random(1).randrange(2, last), last):
        status, _ = go(i)
        assert status == -signal.SIGKILL
        status, said = go(-1)
        assert status == 0
        address, runs = said.split()
        assert address == "0:29"
        assert int(runs) - 1 == 1 + len(whole.evaluations) - i, "what should come out, and what was not known yet"
        assert not Path(f"{path}.bisect").exists()


def test_a_journal_of_another_bisection_is_not_gone_on_with(tmp_path: Path) -> None:
    path = decode(tmp_path / "a.h5", "0:2:zeros", layers=1)
    journal = tmp_path / "j"
    journal.write_text('{"plan": "another"}\n')
    with pytest.raises(UsageError, match=r"j: is the journal of something else; move it away"):
        fr.bisect(path, journal=journal)
    assert journal.read_text() == '{"plan": "another"}\n'


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metric": "cosine"}, "metric 'cosine': expected one of rel_l2, max_abs"),
        ({"invocation": 7}, "no invocation 7; it has 2"),
        ({"output": "nope"}, "has no output 'nope'; it has logits"),
    ],
)
def test_what_is_not_there(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = decode(tmp_path / "a.h5", layers=1)
    with pytest.raises(UsageError, match=says):
        fr.bisect(path, **options)


def test_a_recording_that_never_finished_has_no_final_output(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(Exception, match="TIMEOUT"):
        decode(path, "0:5:timeout", tokens=1, layers=1)
    with pytest.raises(MissingError, match="no invocation is complete, so there is no final output"):
        fr.bisect(path)


def test_another_invocation_than_the_last_is_never_judged_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exception, match="TIMEOUT"):
        decode(tmp_path / "a.h5", "1:5:timeout", layers=1)
    path = str(tmp_path / "a.h5")
    assert main(["bisect", path]) == 0
    told = "note: invocation 1 did not complete; the output of 0, the last that did, is judged\n"
    assert told in capsys.readouterr().err
    assert main(["bisect", path, "--invocation", "0"]) == 0
    assert told not in capsys.readouterr().err


def test_digests_alone_have_nothing_to_compute_with(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    run = find("llama-decode").build("npu2", (), {"tokens": 1, "context": 64, "layers": 1})
    with fr.record(path, run.callable, level="digest"):
        run.execute()
    with pytest.raises(MissingError, match=r"were not kept; record with level 'full'"):
        fr.bisect(path)
    assert main(["bisect", str(path)]) == 4


def test_metrics_by_hand() -> None:
    a, b = np.array([3.0, 4.0]), np.array([3.0, 5.0])
    assert rel_l2(b, a) == pytest.approx(1 / 5)
    assert max_abs(b, a) == 1
    nan = np.array([np.nan, 4.0])
    assert rel_l2(nan, a) == max_abs(nan, a) == float("inf")
    assert rel_l2(nan, nan) == max_abs(nan, nan) == 0
    zero = np.zeros(2)
    assert rel_l2(zero, zero) == 0
    assert rel_l2(a, zero) == float("inf")


# --- steps given as arrays, NaN on both sides, what only the whole recording shows -----------------------------------


def chain(path: Path, *, wrong: int, nan: bool = False) -> Path:
    """Four additions of one, each given as arrays; the wrong one leaves zeros in a quarter."""
    x = np.random.default_rng(1).standard_normal(512).astype(BF16)
    if nan:
        x[7] = np.nan
    with fr.record(path) as rec:
        for number in range(4):
            y = (x.astype(np.float32) + 1).astype(BF16)
            if number == wrong:
                y[128:256] = 0
            with rec.step("ElementwiseAdd", {"A": x, "B": np.ones(512, BF16)}, params={"size": 512}) as step:
                step.outputs["C"] = y
            x = y
    return path


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("verb", [["bisect"], ["replay", "--attribute"]])
def test_steps_given_as_arrays_are_a_chain(
    verb: list[str], nan: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = chain(tmp_path / "a.h5", wrong=1, nan=nan)
    assert main([*verb, str(path)]) == 1
    out = capsys.readouterr().out
    assert "1:0 ElementwiseAdd A, B -> C" in " ".join(out.splitlines()[0:2])
    assert "no numbers" not in out
    found = fr.bisect(path)
    assert found.steps == 4
    assert found.introduced
    assert found.share == pytest.approx(1)


def test_what_replay_calls_a_mismatch_ends_in_1_though_the_output_does_not_depend_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.h5"
    with fr.record(path) as rec:
        for wrong in (True, False):
            x = np.random.default_rng(wrong).standard_normal(512).astype(BF16)
            with rec.step("ReLU", {"A": x}, params={"size": 512}) as step:
                step.outputs["C"] = np.zeros(512, BF16) if wrong else np.maximum(x, BF16(0))
    for verb in (["replay"], ["bisect"], ["replay", "--attribute"]):
        assert main([*verb, str(path)]) == 1, verb
        assert "0:0 ReLU" in capsys.readouterr().out


def test_a_step_that_brings_little_did_not_introduce_the_error(tmp_path: Path) -> None:
    found = fr.bisect(chain(tmp_path / "a.h5", wrong=1))
    little = replace(found, share=0.02)
    assert "introduced" not in little.sentence
    assert little, "a step that is wrong by itself"
    several = replace(found, wrong=(found.wrong[0], replace(found.wrong[0], address="3:0")))
    assert several.besides[0].startswith("2 steps are wrong by themselves, the first is 1:0")
