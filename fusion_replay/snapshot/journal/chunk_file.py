# SPDX-License-Identifier: Apache-2.0
"""The file of compressed chunks of a recording under way, each at the offset that it will have in the sealed file.

Before the first there is room for the user block and what HDF5 begins a file with. Sealing writes HDF5's structure
around the chunks (:mod:`fusion_replay.snapshot.seal.in_place`) and gives this file its name: nothing is copied.

Tested in tests/snapshot/seal/test_chunk_copier.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from fusion_replay.snapshot.journal.pages import write_whole
from fusion_replay.system import platform
from fusion_replay.system.descriptors import OwnDescriptor

HEAD = 4096
"""Bytes before the first chunk: the user block, HDF5's superblock, its root group and its first block of metadata."""


class ChunkFile:
    """Appends chunks; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # never written into: it may be the last name of a file that was sealed
        self.path = path
        self._own = OwnDescriptor(os.open(path, platform.CREATE, 0o666), path)
        self._end = HEAD
        self._lock = threading.Lock()

    def append(self, chunk: bytes, tell: Callable[[int], None]) -> None:
        """Write ``chunk`` and call ``tell(offset)``; unless both work it is as if neither had been tried.

        So the chunks that were told of follow each other without gaps.

        Raises:
            OSError: no room, here or for ``tell``.
        """
        with self._lock:
            try:
                write_whole(self._own.fd, chunk, self._end)
                tell(self._end)
            except BaseException:
                os.ftruncate(self._own.fd, self._end)
                raise
            self._end += len(chunk)

    def close(self) -> None:
        self._own.close()
