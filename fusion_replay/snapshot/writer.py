# SPDX-License-Identifier: Apache-2.0
"""Writes a recording while it runs: every begin and end is in the kernel's page cache when the call returns.

The thread that dispatches kernels pays for a digest of every tensor and one raw write of those that are new. Worker
threads compress. Where the disk is full the run goes on: what could not be kept is counted as a loss.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.model import DTYPE_BYTES, ArgSpec, OperandUse, SequenceDescription
from fusion_replay.snapshot import frames, records
from fusion_replay.snapshot.binaries import KernelFiles
from fusion_replay.snapshot.chunkfile import ChunkFile
from fusion_replay.snapshot.codec import Layout
from fusion_replay.snapshot.describe import sequence_to_json
from fusion_replay.snapshot.flow import Flow
from fusion_replay.snapshot.links import Link, Side
from fusion_replay.snapshot.news import News, Place
from fusion_replay.snapshot.schema import (
    CHUNKS_SUFFIX,
    FORMAT_MAJOR,
    FORMAT_MINOR,
    INPUT,
    MAX_CONTENT,
    OUTPUT,
    PREVIOUS,
    REFERENCE,
    SPILL_SUFFIX,
    WATCHED,
    Loss,
    digest_of,
)
from fusion_replay.snapshot.side import Weight
from fusion_replay.snapshot.spill import Spill, Task
from fusion_replay.snapshot.target import IfExists, beside, claim, remove_working_files
from fusion_replay.snapshot.traffic import Traffic, own_bytes
from fusion_replay.snapshot.weights import WeightsKeeper

Level = Literal["full", "digest"]
Arrays = Mapping[int, npt.NDArray[Any]]
Key = tuple[bytes, str]

INLINE_BELOW = 1 << 16  # bytes: smaller contents go into the journal with their step, in one write
SPILL_SLOTS = 512  # MiB of raw bytes that may wait for compression

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What a recording came to. Sizes in bytes; ``bytes_seen`` counts every tensor at every step."""

    path: Path
    steps: int
    invocations: int
    bytes_seen: int
    bytes_unique: int
    file_bytes: int
    seconds_sealing: float
    losses: tuple[Loss, ...]
    notes: tuple[str, ...] = ()
    """What the recording noticed of the run: inputs clobbered between steps, weights that changed."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "steps": self.steps,
            "invocations": self.invocations,
            "bytes_seen": self.bytes_seen,
            "bytes_unique": self.bytes_unique,
            "file_bytes": self.file_bytes,
            "seconds_sealing": self.seconds_sealing,
            "losses": [loss.to_dict() for loss in self.losses],
            "notes": list(self.notes),
        }


@dataclass(slots=True)
class _Batch:
    """What one call wants to append: contents first, so that no step refers to one that is not there."""

    what: str
    contents: list[tuple[records.ContentRecord, Any]]
    keys: dict[Key, int]
    withheld: str | None = None
    """Why some of what it was to hold is not kept."""

    def frames(self) -> list[records.Frame]:
        return [record.frame(raw) for record, raw in self.contents]


class SnapshotWriter:
    """Records into ``path`` (a journal beside it until :meth:`close`).

    Args:
        path: the ``.h5`` to make.
        if_exists: "error", "replace" (the old file stays until the new one is complete) or "number" (app-001.h5, ...).
        provenance: JSON data about the run.
        level: "full", or "digest": of every tensor its digest alone.
        max_bytes: of contents, as :attr:`bytes_kept` counts them; from the first that does not fit on, digests alone.
        weights: takes the weights instead; closed with this writer.
        side: this is the side file of such a keeper: closing joins it with the file that is there.
        threads: that compress while recording (then the caller's own takes part); when None the number of cores less
            one, at least 1, at most 8.

    Raises:
        TargetExistsError, UsageError: the target can't be written; nothing was touched.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        if_exists: IfExists = "error",
        provenance: Mapping[str, Any] | None = None,
        level: Level = "full",
        max_bytes: int | None = None,
        threads: int | None = None,
        weights: WeightsKeeper | None = None,
        side: bool = False,
    ) -> None:
        if level not in ("full", "digest"):
            raise UsageError(f"level {level!r}: expected 'full' or 'digest'")
        self.target, self._journal = claim(Path(path), if_exists)
        self.write_error: OSError | None = None
        """The first thing that went wrong with a write; the losses say what it cost."""
        self._if_exists: IfExists = if_exists
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._recording = uuid.uuid4().hex
        self._stored: dict[Key, int] = {}
        self._digests: dict[Key, int] = {}
        self._bare: set[int] = set()  # contents of which the digest alone was kept
        self._next_content = 0
        self._news = News()
        self._flow = Flow()
        self._level = level
        self._max_bytes = max_bytes
        self.steps = 0
        """Begun so far."""
        self._withheld: set[tuple[int, int]] = set()  # steps under way of which the digests alone are kept
        self._left_out: dict[tuple[str, str], int] = {}  # said at the end of an invocation: a frame each would be many
        self.full = False
        """Whether a content did not fit into ``max_bytes``: none is kept any more."""
        self._traffic = Traffic()
        self._digest_of: list[bytes] = []  # by content
        self._noticed: dict[str, tuple[int, str]] = {}
        self._weights = weights
        self._aside: dict[Key, int] = {}  # contents that it took, ...
        self._set_aside: set[int] = set()  # ... their ids
        self._is_side = side
        self._sequences: list[SequenceDescription] = []
        self._invocations: dict[int, int] = {}
        self._lost_steps: set[tuple[int, int]] = set()
        self._lost: dict[tuple[str, str], int] = {}
        self._pending: dict[tuple[str, str], int] = {}  # those of them that the journal does not hold yet
        self._vital: list[records.Frame] = []
        self._provenance: dict[str, Any] = {}
        self._bytes_seen = self._bytes_unique = 0
        self._report: WriteReport | None = None
        self._closed = False
        try:
            self._chunks = ChunkFile(beside(self.target, CHUNKS_SUFFIX))
            self._spill = Spill(
                beside(self.target, SPILL_SUFFIX),
                self._append_chunk,
                threads=threads or min(8, max(1, (os.cpu_count() or 2) - 1)),
                slots=SPILL_SLOTS,
            )
        except OSError as error:
            beside(self.target, CHUNKS_SUFFIX).unlink(missing_ok=True)
            self._journal.path.unlink(missing_ok=True)
            self._journal.close()
            raise UsageError(f"{self.target}: can't be written: {error.strerror}") from error
        start = {
            "format": [FORMAT_MAJOR, FORMAT_MINOR],
            "recording": self._recording,
            "target": self.target.name,
            "if_exists": if_exists,
            "pid": self._pid,
            "side": side,
        }
        self._write_vital(records.json_frame(frames.START, start))
        self.set_provenance(provenance or {})

    def add_sequence(self, sequence: SequenceDescription) -> int:
        """Describe a sequence; its number for :meth:`begin_invocation`."""
        with self._lock:
            number = len(self._sequences)
            self._sequences.append(sequence)
            self._news.add_sequence(sequence)
            self._flow.add_sequence(sequence)
            data = {"id": number, "sequence": sequence_to_json(sequence)}
            self._write_vital(records.json_frame(frames.SEQUENCE, data))
            return number

    def add_binaries(self, sequence: int, kernels: Sequence[KernelFiles], *, keep: bool = True) -> None:
        """The device files behind operators of a sequence, each stored once; their digests alone unless ``keep``."""
        with self._lock:
            if not self._writes():
                return
            batch = _Batch(f"sequence {sequence}", [], {})

            def store(data: bytes) -> str:
                spec = ArgSpec("binary", "in", (len(data),), "uint8")
                raw = np.frombuffer(data, np.uint8)
                self._content(batch, raw, spec, keep)
                return digest_of(raw).hex()

            entries = [kernel.to_json(sequence, store) for kernel in kernels]
            if not self._commit_batch(batch, records.json_frame(frames.BINARIES, entries)):
                self._lose("binaries", "device files that could not be written", len(entries))

    def add_weight(self, raw: npt.NDArray[np.uint8], spec: ArgSpec, weight: Weight) -> bool:
        """Into a side file: these bytes, one axis. False where they could not be written."""
        with self._lock:
            batch = _Batch(f"weight {weight.name}", [], {})
            content = self._content(batch, raw, spec, True)
            note = records.json_frame(frames.WEIGHTS, [weight.to_dict()])
            key = bytes.fromhex(weight.digest), spec.dtype
            return self._commit_batch(batch, note) and self._stored.get(key) == content

    def note_weights(self, weights: Sequence[Weight]) -> None:
        """What has become known of weights since they were taken."""
        with self._lock:
            self._write_vital(records.json_frame(frames.WEIGHTS, [weight.to_dict() for weight in weights]))

    def begin_invocation(self, sequence: int) -> int:
        """A call of ``sequence`` starts; its number, from 0."""
        with self._lock:
            number = len(self._invocations)
            self._invocations[number] = sequence
            self._write_vital(records.invocation_begin_frame(number, sequence))
            return number

    def reassign(self, invocation: int, sequence: int) -> None:
        """Say that ``invocation`` is one of another sequence after all: its outputs turned out unlike the guess.

        What its steps recorded so far must have the same positions, shapes and dtypes there.
        """
        with self._lock:
            self._invocations[invocation] = sequence
            self._write_vital(records.invocation_begin_frame(invocation, sequence))

    def begin_step(
        self,
        invocation: int,
        step: int,
        inputs: Arrays,
        *,
        previous: Arrays = _NOTHING,
        watched: Arrays = _NOTHING,
        values: Mapping[str, int | float] = _NOTHING,
        assumed: Mapping[int, int] = _NOTHING,
        withheld: str | None = None,
    ) -> dict[int, int]:
        """Before the kernel. Keys are operand positions; arrays may be views that die after the call.

        Args:
            inputs: contents of what the kernel reads.
            previous: old contents of outputs, kept (partial writers).
            watched: old contents of outputs of which only the digest is kept.
            values: runtime values of this dispatch.
            assumed: inputs that nobody looked at, and the content each of them is taken to have still: an id that an
                earlier call returned. The snapshot says so of the step.
            withheld: why the step's contents are not kept, their digests alone; the snapshot says so. None: they are.

        Returns:
            The content of each of ``inputs`` by position, for those that are kept as this level asks for.

        Raises:
            UsageError: an array that does not fit the runlist. Nothing else: failed writes are losses.
        """
        with self._lock:
            if not self._writes():
                return {}
            batch = _Batch(f"step {invocation}:{step}", [], {})
            if withheld is not None:
                self._withheld.add((invocation, step))
                self.leave_out(f"steps {withheld}; their digests are kept")
            found = self._rows(batch, invocation, step, INPUT, inputs)
            self.steps += 1
            rows = found + self._assumed(invocation, step, assumed)
            rows += self._rows(batch, invocation, step, PREVIOUS, previous)
            rows += self._rows(batch, invocation, step, WATCHED, watched)
            detail: dict[str, Any] = {"values": dict(values)} if values else {}
            if assumed:
                detail["assumed"] = [self._operand(invocation, step, position).spec.name for position in assumed]
            if clobbered := self._clobbered(invocation, step, found):
                detail["clobbered"] = clobbered
            if reason := withheld or batch.withheld:
                detail["withheld"] = reason
            if not self._commit_batch(batch, records.step_begin_frame(invocation, step, rows, detail)):
                self._lost_steps.add((invocation, step))
                self._lose("step", "steps that could not be written", 1)
                return {}
            contents = tuple(content for _, role, content in rows if role != WATCHED)
            if self._bare.isdisjoint(contents) and not assumed:
                sequence = self._invocations[invocation]
                place = sequence, invocation, step
                self._news.expect(place, self._sequences[sequence], inputs, previous, values, contents)
            wanted = self._level == "digest" or withheld is not None
            return {
                position: content
                for position, _, content in found
                if wanted or content not in self._bare or content in self._set_aside
            }

    def end_step(
        self,
        invocation: int,
        step: int,
        outputs: Arrays,
        *,
        elapsed_ns: int | None = None,
        state: str | None = None,
        reference: Arrays = _NOTHING,
    ) -> None:
        """After the kernel: contents of what it wrote, and what the runtime said of it.

        ``reference``: what the operator's own reference gave for the outputs, in their dtypes.
        """
        with self._lock:
            if not self._writes() or (invocation, step) in self._lost_steps:
                return
            batch = _Batch(f"step {invocation}:{step}", [], {})
            rows = self._rows(batch, invocation, step, OUTPUT, outputs)
            if rows:
                digests = {position: self._digest_of[content] for position, _, content in rows}
                self._flow.wrote(self._invocations[invocation], invocation, step, digests)
            rows += self._rows(batch, invocation, step, REFERENCE, reference)
            self._ended(invocation, step)
            detail = {} if state is None else {"state": state}
            if batch.withheld is not None:
                detail["withheld"] = batch.withheld
            if not self._commit_batch(batch, records.step_end_frame(invocation, step, rows, detail, elapsed_ns)):
                self._lose("outputs", "ends of steps that could not be written; they show as in flight", 1)

    def fail_step(self, invocation: int, step: int, error: str, *, state: str | None = None) -> None:
        """The kernel raised instead of coming back."""
        with self._lock:
            if not self._writes() or (invocation, step) in self._lost_steps:
                return
            self._ended(invocation, step)
            detail = {"error": error} if state is None else {"error": error, "state": state}
            if not self._commit([records.step_failed_frame(invocation, step, detail)]):
                self._lose("outputs", "failures of steps that could not be written; they show as in flight", 1)

    def note_step(self, invocation: int, step: int, detail: Mapping[str, Any]) -> None:
        """Keep more of what is known of a step that has begun: JSON data by key, joined with what is there."""
        with self._lock:
            if not self._writes() or (invocation, step) in self._lost_steps:
                return
            if not self._commit([records.step_note_frame(invocation, step, dict(detail))]):
                self._lose("statistics", "notes on steps that could not be written", 1)

    def notice(self, what: str, where: str) -> None:
        """Something about the run for :attr:`WriteReport.notes`: how often, and where first."""
        with self._lock:
            count, first = self._noticed.get(what, (0, where))
            self._noticed[what] = count + 1, first

    def holds(self, content: int) -> bool:
        """Whether this content is kept as the level asks for: not where it belongs to steps left out alone."""
        return self._level == "digest" or content not in self._bare or content in self._set_aside

    def sequence(self, number: int) -> SequenceDescription:
        """As it was added."""
        return self._sequences[number]

    def same(self, content: int, other: int) -> bool:
        """Whether two contents have the same bytes: one may have been kept, and the other only digested."""
        return self._digest_of[content] == self._digest_of[other]

    def leave_out(self, detail: str, count: int = 1) -> None:
        """Count what was not kept because nobody wanted it; in the losses from the end of the invocation on."""
        with self._lock:
            key = "left out", detail
            self._left_out[key] = self._left_out.get(key, 0) + count

    @property
    def bytes_kept(self) -> int:
        """Of contents, before compression; what other contents give, and what lies in a side file, is not counted."""
        return self._traffic.kept

    @property
    def traffic(self) -> Traffic:
        """What it came to so far, by whether it came from outside or was computed."""
        return self._traffic

    def _ended(self, invocation: int, step: int) -> None:
        self._news.ended(invocation, step)
        self._withheld.discard((invocation, step))

    def _say_left_out(self) -> None:
        for (kind, detail), count in self._left_out.items():
            self._lose(kind, detail, count)
        self._left_out.clear()

    def end_invocation(self, invocation: int) -> None:
        with self._lock:
            if self._writes():
                self._say_left_out()
            if self._writes() and not self._commit([records.invocation_end_frame(invocation)]):
                self._lose("invocation", "ends of invocations that could not be written", 1)

    def lose(self, kind: str, detail: str, count: int = 1) -> None:
        """Say that something was not recorded, or not kept."""
        with self._lock:
            if self._writes():
                self._lose(kind, detail, count)
                self._commit([])

    def set_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Replace the provenance by this JSON data."""
        with self._lock:
            self._provenance = dict(provenance)
            self._write_vital(records.json_frame(frames.PROVENANCE, self._provenance))

    def add_provenance(self, more: Mapping[str, Any]) -> None:
        """Say more of the run; what is known already stays."""
        with self._lock:
            self.set_provenance({**self._provenance, **more})

    def close(self) -> WriteReport:
        """Wait for the compression, seal to :attr:`target`, remove the journal. A second call gives the same report.

        Raises:
            UnsealedError: sealing failed; the journal is kept, and the message says how to go on.
            TargetExistsError: meanwhile somebody else made the target; the journal is kept.
        """
        from fusion_replay.snapshot.seal import seal
        from fusion_replay.snapshot.seal_side import seal_side

        with self._lock:
            if self._report is None:
                if self._closed:
                    raise UsageError(f"{self.target}: this recording was abandoned")
                self._seal_weights()
                self._say_left_out()
                self._spill.drain()
                if not self._commit([(frames.CLOSE, [b""])]) and self._spill.release_reserve():
                    self._commit([(frames.CLOSE, [b""])])
                started = time.perf_counter()
                try:
                    unwritten = tuple(Loss(kind, detail, n) for (kind, detail), n in self._pending.items())
                    if self._is_side:
                        sealed = seal_side(self._journal.path, self.target)
                    else:
                        sealed = seal(self._journal.path, self.target, self._if_exists, unwritten=unwritten)
                finally:
                    self._release()
                self.target = sealed.path
                self._report = WriteReport(
                    path=sealed.path,
                    steps=sealed.steps,
                    invocations=sealed.invocations,
                    bytes_seen=self._bytes_seen,
                    bytes_unique=self._bytes_unique,
                    file_bytes=sealed.file_bytes,
                    seconds_sealing=time.perf_counter() - started,
                    losses=sealed.losses,
                    notes=tuple(f"{what}: {n}, first at {where}" for what, (n, where) in self._noticed.items()),
                )
            return self._report

    def discard(self) -> None:
        """Stop, and leave nothing: of a recording in which there is no step. A file that was there stays."""
        with self._lock:
            if not self._closed:
                remove_working_files(self.target)
                self._release()

    def abandon(self) -> None:
        """Stop without sealing; the journal stays, readable, for ``fsck --recover``."""
        with self._lock:
            if not self._closed:
                self._release()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Every loss so far, by kind and detail."""
        with self._lock:
            return tuple(Loss(kind, detail, n) for (kind, detail), n in self._lost.items())

    def _seal_weights(self) -> None:
        if self._weights is not None:
            try:
                self.note_weights(self._weights.close())
            except (OSError, FusionReplayError) as error:
                self._lose("weights", f"the side file could not be sealed: {error}", 1)

    def _release(self) -> None:
        if not self._closed:
            if self._weights is not None:
                self._weights.abandon()
            self._closed = True
            self._spill.close()
            self._chunks.close()
            self._journal.close()

    def _writes(self) -> bool:
        """False after the end, and in a forked child, which shares the files but must not write to them."""
        return not self._closed and os.getpid() == self._pid

    def _rows(self, batch: _Batch, invocation: int, step: int, role: int, arrays: Arrays) -> list[records.Row]:
        if not arrays:
            return []
        if invocation not in self._invocations:
            raise UsageError(f"step {invocation}:{step}: invocation {invocation} was never begun")
        steps = self._sequences[self._invocations[invocation]].steps
        if step >= len(steps):
            raise UsageError(f"step {invocation}:{step}: its sequence has {len(steps)} steps")
        operands = steps[step].operands
        rows = []
        for position, array in arrays.items():
            if not 0 <= position < len(operands):
                raise UsageError(f"step {invocation}:{step}: operand {position} of {len(operands)}")
            place = Place(self._invocations[invocation], invocation, step, position, role, operands[position])
            keep = role != WATCHED and self._level == "full" and (invocation, step) not in self._withheld
            rows.append((position, role, self._content(batch, array, place.use.spec, keep, place)))
        return rows

    def _operand(self, invocation: int, step: int, position: int) -> OperandUse:
        return self._sequences[self._invocations[invocation]].steps[step].operands[position]

    def _assumed(self, invocation: int, step: int, assumed: Mapping[int, int]) -> list[records.Row]:
        for position in assumed:
            self._bytes_seen += self._operand(invocation, step, position).spec.nbytes
        return [(position, INPUT, content) for position, content in assumed.items()]

    def _clobbered(self, invocation: int, step: int, rows: list[records.Row]) -> dict[str, Any]:
        """Inputs that are not what an earlier step left there, by argument name: that step and its argument."""
        if not rows:
            return {}
        digests = {position: self._digest_of[content] for position, _, content in rows}
        found = {}
        for position, (writer, output) in self._flow.clobbered(
            self._invocations[invocation], invocation, step, digests
        ).items():
            use = self._operand(invocation, step, position)
            found[use.spec.name] = [writer, self._operand(invocation, writer, output).spec.name]
            self.notice("inputs clobbered between steps", f"{invocation}:{step} {use.spec.name} of {use.label}")
        return found

    def _content(
        self, batch: _Batch, array: npt.NDArray[Any], spec: ArgSpec, keep: bool, place: Place | None = None
    ) -> int:
        """The id of these bytes, new or known; new ones are written (large) or join the batch (small, or made of
        others)."""
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if raw.nbytes != spec.nbytes or raw.nbytes > MAX_CONTENT:
            raise UsageError(
                f"{batch.what} {spec.name}: {raw.nbytes} bytes given, but {spec.shape} of {spec.dtype} "
                f"has {spec.nbytes}"
            )
        self._bytes_seen += raw.nbytes
        key = (digest_of(raw), spec.dtype)
        known = self._stored.get(key, batch.keys.get(key))
        if known is None and not keep:
            known = self._digests.get(key)
        aside = self._weights is not None and keep and place is not None and self._news.is_weight(place)
        if known is None and aside:
            known = self._aside.get(key)
        if known is not None:
            return known
        content = self._next_content
        self._next_content += 1
        self._digest_of.append(key[0])
        layout = Layout.of(spec.shape, DTYPE_BYTES[spec.dtype])
        where, tail = records.DIGEST, None
        slots: tuple[int, ...] = ()
        link: Link | None = self._taken(raw, key, place) if aside and place is not None else None
        if link is None and keep and place is not None:
            link = self._news.link(place, raw, key, self._stored)
        size = own_bytes(link, raw.nbytes)
        if keep and place is not None and not self._fits(size):
            keep, link = False, None
            batch.withheld = f"beyond max_bytes {self._max_bytes}"
            self.leave_out(f"tensors {batch.withheld}; their digests are kept")
        if keep and place is not None:
            spilled = link is None and raw.nbytes >= INLINE_BELOW
            self._traffic.keep(content, size, outside=self._from_outside(place), spilled=spilled)
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
                self._news.stored(place, content, raw, link)
        else:
            self._bare.add(content)
        if keep and where == records.DIGEST:
            self._lose("contents", "tensors that could not be written; their digests are kept", 1)
        return content

    def _fits(self, size: int) -> bool:
        """Whether so many more bytes may be kept."""
        if self._max_bytes is not None and self._traffic.kept + size > self._max_bytes:
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
        self._vital.append(records.json_frame(frames.WEIGHTS, [weight.to_dict()]))
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
            self.write_error = self.write_error or error
            return ()
        return tuple(slots)

    def _commit_batch(self, batch: _Batch, step: records.Frame) -> bool:
        """Append contents and step; where that fails, the step with the digests of its contents alone."""
        if self._commit([*batch.frames(), step]):
            for record, _ in batch.contents:
                key = (record.digest, record.dtype)
                if isinstance(record.link, Side):
                    self._aside[key] = record.content
                    self._set_aside.add(record.content)
                elif record.where == records.DIGEST:
                    self._digests[key] = record.content
                else:
                    self._stored[key] = record.content
                    self._bytes_unique += record.layout.nbytes
            return True
        self._news.forget()
        bare = _Batch(batch.what, [], {})
        lost = 0
        for record, _ in batch.contents:
            lost += record.where != records.DIGEST
            digest_only = records.ContentRecord(
                record.content, record.dtype, record.digest, records.DIGEST, record.layout, record.shape
            )
            bare.contents.append((digest_only, None))
            self._bare.add(record.content)
        if not lost or not self._commit([*bare.frames(), step]):
            return False
        self._lose("contents", "tensors that could not be written; their digests are kept", lost)
        return True

    def _write_vital(self, frame: records.Frame) -> None:
        """Append what later frames are meaningless without; where it does not fit it goes before the next that does."""
        if self._writes():
            self._vital.append(frame)
            self._commit([])

    def _commit(self, batch: list[records.Frame]) -> bool:
        """Append frames, behind what waits; False where the disk refused (and nothing was written)."""
        losses = [
            records.json_frame(frames.LOSS, {"kind": kind, "detail": detail, "count": count})
            for (kind, detail), count in self._pending.items()
        ]
        if not (batch or losses or self._vital):
            return True
        try:
            self._journal.append([*self._vital, *batch, *losses])
        except OSError as error:
            self.write_error = self.write_error or error
            return False
        self._vital.clear()
        self._pending.clear()
        return True

    def _lose(self, kind: str, detail: str, count: int) -> None:
        self._lost[kind, detail] = self._lost.get((kind, detail), 0) + count
        self._pending[kind, detail] = self._pending.get((kind, detail), 0) + count

    def _append_chunk(self, task: Task, chunk: bytes, mask: int) -> None:
        def tell(offset: int) -> None:
            self._journal.append([records.placed_frame(task.content, task.piece, mask, len(chunk), offset)])

        self._chunks.append(chunk, tell)
        self._traffic.compressed(task.content, task.nbytes, len(chunk))
