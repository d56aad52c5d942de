# SPDX-License-Identifier: Apache-2.0
"""Side file: a weight that a recording leaves to another file, found there by its digest, checked by its SHA-256 too.

A side file is a snapshot without steps; its contents are flat. While a recording adds to it its journal counts as
well. The recording lists what it needs, with the names of the buffers, so that another model's weights are refused by
name instead of merely not found.

Tested in tests/snapshot/write/test_weights.py.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from fusion_replay.errors import DamagedSnapshotError, SnapshotError, SnapshotNotFoundError, UsageError
from fusion_replay.model import serialise
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.encodings.link import Bytes, Journalled, Link, Referred
from fusion_replay.snapshot.encodings.place import Place, Regions
from fusion_replay.snapshot.schema import DIGEST_ONLY, INPUT, JOURNAL_SUFFIX, MAX_NAME, SIDE, Index

WeightKey = tuple[str, str]
"""Digest (xxh3-128, hexadecimal) and element type."""

WEIGHTS_FROM = 1 << 16
"""Bytes; what is smaller stays in the recording even where its weights go elsewhere."""

_DIGEST = re.compile(r"\A[0-9a-f]{32}\Z")
_SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class InSideFile(Link):
    """Under the same digest. Nothing else is made of such a content: it may be missing."""

    ENCODING: ClassVar[int] = SIDE

    def packed(self) -> tuple[int, bytes]:
        return 0, b""

    @classmethod
    def unpacked(cls, number: int, body: bytes) -> Self | None:
        return None if body else cls()

    def references(self, journal: Journalled) -> Referred:
        return Referred([])


def is_weight(place: Place, regions: Regions) -> bool:
    """Whether this is a large read from a buffer that no step writes."""
    return place.role == INPUT and place.use.spec.nbytes >= WEIGHTS_FROM and regions.is_static(place.use.buffer)


@dataclass(frozen=True, slots=True)
class Weight:
    """One content of a buffer that its sequence never writes.

    Attributes:
        name: the first buffer that held it.
        nbytes: its length.
        sha256: of its bytes, hexadecimal; None where the recording ended before it was known.
        file: base name of the side file that has it; None where the recording kept digests alone.
    """

    digest: str
    dtype: str
    nbytes: int
    name: str
    sha256: str | None = None
    file: str | None = None

    @property
    def key(self) -> WeightKey:
        return self.digest, self.dtype

    to_dict = serialise.to_dict


def weights_of(entries: Iterable[Mapping[str, Any]], name: str) -> dict[WeightKey, Weight]:
    """The list of a snapshot called ``name``; a later entry adds what an earlier one did not know.

    Raises:
        DamagedSnapshotError: an entry that is none.
    """
    found: dict[WeightKey, Weight] = {}
    for entry in entries:
        fields: Any = [entry.get(n) for n in ("digest", "dtype", "nbytes", "name", "sha256", "file")]
        weight = Weight(*fields)
        texts = [weight.digest, weight.dtype, weight.name, *(t for t in (weight.sha256, weight.file) if t is not None)]
        if (
            not all(isinstance(text, str) and len(text) <= MAX_NAME for text in texts)
            or type(weight.nbytes) is not int
            or not _DIGEST.match(weight.digest)
            or weight.dtype not in DTYPE_BYTES
            or not (weight.sha256 is None or _SHA256.match(weight.sha256))
            or not (weight.file is None or _is_file_name(weight.file))
        ):
            raise DamagedSnapshotError(f"{name}: an entry of its list of weights that is none: {str(entry)[:200]}")
        known = found.get(weight.key)
        if known is not None:
            weight = replace(known, sha256=weight.sha256 or known.sha256, file=weight.file or known.file)
        found[weight.key] = weight
    return found


def _is_file_name(text: str) -> bool:
    """Of a file beside another one, in any folder that Linux has."""
    plain = not set(text) & {"/", "\0"} and text not in ("", ".", "..")
    return plain and len(text.encode("utf-8", "surrogatepass")) <= 255 - len(JOURNAL_SUFFIX)


class _Store(Protocol):
    def read(self, row: int, what: str) -> Bytes: ...
    def close(self) -> None: ...


class Opened(Protocol):
    """What is asked of an open snapshot: its tables and its store of contents."""

    @property
    def index(self) -> Index: ...
    @property
    def store(self) -> _Store: ...


Open = Callable[[Path], Opened]


class SideFile:
    """The weights in a side file, sealed, being recorded, or both. ``open_`` opens either.

    Raises:
        SnapshotNotFoundError: neither the file nor its journal is there.
        SnapshotError: no snapshot, a damaged one, or one of steps.
    """

    def __init__(self, path: Path, open_: Open) -> None:
        self.path = path
        self.weights: dict[WeightKey, Weight] = {}
        self._stores: list[_Store] = []
        self._places: dict[WeightKey, tuple[_Store, int]] = {}
        journal = path.with_name(path.name + JOURNAL_SUFFIX)
        found = [p for p in (path, journal) if p.exists()]
        if not found:
            raise SnapshotNotFoundError(f"{path}: no such file; expected the side file of a recording's weights")
        try:
            for each in found:
                snap = open_(each)
                self._stores.append(snap.store)
                if steps := len(snap.index.steps):
                    raise SnapshotError(f"{each}: a recording of {steps} steps; expected a side file of weights")
                self.weights |= weights_of(snap.index.weights, str(each))
                self._take(snap.index, snap.store)
        except BaseException:
            self.close()
            raise

    def __contains__(self, key: WeightKey) -> bool:
        return key in self._places

    def read(self, key: WeightKey, what: str) -> Bytes:
        store, row = self._places[key]
        return store.read(row, what)

    def named(self, name: str) -> Weight | None:
        """What it has of a buffer of this name."""
        return next((weight for weight in self.weights.values() if weight.name == name), None)

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def _take(self, index: Index, store: _Store) -> None:
        for row, content in enumerate(index.contents[["digest", "dtype", "encoding"]].tolist()):
            if content[2] != DIGEST_ONLY:
                self._places[content[0].decode("ascii", "replace"), content[1].decode("ascii", "replace")] = store, row


class NeededWeights:
    """What a snapshot's store asks for the weights it needs; ``file`` None: they are not here, for this ``reason``."""

    def __init__(self, needed: Mapping[WeightKey, Weight], file: SideFile | None, reason: str) -> None:
        self.path = None if file is None else file.path
        self._needed = needed
        self._file = file
        self.reason = reason
        self._verified: set[WeightKey] = set()
        self._lock = threading.Lock()

    def has(self, key: WeightKey) -> bool:
        return self._file is not None and key in self._file

    def read(self, key: WeightKey, what: str) -> Bytes:
        """The bytes; the SHA-256, a third of the time of reading them, is looked at once.

        Raises:
            SnapshotError: the side file is not here, or lacks them.
            DamagedSnapshotError: they are not those that were recorded.
        """
        weight = self._needed.get(key)
        if self._file is None or key not in self._file:
            name = f" of {weight.name}" if weight is not None else ""
            raise SnapshotError(f"{what}: its contents{name} {self.reason}")
        data = self._file.read(key, what)
        if weight is not None and weight.sha256 is not None and key not in self._verified:
            found = hashlib.sha256(data.data).hexdigest()
            if found != weight.sha256:
                raise DamagedSnapshotError(
                    f"{what}: {self._file.path} has SHA-256 {found} for {weight.name}, recorded was {weight.sha256}"
                )
            with self._lock:
                self._verified.add(key)
        return data.copy()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def find_weights(
    path: Path, needed: Mapping[WeightKey, Weight], given: Path | None, open_: Open
) -> tuple[NeededWeights, tuple[str, ...]]:
    """Where the weights that ``path`` needs are, and what there is to say about it.

    Args:
        given: the side file that the user names; None: the one that the recording names, beside it.
        open_: opens it.

    Raises:
        UsageError: the side file that the user named holds other weights.
        SnapshotError: it can't be read.
    """
    total = sum(weight.nbytes for weight in needed.values())
    what = f"{len(needed)} weights ({total / 1e6:,.1f} MB)"
    names = sorted({weight.file for weight in needed.values() if weight.file})
    if given is None and not names:
        reason = "were left out of the recording; give its side file with --weights"
        return NeededWeights(needed, None, reason), (
            f"{what} were left out of the recording: give them with --weights FILE",
        )
    place = given if given is not None else path.with_name(names[0])
    if given is None and place.name.removesuffix(JOURNAL_SUFFIX) == path.name.removesuffix(JOURNAL_SUFFIX):
        reason = "are said to be in the recording itself; give their side file with --weights"
        return NeededWeights(needed, None, reason), (f"{what} {reason}",)
    try:
        file = SideFile(place, open_)
    except SnapshotError as error:
        if given is not None:
            raise
        reason = f"are in the side file {names[0]}, which can't be used: {error}"
        return NeededWeights(needed, None, reason), (
            f"{what} are not here: {error}; give their file with --weights FILE",
        )
    problem = _mismatch(needed, file)
    if problem is not None:
        file.close()
        message = f"{place}: not the weights of {path}: {problem}"
        if given is not None:
            raise UsageError(f"{message}; give the side file that was recorded with it")
        return NeededWeights(needed, None, f"are missing: {message}"), (message,)
    lacking = [weight.name for key, weight in needed.items() if key not in file]
    notes: tuple[str, ...] = ()
    if lacking:
        shown = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
        notes = (f"{place} lacks {len(lacking)} of {what}: {shown}",)
    return NeededWeights(needed, file, f"are not in the side file {place}"), notes


def _mismatch(needed: Mapping[WeightKey, Weight], file: SideFile) -> str | None:
    """The first weight that is another one in ``file``, with both digests."""
    for key, weight in needed.items():
        other = file.weights.get(key) if key in file else file.named(weight.name)
        if other is None:
            continue
        if other.key != key:
            return f"{weight.name} has digest {other.digest} there, {weight.digest} was recorded"
        if weight.sha256 and other.sha256 and weight.sha256 != other.sha256:
            return f"{weight.name} has SHA-256 {other.sha256} there, {weight.sha256} was recorded"
    if needed and not any(key in file for key in needed):
        return f"it has none of its {len(needed)}"
    return None


__all__ = [
    "WEIGHTS_FROM",
    "InSideFile",
    "NeededWeights",
    "SideFile",
    "Weight",
    "WeightKey",
    "find_weights",
    "is_weight",
    "weights_of",
]
