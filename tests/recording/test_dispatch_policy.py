# SPDX-License-Identifier: Apache-2.0
"""``fr.RecordingDispatch``: a policy object for the forms of IRON that take one."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import MissingDependencyError, MissingError, TargetExistsError, UsageError
from iron_doubles import VARIANTS, Variant, machine, v4
from iron_doubles.operators import BF16

with_policies = pytest.mark.parametrize("variant", [v for v in VARIANTS if v.policies], ids=str)


@pytest.fixture(autouse=True)
def npu() -> machine.Machine:
    machine.MACHINE.__init__()  # type: ignore[misc]
    return machine.MACHINE


def install(monkeypatch: pytest.MonkeyPatch, home: Any) -> None:
    """Make ``iron.common.sequence`` that module."""
    for name in ("iron", "iron.common"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "iron.common.sequence", home)


def silu_twice(variant: Variant, dispatch: Any) -> Any:
    ops = [variant.ops.SiLU(64), variant.ops.SiLU(64)]
    callable_ = variant.build([(ops[0], "x", "y"), (ops[1], "y", "z")], ["x"], ["z"], dispatch=dispatch)
    variant.write(callable_, "x", np.linspace(-2, 2, 64).astype(BF16))
    return callable_


@with_policies
def test_a_sequence_takes_it_as_its_policy_and_is_recorded(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, npu: machine.Machine
) -> None:
    install(monkeypatch, variant.policies)
    dispatch = fr.RecordingDispatch(tmp_path / "a.h5")
    assert isinstance(dispatch, variant.policies.SeparateDispatch)
    with dispatch:
        callable_ = silu_twice(variant, dispatch)
        assert callable_.op._dispatch is dispatch
        assert type(callable_) is variant.callable
        callable_()
        callable_()
    with fr.open(tmp_path / "a.h5") as snapshot:
        assert len(snapshot) == 4
        assert snapshot.sequences[0].origin["variant"] == variant.label
        assert snapshot["1:1"].outputs[0].numpy().tobytes() == npu.log[3].after[1].tobytes()
    callable_()
    assert len(npu.log) == 5 + 1  # runs on, unwatched


@with_policies
def test_ours_is_an_instance_and_a_class_is_refused_by_iron(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, variant.policies)
    with pytest.raises(TypeError, match="not supported"):
        silu_twice(variant, type(fr.RecordingDispatch(tmp_path / "a.h5")))
    assert not list(tmp_path.iterdir())  # nothing begins before the first callable


def test_close_ends_it_and_a_second_recording_needs_a_second_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = next(v for v in VARIANTS if v.label == "V3")
    install(monkeypatch, variant.policies)
    dispatch = fr.RecordingDispatch(tmp_path / "a.h5")
    callable_ = silu_twice(variant, dispatch)
    callable_()
    dispatch.close()
    dispatch.close()
    assert dispatch.recorder.report.steps == 2
    with pytest.raises(UsageError, match=r"recording has ended; make another RecordingDispatch"):
        callable_.op.get_callable()
    with pytest.raises(TargetExistsError):
        silu_twice(variant, fr.RecordingDispatch(tmp_path / "a.h5"))


def test_the_end_of_the_program_seals_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import atexit

    asked: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda *call: asked.append(call))
    variant = next(v for v in VARIANTS if v.label == "V2")
    install(monkeypatch, variant.policies)
    silu_twice(variant, fr.RecordingDispatch(tmp_path / "a.h5"))()
    assert not (tmp_path / "a.h5").exists()
    [(close, *arguments)] = asked
    close(*arguments)
    with fr.open(tmp_path / "a.h5") as snapshot:
        assert (len(snapshot), snapshot.sealed) == (2, True)


def test_without_iron_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"no iron.common.sequence here.*rec.step") as caught:
        fr.RecordingDispatch(tmp_path / "a.h5")
    assert caught.value.exit_code == 4


def test_an_iron_without_policies_is_told_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, v4)
    with pytest.raises(
        MissingError, match=r"no dispatch policies.*fr.record\(path, sequence.get_callable\(\)\)"
    ) as caught:
        fr.RecordingDispatch(tmp_path / "a.h5")
    assert caught.value.exit_code == 4


def test_arguments_are_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = next(v for v in VARIANTS if v.label == "V3")
    install(monkeypatch, variant.policies)
    with pytest.raises(UsageError, match="on_error='shout'"):
        fr.RecordingDispatch(tmp_path / "a.h5", on_error="shout")  # type: ignore[arg-type]
