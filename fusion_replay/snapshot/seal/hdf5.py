# SPDX-License-Identifier: Apache-2.0
"""The few HDF5 calls that sealing needs, on h5py's low-level interface; nothing is converted or compressed by them.

Chunks arrive compressed and are stored with ``write_direct_chunk``; the pipeline shuffle (2) and zstd (32015, optional)
is only declared, so that any HDF5 program with the registered zstd filter reads them. Files keep to what HDF5 1.10
understands: newer layouts are unreadable for half of the programs in use.

Tested in tests/snapshot/test_plain_hdf5.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5p, h5s, h5t, h5z

from fusion_replay.snapshot.journal.pages import Pages
from fusion_replay.snapshot.schema import MAX_CHUNK, USER_BLOCK
from fusion_replay.system import platform
from fusion_replay.system.descriptors import OwnDescriptor

ZSTD_FILTER = 32015
_STAND_IN = memoryview(np.random.default_rng(0).bytes(MAX_CHUNK))  # passed for chunks that are there already
_MAX_ATTRIBUTE = 60_000  # bytes; HDF5 keeps attributes in the object header, which ends at 64 KiB


class ElsewhereError(OSError):
    """HDF5 wanted to write where it must not: this version of it places things in another way."""


class PartFile:
    """The file under HDF5, in Python so that HDF5 never sees a write fail: out of space it can neither flush nor let go
    of its file, and takes the whole process down at exit. The first error is kept and raised by :meth:`check`.

    Args:
        path: made anew, but for its bytes of ``kept`` (start, stop), which are there already and stay as they are.
    """

    def __init__(self, path: Path, kept: tuple[int, int] = (0, 0)) -> None:
        if kept[1]:
            self._own = OwnDescriptor(os.open(path, platform.UPDATE), path)
            os.ftruncate(self.fd, kept[1])
        else:
            path.unlink(missing_ok=True)  # it may be the other name of a file that was sealed
            self._own = OwnDescriptor(os.open(path, platform.CREATE, 0o666), path)
        self.error: OSError | None = None
        self._kept = kept
        self._pages = Pages(self._own)
        self._at = self._end = 0  # the end that HDF5 knows of: it makes a new file of an empty one only
        self._watched: Any = None
        self._may_be_at: int | None = None
        self._seen_at: int | None = None

    @property
    def fd(self) -> int:
        """
        Raises:
            OSError: it is not ours any more.
        """
        return self._own.fd

    def check(self) -> None:
        """Raise what a write met since the beginning."""
        self.flush()
        self._raise()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (self._end if whence == os.SEEK_END else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        count = 0
        self.flush()
        with contextlib.suppress(OSError):
            count = platform.read_into(self.fd, buffer, self._at)
        buffer[count:] = bytes(len(buffer) - count)  # never written, or lost to an error that check() tells
        return len(buffer)

    def write(self, data: memoryview) -> int:
        self._end = max(self._end, self._at + len(data))
        if self._watched is not None and len(data) == len(self._watched) and self._is_watched(data):
            self._watched, self._seen_at = None, self._at
            if self._may_be_at == self._at:
                return len(data)
        if self._at < self._kept[1] and self._at + len(data) > self._kept[0] and self.error is None:
            self.error = ElsewhereError(errno.EIO, f"HDF5 {h5py.version.hdf5_version} writes over what is kept")
        try:
            if self.error is None:
                self._pages.write(self._at, data)
        except OSError as error:
            self.error = error
        return len(data)

    def write_chunk(self, dataset: Any, place: tuple[int, ...], chunk: bytes, mask: int) -> int:
        """Store a compressed chunk at the element ``place`` of ``dataset``; its offset in the file.

        The offset is what HDF5 asked this object for: its own answer differs between versions by the user block.
        """
        self._watched, self._seen_at, self._may_be_at = chunk, None, None
        dataset.write_direct_chunk(place, chunk, mask)
        self._raise()
        seen_at: int | None = self.__dict__["_seen_at"]  # which HDF5 has set through write()
        if seen_at is None:
            raise OSError(errno.EIO, f"HDF5 {h5py.version.hdf5_version} did not write a chunk when asked to")
        return seen_at

    def place_chunk(self, dataset: Any, place: tuple[int, ...], offset: int, size: int, mask: int) -> None:
        """Tell HDF5 of the chunk of ``size`` bytes that is there already, among those kept, at ``offset``.

        Raises:
            ElsewhereError: HDF5 would have put it elsewhere.
        """
        self._watched, self._seen_at, self._may_be_at = _STAND_IN[:size], None, offset
        dataset.write_direct_chunk(place, self._watched, mask)
        self._raise()
        if self._seen_at != offset:
            raise ElsewhereError(errno.EIO, f"HDF5 {h5py.version.hdf5_version} puts a chunk elsewhere than expected")

    def _is_watched(self, data: memoryview) -> bool:
        # Metadata of just the length of a large chunk does not exist; of a small one it might.
        return len(data) > 1 << 16 or bytes(data) == bytes(self._watched)

    def truncate(self, size: int) -> int:
        self.flush()
        try:
            if self.error is None:
                os.ftruncate(self.fd, max(size, self._kept[1]))
                self._end = size
        except OSError as error:
            self.error = error
        return size

    def flush(self) -> None:
        """Write what is held back. Raises nothing: HDF5 calls this too."""
        try:
            if self.error is None:
                self._pages.flush()
        except OSError as error:
            self.error = error

    def close(self) -> None:
        """Whatever HDF5 writes later meets a closed file, never another one that got the same descriptor number."""
        self._own.close()


def create(part: PartFile) -> Any:
    """A new HDF5 file in the empty ``part``, with room for the user block before it."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fileobj_driver(h5fd.fileobj_driver, part)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_LATEST)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_userblock(USER_BLOCK)
    # The name is only a key: the driver looks at the object.
    return h5f.create(repr(part).encode(), h5f.ACC_TRUNC, creation, access)


