# SPDX-License-Identifier: Apache-2.0
"""Full disks and journals cut short: a small share of what scripts/torn_test.py does, and all of it as long tests."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def torn_test(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("torn_test")


def test_a_few_full_disks(torn_test: ModuleType, tmp_path: Path) -> None:
    outcomes = torn_test.fill(2, 3, tmp_path)  # a quarter and a half of the room that it takes
    assert [o.problems for o in outcomes] == [[]] * 2
    assert any(o.ended != "sealed" for o in outcomes)


def test_the_last_bytes_of_a_journal(torn_test: ModuleType, tmp_path: Path) -> None:
    assert torn_test.cut(50, 1, tmp_path) == []


def test_a_loss_would_be_noticed(torn_test: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a recorder that says it is done a step too early."""
    real = torn_test.record_journal

    def early(path: Path, seed: int) -> list[tuple[int, int, int, bool]]:
        returned = real(path, seed)
        return [(returned[max(0, i - 1)][0], *r[1:]) for i, r in enumerate(returned)]

    monkeypatch.setattr(torn_test, "record_journal", early)
    assert any("is gone" in problem for problem in torn_test.cut(1000, 1, tmp_path)), "it stops at the first twenty"


@pytest.mark.long
def test_50_full_disks(torn_test: ModuleType, tmp_path: Path) -> None:
    assert [o.problems for o in torn_test.fill(50, 1, tmp_path) if o.problems] == []


@pytest.mark.long
def test_a_journal_cut_at_every_byte_of_its_last_64_kib(torn_test: ModuleType, tmp_path: Path) -> None:
    assert torn_test.cut(torn_test.WINDOW, 1, tmp_path, workers=2) == []
