# SPDX-License-Identifier: Apache-2.0
"""The one sentence: which of several things it says, and that it never says more than was found."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.diverge.causes import Cause
from fusion_replay.diverge.consistency import Finding
from fusion_replay.diverge.explain import explain_first
from fusion_replay.report.headline import graded, of_diff, of_replay, told

A = (np.arange(1, 65) / 8).astype(ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("headline")
    outputs = {"good": A + A, "wrong": np.full_like(A, 3), "nan": np.full_like(A, np.nan)}
    for name, c in outputs.items():
        with fr.record(folder / f"{name}.h5") as rec:
            with rec.step("ElementwiseAdd", {"A": A, "B": A}, {"size": 64}) as s:
                s.outputs["C"] = c
            with rec.step("Frobnicate", {"A": A}) as s:
                s.outputs["C"] = A
    return {name: folder / f"{name}.h5" for name in outputs}


def test_all_is_well_except_what_could_not_be_judged(files: dict[str, Path]) -> None:
    said = of_replay(fr.replay(files["good"]), None)
    assert (said.tone, said.address, said.evidence) == ("warn", "", "")
    assert said.text.startswith("1 of 1 step matches")
    assert said.text.endswith("1 step could not be judged.")
    alone = of_replay(fr.replay(files["good"], steps=["0:0"]), None)
    assert (alone.tone, alone.text) == ("good", f"{fr.replay(files['good'], steps=['0:0']).sentence}.")


def test_a_mismatch_comes_with_its_cause_and_how_far_that_is_known(files: dict[str, Path]) -> None:
    with fr.open(files["wrong"]) as snapshot:
        report = fr.replay(snapshot)
        why = explain_first(snapshot, report)
    said = of_replay(report, why)
    assert (said.tone, said.address) == ("bad", "0:0")
    assert said.text == "0:0 ElementwiseAdd A, B -> C: every wrong element is 3, all over (elements 0 to 63)."
    assert said.evidence.startswith("Consistent: it explains 63 of 63 wrong elements")  # one is 1.5 + 1.5
    without = of_replay(report, None)
    assert without.text.startswith("0:0 ElementwiseAdd A, B -> C: 63 of 64 elements")
    assert without.evidence == ""


def test_what_only_the_whole_recording_shows_is_second_to_a_mismatch(files: dict[str, Path]) -> None:
    finding = Finding("clobbered", "certain", "C was overwritten", ("0:0",), ("C",))
    assert of_replay(fr.replay(files["good"]), None, [finding]).text == "C was overwritten."
    assert of_replay(fr.replay(files["wrong"]), None, [finding]).text.startswith("0:0 ElementwiseAdd")


def test_a_diff(files: dict[str, Path]) -> None:
    same = of_diff(fr.diff(files["good"], files["good"]), None)
    assert (same.tone, same.address) == ("good", "")
    wrong = of_diff(fr.diff(files["good"], files["wrong"]), None)
    assert (wrong.tone, wrong.address) == ("bad", "0:0")
    assert wrong.text.startswith("0:0 ElementwiseAdd A, B -> C: ")


@pytest.mark.parametrize(
    ("cause", "what", "how_far"),
    [
        (Cause("shifted", "proved", "in column 3", "it stands 32 late", (), 256, 256),
         "it stands 32 late, in column 3",
         "Proved: executing it gives 256 of 256 wrong elements bit for bit."),
        (Cause("scaled", "consistent", "in every element", "every element is twice", ("added", "stale"), 2000, 1999),
         "every element is twice",
         "Consistent: it explains 1,999 of 2,000 wrong elements within the bound. Explains it as well: added; stale."),
        (Cause("unknown", "located", "in row 1", "4 elements are wrong", (), 4, 0),
         "4 elements are wrong, in row 1",
         "Located: no cause that was tried explains it, only the place is known."),
    ],
)  # fmt: skip
def test_a_cause_in_words(cause: Cause, what: str, how_far: str) -> None:
    assert (told(cause), graded(cause)) == (what, how_far)


def test_what_is_counted_is_named() -> None:
    cause = Cause("nan", "consistent", "in element 79", "1 element (79) where none is expected")
    assert told(cause) == "NaN: 1 element (79) where none is expected, in element 79"