def root_group(file: Any) -> Any:
    return h5g.open(file, b"/")


@cache
def element_type(dtype: str) -> Any:
    """HDF5's type for an element type of :data:`fusion_replay.model.runlist.DTYPE_BYTES`.

    bfloat16 is float32 cut to its upper half: sign at bit 15, 8 exponent bits at 7, 7 fraction bits, bias 127. That
    equals HDF5 2.0's own H5T_FLOAT_BFLOAT16LE, and older versions show the right values.
    """
    if dtype == "bfloat16":
        bf16 = h5t.IEEE_F32LE.copy()
        bf16.set_fields(15, 7, 8, 0, 7)
        bf16.set_size(2)
        bf16.set_ebias(127)
        return bf16
    return h5t.py_create(np.dtype(dtype).newbyteorder("<"), logical=True)


@lru_cache(maxsize=256)
def text_type(size: int) -> Any:
    """A fixed-length UTF-8 string of ``size`` bytes."""
    kind = h5t.C_S1.copy()
    kind.set_size(max(1, size))
    kind.set_strpad(h5t.STR_NULLPAD)
    kind.set_cset(h5t.CSET_UTF8)
    return kind


def table_type(dtype: np.dtype[Any]) -> Any:
    return h5t.py_create(dtype, logical=True)


def group(parent: Any, name: str) -> Any:
    return h5g.create(parent, name.encode())


def chunked(parent: Any, name: str, kind: Any, shape: tuple[int, ...], chunk: tuple[int, ...]) -> Any:
    """An empty chunked dataset with the pipeline declared; its chunks come by ``write_direct_chunk``."""
    return h5d.create(parent, name.encode(), kind, _space(shape), _pipeline(chunk))


@lru_cache(maxsize=256)
def _space(shape: tuple[int, ...]) -> Any:
    return h5s.create_simple(shape)


@lru_cache(maxsize=256)
def _pipeline(chunk: tuple[int, ...]) -> Any:
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(chunk)
    plist.set_shuffle()
    plist.set_filter(ZSTD_FILTER, h5z.FLAG_OPTIONAL, (1,))
    plist.set_fill_time(h5d.FILL_TIME_NEVER)
    return plist


def contiguous(parent: Any, name: str, kind: Any, data: np.ndarray[Any, Any] | None, shape: tuple[int, ...]) -> Any:
    """A dataset without chunks, its place in the file known at once; ``data`` must have exactly ``kind``'s bytes."""
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_layout(h5d.CONTIGUOUS)
    plist.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5d.FILL_TIME_NEVER)
    dataset = h5d.create(parent, name.encode(), kind, h5s.create_simple(shape), plist)
    if data is not None and data.size:
        dataset.write(h5s.ALL, h5s.ALL, data, kind)
    return dataset


@cache
def _scalar() -> Any:
    return h5s.create(h5s.SCALAR)


def attribute(target: Any, name: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    if len(data) > _MAX_ATTRIBUTE:
        data = b"too long for an attribute; see /index"
    kind = text_type(len(data))
    made = h5a.create(target, name.encode(), kind, _scalar())
    made.write(np.array(data or b"\0", dtype=f"S{max(1, len(data))}"), kind)
