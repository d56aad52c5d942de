# SPDX-License-Identifier: Apache-2.0
"""Alignment on llama's own runlist, changed by hand: every step must find itself again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import fusion_replay as fr
from byte_runlists import Entry, Use, record
from fusion_replay.diverge.align import MISSING, NOT_IN_RUNLIST, NOT_INVOKED, align, align_runlists
from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import OperatorDescription, SequenceDescription
from fusion_replay.simulator.workloads import find
from fusion_replay.sources.describe import describe_sequence


@pytest.fixture(scope="module")
def llama() -> SequenceDescription:
    call = find("llama-decode").build("npu2", (), {}).callable
    return describe_sequence(call.op, call.origin)


def without(sequence: SequenceDescription, *gone: int) -> SequenceDescription:
    steps = [s for s in sequence.steps if s.index not in gone]
    return replace(sequence, steps=tuple(replace(s, index=i) for i, s in enumerate(steps)))


def test_itself(llama: SequenceDescription) -> None:
    found = align_runlists(llama, llama)
    assert found.identical
    assert found.common == 1
    assert len(found.pairs) == len(llama.steps)


@pytest.mark.parametrize("gone", [(0,), (17,), (30, 31, 32), (5, 40, 60), (1, 2, 3, 25, 26, 27)])
def test_removed_steps_shift_nothing(llama: SequenceDescription, gone: tuple[int, ...]) -> None:
    kept = [i for i in range(len(llama.steps)) if i not in gone]
    assert align_runlists(llama, without(llama, *gone)).pairs == tuple((i, j) for j, i in enumerate(kept))
    back = align_runlists(without(llama, *gone), llama)
    assert back.pairs == tuple(enumerate(kept))
    assert not back.changed
    assert not back.identical


def test_other_parameters_buffers_and_operators_are_named(llama: SequenceDescription) -> None:
    wider = replace(
        llama, operators=tuple(replace(o, params={**o.params, "num_aie_columns": 77}) for o in llama.operators)
    )
    found = align_runlists(llama, wider)
    assert [i for i, j in found.pairs if i == j] == list(range(len(llama.steps)))
    assert set(found.changed.values()) == {"parameters"}
    renamed = replace(
        llama,
        steps=tuple(
            replace(s, operands=tuple(replace(u, buffer=f"{u.buffer}_new") for u in s.operands)) for s in llama.steps
        ),
    )
    found = align_runlists(llama, renamed)
    assert [i for i, j in found.pairs if i == j] == list(range(len(llama.steps)))
    assert set(found.changed.values()) == {"buffers"}
    (silu, *_) = (s.index for s in llama.steps if llama.operator_of(s.index).type == "SiLU")
    gelu = len(llama.operators)
    swapped = replace(
        llama,
        operators=(*llama.operators, OperatorDescription("GELU", {})),
        steps=tuple(replace(s, operator=gelu) if s.index == silu else s for s in llama.steps),
    )
    found = align_runlists(llama, swapped)
    assert found.changed == {silu: "operator"}
    assert len(found.pairs) == len(llama.steps)


BYTES = [
    Entry((Use("x", "in"), Use("y", "out"))),
    Entry((Use("y", "in"), Use("z", "out")), "Other"),
    Entry((Use("z", "in"), Use("v", "out")), "Third"),
]


def test_rows_of_recordings(tmp_path: Path) -> None:
    first = record(tmp_path / "a.h5", BYTES, invocations=3)
    second = record(tmp_path / "b.h5", [BYTES[0], *BYTES[2:]], invocations=2, stop_after=(1, 0))
    with fr.open(first) as a, fr.open(second) as b:
        found = align(a, b)
    no, gone, off = NOT_IN_RUNLIST, MISSING, NOT_INVOKED
    assert found.b_of.tolist() == [0, no, 1, 2, no, gone, off, off, off]
    assert found.a_of.tolist() == [0, 2, 3]
    assert found.alone == ((), ())


def test_other_sequences_are_refused_and_the_words_say_how(tmp_path: Path) -> None:
    other = [Entry((Use("p", "in"), Use("q", "out")), "Far") for _ in range(3)]
    with fr.open(record(tmp_path / "a.h5", BYTES)) as a, fr.open(record(tmp_path / "b.h5", other)) as b:
        with pytest.raises(UsageError, match=r"different sequences.*bytes \(3 steps: 1 Mix.*3 Far.*--align-anyway"):
            align(a, b)
        assert len(align(a, b, anyway=True).runlists) == 1


def test_invocations_of_several_sequences_keep_their_order(tmp_path: Path) -> None:
    """Single operators, one call each: a call put in between moves no other."""
    import ml_dtypes
    import numpy as np

    def calls(path: Path, ops: str) -> Path:
        x = np.ones(8, ml_dtypes.bfloat16)
        names = {"r": "ReLU", "g": "GELU", "t": "Tanh"}
        with fr.record(path) as rec:
            for op in ops:
                with rec.step(names[op], {"A": x}, {"size": 8}) as step:
                    step.outputs["B"] = x
        return path

    with fr.open(calls(tmp_path / "a.h5", "rgrtrg")) as a, fr.open(calls(tmp_path / "b.h5", "rgrrtrg")) as b:
        found = align(a, b)
    assert found.b_of[3:].tolist() == [4, 5, 6]
    assert sorted(found.a_of.tolist()) == [NOT_INVOKED, 0, 1, 2, 3, 4, 5]
