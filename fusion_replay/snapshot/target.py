# SPDX-License-Identifier: Apache-2.0
"""The files of a recording: which name it gets, who may write there, and how the finished file takes its place."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from fusion_replay.errors import TargetExistsError, UsageError
from fusion_replay.snapshot.journal.frames import START, JournalFile, ScanResult, scan
from fusion_replay.snapshot.schema import CHUNKS_SUFFIX, JOURNAL_SUFFIX, PART_SUFFIX, SPILL_SUFFIX
from fusion_replay.system import platform
from fusion_replay.system.files import regular
from fusion_replay.system.messages import say

IfExists = Literal["error", "replace", "number"]


def beside(target: Path, suffix: str) -> Path:
    """``decode.h5`` -> ``decode.h5.journal``, ..."""
    return target.with_name(target.name + suffix)


def numbered(path: Path, first: int = 1) -> Iterator[Path]:
    """``app.h5`` -> ``app-001.h5``, ``app-002.h5``, ..."""
    return (path.with_name(f"{path.stem}-{number:03d}{path.suffix}") for number in range(first, 1_000_000))


def claim(path: Path, if_exists: IfExists) -> tuple[Path, JournalFile]:
    """The target that a recording to ``path`` will become, and its new journal, locked.

    ``number`` makes ``app.h5`` the next free of ``app-001.h5``, ``app-002.h5``, ... ``replace`` leaves the old file
    alone until the new one is complete. What is left of a recording that was killed under that name is put aside, and
    told.

    Raises:
        TargetExistsError: the file exists, or another process records there.
        UsageError: a directory, a missing folder, no permission.
    """
    if if_exists not in ("error", "replace", "number"):
        raise UsageError(f"if_exists={if_exists!r}: expected 'error', 'replace' or 'number'")
    try:
        if if_exists == "number":
            return _next_free(path)
        if path.is_dir():
            raise UsageError(f"{path}: a directory; expected the name of the file to write, such as {path / 'app.h5'}")
        if if_exists == "error" and path.exists():
            raise TargetExistsError(
                f"{path}: exists already; choose another name, or ask to replace it or to number the new one"
            )
        return path, _create(path)
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {_reason(path, error)}") from error


def publish(part: Path, target: Path, if_exists: IfExists) -> Path:
    """Give the finished ``part`` its name and make that durable; ``error`` and ``number`` never overwrite anything.

    Raises:
        TargetExistsError: meanwhile another process made ``target``; ``part`` is left.
        OSError: the file system refused.
    """
    if if_exists == "replace":
        os.replace(part, target)
    else:
        while not _move_to_free(part, target):
            if if_exists == "error":
                raise TargetExistsError(f"{target}: appeared while the recording ran; it was not overwritten")
            target = _bump(target)
    platform.bring_folder_to_disk(target.parent)
    return target


def remove_working_files(target: Path) -> None:
    """The files of a recording that is sealed now; the journal last, since it alone says that they belong."""
    for suffix in (PART_SUFFIX, CHUNKS_SUFFIX, SPILL_SUFFIX, JOURNAL_SUFFIX):
        beside(target, suffix).unlink(missing_ok=True)


def _next_free(path: Path) -> tuple[Path, JournalFile]:
    for target in numbered(path):
        if target.exists() or beside(target, JOURNAL_SUFFIX).exists():
            continue
        try:
            return target, JournalFile(beside(target, JOURNAL_SUFFIX))
        except FileExistsError:
            continue
    raise UsageError(f"{path}: no free number left")


def _bump(target: Path) -> Path:
    """The next number, past those that other recordings have claimed."""
    stem, _, number = target.stem.rpartition("-")
    following = numbered(target.with_name(stem + target.suffix), int(number) + 1)
    return next(name for name in following if not beside(name, JOURNAL_SUFFIX).exists())


def _create(target: Path) -> JournalFile:
    path = beside(target, JOURNAL_SUFFIX)
    try:
        return JournalFile(path)
    except FileExistsError:
        pass
    try:
        lock = JournalFile(path, create=False)
    except BlockingIOError:
        raise TargetExistsError(f"{target}: {owner(path)} is recording there ({path}); choose another name") from None
    try:
        if not os.path.samestat(os.fstat(lock.fd), os.stat(path)):
            raise TargetExistsError(f"{target}: another process has begun to record there; choose another name")
        _put_aside(target)
    finally:
        lock.close()
    return JournalFile(path)


def _put_aside(target: Path) -> None:
    """Another name for the working files of a recording that was killed; its journal last, then it can be recovered."""
    names = numbered(target.with_name(f"{target.stem}-left{target.suffix}"))
    other = next(name for name in names if not name.exists() and not beside(name, JOURNAL_SUFFIX).exists())
    beside(target, PART_SUFFIX).unlink(missing_ok=True)  # a seal that was not finished: the journal has it all
    for suffix in (CHUNKS_SUFFIX, SPILL_SUFFIX, JOURNAL_SUFFIX):
        with contextlib.suppress(FileNotFoundError):
            beside(target, suffix).rename(beside(other, suffix))
    say(f"{target}: a recording that was killed lay there; it is kept, see: fusion-replay fsck --recover {other}")


def owner(journal: Path) -> str:
    """Who records into a journal that is locked, as far as it says: "process 123"."""
    try:
        with open(journal, "rb", opener=regular) as file:
            for frame in scan(file, ScanResult()):
                if frame.kind == START:
                    return f"process {int(json.loads(frame.payload)['pid'])}"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return "another process"


def _move_to_free(part: Path, target: Path) -> bool:
    """False where ``target`` exists. A hard link fails on an existing name, so no race is lost."""
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system: take the name with an empty file first
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            return False
        os.replace(part, target)
        return True
    os.unlink(part)
    return True


def _reason(path: Path, error: OSError) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist"
    return error.strerror or str(error)
