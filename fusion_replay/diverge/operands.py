# SPDX-License-Identifier: Apache-2.0
"""The operand rows of a recording as flat columns: which content each step had in which buffer and byte range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion_replay.snapshot.schema import NO_CONTENT, Index

Rows = npt.NDArray[np.int64]

_PLACES = 1 << 16  # positions in a runlist entry fit 16 bits
_ROLES = 8


@dataclass(frozen=True, slots=True)
class Operands:
    """Contents by (row of the steps table, position in the runlist entry, role), sorted by these.

    ``content`` is a row of the contents table; operands that were never seen are left out.
    """

    key: Rows
    content: Rows

    @classmethod
    def of(cls, index: Index) -> Operands:
        counts = index.steps["n_operands"].astype(np.int64)
        row = np.repeat(np.arange(len(index.steps), dtype=np.int64), counts)
        begin = np.cumsum(counts) - counts  # where a step's rows begin in this flat order
        shift = np.repeat(index.steps["first_operand"].astype(np.int64) - begin, counts)
        operands = index.operands[np.arange(len(row)) + shift]
        seen = operands["content"] != NO_CONTENT
        key = key_of(row, operands["position"].astype(np.int64), operands["role"].astype(np.int64))[seen]
        content = operands["content"].astype(np.int64)[seen]
        order = np.argsort(key, kind="stable")
        return cls(key[order], content[order])

    def find(self, row: Rows, position: Rows, role: Rows | int) -> Rows:
        """The contents row at each place, -1 where there is none. Negative rows (no step) have none."""
        wanted = key_of(row, position, role)
        if not len(self.key):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        return np.where(self.key[at] == wanted, self.content[at], -1)


def key_of(row: Rows, position: Rows, role: Rows | int) -> Rows:
    """One number per place, in the order row, position, role."""
    return (row * _PLACES + position) * _ROLES + role


def place_of(key: Rows) -> tuple[Rows, Rows, Rows]:
    """Back from :func:`key_of`: row, position, role."""
    return key // (_PLACES * _ROLES), key // _ROLES % _PLACES, key % _ROLES
