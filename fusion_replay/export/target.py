# SPDX-License-Identifier: Apache-2.0
"""Where an export goes: a name that is free, written beside it first, taken only when everything is there."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fusion_replay.errors import TargetExistsError, UsageError
from fusion_replay.snapshot.schema import PART_SUFFIX
from fusion_replay.snapshot.target import IfExists, beside, numbered, publish

POLICIES = ("error", "replace", "number")


@dataclass(slots=True)
class Output:
    """``part`` is where to write; ``path`` where it ends up, final once the block is over."""

    path: Path
    part: Path


def free_name(path: Path, if_exists: IfExists, *, folder: bool = False) -> Path:
    """``path``, or with "number" the next free of ``NAME-001.EXT``, ...

    Raises:
        TargetExistsError: something lies there and ``if_exists`` is "error", or a folder would have to be replaced.
        UsageError: an unknown policy, or no folder to write into.
    """
    if if_exists not in POLICIES:
        raise UsageError(f"if_exists={if_exists!r}: expected {', '.join(map(repr, POLICIES))}")
    if not path.name:
        raise UsageError(f"{path}: a folder; expected the name of what to write, such as {path / 'export'}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: can't be written: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: can't be written: the folder {path.parent} is read-only; give another one with -o")
    if if_exists == "number":
        return next(name for name in numbered(path) if not os.path.lexists(name))
    if os.path.lexists(path) and (if_exists == "error" or folder or path.is_dir()):
        what = "a folder, and folders are never replaced" if path.is_dir() else "exists already"
        raise TargetExistsError(f"{path}: {what}; choose another name (-o), or --if-exists number")
    return path


@contextlib.contextmanager
def output(path: Path, if_exists: IfExists, *, folder: bool = False) -> Iterator[Output]:
    """A file or folder that gets its name at the end of the block, and leaves nothing behind where that fails.

    Raises:
        TargetExistsError, UsageError: as :func:`free_name`, or the disk refused.
    """
    path = free_name(path, if_exists, folder=folder)
    out = Output(path, beside(path, f".{uuid.uuid4().hex[:8]}{PART_SUFFIX}"))
    try:
        if folder:
            out.part.mkdir()
        yield out
        out.path = _publish_folder(out.part, path) if folder else publish(out.part, path, if_exists)
    except OSError as error:
        if isinstance(error, UsageError) or error.errno is None:
            raise
        raise UsageError(f"{path}: can't be written: {error.strerror}") from error
    finally:
        if folder:
            shutil.rmtree(out.part, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # the disk's own error is the one to tell
                out.part.unlink(missing_ok=True)


def _publish_folder(part: Path, path: Path) -> Path:
    try:
        path.mkdir()  # fails where another process was faster; rename() then replaces the empty folder
        os.rename(part, path)
    except FileExistsError:
        raise TargetExistsError(f"{path}: appeared while the export ran; it was not overwritten") from None
    return path
