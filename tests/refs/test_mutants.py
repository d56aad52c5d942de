# SPDX-License-Identifier: Apache-2.0
"""Three deliberate mistakes in each reference are caught by its tests (the mistakes: tests/mutants.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mutants
from fusion_replay import refs

EVERY = [(op, i) for op, mistakes in mutants.MISTAKES.items() for i in range(len(mistakes))]


def test_every_operator_has_three_and_tests_to_catch_them() -> None:
    built_in = {s.type for s in refs.specs()} - {s.type for s in refs.user_specs()}
    assert set(mutants.MISTAKES) == built_in
    assert all(len(mistakes) == 3 for mistakes in mutants.MISTAKES.values())
    assert all(mutants.tests_of(op) for op in built_in)


@pytest.mark.parametrize(("op", "number"), EVERY)
def test_the_mistake_can_be_made(op: str, number: int) -> None:
    right, wrong = refs.find(op), mutants.mistaken(op, mutants.MISTAKES[op][number])
    assert wrong.type == op
    assert wrong is not right
    assert refs.find(op) is right


@pytest.mark.long
@pytest.mark.parametrize(("op", "number"), EVERY)
def test_its_tests_catch_it(op: str, number: int) -> None:
    words = [sys.executable, str(Path(mutants.__file__)), op, str(number)]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout + ran.stderr
    assert " failed" in ran.stdout
