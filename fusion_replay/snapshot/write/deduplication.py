# SPDX-License-Identifier: Apache-2.0
"""Deduplication: before new bytes are stored, each encoding is asked whether other contents give them.

All of it is decided on the dispatching thread, where it replaces a write of the same bytes by less: a comparison with
a kept copy, a digest of slices, a copy made by a mover. Nothing is taken on trust: a patch is made of the bytes
themselves, parts and derived outputs have the same digest.
"""

from __future__ import annotations

from collections.abc import Mapping

from fusion_replay.model.runlist import SequenceDescription
from fusion_replay.snapshot.encodings.delta import Delta, Versions
from fusion_replay.snapshot.encodings.derived import Derived, Moves
from fusion_replay.snapshot.encodings.link import Bytes, Link
from fusion_replay.snapshot.encodings.parts import Parts, Slices
from fusion_replay.snapshot.encodings.place import SMALL, Place, Regions
from fusion_replay.snapshot.encodings.side_file import is_weight
from fusion_replay.snapshot.schema import REFERENCE, ContentKey


class Deduplication:
    """One per writer; not thread-safe, the writer's lock is held."""

    def __init__(self) -> None:
        self._regions: list[Regions] = []
        self._depths: dict[int, int] = {}
        self._slices = Slices(self._depths)
        self._versions = Versions(self._depths)
        self.moves = Moves(self._depths, self._versions)
        """Told of every step before it runs, and when its outputs have been asked for."""

    def add_sequence(self, sequence: SequenceDescription) -> None:
        self._regions.append(Regions.describe(sequence))

    def is_weight(self, place: Place) -> bool:
        """Whether this may go to a side file."""
        return is_weight(place, self._regions[place.sequence])

    def is_static(self, place: Place) -> bool:
        """Whether the sequence never writes this buffer and it is no input of the call."""
        return self._regions[place.sequence].is_static(place.use.buffer)

    def link(self, place: Place, raw: Bytes, key: ContentKey, stored: Mapping[ContentKey, int]) -> Link | None:
        """What gives these bytes, which are new under their digest; None: they must be stored themselves."""
        if raw.size < SMALL or place.role == REFERENCE:
            return None
        return (
            self.moves.find(place, key)
            or self._slices.find(place, raw, key, stored, self._regions[place.sequence])
            or self._versions.find(place, raw)
        )

    def stored(self, place: Place, content: int, raw: Bytes, link: Link | None) -> None:
        """Content ``content`` has (or will have, with what is being written) these bytes, by this link or whole."""
        if link is not None:
            self._depths[content] = self._depth_of(link, place)
        if raw.size < SMALL or place.role == REFERENCE:
            return
        regions = self._regions[place.sequence]
        self._slices.remember(place, content, raw, regions)
        if link is None or isinstance(link, Delta) or (isinstance(link, Derived) and self.moves.is_partial(place)):
            written = place.use.buffer in regions.written
            self._versions.remember(place, content, raw, whole=link is None, written=written)

    def forget(self) -> None:
        """Something could not be written: nothing that comes may be made of what was."""
        self._versions.forget()
        self._slices.forget()
        self.moves.forget()

    def _depth_of(self, link: Link, place: Place) -> int:
        match link:
            case Delta(base=base):
                return 1 + self._depths.get(base, 0)
            case Parts(parts=parts):
                return 1 + max(self._depths.get(content, 0) for content, _, _ in parts)
            case Derived():
                return self.moves.depth(place)
            case _:
                return 0


__all__ = ["Deduplication"]
