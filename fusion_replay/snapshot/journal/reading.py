# SPDX-License-Identifier: Apache-2.0
"""The files of a recording that is not sealed: opened together, and its journal read frame by frame.

Tested in tests/snapshot/test_recover.py and test_fsck.py.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fusion_replay.errors import NewerFormatError, SnapshotError
from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.journal.summary import JournalSummary
from fusion_replay.snapshot.schema import CHUNKS_SUFFIX, JOURNAL_SUFFIX, SPILL_SUFFIX
from fusion_replay.system.files import regular

_UNFIT = (struct.error, ValueError, KeyError, TypeError, IndexError)


def read_journal(file: BinaryIO, name: str) -> JournalSummary:
    """All that stands in the journal ``file``, called ``name`` in messages.

    Raises:
        NewerFormatError: written by a later major version.
    """
    summary = JournalSummary(name)
    result = frames.ScanResult()
    for frame in frames.scan(file, result, head_only=frames.CHUNK, head=payloads.CHUNK_HEAD):
        try:
            summary.take(frame)
        except NewerFormatError:
            raise
        except (*_UNFIT, SnapshotError) as error:
            summary.damaged.append(f"the frame at offset {frame.offset} does not fit ({error})")
    summary.torn = result.torn
    summary.damaged[:0] = result.damaged or []
    return summary


@dataclass(slots=True)
class Files:
    """The open files of a recording that is not sealed; those beside the journal may be missing."""

    journal: BinaryIO
    spill: BinaryIO | None = None
    chunks: BinaryIO | None = None

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(os.fstat(file.fileno()).st_size for file in self._there())

    def close(self) -> None:
        for file in self._there():
            file.close()

    def _there(self) -> Iterator[BinaryIO]:
        return (file for file in (self.journal, self.spill, self.chunks) if file is not None)


def open_journal(path: Path) -> tuple[Files, JournalSummary]:
    """The files of the journal at ``path``, which the caller closes, and what stands in it."""

    def beside(suffix: str) -> BinaryIO | None:
        name = path.with_name(path.name.removesuffix(JOURNAL_SUFFIX) + suffix)
        try:
            return open(name, "rb", buffering=0, opener=regular)
        except FileNotFoundError:
            return None
        except OSError as error:  # what is in there must not count as lost
            raise SnapshotError(f"{name}: can't be read ({error.strerror})") from error

    # The journal last: opened the other way round, a recording that is sealed in between would lack the others.
    spill = chunks = None
    try:
        spill, chunks = beside(SPILL_SUFFIX), beside(CHUNKS_SUFFIX)
        files = Files(open(path, "rb", buffering=1 << 16, opener=regular), spill, chunks)  # noqa: SIM115
    except BaseException:
        for file in (spill, chunks):
            if file is not None:
                file.close()
        raise
    try:
        return files, read_journal(files.journal, str(path))
    except BaseException:
        files.close()
        raise
