# SPDX-License-Identifier: Apache-2.0
"""The calls that not every operating system has, each with what stands in for it.

The one module that asks what the system can do. Linux has them all; macOS lacks some, Windows most. What stands in is
slower or weaker, never wrong; where nothing can, the caller is told by the exception or the value that is named here.

Tested in tests/integration/test_other_systems.py, where they are hidden.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CLOSED_IN_CHILDREN = getattr(os, "O_CLOEXEC", 0) or getattr(os, "O_NOINHERIT", 0)
BYTES_AS_THEY_ARE = getattr(os, "O_BINARY", 0)
"""Windows would change line ends."""
UPDATE = os.O_RDWR | CLOSED_IN_CHILDREN | BYTES_AS_THEY_ARE
"""For ``os.open``: read and write what exists."""
CREATE = UPDATE | os.O_CREAT | os.O_EXCL
"""For ``os.open``: a new file, which must not exist."""
LOOK = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | BYTES_AS_THEY_ARE
"""For ``os.open``: wait for no FIFO's other end, become no terminal's owner."""

SIGPIPE = int(getattr(signal, "SIGPIPE", 13))

_LOCK_AT = 1 << 62  # bytes; Windows locks ranges, and nobody can read a locked one: this one holds nothing
_position = threading.Lock()


def read_at(fd: int, size: int, offset: int) -> bytes:
    """At most ``size`` bytes from ``offset``; fewer at the end of the file. Safe from several threads."""
    if hasattr(os, "pread"):
        return os.pread(fd, size, offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)


def read_into(fd: int, place: Any, offset: int) -> int:
    """Fill a writable buffer of bytes from ``offset``; how many there were."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [place], offset)
    data = read_at(fd, len(place), offset)
    place[: len(data)] = data
    return len(data)


def write_at(fd: int, data: Any, offset: int) -> int:
    """Write to ``offset``; how many bytes of it were written. Safe from several threads."""
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _position:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def write_several_at(fd: int, buffers: Sequence[Any], offset: int) -> int:
    """As :func:`write_at`, of buffers that follow each other; how many bytes were written (none, where it can't)."""
    return os.pwritev(fd, buffers, offset) if hasattr(os, "pwritev") and len(buffers) <= 1000 else 0


def reserve(fd: int, offset: int, nbytes: int) -> None:
    """Take disk space.

    Raises:
        OSError: there is none, or the system promises none.
    """
    if not hasattr(os, "posix_fallocate"):
        raise OSError(errno.ENOTSUP, "this system reserves no space")
    os.posix_fallocate(fd, offset, nbytes)


def bring_to_disk(fd: int) -> None:
    """Contents and length; what else a file has may follow later."""
    getattr(os, "fdatasync", os.fsync)(fd)


def bring_folder_to_disk(folder: Path) -> None:
    """The names in it, where the system lets folders be opened (Windows does not)."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:
        if hasattr(os, "pread"):
            raise
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock(fd: int) -> None:
    """Lock a file for this process alone until ``fd`` is closed.

    Raises:
        BlockingIOError: somebody else has it.
        OSError: this file system knows no locks.
    """
    try:
        import fcntl
    except ImportError:
        _lock_range(fd)
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(fd: int) -> bool:
    """Another process has locked this file (:func:`lock`)."""
    try:
        import fcntl
    except ImportError:
        try:
            _lock_range(fd)
        except OSError:
            return True
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _lock_range(fd: int) -> None:
    try:
        import msvcrt
    except ImportError:
        return  # neither kind: O_EXCL alone keeps two recordings apart
    locking: Any = vars(msvcrt)["locking"]
    with _position:
        os.lseek(fd, _LOCK_AT, os.SEEK_SET)
        try:
            locking(fd, vars(msvcrt)["LK_NBLCK"], 1)
        except OSError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked by another process") from error


def file_size_limit() -> int | None:
    """Bytes that a file of this process may have (``ulimit -f``); None: any number."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def moved_high(fd: int, highest: int, room: int) -> int:
    """The same open file under a number far above those that are given out; ``fd`` itself where that can't be.

    Args:
        highest: the number not to be passed.
        room: numbers to leave below it, or below the process's own limit.
    """
    try:
        import fcntl
        import resource
    except ImportError:
        return fd
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = highest if limit == resource.RLIM_INFINITY else min(limit, highest)
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(3, most - room))
    except OSError:  # none is free up there
        return fd
    os.close(fd)
    return moved


def moves_open_files() -> bool:
    """A file can be renamed and removed while it is open; Windows refuses both."""
    return sys.platform != "win32"


def free_bytes(folder: Path) -> int:
    """On the disk that holds ``folder``, for this user."""
    return shutil.disk_usage(folder).free


def cores() -> int:
    """Those that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def not_ours(path: str, about: os.stat_result) -> str:
    """Why what lies at ``path`` may be somebody else's word; empty where it is the user's own.

    Args:
        about: of ``os.stat``, which knows no owner on Windows: there it is never known to be the user's own.
    """
    if not hasattr(os, "geteuid"):
        return f"who wrote {path} can't be told on this system"
    if about.st_uid != os.geteuid():
        return f"{path} belongs to user {about.st_uid}, not to you ({os.geteuid()})"
    return f"anybody may write {path}" if about.st_mode & stat.S_IWOTH else ""


def private(about: os.stat_result) -> bool:
    """Made by this user, for this user alone, as far as the system can say."""
    return not hasattr(os, "geteuid") or (about.st_uid == os.geteuid() and not about.st_mode & 0o077)


@contextlib.contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started in here ignore Ctrl-C, which reaches every process of a terminal, as far as the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited through exec
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill_with_children(process: subprocess.Popen[Any]) -> None:
    """Kill what was started with ``start_new_session=True``, and what it started where there are groups of processes.

    Raises:
        ProcessLookupError: all of it has ended.
    """
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def after_fork_in_child(call: Any) -> None:
    """Nothing to do where processes don't fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)


def records_programs() -> str:
    """Why a program can't be recorded as it runs; empty where it can: IRON and its driver are Linux's."""
    return "" if sys.platform == "linux" else f"this is {sys.platform}; IRON programs run, and are recorded, on Linux"
