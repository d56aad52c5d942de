# SPDX-License-Identifier: Apache-2.0
"""What the bytes of an operand become: a content that is known, one made of others, new bytes, or a digest alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import UsageError
from fusion_replay.model import DTYPE_BYTES, ArgSpec, SequenceDescription
from fusion_replay.snapshot import frames, records
from fusion_replay.snapshot.codec import Layout
from fusion_replay.snapshot.commits import Commits
from fusion_replay.snapshot.links import Link, Side
from fusion_replay.snapshot.news import News, Place
from fusion_replay.snapshot.schema import INPUT, MAX_CONTENT, PREVIOUS, digest_of
from fusion_replay.snapshot.spill import Spill, Task
from fusion_replay.snapshot.traffic import Traffic, own_bytes
from fusion_replay.snapshot.weights import WeightsKeeper

Key = tuple[bytes, str]
"""Digest and element type: what makes two contents one."""

INLINE_BELOW = 1 << 16  # bytes: smaller contents go into the journal with their step, in one write


@dataclass(slots=True)
class Batch:
    """What one call wants to append: contents first, so that no step refers to one that is not there."""

    what: str
    contents: list[tuple[records.ContentRecord, Any]] = field(default_factory=list)
    keys: dict[Key, int] = field(default_factory=dict)
    withheld: str | None = None
    """Why some of what it was to hold is not kept."""

    def frames(self) -> list[records.Frame]:
        return [record.frame(raw) for record, raw in self.contents]


class Intake:
    """Contents of one recording by number; one per writer, whose lock is held.

    Attributes:
        digests: of every content, by its number.
        bytes_seen, bytes_unique: of all tensors that came in, and of the contents that were kept.
        full: whether a content did not fit into ``max_bytes``: none is kept any more.
        traffic: what is kept, by whether it came from outside or was computed.
    """

    def __init__(
        self, commits: Commits, spill: Spill, traffic: Traffic, max_bytes: int | None, weights: WeightsKeeper | None
    ) -> None:
        self.digests: list[bytes] = []
        self.bytes_seen = self.bytes_unique = 0
        self.full = False
        self.traffic = traffic
        self.news = News()
        self._commits, self._spill = commits, spill
        self._max_bytes = max_bytes
        self._sequences: list[SequenceDescription] = []
        self._stored: dict[Key, int] = {}
        self._digest_only: dict[Key, int] = {}
        self._bare: set[int] = set()  # contents of which the digest alone was kept
        self._weights = weights
        self._aside: dict[Key, int] = {}  # contents that it took, ...
        self._set_aside: set[int] = set()  # ... their ids

    def add_sequence(self, sequence: SequenceDescription) -> None:
        self._sequences.append(sequence)
        self.news.add_sequence(sequence)

    def has(self, content: int) -> bool:
        """Whether its bytes are kept, here or in a side file."""
        return content not in self._bare or content in self._set_aside

    def all_here(self, contents: tuple[int, ...]) -> bool:
        """Whether the bytes of each are in this recording itself."""
        return self._bare.isdisjoint(contents)

    def stored_as(self, digest: bytes, dtype: str) -> int | None:
        """The content that has these bytes, where they are kept."""
        return self._stored.get((digest, dtype))

    def content(
        self, batch: Batch, array: npt.NDArray[Any], spec: ArgSpec, keep: bool, place: Place | None = None
    ) -> int:
        """The id of these bytes, new or known; new ones are written (large) or join the batch (small, or made of
        others)."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if raw.nbytes != spec.nbytes or raw.nbytes > MAX_CONTENT:
            raise UsageError(
                f"{batch.what} {spec.name}: {raw.nbytes} bytes given, but {spec.shape} of {spec.dtype} "
                f"has {spec.nbytes}"
            )
        self.bytes_seen += raw.nbytes
        key = (digest_of(raw), spec.dtype)
        known = self._stored.get(key, batch.keys.get(key))
        if known is None and not keep:
            known = self._digest_only.get(key)
        aside = self._weights is not None and keep and place is not None and self.news.is_weight(place)
        if known is None and aside:
            known = self._aside.get(key)
        if known is not None:
            return known
        content = len(self.digests)
        self.digests.append(key[0])
        layout = Layout.of(spec.shape, DTYPE_BYTES[spec.dtype])
        where, tail = records.DIGEST, None
        slots: tuple[int, ...] = ()
        link: Link | None = self._taken(raw, key, place) if aside and place is not None else None
        if link is None and keep and place is not None:
            link = self.news.link(place, raw, key, self._stored)
        size = own_bytes(link, raw.nbytes)
        if keep and place is not None and not self._fits(size):
            keep, link = False, None
            batch.withheld = f"beyond max_bytes {self._max_bytes}"
            self._commits.leave_out(f"tensors {batch.withheld}; their digests are kept")
        if keep and place is not None:
            spilled = link is None and raw.nbytes >= INLINE_BELOW
            self.traffic.keep(content, size, outside=self._from_outside(place), spilled=spilled)
        if link is not None:
            where = records.LINKED
        elif keep and raw.nbytes < INLINE_BELOW:
            where, tail = records.INLINE, raw
        elif keep:
            slots = self._to_spill(content, raw, layout, spec)
            where = records.SPILLED if slots else records.DIGEST
        record = records.ContentRecord(content, spec.dtype, key[0], where, layout, spec.shape, slots, link=link)
        batch.contents.append((record, tail))
        if isinstance(link, Side):
            self._bare.add(content)
        elif where != records.DIGEST:
            batch.keys[key] = content
            if place is not None:
                self.news.stored(place, content, raw, link)
        else:
            self._bare.add(content)
        if keep and where == records.DIGEST:
            self._commits.lose("contents", "tensors that could not be written; their digests are kept")
        return content

    def commit(self, batch: Batch, step: records.Frame) -> bool:
        """Append contents and step; where that fails, the step with the digests of its contents alone."""
        if self._commits.append([*batch.frames(), step]):
            for record, _ in batch.contents:
                key = (record.digest, record.dtype)
                if isinstance(record.link, Side):
                    self._aside[key] = record.content
                    self._set_aside.add(record.content)
                elif record.where == records.DIGEST:
                    self._digest_only[key] = record.content
                else:
                    self._stored[key] = record.content
                    self.bytes_unique += record.layout.nbytes
            return True
        self.news.forget()
        bare = Batch(batch.what)
        lost = 0
        for record, _ in batch.contents:
            lost += record.where != records.DIGEST
            digest_only = records.ContentRecord(
                record.content, record.dtype, record.digest, records.DIGEST, record.layout, record.shape
            )
            bare.contents.append((digest_only, None))
            self._bare.add(record.content)
        if not lost or not self._commits.append([*bare.frames(), step]):
            return False
        self._commits.lose("contents", "tensors that could not be written; their digests are kept", lost)
        return True

    def _fits(self, size: int) -> bool:
        """Whether so many more bytes may be kept."""
        if self._max_bytes is not None and self.traffic.kept + size > self._max_bytes:
            self.full = True
        return not self.full

    def _from_outside(self, place: Place) -> bool:
        """Whether a new content was there before this call: weights and state, not what is handed over or computed."""
        inputs = self._sequences[place.sequence].input_args
        return place.role in (INPUT, PREVIOUS) and place.use.buffer not in inputs

    def _taken(self, raw: npt.NDArray[np.uint8], key: Key, place: Place) -> Side | None:
        """A weight that its keeper has, or has to have, noted; None: it can't take it."""
        assert self._weights is not None
        weight = self._weights.take(raw, key[0].hex(), key[1], place.use.buffer)
        if weight is None:
            return None
        self._commits.first(records.json_frame(frames.WEIGHTS, [weight.to_dict()]))
        return Side()

    def _to_spill(self, content: int, raw: npt.NDArray[np.uint8], layout: Layout, spec: ArgSpec) -> tuple[int, ...]:
        """Slots of the pieces, already written; none where the disk is full."""
        itemsize, kind = DTYPE_BYTES[spec.dtype], (spec.dtype, spec.shape)
        slots = []
        try:
            for piece, (start, stop) in enumerate(layout.spans()):

                def task(slot: int, piece: int = piece, nbytes: int = stop - start) -> Task:
                    return Task(content, piece, slot, nbytes, layout.piece_bytes, itemsize, kind)

                slots.append(self._spill.put(task, raw[start:stop]))
        except OSError as error:
            self._commits.failed(error)
            return ()
        return tuple(slots)


__all__ = ["Batch", "Intake"]
