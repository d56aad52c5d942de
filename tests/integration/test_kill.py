# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments: every acknowledged step is there, the step in flight shows its inputs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_test.py"


@pytest.fixture(scope="module")
def kill_test() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill_test"] = module
    spec.loader.exec_module(module)
    return module


def kill_many(kill_test: ModuleType, folder: Path, count: int, seed: int, level: str = "full") -> list:
    outcomes, seconds = kill_test.run(count, seed, folder, level)
    print(kill_test.report(outcomes, seconds))
    assert [outcome.problems for outcome in outcomes if outcome.problems] == []
    assert sum(outcome.ended > 0 for outcome in outcomes) >= count / 2
    assert sum(outcome.in_kernel for outcome in outcomes) >= count / 4
    return outcomes


def test_a_few_kills(kill_test: ModuleType, tmp_path: Path) -> None:
    kill_many(kill_test, tmp_path, 8, seed=7)


def test_a_few_kills_where_steps_wait_for_a_verdict(kill_test: ModuleType, tmp_path: Path) -> None:
    kill_many(kill_test, tmp_path, 6, seed=3, level="mismatch")


@pytest.mark.long
@pytest.mark.parametrize("level", ["full", "mismatch"])
def test_200_kills(kill_test: ModuleType, tmp_path: Path, level: str) -> None:
    kill_many(kill_test, tmp_path, 200, seed=1, level=level)


def test_a_loss_would_be_noticed(kill_test: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machinery on a writer that acknowledges before it writes: it must find the gap."""
    from fusion_replay.snapshot import SnapshotWriter

    real = SnapshotWriter.end_step

    def late(self: SnapshotWriter, *args: object, **kwargs: object) -> None:
        queue = self.__dict__.setdefault("late", [])
        queue.append((args, kwargs))
        if len(queue) > 3:
            first, options = queue.pop(0)
            real(self, *first, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(SnapshotWriter, "end_step", late)
    outcome = kill_test.kill_once(tmp_path, 5, 0.4, 0, in_kernel=True)
    assert any("is in_flight" in problem for problem in outcome.problems)


def test_a_verdict_that_comes_too_early_would_be_noticed(
    kill_test: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that keeps digests alone until it knows that a step deviates has nothing of the step in flight."""
    from fusion_replay.snapshot import SnapshotWriter

    real = SnapshotWriter.begin_step

    def early(self: SnapshotWriter, *args: object, **kwargs: object) -> object:
        return real(self, *args, **kwargs, withheld="not judged yet")  # type: ignore[arg-type]

    monkeypatch.setattr(SnapshotWriter, "begin_step", early)
    outcome = kill_test.kill_once(tmp_path, 5, 0.4, 0, "mismatch", in_kernel=True)
    assert any("not kept" in problem for problem in outcome.problems)
