# SPDX-License-Identifier: Apache-2.0
"""Recordings in which every step agrees with its reference and the answer is wrong; clean ones say nothing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.__main__ import main
from fusion_replay.diverge.consistency import Finding, findings
from fusion_replay.simulator.workloads import find
from fusion_replay.simulator.workloads.minilm_model import PACKAGE

BF16 = ml_dtypes.bfloat16


def decode(path: Path, change: Any = None, *, verify_static: bool = False, **options: Any) -> tuple[Finding, ...]:
    """Findings of a two-layer decode; ``change(run)`` spoils the program, and every step still agrees."""
    run = find("llama-decode").build("npu2", (), {"layers": 2, "tokens": 3, "context": 64, **options})
    if change is not None:
        change(run)
    with fr.record(path, run.callable, on_error="raise", verify_static=verify_static):
        run.execute()
    assert fr.replay(path).passed
    with fr.open(path) as snap:
        return findings(snap)


def frozen(key: str) -> Any:
    """Passes the same value in every token."""

    def change(run: Any) -> None:
        write, first = run.callable.write_values, {}

        def stuck(values: dict[str, int]) -> None:
            first.setdefault(key, values[key])
            write({**values, key: first[key]})

        run.callable.write_values = stuck

    return change


def before_each(do: Any) -> Any:
    """Calls ``do(callable, i)`` when token ``i`` is prepared."""

    def change(run: Any) -> None:
        prepare = run.prepare

        def spoiled(i: int) -> None:
            prepare(i)
            do(run.callable, i)

        run.prepare = spoiled

    return change


@pytest.mark.parametrize("position", [0, 5])
def test_a_clean_decode_is_not_suspected(position: int, tmp_path: Path) -> None:
    found = decode(tmp_path / "a.h5", position=position)
    assert [f.kind for f in found] == (["unrecorded_contents"] if position else [])
    assert {f.weight for f in found} <= {"note"}


@pytest.mark.parametrize("workload", ["llama", pytest.param("minilm", marks=pytest.mark.minilm)])
def test_other_clean_workloads_are_not_suspected(workload: str, tmp_path: Path) -> None:
    if workload == "minilm":
        pytest.importorskip("tokenizers", reason="needs the minilm extra (make minilm)")
        if importlib.util.find_spec(PACKAGE) is None:
            pytest.skip("needs the MiniLM weights (make minilm)")
    run = find(workload).build("npu1", (), {})
    with fr.record(tmp_path / "a.h5") as rec:
        for callable_ in getattr(run, "callables", None) or [run.callable]:
            rec.attach(callable_)
        run.execute()
    with fr.open(tmp_path / "a.h5") as snap:
        assert len(snap) > 0
        assert findings(snap) == ()


def test_the_caches_that_a_prefill_filled_are_named(tmp_path: Path) -> None:
    (note,) = decode(tmp_path / "a.h5", position=5)
    assert note.buffers == ("keys_cache_0", "values_cache_0", "keys_cache_1", "values_cache_1")
    assert note.sentence.startswith("keys_cache_0, values_cache_0, keys_cache_1, values_cache_1 of llama-decode held")


def test_a_cache_written_at_the_same_offset_in_every_token(tmp_path: Path) -> None:
    """https://github.com/amd/IRON/pull/117: separate dispatch copies to the offset it was compiled with in every token;
    https://github.com/amd/IRON/pull/168: the offset at run time, not tried on hardware by its author."""
    (found,) = decode(tmp_path / "a.h5", frozen("cache_offset"))
    assert (found.kind, found.weight) == ("same_offset", "suspect")
    assert found.buffers == ("keys_cache_0", "values_cache_0", "keys_cache_1", "values_cache_1")
    assert found.addresses[:2] == ("1:6", "1:7")
    assert "written at the same offset in invocations 0 and 1" in found.sentence


