# SPDX-License-Identifier: Apache-2.0
"""From journal to sealed file: HDF5's structure around the compressed chunks, the tables, a digest of the whole.

The chunks stay where they are in ``NAME.h5.chunks``, which becomes the file; where that can't be (chunks missing or
damaged, an HDF5 that places things in another way) they are copied into ``NAME.h5.part``. Only when the file is
complete and on the disk does it get its name, and only then do journal and spill go. Whatever fails before leaves them.

Tested in tests/snapshot/test_fsck.py and test_recover.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_replay.errors import FusionReplayError, SnapshotError, TargetExistsError, UnsealedError
from fusion_replay.snapshot.describe import dump_json, sequence_to_json
from fusion_replay.snapshot.encodings.registry import drop
from fusion_replay.snapshot.journal import reading as journal
from fusion_replay.snapshot.journal.chunk_file import HEAD
from fusion_replay.snapshot.naming import named
from fusion_replay.snapshot.read.store import CHECKING_CACHE, ChunkSource, ContentStore
from fusion_replay.snapshot.schema import (
    CHUNKS_SUFFIX,
    DIGEST_ONLY,
    FORMAT_MAJOR,
    FORMAT_MINOR,
    IN_CHUNKS,
    PART_SUFFIX,
    SIDE,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    TABLES,
    USER_BLOCK,
    Index,
    Loss,
    UserBlock,
    body_digest,
    digest_of,
)
from fusion_replay.snapshot.seal import hdf5, in_place
from fusion_replay.snapshot.seal.chunk_copier import Copier
from fusion_replay.snapshot.seal.proof import Check, prove
from fusion_replay.snapshot.target import IfExists, beside, publish, remove_working_files
from fusion_replay.system import platform

_RAW = SKIP_SHUFFLE | SKIP_ZSTD
_ABOUT = (
    "tensors: /contents and /packed, found by the tables in /index (docs/format.md of fusion-replay); "
    "`fusion-replay export --as plain-h5` writes each under the names of its step and argument"
)
_SYNC_FROM = 1 << 23  # bytes; below, a thread costs more than it saves


@dataclass(frozen=True, slots=True)
class Sealed:
    """The file that sealing made; sizes in bytes."""

    path: Path
    steps: int
    invocations: int
    file_bytes: int
    losses: tuple[Loss, ...]


def seal(
    journal_path: Path,
    target: Path,
    if_exists: IfExists = "error",
    *,
    unwritten: Sequence[Loss] = (),
    check: Check | None = None,
) -> Sealed:
    """Make ``target`` of the journal, then remove the journal. The caller holds the journal's lock.

    Args:
        unwritten: losses that found no room in the journal.
        check: for recovery. Every tensor is decoded first; what disagrees with its digest is dropped, with what is
            made of it, and counted. And the file is checked by this before it gets its name.

    Raises:
        UnsealedError: it could not be written, or is not what the journal says; the journal is kept.
        TargetExistsError: ``target`` exists; the journal is kept.
    """
    with sealing(target, journal_path):
        files, summary = journal.open_journal(journal_path)
        index = summary.index()
        store = ContentStore(
            index, files.journal, files.spill, files.chunks, cache_bytes=0 if check is None else CHECKING_CACHE
        )
        try:
            if check is not None:
                drop_damaged(index, store)
            index.losses = _merged((*index.losses, *unwritten, *_damage_as_losses(summary.damaged)))
            made, size = write_beside(target, index, store, check)
        finally:
            store.close()
        try:
            path = publish(made, target, if_exists)
        except TargetExistsError as error:
            raise TargetExistsError(
                f"{error} The recording is kept in {journal_path}; move {target} away and run "
                f"`fusion-replay fsck --recover {target}`"
            ) from error
    remove_working_files(target)
    return Sealed(path, len(index.steps), len(index.invocations), size, index.losses)


@contextlib.contextmanager
def sealing(target: Path, journal_path: Path) -> Iterator[None]:
    """Around what makes ``target``: whatever fails leaves no part of it, and says where the recording is kept.

    Raises:
        UnsealedError: it could not be written.
    """
    try:
        yield
    except FusionReplayError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # h5py reports a full disk as any of them
        raise UnsealedError(
            f"{target}: could not be sealed ({_reason(error)}); everything recorded is kept in {journal_path}: "
            f"make room, then run `fusion-replay fsck --recover {target}`"
        ) from error
    finally:
        beside(target, PART_SUFFIX).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """One line; HDF5 wraps the system's own words into several."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    inner = re.search(r"error message = '([^']*)'", text)
    return inner[1] if inner else " ".join(text.split())


def write_beside(target: Path, index: Index, store: ChunkSource, check: Check | None = None) -> tuple[Path, int]:
    """The whole file, proven, under the name that it has until it is published; its length in bytes.

    Its chunks stay where they are, if they can. Raises as :func:`write_sealed`, but for ElsewhereError, and as
    :func:`prove`; the chunks are then as they were.
    """
    chunks, part = beside(target, CHUNKS_SUFFIX), beside(target, PART_SUFFIX)
    stop = _end_of_chunks(index)
    if stop > HEAD and chunks.exists():
        _require_space(chunks, index, in_place=True)
        try:
            size = write_sealed(chunks, index, store, (HEAD, stop))
            prove(chunks, index, target, check)
            return chunks, size
        except BaseException as error:
            os.truncate(chunks, stop)  # as it was: HDF5 has written behind the chunks and before them
            if not isinstance(error, hdf5.ElsewhereError):
                raise
    _require_space(part, index, in_place=False)
    size = write_sealed(part, index, store)
    prove(part, index, target, check)
    return part, size


def _end_of_chunks(index: Index) -> int:
    """Where the chunks end that can stay where they are; 0 unless they lie one behind the other, all of them in use."""
    first, count = index.contents["first_chunk"].astype(np.int64), index.contents["n_chunks"].astype(np.int64)
    used = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
    placed = index.chunks[used]
    placed = placed[(placed["mask"] & IN_CHUNKS) != 0]
    placed = placed[np.argsort(placed["offset"])]
    ends = np.concatenate([[HEAD], placed["offset"] + placed["size"]]).astype(np.uint64)
    return int(ends[-1]) if np.array_equal(placed["offset"], ends[:-1]) else 0


def write_sealed(path: Path, index: Index, store: ChunkSource, kept: tuple[int, int] = (0, 0)) -> int:
    """The whole sealed file at ``path``, which has not got its name yet; its length in bytes.

    ``kept``: from where to where in the file that is there already its chunks stay; all others are copied.

    Raises:
        ElsewhereError: chunks can't stay.
        OSError, RuntimeError, ValueError: what HDF5 makes of a full disk.
    """
    part = hdf5.PartFile(path, kept)
    early = _EarlySync(part.fd) if kept[1] > _SYNC_FROM else None
    try:
        file = hdf5.create(part)
        try:
            directory, offset, start = _fill(file, part, index, store, kept)
        finally:
            file.close()
        part.check()
        if early is not None:
            early.wait()
        return _finish(part, directory, offset, start)
    finally:
        if early is not None:
            early.wait()
        part.close()


class _EarlySync(threading.Thread):
    """Brings what is written already to the disk, while the rest is being made."""

    def __init__(self, fd: int) -> None:
        super().__init__(name="fusion-replay-sync", daemon=True)
        self._fd = fd
        self._error: OSError | None = None
        self._begun = False
        with contextlib.suppress(RuntimeError):  # no more threads: it is brought there with the rest
            self.start()
            self._begun = True

    def run(self) -> None:
        try:
            platform.bring_to_disk(self._fd)
        except OSError as error:
            self._error = error

    def wait(self) -> None:
        """Raises what the disk said: it says it only once."""
        if self._begun:
            self.join()
        error, self._error = self._error, None
        if error is not None:
            raise error


def _fill(
    file: Any, part: hdf5.PartFile, index: Index, store: ChunkSource, kept: tuple[int, int]
) -> tuple[bytes, int, int]:
    """Contents, tables, directory into the HDF5 file; the directory, its place, and where the first table begins."""
    root = hdf5.root_group(file)
    hdf5.attribute(root, "format", f"fusion-replay snapshot {FORMAT_MAJOR}.{FORMAT_MINOR}")
    hdf5.attribute(root, "about", _ABOUT)
    if kept[1]:
        in_place.hand_out(root, *kept)
    copier = Copier(part, root, index, store, in_place=bool(kept[1]))
    copier.copy_all()
    tables = hdf5.group(root, "index")
    entries: dict[str, Any] = {}
    made_anew = {"contents": copier.contents, "chunks": copier.chunks}
    for name in TABLES:
        entries[name] = copier.table(tables, name, made_anew.get(name, getattr(index, name)))
    texts = {
        "sequences": [sequence_to_json(s) for s in index.sequences],
        "details": index.details,
        "losses": [loss.to_dict() for loss in index.losses],
        "provenance": index.provenance,
    }
    if index.binaries:
        texts["binaries"] = index.binaries
    if index.weights:
        texts["weights"] = index.weights
    for name, data in texts.items():
        entries[name] = copier.text(tables, name, dump_json(data))
    directory = dump_json({"format": [FORMAT_MAJOR, FORMAT_MINOR], "recording": index.recording, "tables": entries})
    line = np.array([directory], dtype=f"S{len(directory)}")
    made = hdf5.contiguous(tables, "directory", hdf5.text_type(len(directory)), line, (1,))
    if kept[1]:  # not before: what it gives back lies far from the end, where tables and directory belong
        in_place.hand_back(root)
    start = min(entry["offset"] for entry in entries.values() if entry["size"])
    return directory, int(made.get_offset()), start


def _finish(part: hdf5.PartFile, directory: bytes, offset: int, start: int) -> int:
    """Digest the HDF5 part, write the user block, bring it all to the disk; the file's length."""
    length = os.fstat(part.fd).st_size
    # Older HDF5 counts from the end of the user block.
    places = (offset, offset + USER_BLOCK)
    at = next((place for place in places if platform.read_at(part.fd, len(directory), place) == directory), None)
    if at is None:
        raise OSError(errno.EIO, "HDF5 put the directory elsewhere than it said")
    digest = body_digest(part.fd, length)
    block = UserBlock(length, digest, at, len(directory), digest_of(directory), index_offset=min(start, at))
    platform.write_at(part.fd, block.pack(), 0)
    os.fsync(part.fd)
    return length


def drop_damaged(index: Index, store: ContentStore) -> None:
    """Keep of contents that can't be read, or are made of such, their digests alone; and count them as a loss."""
    damaged: list[int] = []
    for row, encoding in enumerate(index.contents["encoding"].tolist()):
        if encoding in (DIGEST_ONLY, SIDE):
            continue
        try:
            store.read(row, "content")
        except SnapshotError:
            drop(index, [row])
            damaged.append(row)
    if damaged:
        what = f"tensors damaged in the journal; their digests are kept: {named(index, damaged)}"
        index.losses = (*index.losses, Loss("contents", what, len(damaged)))


def _damage_as_losses(damaged: Sequence[str]) -> list[Loss]:
    return [Loss("journal", entry) for entry in damaged]


def _merged(losses: Sequence[Loss]) -> tuple[Loss, ...]:
    counts: dict[tuple[str, str], int] = {}
    for loss in losses:
        counts[loss.kind, loss.detail] = counts.get((loss.kind, loss.detail), 0) + loss.count
    return tuple(Loss(kind, detail, count) for (kind, detail), count in counts.items())


def _require_space(path: Path, index: Index, *, in_place: bool) -> None:
    """Fail before half of it is written."""
    there = (index.chunks["mask"] & IN_CHUNKS) != 0 if in_place else np.zeros(len(index.chunks), np.bool_)
    needed = int(index.chunks["size"][~there].sum()) + 512 * len(index.contents) + 64 * len(index.steps) + (1 << 16)
    free = platform.free_bytes(path.parent)
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed} bytes needed, {free} free")
