# SPDX-License-Identifier: Apache-2.0
"""Puts a recording's weights into a side file that recordings share, or keeps their digests alone.

A weight is what a step reads from a buffer that no step of its sequence writes and that is no input of the call. Its
bytes are in the side file's own journal (in the page cache, so SIGKILL costs nothing) before the step that reads them
runs. The side file itself is never written to: what comes new is sealed together with what it has into a new file that
takes its place, complete and on the disk.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.model.runlist import DTYPE_BYTES, ArgSpec
from fusion_replay.snapshot.encodings.side_file import Weight, WeightKey
from fusion_replay.snapshot.fsck import recover
from fusion_replay.snapshot.read.reader import open_side_file
from fusion_replay.snapshot.schema import JOURNAL_SUFFIX
from fusion_replay.snapshot.target import beside, remove_working_files
from fusion_replay.snapshot.write.writer import SnapshotWriter

Bytes = npt.NDArray[np.uint8]

_CHUNK = 1 << 20
_WAITING = 32  # chunks that may wait for their SHA-256


class WeightsKeeper:
    """Takes the weights of one recording.

    Args:
        side: the side file to share; None: keep digests alone.

    Raises:
        TargetExistsError: another process records into the side file; the message has the process.
        SnapshotError: a side file that can't be read.
    """

    def __init__(self, side: Path | None) -> None:
        self._path = side
        self._known: dict[WeightKey, Weight] = {}
        self._used: dict[WeightKey, Weight] = {}
        self._side: SnapshotWriter | None = None
        self._new = False
        if side is not None:
            self._open(side)
        self._hashes = _Hashes()

    def take(self, raw: Bytes, digest: str, dtype: str, buffer: str) -> Weight | None:
        """What the recording has to note of these bytes; None where they must be kept in it after all."""
        key = digest, dtype
        if key in self._used:
            return self._used[key]
        known = self._known.get(key)
        if known is None:
            known = Weight(digest, dtype, raw.size, buffer, file=None if self._path is None else self._path.name)
            if self._side is not None and not self._store(self._side, raw, known):
                return None
            self._hashes.add(key, raw)
        self._used[key] = known
        return known

    def close(self) -> list[Weight]:
        """Seal the side file; what this recording used, with every SHA-256.

        Raises:
            UnsealedError: the side file could not be written; its journal is kept.
        """
        sums = self._hashes.close()
        used = [replace(w, sha256=w.sha256 or sums.get(w.key)) for w in self._used.values()]
        if self._side is not None:
            if self._new:
                self._side.note_weights([w for w in used if w.key not in self._known])
                self._side.close()
            else:
                self._discard(self._side)
            self._side = None
        return used

    def abandon(self) -> None:
        """Leave a side file's journal as it is, for recovery, unless there is nothing in it."""
        self._hashes.close()
        if self._side is not None:
            if self._new:
                self._side.abandon()
            else:
                self._discard(self._side)
            self._side = None

    def _open(self, path: Path) -> None:
        if beside(path, JOURNAL_SUFFIX).exists():
            recover(path)  # of a recording that was killed; of a living one it is refused
        if path.exists():
            file = open_side_file(path)
            file.close()
            self._known = {key: replace(w, file=path.name) for key, w in file.weights.items() if key in file}
        self._side = SnapshotWriter(path, if_exists="replace", side=True)

    def _store(self, side: SnapshotWriter, raw: Bytes, weight: Weight) -> bool:
        spec = ArgSpec(weight.name, "in", (raw.size // DTYPE_BYTES[weight.dtype],), weight.dtype)
        if not side.add_weight(raw, spec, weight):
            return False
        self._new = True
        return True

    def _discard(self, side: SnapshotWriter) -> None:
        side.abandon()
        remove_working_files(side.target)


class _Hashes:
    """SHA-256 in a thread of its own, of copies of at most 32 MiB at a time."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[WeightKey, bytes] | None] = queue.Queue(_WAITING)
        self._sums: dict[WeightKey, Any] = {}
        self._thread: threading.Thread | None = None

    def add(self, key: WeightKey, raw: Bytes) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="fusion-replay-sha256", daemon=True)
            self._thread.start()
        for start in range(0, raw.size, _CHUNK):
            self._queue.put((key, raw[start : start + _CHUNK].tobytes()))

    def close(self) -> dict[WeightKey, str]:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        return {key: state.hexdigest() for key, state in self._sums.items()}

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            key, chunk = task
            self._sums.setdefault(key, hashlib.sha256()).update(chunk)


__all__ = ["WeightsKeeper"]
