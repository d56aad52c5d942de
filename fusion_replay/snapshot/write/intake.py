# SPDX-License-Identifier: Apache-2.0
"""Decides how the bytes of an operand are kept: as a known content, made of others, new, or by their digest alone.

Tested in tests/snapshot/test_roundtrip.py, write/test_hold.py and write/test_deduplication.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import UsageError
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.runlist import DTYPE_BYTES, ArgSpec, SequenceDescription, stored_dtype
from fusion_replay.model.step import OperandKey
from fusion_replay.snapshot.encodings.chunks import Layout
from fusion_replay.snapshot.encodings.link import Link
from fusion_replay.snapshot.encodings.place import Place
from fusion_replay.snapshot.encodings.side_file import InSideFile
from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.journal.spill import Spill, Task
from fusion_replay.snapshot.schema import INPUT, MAX_CONTENT, PREVIOUS, WATCHED, ContentKey, digest_of
from fusion_replay.snapshot.write.commits import Commits
from fusion_replay.snapshot.write.deduplication import Deduplication
from fusion_replay.snapshot.write.hold import Hold, digest_alone, tasks_of
from fusion_replay.snapshot.write.volume import Volume

if TYPE_CHECKING:
    from fusion_replay.snapshot.write.weights import WeightsKeeper

INLINE_BELOW = 1 << 16  # bytes: smaller contents go into the journal with their step, in one write


@dataclass(slots=True)
class JournalBatch:
    """What one call wants to append: contents first, so that no step refers to one that is not there."""

    what: str
    contents: list[tuple[payloads.ContentRecord, Any]] = field(default_factory=list)
    keys: dict[ContentKey, int] = field(default_factory=dict)
    withheld: str | None = None
    """Why some of what it was to hold is not kept."""
    hold: Hold | None = None
    """What is new waits in there for a verdict."""
    dropped: tuple[payloads.ContentRecord, ...] = ()
    """Contents that were held and are not kept. The journal says so behind the step: cut short, it still has them."""

    def frames(self) -> list[payloads.Frame]:
        return [record.frame(raw) for record, raw in self.contents]

    def drops(self) -> list[payloads.Frame]:
        return [digest_alone(record).frame() for record in self.dropped]


class Intake:
    """Contents of one recording by number; one per writer, whose lock is held.

    Attributes:
        digests: of every content, by its number.
        bytes_seen, bytes_unique: of all tensors that came in, and of the contents that were kept.
        full: whether a content did not fit into ``max_bytes``: none is kept any more.
        volume: what is kept, by whether it came from outside or was computed.
        links: whether contents may be made of others.
    """

    def __init__(
        self,
        commits: Commits,
        spill: Spill,
        volume: Volume,
        max_bytes: int | None,
        weights: WeightsKeeper | None,
        *,
        links: bool = True,
    ) -> None:
        self.digests: list[bytes] = []
        self.bytes_seen = self.bytes_unique = 0
        self.full = False
        self.volume = volume
        self.deduplication = Deduplication()
        self.links = links
        self._commits, self._spill = commits, spill
        self._max_bytes = max_bytes
        self._sequences: list[SequenceDescription] = []
        self._stored: dict[ContentKey, int] = {}
        self._digest_only: dict[ContentKey, int] = {}
        self._bare: set[int] = set()  # contents of which the digest alone was kept
        self._weights = weights
        self._aside: dict[ContentKey, int] = {}  # contents that it took, ...
        self._set_aside: set[int] = set()  # ... their ids
        self._static: dict[tuple[int, str, int, int], int] = {}  # where a step is held: what it read of a constant
        self._unneeded: dict[int, payloads.ContentRecord] = {}  # those of them that no step that is kept has read

    def add_sequence(self, sequence: SequenceDescription) -> None:
        self._sequences.append(sequence)
        self.deduplication.add_sequence(sequence)

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
        self,
        batch: JournalBatch,
        array: npt.NDArray[Any],
        spec: ArgSpec,
        keep: bool,
        place: Place | None = None,
        digest: bytes | None = None,
    ) -> int:
        """The id of these bytes, new or known; new ones are written (large) or join the batch (small, or made of
        others). ``digest``: theirs, where it is known already."""
        raw, spec = flat_bytes(array), replace(spec, dtype=stored_dtype(spec.dtype))
        if raw.nbytes != spec.nbytes or raw.nbytes > MAX_CONTENT:
            raise UsageError(
                f"{batch.what} {spec.name}: {raw.nbytes} bytes given, but {spec.shape} of {spec.dtype} "
                f"has {spec.nbytes}"
            )
        self.bytes_seen += raw.nbytes
        key = (digest_of(raw) if digest is None else digest, spec.dtype)
        known = self._stored.get(key, batch.keys.get(key))
        if known is None and not keep:
            known = self._digest_only.get(key)
        aside = self._weights is not None and keep and place is not None and self.deduplication.is_weight(place)
        if known is None and aside:
            known = self._aside.get(key)
        if known is not None:
            if place is None:
                self._unneeded.pop(known, None)  # a device file that is a weight as well
            return known
        content = len(self.digests)
        self.digests.append(key[0])
        layout = Layout.of(spec.shape, DTYPE_BYTES[spec.dtype])
        where, tail = payloads.DIGEST, None
        slots: tuple[int, ...] = ()
        link: Link | None = self._taken(raw, key, place) if aside and place is not None else None
        if batch.hold is not None and keep and link is None and raw.nbytes and place is not None:
            if not self._is_static(place, content):
                return self._hold(batch, batch.hold, content, raw, key, layout, spec)
            place = None  # what is made of it would be lost with it; it counts once a step that is kept has read it
        if link is None and keep and place is not None and self.links:
            link = self.deduplication.link(place, raw, key, self._stored)
        size = raw.nbytes if link is None else link.own_bytes
        if keep and place is not None and not self._fits(size):
            keep, link = False, None
            self._beyond(batch)
        if keep and place is not None:
            spilled = link is None and raw.nbytes >= INLINE_BELOW
            self.volume.keep(content, size, outside=self._from_outside(place), spilled=spilled)
        if link is not None:
            where = payloads.LINKED
        elif keep and raw.nbytes < INLINE_BELOW:
            where, tail = payloads.INLINE, raw
        elif keep:
            slots = self._to_spill(content, raw, layout, spec)
            where = payloads.SPILLED if slots else payloads.DIGEST
        record = payloads.ContentRecord(content, spec.dtype, key[0], where, layout, spec.shape, slots, link=link)
        batch.contents.append((record, tail))
        if isinstance(link, InSideFile):
            self._bare.add(content)
        elif where != payloads.DIGEST:
            batch.keys[key] = content
            if place is not None and self.links:
                self.deduplication.stored(place, content, raw, link)
        else:
            self._bare.add(content)
        if keep and where == payloads.DIGEST:
            self._commits.lose("contents", "tensors that could not be written; their digests are kept")
        return content

    def commit(self, batch: JournalBatch, step: payloads.Frame) -> bool:
        """Append contents and step; where that fails, the step with the digests of its contents alone."""
        hold = batch.hold
        if self._commits.append([*batch.frames(), step, *batch.drops()] if batch.dropped else [*batch.frames(), step]):
            for record, _ in batch.contents:
                key = (record.digest, record.dtype)
                if hold is not None and record.where != payloads.DIGEST and key in hold.contents:
                    continue
                if isinstance(record.link, InSideFile):
                    self._aside[key] = record.content
                    self._set_aside.add(record.content)
                elif record.where == payloads.DIGEST:
                    self._digest_only[key] = record.content
                else:
                    self._stored[key] = record.content
                    if hold is None:
                        self.bytes_unique += record.layout.nbytes
                    else:
                        self._unneeded[record.content] = record
            if batch.dropped:
                self._free(batch.dropped)
                self._digest_only.update(((record.digest, record.dtype), record.content) for record in batch.dropped)
            return True
        self.deduplication.forget()
        bare = JournalBatch(batch.what)
        lost = 0
        for record, _ in batch.contents:
            lost += record.where != payloads.DIGEST
            bare.contents.append((digest_alone(record), None))
            self._bare.add(record.content)
        if hold is not None:
            self._free(hold.contents.values())
            hold.contents.clear()
        if not lost or not self._commits.append([*bare.frames(), step, *batch.drops()]):
            for record in batch.dropped:  # the journal has them still
                self._spill.queue(tasks_of(record))
            return False
        self._free(batch.dropped)
        self._commits.lose("contents", "tensors that could not be written; their digests are kept", lost)
        return True

    # --- steps that wait for a verdict --------------------------------------------------------------------------

    def seen(self, hold: Hold) -> dict[OperandKey, bytes]:
        """Digests of what a step that is held has shown so far."""
        return {(role, position): self.digests[content] for position, role, content in hold.rows}

    def settle(self, hold: Hold, batch: JournalBatch, keep: bool) -> None:
        """The verdict on a step that ends with ``batch``."""
        if keep:
            self.keep(hold, batch)
        else:
            batch.dropped = tuple(hold.contents.values())

    def keep(self, hold: Hold, batch: JournalBatch | None = None) -> None:
        """Keep what a step holds and the constants that it read.

        With ``batch``, in which the step ends, those are dropped that are known from elsewhere by now, and those beyond
        ``max_bytes``. One that does not end keeps what it has: it is what people look for.
        """
        needed = [content for _, role, content in hold.rows if role != WATCHED]
        contents, hold.contents = hold.contents, {}  # after an interrupt they must not be queued a second time
        for key, record in contents.items():
            known = self._stored.get(key) if batch is not None else None
            if known is not None:
                needed.append(known)
            elif self._fits(record.layout.nbytes) or batch is None:  # asked in any case: it is the last such step then
                self._stored[key] = record.content
                self._bare.discard(record.content)
                self._count(record, spilled=True)
                self._spill.queue(tasks_of(record))
                continue
            else:
                self._beyond(batch)
            assert batch is not None
            batch.dropped += (record,)
        self.need(needed, batch)

    def need(self, contents: Iterable[int], batch: JournalBatch | None = None) -> None:
        """A step that is kept has these: constants among them are needed, within ``max_bytes``."""
        for content in contents:
            record = self._unneeded.get(content)
            if record is None:
                continue
            if not self._fits(record.layout.nbytes) and batch is not None:
                self._beyond(batch)
                continue
            del self._unneeded[content]
            self._count(record, spilled=False)

    def drop_unneeded(self) -> None:
        """At the end: of the constants that no step that is kept has read the digests alone remain."""
        dropped, self._unneeded = self._unneeded, {}
        self._commits.append([digest_alone(record).frame() for record in dropped.values()])

    def _free(self, dropped: Iterable[payloads.ContentRecord]) -> None:
        """Free the slots that the journal does not refer to any more."""
        self._spill.free([slot for record in dropped for slot in record.slots])

    def _is_static(self, place: Place, content: int) -> bool:
        """Whether this is a constant, seen for the first time: kept at once, since a recorder reads it only once."""
        if place.role != INPUT or not self.deduplication.is_static(place):
            return False
        return self._static.setdefault(place.region, content) == content

    def _hold(
        self,
        batch: JournalBatch,
        hold: Hold,
        content: int,
        raw: npt.NDArray[np.uint8],
        key: ContentKey,
        layout: Layout,
        spec: ArgSpec,
    ) -> int:
        """New bytes into slots that are not compressed yet."""
        self._bare.add(content)  # until it is kept
        slots: list[int] = []
        try:
            for start, stop in layout.spans():
                slots.append(self._spill.hold(raw[start:stop]))
        except OSError as error:
            self._spill.free(slots)
            slots = []
            self._commits.failed(error)
            self._commits.lose("contents", "tensors that could not be written; their digests are kept")
        where = payloads.SPILLED if slots else payloads.DIGEST
        record = payloads.ContentRecord(content, spec.dtype, key[0], where, layout, spec.shape, tuple(slots))
        batch.contents.append((record, None))
        if slots:
            batch.keys[key] = content
            hold.contents[key] = record
        return content

    def _count(self, record: payloads.ContentRecord, *, spilled: bool) -> None:
        self.volume.keep(record.content, record.layout.nbytes, outside=not spilled, spilled=spilled)
        self.bytes_unique += record.layout.nbytes

    def _fits(self, size: int) -> bool:
        """Whether so many more bytes may be kept."""
        if self._max_bytes is not None and self.volume.kept + size > self._max_bytes:
            self.full = True
        return not self.full

    def _beyond(self, batch: JournalBatch) -> None:
        batch.withheld = f"beyond max_bytes {self._max_bytes}"
        self._commits.leave_out(f"tensors {batch.withheld}; their digests are kept")

    def _from_outside(self, place: Place) -> bool:
        """Whether a new content was there before this call: weights and state, not what is handed over or computed."""
        inputs = self._sequences[place.sequence].input_args
        return place.role in (INPUT, PREVIOUS) and place.use.buffer not in inputs

    def _taken(self, raw: npt.NDArray[np.uint8], key: ContentKey, place: Place) -> InSideFile | None:
        """A weight that its keeper has, or has to have, noted; None: it can't take it."""
        assert self._weights is not None
        weight = self._weights.take(raw, key[0].hex(), key[1], place.use.buffer)
        if weight is None:
            return None
        self._commits.first(payloads.json_frame(frames.WEIGHTS, [weight.to_dict()]))
        return InSideFile()

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


__all__ = ["Intake", "JournalBatch"]
