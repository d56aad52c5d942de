# SPDX-License-Identifier: Apache-2.0
"""The device files behind a recording's operators: the xclbin with the kernel, and the instructions that drive it.

Each file is a content like any other (``uint8``, stored once by its digest); the table ``binaries`` says which operator
of which sequence ran with which of them. A file that is only named, with its SHA-256, is as good for telling two builds
apart as one that is kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import DamagedSnapshotError, SnapshotError
from fusion_replay.model import serialise
from fusion_replay.snapshot.read.store import ContentStore
from fusion_replay.snapshot.schema import DIGEST_ONLY, MAX_CONTENT, MAX_NAME, Index

_DIGEST = re.compile(r"\A[0-9a-f]{32}\Z")
_SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """What a recorder found behind one operator, to be stored.

    Attributes:
        operator: its number in the sequence.
        kernel: the name under which the xclbin has it ("" where that is not known).
        xclbin, instructions: ``(base name, contents)``; None where it is not there.
        absent: why one of them is not, in words.
        places: bytes from the start of each argument's tensor to its contents; empty: none anywhere.
    """

    operator: int
    kernel: str
    xclbin: tuple[str, bytes] | None = None
    instructions: tuple[str, bytes] | None = None
    absent: str | None = None
    places: tuple[int, ...] = ()

    def to_json(self, sequence: int, store: Callable[[bytes], str]) -> dict[str, Any]:
        """The table's entry; ``store`` takes the contents and gives their digest."""
        entry: dict[str, Any] = {"sequence": sequence, "operator": self.operator, "kernel": self.kernel}
        for key, file in (("xclbin", self.xclbin), ("instructions", self.instructions)):
            if file is not None:
                name, data = file
                sha256 = hashlib.sha256(data).hexdigest()
                entry[key] = {"name": name, "nbytes": len(data), "digest": store(data), "sha256": sha256}
        if self.absent is not None:
            entry["absent"] = self.absent
        if self.places:
            entry["places"] = list(self.places)
        return entry


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """One stored file.

    Attributes:
        name: its base name when it was recorded.
        nbytes: its length.
        digest: xxh3-128 of its bytes, under which they are stored.
        sha256: of its bytes, hexadecimal.
        kept: whether the bytes are in the snapshot.
    """

    name: str
    nbytes: int
    digest: str
    sha256: str
    kept: bool
    _row: int
    _store: ContentStore

    def numpy(self) -> npt.NDArray[np.uint8]:
        """The bytes, read-only.

        Raises:
            SnapshotError: only the digest was kept.
            DamagedSnapshotError: they disagree with a digest.
        """
        what = f"device file {self.name}"
        if self._row < 0:
            raise SnapshotError(f"{what}: its contents are not in the snapshot")
        return self._store.read(self._row, what)

    def read(self) -> bytes:
        """The bytes, checked against their SHA-256 too: they are about to run on a device.

        Raises:
            SnapshotError, DamagedSnapshotError: as :meth:`numpy`.
        """
        data = self.numpy().tobytes()
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise DamagedSnapshotError(f"device file {self.name}: its contents disagree with their SHA-256")
        return data

    def to_dict(self) -> dict[str, Any]:
        """JSON data: everything but the contents."""
        return serialise.pick(self, "name", "nbytes", "sha256", "kept")


@dataclass(frozen=True, slots=True)
class KernelBinaries:
    """What one operator of one sequence ran with; ``absent`` says why where a file is None.

    ``places``: bytes from the start of the tensor that an argument is given to its contents; empty: none anywhere.
    """

    sequence: int
    operator: int
    kernel: str
    xclbin: DeviceFile | None
    instructions: DeviceFile | None
    absent: str | None
    places: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return serialise.pick(self, "sequence", "operator", "kernel", "xclbin", "instructions", "absent")


def read_binaries(index: Index, store: ContentStore, name: str) -> tuple[KernelBinaries, ...]:
    """The table as objects, in its order.

    Raises:
        DamagedSnapshotError: an entry names what is not there, or is none.
    """
    rows = {
        digest.decode("ascii", "replace"): row
        for row, (digest, dtype) in enumerate(index.contents[["digest", "dtype"]].tolist())
        if dtype == b"uint8"
    }

    def file(entry: Any) -> DeviceFile | None:
        if entry is None:
            return None
        label, nbytes, digest, sha256 = (entry[key] for key in ("name", "nbytes", "digest", "sha256"))
        if not (_text(label) and _DIGEST.match(digest) and _SHA256.match(sha256) and type(nbytes) is int):
            raise ValueError(label)
        row = rows.get(digest, -1)
        if row >= 0 and int(index.contents["nbytes"][row]) != nbytes:
            raise ValueError(label)
        kept = row >= 0 and int(index.contents["encoding"][row]) != DIGEST_ONLY
        return DeviceFile(label, nbytes, digest, sha256, kept, row, store)

    def kernel(entry: Mapping[str, Any]) -> KernelBinaries:
        sequence, operator, label, absent = (entry[key] for key in ("sequence", "operator", "kernel", "absent"))
        known = type(sequence) is int and 0 <= sequence < len(index.sequences)
        if not (known and type(operator) is int and 0 <= operator < len(index.sequences[sequence].operators)):
            raise ValueError(f"operator {operator} of sequence {sequence}")
        places = entry.get("places", [])
        if not all(type(place) is int and 0 <= place <= MAX_CONTENT for place in places):
            raise ValueError("places")
        if not (_text(label) and (absent is None or _text(absent))):
            raise ValueError("kernel")
        files = file(entry.get("xclbin")), file(entry.get("instructions"))
        return KernelBinaries(sequence, operator, label, *files, absent, tuple(places))

    try:
        return tuple(kernel({"absent": None, **entry}) for entry in index.binaries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedSnapshotError(f"{name}: the table of device files does not fit ({error})") from error


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_NAME


__all__ = ["DeviceFile", "KernelBinaries", "KernelFiles", "read_binaries"]
