# SPDX-License-Identifier: Apache-2.0
"""What steps introduce, inherit and contribute: by hand, by the sum that it must come to, and where it must not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.__main__ import main
from fusion_replay.report.jsonl import schema
from fusion_replay.simulator.operators import ElementwiseAdd, ReLU
from fusion_replay.simulator.workloads import find

BF16 = ml_dtypes.bfloat16
SIZE = 1024


def decode(path: Path, *faults: str, **options: Any) -> Path:
    run = find("llama-decode").build("npu2", faults, {"tokens": 1, "layers": 1, "context": 64, **options})
    with fr.record(path, run.callable, on_error="raise"):
        run.execute()
    return path


def three_steps(path: Path, spoil: Any = None) -> Path:
    """y = relu(x) + one + one on integers, which every part of it computes exactly; ``spoil(call)`` is between."""
    runlist = [
        (ReLU(size=SIZE), "x", "a"),
        (ElementwiseAdd(size=SIZE), "a", "one", "b"),
        (ElementwiseAdd(size=SIZE), "b", "one", "y"),
    ]
    call = fr.simulate(runlist, device="npu2")
    call.get_buffer("x").numpy_view()[:] = np.resize(np.array([-1, 2, 3, 4], BF16), SIZE)
    call.get_buffer("one").numpy_view()[:] = np.ones(SIZE, BF16)
    with fr.record(path, call):
        if spoil is not None:
            spoil(call)
        call()
    return path


def after(step: int, do: Any) -> Any:
    """Runs ``do(call)`` when the device has come back from a step and the recorder has looked."""

    class Kernel:
        def __init__(self, inner: Any, call: Any) -> None:
            self.inner, self.call = inner, call

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            result = self.inner(*args, **kwargs)
            do(self.call)
            return result

    def spoil(call: Any) -> None:
        plan = call._execution_plan
        plan[step] = (Kernel(plan[step][0], call), *plan[step][1:])

    return spoil


def test_all_shares_add_up_to_the_whole(tmp_path: Path) -> None:
    found = fr.attribute(decode(tmp_path / "a.h5"), every=True)
    assert len(found.attributed) == len(found.steps) == 41
    assert sum(s.share or 0.0 for s in found.steps) == pytest.approx(1, abs=1e-9)
    assert found.rest == pytest.approx(0, abs=1e-9)
    some = fr.attribute(tmp_path / "a.h5")
    assert len(some.attributed) == 12
    shares = {s.address: s.share for s in found.steps}
    assert {s.address: s.share for s in some.attributed} == {s.address: shares[s.address] for s in some.attributed}
    assert some.rest == pytest.approx(
        sum(v or 0.0 for a, v in shares.items() if a not in {s.address for s in some.attributed})
    )


def test_exact_steps_have_nothing_to_attribute(tmp_path: Path) -> None:
    found = fr.attribute(three_steps(tmp_path / "a.h5"))
    assert found.total == 0
    assert found.reached
    assert {s.origin for s in found.steps} == {"none"}
    assert found.sentence == "y of invocation 0 is what the references give, bit for bit"


def test_a_fault_is_introduced_and_what_follows_inherits_it(tmp_path: Path) -> None:
    found = fr.attribute(decode(tmp_path / "a.h5", "0:37:zeros"))
    by_address = {s.address: s for s in found.steps}
    broken, add = by_address["0:37"], by_address["0:38"]
    assert (broken.origin, broken.ok) == ("introduced", False)
    assert broken.isolated == 1, "all zeros instead of the reference: |0 - r| / |r|"
    assert broken.share == pytest.approx(1, abs=0.1)
    assert found.attributed[0] == broken
    assert add.origin == "inherited"
    assert add.inherited == broken.cumulative == pytest.approx(1, abs=0.1)
    assert add.amplification == pytest.approx(add.cumulative / add.inherited)
    assert broken.above_floor is not None
    assert broken.above_floor > 100
    assert by_address["0:36"].above_floor is not None
    assert by_address["0:36"].above_floor < 5


def test_every_step_agrees_and_the_final_output_is_not_reached(tmp_path: Path) -> None:
    """What another engine's DMA would do between two kernels: b changes after it was written, before it is read."""

    def write(call: Any) -> None:
        call.get_buffer("b").numpy_view()[::4] = 7

    assert fr.attribute(three_steps(tmp_path / "clean.h5", after(1, lambda call: None))).reached
    path = three_steps(tmp_path / "a.h5", after(1, write))
    assert fr.replay(path).passed, "each step is right on what it read"
    found = fr.attribute(path)
    assert not found.reached
    truth = np.maximum(np.resize(np.array([-1, 2, 3, 4], np.float64), SIZE), 0) + 2
    wrong = truth.copy()
    wrong[::4] = 8
    assert found.total == pytest.approx(np.linalg.norm(wrong - truth) / np.linalg.norm(truth))
    assert "every step agrees, but y of invocation 0 is not what the chained references give" in found.sentence


def test_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = decode(tmp_path / "a.h5", "0:37:nan")
    found = fr.attribute(path)
    assert found.total == float("inf")
    assert found.attributed == ()
    assert found.rest is None
    assert found.suspects[0].address == "0:37"
    assert main(["replay", str(path), "--attribute"]) == 1
    out = capsys.readouterr().out
    assert "no share can be computed" in " ".join(out.split())
    row = next(line for line in out.splitlines() if line.startswith("  0:37 "))
    assert row.split("MISMATCH")[1].lstrip().startswith("GEMV ")


@pytest.mark.parametrize("more", [[], ["--all"]])
def test_terminal_and_records(more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = decode(tmp_path / "a.h5", "0:37:zeros")
    assert main(["replay", str(path), "--attribute", *more]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(f"bisect {path}")
    assert main(["replay", str(path), "--attribute", "--json", *more]) == 1
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    validator = jsonschema.Draft202012Validator(schema())
    for record in records:
        validator.validate(record)
    assert [r["type"] for r in records] == ["share"] * 41 + ["attribution"]
    assert main(["replay", str(path), "--attribute", "--op", "GEMV"]) == 2
    assert "leave --op out" in capsys.readouterr().err
    for option, value in (("--step", "1:0"), ("--cache", "0")):  # spelled as they were typed
        assert main(["replay", str(path), "--attribute", option, value]) == 2
        assert f"leave {option} out" in capsys.readouterr().err
