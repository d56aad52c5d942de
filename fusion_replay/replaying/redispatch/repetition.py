# SPDX-License-Identifier: Apache-2.0
"""Repetitions of one dispatch compared with each other, by their bits; only the first output is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from fusion_replay.model.arrays import flat_bytes
from fusion_replay.replaying.redispatch.outcome import Certificate, Varying

NDArray = npt.NDArray[Any]


@dataclass
class Repetitions:
    """Collects outputs; :meth:`certificate` says how alike they were. ``names``: of the outputs, in order."""

    names: Sequence[str]
    _numbers: dict[str, int] = field(default_factory=dict)
    _pattern: list[int] = field(default_factory=list)
    _first: list[NDArray] = field(default_factory=list)
    _differs: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def add(self, outputs: Sequence[NDArray]) -> bool:
        """Take one repetition's outputs; whether nobody gave these before."""
        hashed = xxhash.xxh3_128()
        for output in outputs:
            hashed.update(flat_bytes(output).data)
        digest = hashed.hexdigest()
        new = digest not in self._numbers
        self._pattern.append(self._numbers.setdefault(digest, len(self._numbers)))
        if not self._first:
            self._first = [output.copy() for output in outputs]
            self._differs = [np.zeros(output.size, np.bool_) for output in outputs]
        elif new:
            for differs, first, output in zip(self._differs, self._first, outputs, strict=True):
                differs |= (_rows(first) != _rows(output)).any(axis=1)
        return new

    def certificate(self) -> Certificate:
        digests = list(self._numbers)
        distinct = tuple((digest, self._pattern.count(number)) for number, digest in enumerate(digests))
        varying = [
            _varying(name, first.shape, differs)
            for name, first, differs in zip(self.names, self._first, self._differs, strict=True)
            if differs.any()
        ]
        return Certificate(len(self._pattern), distinct, tuple(self._pattern), tuple(varying))


def _rows(array: NDArray) -> npt.NDArray[np.uint8]:
    """A row of bytes per element: NaNs compare by their bits."""
    return flat_bytes(array).reshape(array.size, array.dtype.itemsize)


def _varying(name: str, shape: tuple[int, ...], differs: npt.NDArray[np.bool_]) -> Varying:
    flat = np.flatnonzero(differs)
    places = np.unravel_index(flat, shape or (1,))
    box = tuple((int(axis.min()), int(axis.max())) for axis in places)
    return Varying(name, shape, int(flat.size), int(flat[0]), int(flat[-1]), box)


__all__ = ["Repetitions"]
