# SPDX-License-Identifier: Apache-2.0
"""What encodings without bytes of their own have in common: a link in the journal, references in the tables, a depth.

Every content has a depth: 0 with bytes of its own, else more than the depth of all that it is made of. That one
comparison per reference rules out circles and endless chains.

Tested in tests/hostile/test_links_made_to_hurt.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from fusion_replay.snapshot.schema import DIGEST_ONLY, NO_CONTENT, SIDE, Index

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Journalled:
    """What a link of the journal may refer to: tables, the row of each content id, the row of each step's address."""

    index: Index
    row_of: Mapping[int, int]
    step_at: Mapping[tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class Referred:
    """A link as the tables have it.

    Attributes:
        made_of: rows of the contents that it is made of; -1 for one that is lost.
        source, extent, mover: columns of the contents table.
        parts: rows of the parts table, ``source`` then being the first of them.
    """

    made_of: list[int]
    source: int = 0
    extent: int = 0
    mover: int = 0
    parts: tuple[tuple[int, int, int], ...] = ()


class Link(ABC):
    """How the journal says that a content is made; other contents by their ids there."""

    __slots__ = ()
    ENCODING: ClassVar[int]

    @property
    def own_bytes(self) -> int:
        """What it takes for itself, before compression."""
        return 0

    @abstractmethod
    def packed(self) -> tuple[int, bytes]:
        """A number (u32) and what follows it."""

    @classmethod
    @abstractmethod
    def unpacked(cls, number: int, body: bytes) -> Self | None:
        """Undo :meth:`packed`; None: of another length than it says."""

    @abstractmethod
    def references(self, journal: Journalled) -> Referred:
        """The same in terms of rows."""


class Store(Protocol):
    """What decoding asks of a store of contents."""

    @property
    def index(self) -> Index: ...
    def at_hand(self, row: int) -> Bytes | None:
        """The content where it is decoded already."""

    def read(self, row: int, what: str) -> Bytes:
        """The content, verified, read-only; ``what`` names in messages whatever it is read for."""

    def chunk(self, row: int, what: str) -> tuple[bytes, int]:
        """The only chunk of the content as it is stored, and its filter mask."""

    def pack(self, row: int, what: str) -> Bytes:
        """The decoded chunk that the content shares with others."""

    def empty(self, nbytes: int) -> Bytes:
        """Memory to decode into."""


def below(index: Index, sources: npt.NDArray[Any], users: npt.NDArray[Any]) -> Any:
    """Whether each source has bytes, or a way to them, and lies less deep than what is made of it."""
    contents = index.contents
    encoding = contents["encoding"][sources]
    return (encoding != DIGEST_ONLY) & (encoding != SIDE) & (contents["depth"][sources] < contents["depth"][users])


def reached(first: npt.NDArray[Any], counts: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For stretches of a table, by first row and length: the number of the stretch and the row, of every row."""
    counts = counts.astype(np.int64)
    starts, total = np.cumsum(counts) - counts, int(counts.sum())
    return np.repeat(np.arange(len(counts)), counts), np.repeat(first.astype(np.int64) - starts, counts) + np.arange(
        total
    )


def operands_of(index: Index, step: int) -> list[tuple[int, int, int]]:
    """Position, role and row of the content of every operand of the step in this row; -1 for a content that is lost."""
    record = index.steps[step]
    first = int(record["first_operand"])
    operands = index.operands[first : first + int(record["n_operands"])].tolist()
    return [(position, role, -1 if row == NO_CONTENT else row) for position, role, row in operands]


__all__ = ["Bytes", "Journalled", "Link", "Referred", "Store", "below", "operands_of", "reached"]
