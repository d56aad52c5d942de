# SPDX-License-Identifier: Apache-2.0
"""Goldens in a repository of git: two branches that accept different steps, or the same; drivers, markers, pointers."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from commands import Command
from fusion_replay.errors import ForeignFileError
from fusion_replay.golden.document import Golden
from fusion_replay.golden.merge import merge
from fusion_replay.golden.team import init

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

NAME = "relu.golden.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def git(*words: str, status: int = 0) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """A golden of four steps without contents."""
    from fusion_replay.golden.add import add
    from golden_maker import recipe, record_workload

    folder = tmp_path_factory.mktemp("thin")
    options = {"calls": 4, "param": ["size=1024", "num_aie_columns=4", "tile_size=256"]}
    made = record_workload(folder / "relu.h5", "op:ReLU", **options)
    return add(made, folder / "goldens", thin=True, recipe=recipe("op:ReLU", **options))[1]


def accepted(golden: Golden, step: int, digit: str, **other: object) -> Golden:
    """As after an accept of one step's outputs."""
    steps = list(golden.steps)
    steps[step] = replace(steps[step], outputs=dict.fromkeys(steps[step].outputs, digit * 32))
    return replace(golden, steps=tuple(steps), **other)  # type: ignore[arg-type]


@pytest.fixture
def repository(tmp_path: Path, thin: Golden, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with that golden committed, and the lines that init writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@example.org")
    git("init", "-q", "-b", "main")
    said = init(Path("goldens"))
    assert said[:2] == ("goldens/.gitattributes: 2 lines added", "goldens/.gitignore: 2 lines added")
    assert "merges goldens step by step" in said[2]
    path = Path("goldens", NAME)
    path.write_text(thin.to_json())
    git("add", ".")
    git("commit", "-qm", "one")
    return path


def branches(path: Path, mine: Golden, other: Golden) -> None:
    """Branch ``other`` says the one, ``main`` the other."""
    git("checkout", "-qb", "other")
    path.write_text(other.to_json())
    git("commit", "-qam", "theirs")
    git("checkout", "-q", "main")
    path.write_text(mine.to_json())
    git("commit", "-qam", "ours")


def test_accepts_of_different_steps_merge_by_themselves(repository: Path, thin: Golden) -> None:
    branches(repository, accepted(thin, 1, "a"), accepted(thin, 2, "b"))  # lines beside each other
    git("merge", "-q", "other", "-m", "both")
    assert Golden.read(repository) == accepted(accepted(thin, 1, "a"), 2, "b")
    assert git("status", "--porcelain") == ""


def test_the_same_step_is_a_conflict_with_its_command(repository: Path, thin: Golden, run: Command) -> None:
    branches(repository, accepted(accepted(thin, 0, "c"), 1, "a"), accepted(accepted(thin, 1, "b"), 3, "d"))
    said = git("merge", "other", status=1)
    assert f"goldens/{NAME}: both changed step 1:0 ReLU" in said
    assert f"golden merge goldens/{NAME} --ours` or `--theirs` decides" in said
    text = repository.read_text()
    assert [text.count(m) for m in ("<<<<<<< ours\n", "=======\n", ">>>>>>> theirs\n")] == [1, 1, 1]

    seen = run("golden", "check", "goldens")
    assert seen.status == 3
    assert seen.out.splitlines()[0] == (
        f"relu: goldens/{NAME}: a merge conflict of step 1:0; `fusion-replay golden merge goldens/{NAME}` merges what "
        "can be, with --ours or --theirs all of it"
    )
    seen = run("golden", "merge", repository)
    assert seen.status == 1
    assert seen.out.splitlines()[0].startswith("both changed step 1:0 ReLU")
    seen = run("golden", "merge", repository, "--theirs")
    assert seen.status == 0
    assert seen.out.splitlines()[-1].endswith(f"; next: git add goldens/{NAME}")
    assert Golden.read(repository) == accepted(accepted(accepted(thin, 0, "c"), 1, "b"), 3, "d")


def test_a_clone_without_the_driver_merges_afterwards(repository: Path, thin: Golden, run: Command) -> None:
    git("config", "--remove-section", "merge.fusion-replay-golden")
    branches(repository, accepted(thin, 1, "a"), accepted(thin, 2, "b"))
    git("merge", "other", status=1)
    assert "a merge conflict of steps 1:0, 2:0;" in run("golden", "check", "goldens").out
    seen = run("golden", "merge", repository)
    assert seen.status == 0
    assert Golden.read(repository) == accepted(accepted(thin, 1, "a"), 2, "b")


def test_no_conflict_to_resolve_and_no_golden_to_merge(repository: Path, thin: Golden, run: Command) -> None:
    seen = run("golden", "merge", repository)
    assert (seen.status, "no two versions" in seen.err) == (2, True)
    branches(repository, accepted(thin, 1, "a"), accepted(thin, 1, "b"))
    git("checkout", "-q", "other")
    repository.write_text("no golden\n")
    git("commit", "-qam", "spoilt")
    git("checkout", "-q", "main")
    assert "no three goldens" in git("merge", "other", status=1)
    assert repository.read_text().startswith("<<<<<<< ours\n")


def test_what_merges_and_what_does_not(thin: Golden) -> None:
    """Both orders give the same; deletions, additions, provenance and reasons as well."""
    more = replace(thin.steps[3], address="4:0")
    grown, shorter = replace(thin, steps=(*thin.steps, more)), replace(thin, steps=thin.steps[1:])
    both = merge(thin, grown, shorter)
    assert both.conflicts == ()
    assert both.golden == merge(thin, shorter, grown).golden == replace(thin, steps=(*thin.steps[1:], more))
    assert Golden.parse(both.text.encode(), "x") == both.golden
    lost = merge(thin, accepted(thin, 0, "a"), shorter)
    assert [c.split(" ReLU")[0] for c in lost.conflicts] == ["step 0:0"]
    newer = merge(thin, accepted(thin, 0, "a", provenance={"python": "x"}), accepted(thin, 1, "b"))
    assert (newer.conflicts, newer.golden.provenance) == ((), {"python": "x"})
    twice = merge(
        thin, accepted(thin, 0, "a", accepted_mismatch="why"), accepted(thin, 1, "b", accepted_mismatch="because")
    )
    assert twice.conflicts == ("accepted_mismatch",)
    alone = merge(None, thin, accepted(thin, 0, "a"), "theirs")
    assert (alone.conflicts, alone.golden) == ((), accepted(thin, 0, "a"))


def test_init_again_outside_a_repository_and_for_lfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "goldens"
    folder.mkdir()
    (folder / ".gitignore").write_text("mine")
    said = init(folder, lfs=True)
    assert "in no repository of git" in said[-1]
    assert (folder / ".gitignore").read_text() == "mine\n*.golden.json.new\n*.h5.new\n"
    assert "*.h5 filter=lfs diff=lfs merge=lfs -text\n" in (folder / ".gitattributes").read_text()
    assert len(init(folder, lfs=True)) == 1


@pytest.mark.parametrize("verb", ["show", "replay", "fsck", "export", "golden add"])
def test_a_pointer_is_told_by_every_verb(tmp_path: Path, run: Command, verb: str) -> None:
    path = tmp_path / "a.h5"
    path.write_text(POINTER)
    seen = run(*verb.split(), path)
    assert (seen.status, seen.err) == (
        3,
        f"error: {path}: a git-LFS pointer, its contents were not fetched; run `git lfs pull`\n",
    )


def test_a_pointer_in_conflict(tmp_path: Path) -> None:
    path = tmp_path / "a.golden.json"
    path.write_text(POINTER.replace("oid", "<<<<<<< HEAD\noid"))
    with pytest.raises(ForeignFileError, match="`git checkout --ours` or `--theirs` of it decides"):
        Golden.read(path)
