# SPDX-License-Identifier: Apache-2.0
"""Goldens in git: what a folder of them and a clone need, and the versions that a merge has to bring together.

The merge driver: https://git-scm.com/docs/gitattributes#_defining_a_custom_merge_driver
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fusion_replay.errors import MissingDependencyError, SnapshotError, UsageError
from fusion_replay.golden.document import SUFFIX, Golden
from fusion_replay.golden.merge import Merged, Side, merge
from fusion_replay.golden.store import CONTENTS, NEW
from fusion_replay.model.text import shell
from fusion_replay.system.files import regular
from fusion_replay.system.processes import run

DRIVER = "fusion-replay-golden"

_PLAIN = f"*{CONTENTS} -text -diff merge=binary"
_LFS = f"*{CONTENTS} filter=lfs diff=lfs merge=lfs -text"
_PATIENCE = 60.0  # seconds for git


def init(folder: Path, *, lfs: bool = False) -> tuple[str, ...]:
    """Make ``folder`` one of goldens that several people change, and this clone one that merges them.

    Lines that ``.gitattributes`` and ``.gitignore`` have already are left alone.

    Args:
        lfs: contents go to git-LFS.

    Returns:
        What was done, in words.

    Raises:
        UsageError: the folder can't be written.
    """
    done = []
    wanted = {
        ".gitattributes": (f"*{SUFFIX} text eol=lf merge={DRIVER}", _LFS if lfs else _PLAIN),
        ".gitignore": (f"*{SUFFIX}{NEW}", f"*{CONTENTS}{NEW}"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, lines in wanted.items():
            path = folder / name
            old = path.read_text("utf-8") if path.exists() else ""
            patterns = {line.split()[0] for line in old.splitlines() if line.strip()}
            if new := [line for line in lines if line.split()[0] not in patterns]:
                path.write_text(old + ("\n" if old and not old.endswith("\n") else "") + "\n".join(new) + "\n", "utf-8")
                done.append(f"{path}: {len(new)} line{'' if len(new) == 1 else 's'} added")
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: can't be written: {error}") from None
    return (*done, _driver(folder))


def merge_files(base: Path, ours: Path, theirs: Path) -> Merged | None:
    """Git's three files of one golden, merged into ``ours``; None where one is no golden: git's own merge, line by
    line, has written ``ours`` then."""
    raw = [_bytes(path) for path in (base, ours, theirs)]
    try:
        merged = _merge(raw, str(ours), None)
    except SnapshotError:
        git("merge-file", "-L", "ours", "-L", "base", "-L", "theirs", str(ours), str(base), str(theirs), ok=range(128))
        return None
    ours.write_text(merged.text, "utf-8", newline="\n")
    return merged


def resolve(path: Path, take: Side | None) -> Merged:
    """The golden at ``path``, which git left in conflict, merged again from the versions that git keeps of it.

    Raises:
        UsageError: git knows of no conflict there.
        MissingDependencyError: there is no git.
        SnapshotError: a version that is no golden.
    """
    raw = []
    for stage in (1, 2, 3):
        found = git("show", f":{stage}:./{path.name}", cwd=path.parent, ok=(0, 128))
        raw.append(found.stdout.encode("utf-8") if found.returncode == 0 else b"")
    if not raw[1] or not raw[2]:
        raise UsageError(
            f"{path}: git has no two versions of it to merge; expected a merge, rebase or cherry-pick under way in "
            "which both sides changed it"
        )
    merged = _merge(raw, str(path), take)
    path.write_text(merged.text, "utf-8", newline="\n")
    return merged


def git(*words: str, cwd: Path | None = None, ok: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
    """One command of git.

    Raises:
        MissingDependencyError: there is none.
        UsageError: an exit status that is not in ``ok``, in git's own words.
    """
    try:
        done = run(["git", *words], _PATIENCE, cwd=cwd)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(f"git {words[0]}: {error}; install git") from None
    if done.returncode not in ok:
        raise UsageError(f"git {words[0]}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done


def _driver(folder: Path) -> str:
    """Tell this clone how goldens are merged: that is kept by no repository."""
    try:
        git("rev-parse", "--git-dir", cwd=folder)
    except (UsageError, MissingDependencyError):
        return f"{folder}: in no repository of git; type `fusion-replay golden init` again where it is"
    program = shell([Path(sys.executable).as_posix(), "-m", "fusion_replay"]).replace("%", "%%")
    git("config", f"merge.{DRIVER}.name", "goldens, step by step", cwd=folder)
    git("config", f"merge.{DRIVER}.driver", f"{program} golden merge %O %A %B %P", cwd=folder)
    return f"this clone merges goldens step by step (git config merge.{DRIVER}.driver); every clone needs it once"


def _merge(raw: Sequence[bytes], where: str, take: Side | None) -> Merged:
    base, ours, theirs = (
        None if not data and side == "base" else Golden.parse(data, f"{where} ({side})")
        for data, side in zip(raw, ("base", "ours", "theirs"), strict=True)
    )
    assert ours is not None
    assert theirs is not None
    return merge(base, ours, theirs, take)


def _bytes(path: Path) -> bytes:
    try:
        with open(path, "rb", opener=regular) as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror or error}") from None


__all__ = ["DRIVER", "git", "init", "merge_files", "resolve"]
