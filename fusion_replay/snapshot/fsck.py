# SPDX-License-Identifier: Apache-2.0
"""Checks every bit of a snapshot (``check``), and seals the journal of a recording that was killed (``recover``).

A sealed file is read once in full against the digest in its user block, before anything looks inside; then the tables,
every reference and every tensor are checked by their own digests, which gives the damage a name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_replay.errors import (
    DamagedSnapshotError,
    FusionReplayError,
    NewerFormatError,
    SnapshotError,
    SnapshotNotFoundError,
    UsageError,
)
from fusion_replay.model import serialise
from fusion_replay.model.text import block
from fusion_replay.snapshot.journal import reading as journal
from fusion_replay.snapshot.journal.frames import FRAME_MAGIC, JournalFile
from fusion_replay.snapshot.read.limits import Allowance
from fusion_replay.snapshot.read.reader import Snapshot, extent, open_snapshot, with_side
from fusion_replay.snapshot.read.sealed import read_index
from fusion_replay.snapshot.read.store import CHECKING_CACHE, ContentStore
from fusion_replay.snapshot.schema import (
    DIGEST_ONLY,
    FORMAT_MAJOR,
    FORMAT_MINOR,
    JOURNAL_SUFFIX,
    LOST,
    SIDE,
    USER_BLOCK,
    Index,
    UserBlock,
    body_digest,
)
from fusion_replay.snapshot.target import IfExists, beside, owner, remove_working_files
from fusion_replay.system import platform
from fusion_replay.system.files import regular
from fusion_replay.system.messages import count


@dataclass(frozen=True, slots=True)
class FsckReport:
    """What :func:`check` or :func:`recover` found.

    Attributes:
        path: the file that was looked at (the sealed file after a recovery).
        ok: sealed, and every bit as it was.
        sealed: a finished file, not a journal.
        problems: one line each; empty where ``ok``.
        steps, tensors: how many are in the index; ``tensors`` counts different contents that are kept.
        bytes: of the file.
        recoverable: an unsealed recording that ``recover`` would seal.
        recovered: this call sealed it.
        removed: leftover files of the recording that this call removed.
    """

    path: Path
    ok: bool
    sealed: bool
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    steps: int = 0
    invocations: int = 0
    tensors: int = 0
    bytes: int = 0
    recoverable: bool = False
    recovered: bool = False
    removed: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = list(self.problems)
        if self.recovered:
            lines.append(f"sealed {self.path}: {extent(self.steps, self.invocations)} recovered")
        elif self.ok:
            lines.append(
                f"{self.path}: sealed, {extent(self.steps, self.invocations)}, {count(self.tensors, 'tensor')}, "
                f"{count(self.bytes, 'byte')}, all as they were sealed"
            )
        lines += [f"removed {path}" for path in self.removed if not self.recovered]
        return block([*lines, *self.notes])

    to_dict = serialise.to_dict


def check(path: str | os.PathLike[str], *, weights: str | os.PathLike[str] | None = None) -> FsckReport:
    """Look at every bit of the snapshot, or at every frame and tensor of a journal; changes nothing.

    ``weights``: the side file with its weights, by default the one it names, beside it. They are checked where they
    are here, and it is no damage of the snapshot that they are not.

    Raises:
        SnapshotError: no such file, not ours, of a newer version. Damage is in the report, not raised.
    """
    path = Path(path)
    try:
        if path.is_dir() or not path.exists() or _is_journal(path):
            return _check_journal(path, weights)
        return _check_sealed(path, weights)
    except SnapshotError:
        raise
    except OSError as error:
        raise SnapshotError(f"{path}: can't be read ({error.strerror})") from error


def recover(path: str | os.PathLike[str]) -> FsckReport:
    """Seal the recording that was killed under this name (``X.h5`` or ``X.h5.journal``), then check the result.

    A file that is sealed already is checked, and its leftover journal removed.

    Raises:
        UsageError: the recording is still going on, or the name is taken by another recording.
        UnsealedError: it could not be written; the journal is kept.
        SnapshotError: as :func:`check`.
    """
    path = Path(path)
    if path.is_dir():
        return check(path)
    target = path.with_name(path.name.removesuffix(JOURNAL_SUFFIX) or path.name)
    journal_path = beside(target, JOURNAL_SUFFIX)
    if not journal_path.exists():
        return check(target if target.exists() else path)
    try:
        lock = JournalFile(journal_path, create=False)
    except BlockingIOError:
        raise UsageError(f"{journal_path}: {owner(journal_path)} is still recording into it; stop it first") from None
    except OSError as error:
        raise SnapshotError(f"{journal_path}: can't be opened for recovery ({error.strerror})") from error
    if not platform.moves_open_files():
        lock.close()
    try:
        return _recover(target, journal_path)
    finally:
        lock.close()


def _recover(target: Path, journal_path: Path) -> FsckReport:
    from fusion_replay.snapshot.seal.recording import seal
    from fusion_replay.snapshot.seal.side_file import seal_side

    files, summary = journal.open_journal(journal_path)
    journal_size, size = os.fstat(files.journal.fileno()).st_size, files.size
    files.close()
    empty = not summary.start and not summary.sequences
    if summary.version > (FORMAT_MAJOR, FORMAT_MINOR):  # it may hold what is not known here, and would be lost
        raise NewerFormatError(
            f"{journal_path}: format {'.'.join(map(str, summary.version))} is newer than "
            f"{FORMAT_MAJOR}.{FORMAT_MINOR}, the newest known here; upgrade fusion-replay, then recover it"
        )
    if target.exists():
        if not target.is_file():
            raise SnapshotError(f"{target}: no file, and would be replaced; move it away, then recover again")
        sealed_id = _recording_of(target)
        leftover = sealed_id is not None and (sealed_id == summary.start.get("recording") or journal_size == 0)
        if leftover:
            report = check(target)
            if not report.ok:  # the journal may be the better copy
                return report
            remove_working_files(target)
            return _replace(report, removed=(journal_path,))
    if empty:
        raise DamagedSnapshotError(f"{journal_path}: no recording can be read from it; delete it")
    Allowance(str(journal_path), size).check_contents(summary.index())
    side = summary.start.get("side") is True
    if not side and target.exists() and summary.start.get("if_exists") != "replace":
        raise UsageError(
            f"{target}: holds another recording than {journal_path}; move {target} away, then recover again"
        )
    if_exists: IfExists = "replace" if target.exists() else "error"
    found: list[FsckReport] = []

    def is_sound(path: Path) -> None:
        """Every bit of the file that would take the place of what is here."""
        report = _check_sealed(path, None)
        if not report.ok:
            raise DamagedSnapshotError("; ".join(report.problems[:3]))
        found.append(report)

    sealed = (
        seal_side(journal_path, target, check=is_sound)
        if side
        else seal(journal_path, target, if_exists, check=is_sound)
    )
    report = _replace(found[-1], path=sealed.path)
    notes = [f"half written at the end: {count(summary.torn, 'byte')}"] if summary.torn else []
    notes += [f"lost: {loss.count} x {loss.detail}" for loss in sealed.losses]
    return _replace(report, recovered=True, notes=(*report.notes, *notes), removed=(journal_path,))


def seal_problems(fd: int, path: Path) -> tuple[UserBlock, list[str]]:
    """The user block, and what disagrees with it: the file's length, the digest of all that follows. Looks no further.

    Raises:
        ForeignFileError, NewerFormatError, DamagedSnapshotError: the user block itself.
    """
    block = UserBlock.unpack(platform.read_at(fd, USER_BLOCK, 0), str(path))
    size = os.fstat(fd).st_size
    problems = []
    if size != block.length:
        problems.append(f"{path}: {size} bytes long, but {block.length} were sealed")
    if body_digest(fd, size) != block.digest:
        problems.append(f"{path}: the bytes after the user block disagree with the digest of the whole")
    return block, problems


def _check_sealed(path: Path, weights: str | os.PathLike[str] | None) -> FsckReport:
    index: Index | None = None
    tensors, notes = 0, tuple[str, ...]()
    with open(path, "rb", buffering=0, opener=regular) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            block, problems = seal_problems(file.fileno(), path)
        except DamagedSnapshotError as error:
            return FsckReport(path, ok=False, sealed=True, problems=(str(error),), bytes=size)
        try:
            index = read_index(file, block, str(path))
        except SnapshotError as error:
            problems.append(str(error))
        if index is not None:
            store = ContentStore(index, file, cache_bytes=CHECKING_CACHE)
            snap = with_side(Snapshot(path, index, store, sealed=True), weights)
            notes, (named, tensors) = snap.notes, _check_tensors(snap)
            if problems and not named:
                named = ["tables and tensors are sound: the damage is in HDF5's own structure"]
            problems += named
    beside_it = beside(path, JOURNAL_SUFFIX)
    return FsckReport(
        path,
        ok=not problems,
        sealed=True,
        problems=tuple(problems),
        notes=(*notes, *([f"a leftover journal lies beside it: {beside_it}"] if beside_it.exists() else [])),
        steps=0 if index is None else len(index.steps),
        invocations=0 if index is None else int((index.invocations["status"] != LOST).sum()),
        tensors=tensors,
        bytes=size,
    )


def _check_journal(path: Path, weights: str | os.PathLike[str] | None) -> FsckReport:
    with open_snapshot(path, cache_bytes=CHECKING_CACHE, weights=weights) as snap:
        named, tensors = _check_tensors(snap)
        alive = _is_locked(snap.path)
        state = "is still being recorded" if alive else "was not closed"
        told = (*snap.notes[:1], *snap.index.notes)  # how it was found and what is broken: both are among the problems
        return FsckReport(
            snap.path,
            ok=False,
            sealed=False,
            problems=(f"{snap.path}: the recording {state}", *snap.index.notes, *named),
            notes=tuple(note for note in snap.notes if note not in told),
            steps=len(snap),
            invocations=len(snap.invocations),
            tensors=tensors,
            bytes=snap.path.stat().st_size,
            recoverable=not alive,
        )


def _check_tensors(snap: Snapshot) -> tuple[list[str], int]:
    """Problems of the tensors, each named by the first step that uses it; and the number of tensors kept."""
    index, store = snap.index, snap.store
    broken: dict[int, str] = {}
    kept = 0
    for row, encoding in enumerate(index.contents["encoding"].tolist()):
        if encoding == DIGEST_ONLY or (encoding == SIDE and not store.kept(row)):
            continue
        kept += 1
        try:
            store.read(row, f"content {index.contents['digest'][row].decode('ascii', 'replace')}")
        except SnapshotError as error:
            broken[row] = str(error)
    problems = []
    if broken:
        for step in snap:
            try:
                tensors = [*step.inputs.values(), *step.outputs.values()]
            except FusionReplayError:
                continue
            for tensor in (*tensors, *(t.previous for t in tensors if t.previous)):
                if tensor.row in broken:
                    problems.append(f"{step.label}: {tensor.name} is damaged ({broken.pop(tensor.row)})")
        problems += broken.values()
    for step in snap:
        try:
            _ = step.inputs, step.outputs
        except FusionReplayError as error:
            problems.append(str(error))
    try:
        _ = snap.binaries
    except FusionReplayError as error:
        problems.append(str(error))
    return problems, kept


def _is_journal(path: Path) -> bool:
    with open(path, "rb", buffering=0, opener=regular) as file:
        return platform.read_at(file.fileno(), len(FRAME_MAGIC), 0) == FRAME_MAGIC


def _is_locked(path: Path) -> bool:
    with open(path, "rb", opener=regular) as file:
        return platform.is_locked(file.fileno())


def _recording_of(path: Path) -> str | None:
    try:
        with open_snapshot(path) as snap:
            return snap.index.recording if snap.sealed else None
    except (SnapshotNotFoundError, SnapshotError):
        return None


def _replace(report: FsckReport, **changes: Any) -> FsckReport:
    from dataclasses import replace

    return replace(report, **changes)
