# SPDX-License-Identifier: Apache-2.0
"""A write buffer of pages between HDF5 and the file: HDF5 writes its many small objects one by one, in two places.

A system call for each would take longer than all that is written.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from fusion_replay.system import platform
from fusion_replay.system.descriptors import OwnDescriptor

PAGE = 1 << 18
HELD = 64
"""Pages in memory, at most: 16 MiB."""


@dataclass(slots=True)
class _Page:
    """Bytes of one page as they shall be; those from ``start`` to ``stop`` are not in the file yet."""

    data: bytearray
    start: int = 0
    stop: int = 0


class Pages:
    """Stands between a writer of small pieces and its file; not thread-safe."""

    def __init__(self, file: OwnDescriptor) -> None:
        self._file = file
        self._pages: OrderedDict[int, _Page] = OrderedDict()

    def write(self, offset: int, data: memoryview) -> None:
        """Put ``data`` at ``offset``.

        Raises:
            OSError: it, or a page that had to go, could not be written.
        """
        if len(data) >= PAGE:
            self._let_go(offset, offset + len(data))
            write_whole(self._file.fd, data, offset)
            return
        done = 0
        while done < len(data):
            number, start = divmod(offset + done, PAGE)
            stop = min(start + len(data) - done, PAGE)
            page = self._page(number)
            page.data[start:stop] = data[done : done + stop - start]
            page.start, page.stop = (
                (start, stop) if page.start == page.stop else (min(page.start, start), max(page.stop, stop))
            )
            done += stop - start

    def flush(self) -> None:
        """Give everything back; what fails stays to be written again.

        Raises:
            OSError: a write failed.
        """
        for number in sorted(self._pages):
            self._write_back(number, self._pages[number])
        self._pages.clear()

    def _let_go(self, start: int, stop: int) -> None:
        """Give back the pages that hold bytes from ``start`` to ``stop``."""
        for number in range(start // PAGE, -(-stop // PAGE)):
            if number in self._pages:
                self._write_back(number, self._pages.pop(number))

    def _page(self, number: int) -> _Page:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) >= HELD:
                oldest = next(iter(self._pages))
                self._write_back(oldest, self._pages[oldest])
                del self._pages[oldest]
            data = bytearray(PAGE)
            platform.read_into(self._file.fd, data, number * PAGE)
            page = self._pages[number] = _Page(data)
        else:
            self._pages.move_to_end(number)
        return page

    def _write_back(self, number: int, page: _Page) -> None:
        write_whole(self._file.fd, memoryview(page.data)[page.start : page.stop], number * PAGE + page.start)
        page.start = page.stop = 0


def write_whole(fd: int, data: memoryview | bytes, offset: int) -> None:
    """Write until everything is written; a short write goes on where it stopped (and meets the error there).

    Raises:
        OSError: what the system says.
    """
    rest, done = memoryview(data), 0
    while done < len(rest):
        done += platform.write_at(fd, rest[done:], offset + done)
