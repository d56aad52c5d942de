# SPDX-License-Identifier: Apache-2.0
"""One allocation of the software NPU: a host copy, a device copy, and which of the two is right for each byte.

On the real machine host and device share memory through caches that are not kept coherent; mlir-aie tracks per byte
range which side wrote last (Xilinx/mlir-aie python/utils/hostruntime/coherence.py). Here the two sides are two
arrays, so that a missed synchronisation gives wrong numbers every time instead of sometimes.

All offsets and lengths are bytes.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Side = Literal["cpu", "npu"]
Bytes = npt.NDArray[np.uint8]

GRANULE = 64
"""Host and device are reconciled by whole cache lines, so views must not share one. mlir-aie reads the line size of
the machine and never goes below 64; a fixed 64 here makes a runlist valid everywhere or nowhere."""


class ByteRanges:
    """A set of bytes as sorted, disjoint, half-open ranges."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Any:
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        first = bisect_left(self._stops, start)  # ranges that touch the new one are merged with it
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def remove(self, start: int, stop: int) -> None:
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if first >= last or start >= stop:
            return
        left, right = self._starts[first], self._stops[last - 1]
        starts, stops = [], []
        if left < start:
            starts.append(left)
            stops.append(start)
        if right > stop:
            starts.append(stop)
            stops.append(right)
        self._starts[first:last] = starts
        self._stops[first:last] = stops

    def within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The parts of the set inside ``[start, stop)``, in order."""
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        return [(max(self._starts[i], start), min(self._stops[i], stop)) for i in range(first, last)]

    def covers(self, start: int, stop: int) -> bool:
        return start >= stop or self.within(start, stop) == [(start, stop)]


class Allocation:
    """Host and device memory of one buffer, zero-filled; pages are taken from the system when first written.

    ``host_dirty`` is what the host has claimed ("side cpu"): the next transfer sends it. ``host_stale`` is what the
    device wrote since the host last looked: the next read on the host fetches it. A byte is in at most one of them;
    in neither, both copies agree and nothing needs to move, which is what makes weights cost one transfer. Threads
    that share a buffer may find each other's bytes in it, as on the device, and never half a change of these sets.

    Attributes:
        pushed, pulled: bytes moved to and from the device so far.
    """

    __slots__ = ("_lock", "device", "host", "host_dirty", "host_stale", "nbytes", "pulled", "pushed")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.host: Bytes = np.zeros(nbytes, np.uint8)
        self.device: Bytes = np.zeros(nbytes, np.uint8)
        self.host_dirty = ByteRanges()
        self.host_stale = ByteRanges()
        self.pushed = 0
        self.pulled = 0
        self._lock = threading.Lock()

    def side(self, start: int, stop: int) -> Side:
        """Who holds the authoritative copy; "cpu" as soon as any byte still has to be sent, as mlir-aie answers."""
        with self._lock:
            return "cpu" if self.host_dirty.within(start, stop) else "npu"

    def push(self, start: int, stop: int) -> None:
        """Send what the host claimed; the device side is then authoritative for the whole range."""
        with self._lock:
            for lo, hi in self.host_dirty.within(start, stop):
                self.device[lo:hi] = self.host[lo:hi]
                self.pushed += hi - lo
            self.host_dirty.remove(start, stop)

    def pull(self, start: int, stop: int) -> None:
        """Fetch what the device wrote, without claiming anything for the host."""
        with self._lock:
            for lo, hi in self.host_stale.within(start, stop):
                self.host[lo:hi] = self.device[lo:hi]
                self.pulled += hi - lo
            self.host_stale.remove(start, stop)

    def claim_host(self, start: int, stop: int) -> None:
        """The host's bytes count from now on, current or not: they overwrite the device's at the next transfer."""
        with self._lock:
            self.host_stale.remove(start, stop)
            self.host_dirty.add(start, stop)

    def claim_device(self, start: int, stop: int) -> None:
        """The device's bytes count from now on; nothing is copied, and what the host had claimed is forgotten."""
        with self._lock:
            for lo, hi in self.host_dirty.within(start, stop):
                self.host_stale.add(lo, hi)
            self.host_dirty.remove(start, stop)

    def device_wrote(self, start: int, stop: int) -> None:
        with self._lock:
            self.host_dirty.remove(start, stop)
            self.host_stale.add(start, stop)
