# SPDX-License-Identifier: Apache-2.0
"""Files that somebody else may have put there: opened only where they are files, told where git-lfs left a pointer.

Tested in tests/hostile/test_no_internal_error.py and tests/golden/test_fetching.py.
"""

from __future__ import annotations

import errno
import os
import stat

from fusion_replay.errors import ForeignFileError
from fusion_replay.system import platform

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a file begins that git-lfs has not fetched (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""


def regular(path: str | os.PathLike[str], flags: int) -> int:
    """For ``open(..., opener=regular)``: never waits for a FIFO's other end, and reads no device without an end.

    A directory is left to ``open``, which refuses it in its own words.

    Raises:
        OSError: neither a file nor a directory, behind a symbolic link too.
    """
    fd = os.open(path, flags | platform.LOOK)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return fd
    os.close(fd)
    kind = "a FIFO" if stat.S_ISFIFO(mode) else "a device"
    raise OSError(errno.EINVAL, f"expected a file, found {kind}", os.fspath(path))


def refuse_lfs_pointer(raw: bytes, where: str) -> None:
    """Nothing, unless these bytes begin a file whose contents git-lfs has not fetched.

    Raises:
        ForeignFileError: they do.
    """
    if not raw.startswith(LFS_POINTER):
        return
    if b"\n<<<<<<< " in raw:
        raise ForeignFileError(
            f"{where}: a git-LFS pointer in a merge conflict; `git checkout --ours` or `--theirs` of it decides"
        )
    raise ForeignFileError(f"{where}: a git-LFS pointer, its contents were not fetched; run `git lfs pull`")


__all__ = ["refuse_lfs_pointer", "regular"]