def test_a_softmax_length_that_never_changes(tmp_path: Path) -> None:
    """https://github.com/amd/IRON/pull/117: separate dispatch ran every token with the length it was compiled with."""
    (found,) = decode(tmp_path / "a.h5", frozen("softmax_vector_size"))
    assert (found.kind, found.weight) == ("constant_length", "suspect")
    assert found.addresses == ("1:12", "1:51")
    assert "softmax_vector_size=1" in found.sentence or "vector_size=1" in found.sentence


def test_a_buffer_that_the_caller_changed(tmp_path: Path) -> None:
    def reset(callable_: Any, i: int) -> None:
        if i == 2:
            callable_.get_buffer("keys_cache_1").numpy_view()[:] = 0

    (found,) = decode(tmp_path / "a.h5", before_each(reset))
    assert (found.kind, found.weight, found.buffers) == ("caller_changed", "suspect", ("keys_cache_1",))
    assert found.addresses == ("2:45",)
    assert "1:45 wrote it last, 2:45 read other bytes" in found.sentence


def test_weights_that_changed_between_invocations(tmp_path: Path) -> None:
    def retouch(callable_: Any, i: int) -> None:
        if i == 1:
            callable_.get_buffer("W_ffn_up_1").numpy_view()[:4] += 1

    (found,) = decode(tmp_path / "a.h5", before_each(retouch), verify_static=True)
    assert (found.kind, found.weight, found.buffers) == ("caller_changed", "suspect", ("W_ffn_up_1",))
    assert found.addresses == ("1:73",)


def test_bytes_clobbered_between_two_steps(tmp_path: Path) -> None:
    """Somebody writes into a buffer while the sequence runs: here the runlist says less than the program does."""
    from fusion_replay.simulator.operators import ReLU, Tanh

    call = fr.simulate([(ReLU(size=1024), "x", "h"), (Tanh(size=1024), "h", "y")], device="npu2")
    call.get_buffer("x").numpy_view()[:] = np.linspace(-2, 2, 1024).astype(BF16)

    class Step:
        """Between the two kernels: what another engine's DMA would do."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            result = self.inner(*args, **kwargs)
            call.get_buffer("h").numpy_view()[7] = 1.5
            return result

    with fr.record(tmp_path / "a.h5", call):
        plan = call._execution_plan
        plan[0] = (Step(plan[0][0]), *plan[0][1:])
        call()
    assert fr.replay(tmp_path / "a.h5").passed, "each step is right on what it read"
    with fr.open(tmp_path / "a.h5") as snap:
        (found,) = findings(snap)
    assert (found.kind, found.weight) == ("clobbered", "certain")
    assert found.addresses == ("0:1",)
    assert found.sentence == (
        "h was clobbered between steps: 0:1 Tanh h -> y read other bytes than 0:0 ReLU had written"
    )


def test_replay_says_so_and_a_certain_finding_is_a_mismatch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def replayed(*words: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        return main(["replay", *words]), capsys.readouterr().out.splitlines()

    stuck = str(tmp_path / "stuck.h5")
    decode(tmp_path / "stuck.h5", frozen("cache_offset"))
    status, lines = replayed(stuck)
    assert status == 0, "two prompts from position 0 would look the same"
    assert "every step agrees, but:" in lines
    assert max(map(len, lines[:-1])) <= 100
    assert lines[-1].endswith("stuck.h5 1:6")
    records = [json.loads(line) for line in replayed(stuck, "--json")[1]]
    assert [r["kind"] for r in records if r["type"] == "finding"] == ["same_offset"]
    assert records[-1]["type"] == "summary"
    assert "every step agrees, but:" not in replayed(stuck, "--invocation", "1")[1], "it is about the whole recording"

    test_bytes_clobbered_between_two_steps(tmp_path)
    status, lines = replayed(str(tmp_path / "a.h5"))
    assert status == 1
    assert any("h was clobbered between steps" in line for line in lines)
    assert lines[-1].startswith("FAILED")
