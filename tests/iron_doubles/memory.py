# SPDX-License-Identifier: Apache-2.0
"""Host and device memory kept apart, as a discrete device would keep them: what nobody transfers, nobody sees."""

from __future__ import annotations

from typing import Any

import numpy as np

POISON = 0x55
"""What device memory holds before anything was sent there (mlir-aie's ``aie.utils.verify.poisoned`` uses it too)."""

GRANULE = 64


class Allocation:
    """``host_wrote``: per 64-byte line, whom modern tensors believe. ``written``: bytes that the host really wrote."""

    def __init__(self, nbytes: int) -> None:
        self.host = np.zeros(nbytes, np.uint8)
        self.device = np.full(nbytes, POISON, np.uint8)
        self.host_wrote = np.zeros(-(-nbytes // GRANULE), bool)
        self.written = np.zeros(nbytes, bool)

    def pull(self, start: int, stop: int) -> None:
        self.host[start:stop] = self.device[start:stop]
        self.written[start:stop] = False

    def push(self, start: int, stop: int) -> None:
        self.device[start:stop] = self.host[start:stop]
        self.written[start:stop] = False

    def flush(self, start: int, stop: int) -> None:
        """Send only what the host has written since the last sync: a cache line that nobody wrote is not written back.

        Before tensors knew who wrote what, a dispatch flushed whole arguments whose host side was stale, and got away
        with it for this reason.
        """
        at = np.flatnonzero(self.written[start:stop]) + start
        self.device[at] = self.host[at]
        self.written[start:stop] = False

    def mapped(self, start: int, stop: int) -> Watched:
        """Host memory that notices what is written to it."""
        view = self.host[start:stop].view(Watched)
        view.allocation = self
        return view


class Watched(np.ndarray):
    """An array over mapped host memory; views of it notice writes too."""

    allocation: Allocation | None = None

    def __array_finalize__(self, base: Any) -> None:
        self.allocation = getattr(base, "allocation", None)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if self.allocation is not None:
            lo, hi = np.lib.array_utils.byte_bounds(np.asarray(self)[key])
            origin = np.lib.array_utils.byte_bounds(self.allocation.host)[0]
            if 0 <= lo - origin < self.allocation.host.size:
                self.allocation.written[lo - origin : hi - origin] = True
