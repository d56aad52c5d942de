# SPDX-License-Identifier: Apache-2.0
"""The step and the window that are wrong only when they are fused, on doubles of IRON and on the software NPU."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fused_runs import V3, V6, Program, is_not_reset, races
from fusion_replay.diverge.boundary import boundary, needed_after
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.simulator.workloads import find
from iron_doubles import Variant, machine

both = pytest.mark.parametrize("variant", [V3, V6], ids=str)
SMALL = {"config": "tiny", "tokens": 2, "position": 3, "intermediates": "own"}


@pytest.fixture(autouse=True)
def npu() -> Iterator[machine.Machine]:
    machine.MACHINE.__init__()  # type: ignore[misc]
    yield machine.MACHINE
    machine.MACHINE.__init__()  # type: ignore[misc]


@both
def test_an_in_place_step_that_races_is_found_and_cleared_by_the_control(
    variant: Variant, tmp_path: Path, npu: machine.Machine
) -> None:
    program = Program(variant)
    program.record(tmp_path / "separate.h5", "separate")
    whole = program.sequence("fused")
    in_place = [i for i, (_, *names) in enumerate(program.runlist) if names[-1] in names[:-1]]
    entries = list(program.runlist)
    for at in (in_place[1], in_place[3]):
        npu.broken = races(program.runlist[at])
        found = fr.bisect_fused(whole, tmp_path / "separate.h5", repeats=3)
        assert found
        assert (found.step, found.first, found.last) == (at, at, at)
        assert (found.suspects[0].kind, found.suspects[0].step) == ("in place", at)
        assert found.suspects[0].explains > 0.9
        assert found.removed == found.suspects[0]
        assert "the steps are right, the fusion is not" in found.sentence
        assert len(found.windows) <= 2 * math.log2(len(program.runlist)) + 6
    assert program.runlist == entries
    assert whole.runlist is program.runlist
    assert not hasattr(whole, "subbuffer_layout"), "the sequence that was given is not built"
    assert all(d.op is not whole for d in npu.log), "nor called"


@both
def test_a_step_whose_configuration_is_not_reset(variant: Variant, tmp_path: Path, npu: machine.Machine) -> None:
    program = Program(variant)
    program.record(tmp_path / "separate.h5", "separate")
    npu.broken = is_not_reset(program.runlist[20])
    found = fr.bisect_fused(program.sequence("fused"), tmp_path / "separate.h5", repeats=3)
    assert (found.step, found.first, found.last) == (20, 20, 20)
    assert (found.suspects[0].kind, found.suspects[0].step) == ("configuration", 20)
    assert found.removed is None, "a configuration is not removed by a change of names"


@both
def test_nothing_is_accused_where_nothing_is_wrong(variant: Variant, tmp_path: Path) -> None:
    program = Program(variant)
    program.record(tmp_path / "separate.h5", "separate")
    found = fr.bisect_fused(program.sequence("fused"), tmp_path / "separate.h5", repeats=2)
    assert not found
    assert len(found.windows) == 1
    assert found.sentence.endswith("the whole runlist is right when it is fused, in every dispatch")


def test_a_run_killed_at_each_window_resumes_with_the_same_answer(tmp_path: Path, npu: machine.Machine) -> None:
    program = Program(V6)
    program.record(tmp_path / "separate.h5", "separate")
    npu.broken = races(program.runlist[4])
    journal = tmp_path / "separate.bisect-fused"
    alone = fr.bisect_fused(program.sequence("fused"), tmp_path / "separate.h5", repeats=2)

    class Killed(BaseException):
        pass

    said: list[str] = []

    def kills(text: str) -> None:
        said.append(text)
        if len(said) % 2 == 0:
            raise Killed

    for _ in range(4 * len(alone.windows)):
        try:
            found = fr.bisect_fused(
                program.sequence("fused"), tmp_path / "separate.h5", repeats=2, journal=journal, told=kills
            )
            break
        except Killed:
            assert journal.exists()
    assert found.step == alone.step
    assert (found.first, found.last) == (alone.first, alone.last)
    assert found.suspects[0].kind == alone.suspects[0].kind
    assert not journal.exists()
    assert said[0].startswith("window 1 of at most ")
    assert "how long it compiles is not known yet" in said[0]
    assert any("s to compile" in text for text in said[1:])


def test_a_window_that_never_came_back_twice_counts_as_one_that_hangs(tmp_path: Path, npu: machine.Machine) -> None:
    program = Program(V6)
    program.record(tmp_path / "separate.h5", "separate")

    class Hung(BaseException):
        pass

    def hangs(entry: Any, calls: int, memory: list[np.ndarray], old: list[np.ndarray]) -> None:
        if entry is program.runlist[9]:
            raise Hung

    npu.broken = hangs
    for _ in range(60):
        try:
            found = fr.bisect_fused(
                program.sequence("fused"), tmp_path / "separate.h5", repeats=1, journal=tmp_path / "j"
            )
            break
        except Hung:
            continue
    assert found.hangs
    assert (found.first, found.last) == (9, 9)
    assert "hangs" in found.sentence


def workload(path: Path, *faults: str) -> Any:
    """The separate recording of a small llama, and the fused sequence with these faults."""
    separate = find("llama-decode").build("npu2", (), SMALL)
    with fr.record(path, separate.callable):
        separate.execute()
    return find("llama-decode").build("npu2", faults, {**SMALL, "dispatch": "fused"}).callable.op


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("0:43:alias-race", "in place"),
        ("0:46:dropped-copy", "dropped copy"),
        pytest.param("0:60:reset-swallowed", "configuration", marks=pytest.mark.long),
        pytest.param("0:45:stale-value", "per-call value", marks=pytest.mark.long),
        pytest.param("0:42:offset-collision", "overlapping offsets", marks=pytest.mark.long),
    ],
)
def test_each_fault_of_the_software_npu(fault: str, kind: str, tmp_path: Path) -> None:
    sequence = workload(tmp_path / "separate.h5", fault)
    found = fr.bisect_fused(sequence, tmp_path / "separate.h5", repeats=2)
    at = int(fault.split(":")[1])
    assert found.step == at
    assert found.first is not None
    assert found.last is not None
    assert found.first <= at <= found.last
    assert (found.suspects[0].kind, found.suspects[0].step) == (kind, at)
    assert len(found.windows) <= 2 * math.log2(found.steps) + 6
    if kind in ("in place", "overlapping offsets"):
        assert found.removed == found.suspects[0]
    assert found.to_dict()["sentence"] == found.sentence
    assert str(found.suspects[0]) in str(found)


@pytest.mark.long
def test_a_seeded_share_of_random_steps_and_honest_runs(tmp_path: Path) -> None:
    home = Path(__file__).parents[2] / "scripts" / "fusions.py"
    spec = importlib.util.spec_from_file_location("fusions", home)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules["fusions"] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    script.record(tmp_path / "separate.h5", (), **script.OPTIONS)
    cases = [script.inject(kind, at, tmp_path / "separate.h5", tmp_path) for kind, at in script.injections(10, 5)]
    assert all(c.told for c in cases), cases
    assert sum(c.located for c in cases) >= 9, cases
    assert sum(c.first for c in cases) >= 9, cases
    assert all(c.windows <= 2 * math.log2(626) + 6 for c in cases)
    honest = [script.honest(i, tmp_path / "honest.h5", tmp_path) for i in range(4)]
    assert honest == [("equal", False), ("inside", False)] * 2


# --- bad input --------------------------------------------------------------------------------------------------------


def test_npu1_fuses_nothing(tmp_path: Path) -> None:
    sequence = workload(tmp_path / "separate.h5")
    sequence.device = "npu1"
    with pytest.raises(UsageError, match="npu1 runs no full ELF, so nothing is fused there"):
        fr.bisect_fused(sequence, tmp_path / "separate.h5")


def test_another_sequence_than_the_recorded_one(tmp_path: Path) -> None:
    workload(tmp_path / "separate.h5")
    other = find("llama-decode").build("npu2", (), {**SMALL, "layers": 1, "dispatch": "fused"}).callable.op
    with pytest.raises(UsageError, match="its runlist has 80 steps, the sequence given has 41"):
        fr.bisect_fused(other, tmp_path / "separate.h5")
    renamed = find("llama-decode").build("npu2", (), {**SMALL, "intermediates": "shared", "dispatch": "fused"})
    with pytest.raises(UsageError, match=r"step 0 is RMSNorm x, W_norm1_0 -> x_norm_0, in the sequence given"):
        fr.bisect_fused(renamed.callable.op, tmp_path / "separate.h5")


def test_contents_that_were_not_recorded_are_named_with_their_buffer(tmp_path: Path) -> None:
    program = Program(V6)
    program.record(tmp_path / "separate.h5", "separate", buffer="x")
    with pytest.raises(MissingError, match=r"the contents of W_query .*record the separate run with level 'full'"):
        fr.bisect_fused(program.sequence("fused"), tmp_path / "separate.h5")


def test_a_window_that_can_not_be_built_says_which_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, npu: machine.Machine
) -> None:
    program = Program(V6)
    program.record(tmp_path / "separate.h5", "separate")
    sequence = program.sequence("fused")

    def refuses(self: Any) -> Any:
        raise ValueError("Sliced buffer 'a[0:64]' requires explicit size for base buffer 'a'")

    monkeypatch.setattr(type(sequence), "compile", refuses)
    with pytest.raises(MissingError, match=r"steps 0 to \d+ can't be built \(ValueError: Sliced buffer .* 'a'"):
        fr.bisect_fused(sequence, tmp_path / "separate.h5")


def test_whole_calls_are_no_steps(tmp_path: Path) -> None:
    program = Program(V6)
    program.record(tmp_path / "fused.h5", "fused")
    with pytest.raises(UsageError, match="a recording of whole calls; give the one of separate dispatch"):
        fr.bisect_fused(program.sequence("fused"), tmp_path / "fused.h5")


# --- what a window takes and leaves -----------------------------------------------------------------------------------


def test_what_steps_take_and_leave_are_the_bytes_that_they_read_first_and_wrote_last(tmp_path: Path) -> None:
    program = Program(V6)
    program.record(tmp_path / "separate.h5", "separate")
    with fr.open(tmp_path / "separate.h5") as snapshot:
        steps = list(snapshot.steps(invocation=1))
        edge = boundary(steps[4:8])  # two RoPE in place, two copies into caches
        taken = {(p.buffer, p.start, p.stop) for p in edge.reads}
        assert ("queries", 0, 256) in taken
        assert ("keys_cache", 0, 4096) in taken, "a copy keeps the rest of the cache"
        assert {p.buffer for p in edge.leaves} == {"queries", "keys", "keys_cache", "values_cache"}
        assert {p.step.index for p in edge.leaves} == {4, 5, 6, 7}
        sequence = snapshot.sequences[0]
        needed = needed_after(sequence, 8)

        def counts(name: str) -> bool:
            return any(state for _, _, state in needed.read(name, 0, 64))

        assert counts("queries"), "step 10 reads it"
        assert not counts("keys"), "the cache has them"
        assert counts("keys_cache")
        assert not counts("x_norm"), "written anew before it is read"
