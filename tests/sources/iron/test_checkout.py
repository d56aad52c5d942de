# SPDX-License-Identifier: Apache-2.0
"""The installed form, told from source text: from minimal files, and from the doubles that look like packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fusion_replay.sources.iron.checkout import examine
from iron_doubles import VARIANTS

FAKE = Path(__file__).parents[2] / "fake_iron"

POLICIES = "class SequenceDispatch: ...\nclass OperatorSequence: ...\n"
HOOKED = POLICIES + "def set_up_artifacts(seq): ...\n"
FILES = {
    "V0a": ("fusion.py", "class FusedMLIROperator: ...\ndef patch_rtp(): ..."),
    "V0b": ("fusion.py", "class FusedMLIROperator:\n  def f(self): self._execution_plan = []"),
    "V1": ("sequence.py", "class OperatorSequence: ..."),
    "V1b": ("sequence.py", "class OperatorSequence:\n  def _iter_steps(self): ..."),
    "V2": ("sequence.py", HOOKED),
    "V2h": ("sequence.py", HOOKED + "runtime.run_chain(plan)"),
    "V3": ("sequence.py", HOOKED + "def __init__(self, plan_scratch=True): ..."),
    "V3'": ("sequence.py", POLICIES + "def compile(seq, plan_scratch): ..."),
    "V4": ("sequence.py", "class OperatorSequence: ...\n_MODES = {}\ndef _iter_steps(): ..."),
    "V5": ("image/callable.py", "class SequenceCallable:\n  def f(self): self._execution_plan = []"),
    "V6": ("image/callable.py", "class StepCallable:\n  def f(self): self._steps = []"),
}


@pytest.mark.parametrize("form", FILES)
def test_by_what_the_files_name(form: str, tmp_path: Path) -> None:
    name, text = FILES[form]
    path = tmp_path / "iron" / "common" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = examine(tmp_path / "iron")
    assert found.form == form
    assert found.evidence.startswith(f"common/{name}: ")
    assert found.recordable == (form != "V0a")


def test_every_form_that_is_recorded_has_its_words() -> None:
    assert {v.label for v in VARIANTS} | {"V0a"} == set(FILES)


@pytest.mark.parametrize("folder", ["v3", "v6"])
def test_packages_are_told_and_not_imported(folder: str) -> None:
    assert examine(FAKE / folder / "iron").form == folder.upper()
    assert "iron" not in sys.modules


@pytest.mark.parametrize("text", ["", "def f(:", "class Other: ..."])
def test_what_is_like_none_of_them_is_not_guessed(text: str, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "sequence.py").write_text(text)
    found = examine(tmp_path)
    assert (found.form, found.recordable) == ("unknown", False)
