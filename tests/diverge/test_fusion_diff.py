# SPDX-License-Identifier: Apache-2.0
"""Recorded whole calls against recorded steps: what is said of them, and what is not compared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fused_runs import V3, V6, Program, is_not_reset, races
from fusion_replay.diverge.boundary import boundary
from fusion_replay.diverge.chained_bound import ChainedBound, beyond, elements
from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads import find
from iron_doubles import Variant, block, machine

both = pytest.mark.parametrize("variant", [V3, V6], ids=str)
SMALL = {"config": "tiny", "tokens": 2, "position": 3, "intermediates": "own"}


@pytest.fixture(autouse=True)
def npu() -> Iterator[machine.Machine]:
    machine.MACHINE.__init__()  # type: ignore[misc]
    yield machine.MACHINE
    machine.MACHINE.__init__()  # type: ignore[misc]


@both
def test_the_same_program_fused_gives_equal_bits(variant: Variant, tmp_path: Path) -> None:
    program = Program(variant)
    separate = program.record(tmp_path / "separate.h5", "separate")
    fused = program.record(tmp_path / "fused.h5", "fused", repeat_calls=3)
    said = fr.diff_fused(tmp_path / "separate.h5", tmp_path / "fused.h5")
    assert said
    assert said.kind == "equal"
    assert [c.against for c in said.calls] == [0, 0, 0, 1, 1, 1]
    assert [c.repeat for c in said.calls] == [0, 1, 2, 0, 1, 2]
    assert "equal bits in 6 calls" in said.sentence
    plain = program.sequence("fused").compile().get_callable()
    program.run(plain)
    for name in ("logits", "keys_cache", "x"):
        assert fused.get_buffer(name).numpy().tobytes() == plain.get_buffer(name).numpy().tobytes()
    assert variant.result(fused, "logits").tobytes() == variant.result(separate, "logits").tobytes()


@both
def test_a_race_differs_between_identical_calls(variant: Variant, tmp_path: Path) -> None:
    program = Program(variant)
    program.record(tmp_path / "separate.h5", "separate")
    program.record(tmp_path / "fused.h5", "fused", broken=races(program.runlist[19]), repeat_calls=3)
    said = fr.diff_fused(tmp_path / "separate.h5", tmp_path / "fused.h5")
    assert not said
    assert said.kind == "varies"
    assert "block is different between identical calls when it is fused" in said.sentence
    assert any(s.kind == "in place" and s.step == 19 for s in said.suspects)


@both
def test_right_in_the_first_call_alone(variant: Variant, tmp_path: Path) -> None:
    program = Program(variant)
    program.record(tmp_path / "separate.h5", "separate")
    program.record(tmp_path / "fused.h5", "fused", broken=is_not_reset(program.runlist[20]), repeat_calls=3)
    said = fr.diff_fused(tmp_path / "separate.h5", tmp_path / "fused.h5")
    assert said.kind == "first call only"
    assert "right in call 0 only" in said.sentence


def test_without_repeats_it_is_said_that_nobody_knows_whether_identical_calls_differ(tmp_path: Path) -> None:
    program = Program(V6)
    program.record(tmp_path / "separate.h5", "separate")
    program.record(tmp_path / "fused.h5", "fused")
    said = fr.diff_fused(tmp_path / "separate.h5", tmp_path / "fused.h5")
    assert "no call was repeated, so whether identical calls differ is not known: --repeat-calls 10" in said.besides


def test_runs_that_did_not_begin_alike_are_not_compared(tmp_path: Path) -> None:
    Program(V6).record(tmp_path / "separate.h5", "separate")
    Program(V6, seed=8).record(tmp_path / "fused.h5", "fused", repeat_calls=2)
    said = fr.diff_fused(tmp_path / "separate.h5", tmp_path / "fused.h5")
    assert said.kind == "inputs differ"
    assert not said
    assert said.compared == 0
    assert "the two runs did not begin alike (" in said.sentence
    assert "W_norm1" in said.sentence


def test_buffers_that_the_plan_has_overwritten_are_named(tmp_path: Path) -> None:
    program = Program(V6)
    program.record(tmp_path / "separate.h5", "separate")
    fused = program.record(tmp_path / "fused.h5", "fused", repeat_calls=2)
    layout = fused.op.subbuffer_layout
    said = fr.diff_fused(tmp_path / "separate.h5", tmp_path / "fused.h5")
    assert said.overlaid
    for name in said.overlaid:
        kind, at, size = layout[name]
        assert any(
            n != name and k == kind and start < at + size and at < start + length
            for n, (k, start, length) in layout.items()
        )
    assert any("share bytes in the plan, so what they held is overwritten" in text for text in said.besides)


def test_two_recordings_of_one_kind_are_refused(tmp_path: Path) -> None:
    program = Program(V6)
    program.record(tmp_path / "a.h5", "separate")
    with pytest.raises(UsageError, match="expected a recording of separate dispatch, then one of whole calls"):
        fr.diff_fused(tmp_path / "a.h5", tmp_path / "a.h5")


def test_steps_that_are_wrong_by_themselves_are_told_with_it(tmp_path: Path) -> None:
    separate = find("llama-decode").build("npu2", ("0:40:zeros",), SMALL)
    fused = find("llama-decode").build("npu2", (), {**SMALL, "dispatch": "fused"})
    for run, name in ((separate, "separate.h5"), (fused, "fused.h5")):
        with fr.record(tmp_path / name, run.callable, whole_calls=True):
            run.execute()
    said = fr.diff_fused(tmp_path / "separate.h5", tmp_path / "fused.h5")
    assert said.right is False
    assert said.sentence.startswith("fused, the steps do not give what they give separately, and 1 step wrong by th")
    assert "0:40 GEMV" in said.sentence


def runs(folder: Path, **options: Any) -> Any:
    for name, given in (("separate.h5", {}), ("fused.h5", {"dispatch": "fused", **options})):
        run = find("llama-decode").build("npu2", (), {**SMALL, **given})
        with fr.record(folder / name, run.callable, whole_calls=True, repeat_calls=2):
            run.execute()
    return fr.diff_fused(folder / "separate.h5", folder / "fused.h5")


def test_folds_that_drop_roundings_are_inside_the_chained_bound(tmp_path: Path) -> None:
    said = runs(tmp_path, folds=True)
    assert said
    assert said.kind == "inside"
    assert said.calls[0].wrong > 0
    assert "inside the chained bound" in said.sentence


def test_the_bound_is_what_last_places_make_and_no_more(tmp_path: Path) -> None:
    program = Program(V6)
    program.record(tmp_path / "separate.h5", "separate")
    with fr.open(tmp_path / "separate.h5") as snapshot:
        steps = list(snapshot.steps(invocation=0))[:12]
        piece = next(p for p in boundary(steps).leaves if p.buffer == "attn_scores")
        expected = elements(piece.read(), piece.tensor.dtype)
        allowed = ChainedBound(steps).allowance(piece)
        assert allowed.shape == expected.shape
        assert (allowed >= np.abs(expected) * 2.0**-8).all(), "one rounding of its own is honest"
        size = np.sqrt(np.mean(expected**2))
        assert np.median(allowed) < 0.25 * size, "a wrong tile is not"
        assert beyond(expected + 2 * allowed + 1e-3, expected, allowed).all()
        assert not beyond(expected, expected, allowed).any()
    nan = np.array([np.nan, 1.0, np.nan, np.inf])
    other = np.array([np.nan, np.nan, 1.0, np.inf])
    assert beyond(nan, other, np.full(4, 9.0)).tolist() == [False, True, True, False]
    assert block.INPUTS == ["x", "rope_angles"]
