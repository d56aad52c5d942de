# SPDX-License-Identifier: Apache-2.0
"""Writes a recording while it runs: every begin and end is in the kernel's page cache when the call returns.

The thread that dispatches kernels pays for a digest of every tensor and one raw write of those that are new. Worker
threads compress. Where the disk is full the run goes on: what could not be kept is counted as a loss.

Tested in tests/snapshot/test_roundtrip.py and write/test_disk_full.py.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.runlist import ArgSpec, SequenceDescription
from fusion_replay.snapshot.binaries import KernelFiles
from fusion_replay.snapshot.describe import checked_json
from fusion_replay.snapshot.encodings.side_file import Weight
from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.journal.chunk_file import ChunkFile
from fusion_replay.snapshot.journal.spill import Spill, Task
from fusion_replay.snapshot.schema import (
    CHUNKS_SUFFIX,
    FORMAT_MAJOR,
    FORMAT_MINOR,
    INPUT,
    OUTPUT,
    PREVIOUS,
    REFERENCE,
    SPILL_SUFFIX,
    WATCHED,
    Loss,
    digest_of,
)
from fusion_replay.snapshot.target import IfExists, beside, claim, remove_working_files
from fusion_replay.snapshot.write.commits import Commits
from fusion_replay.snapshot.write.hold import Decide, Hold
from fusion_replay.snapshot.write.intake import Intake, JournalBatch
from fusion_replay.snapshot.write.operand_rows import NOTHING, Arrays, Rows
from fusion_replay.snapshot.write.volume import Volume
from fusion_replay.snapshot.write.write_report import WriteReport
from fusion_replay.system import platform
from fusion_replay.system.locks import Locked

if TYPE_CHECKING:
    from fusion_replay.snapshot.write.weights import WeightsKeeper

Level = Literal["full", "digest"]
Keep = Literal["all", "mismatch"]

SPILL_SLOTS = 512  # MiB of raw bytes that may wait for compression


class SnapshotWriter(Locked):
    """Records into ``path`` (a journal beside it until :meth:`close`).

    Args:
        path: the ``.h5`` to make.
        if_exists: "error", "replace" (the old file stays until the new one is complete) or "number" (app-001.h5, ...).
        provenance: JSON data about the run.
        level: "full", or "digest": of every tensor its digest alone.
        keep: "mismatch": contents of a step are held until :meth:`end_step` has asked whether they are to be kept.
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
        keep: Keep = "all",
        max_bytes: int | None = None,
        threads: int | None = None,
        weights: WeightsKeeper | None = None,
        side: bool = False,
    ) -> None:
        if level not in ("full", "digest"):
            raise UsageError(f"level {level!r}: expected 'full' or 'digest'")
        super().__init__()
        self.target, self._journal = claim(Path(path), if_exists)
        self._if_exists: IfExists = if_exists
        self._pid = os.getpid()
        self._recording = uuid.uuid4().hex
        self._level = level
        self.steps = 0
        """Begun so far."""
        self._withheld: set[tuple[int, int]] = set()  # steps under way of which the digests alone are kept
        self._holds = keep == "mismatch" and level == "full"
        self._on_hold: dict[tuple[int, int], Hold] = {}  # steps under way that wait for a verdict
        self._lost_steps: set[tuple[int, int]] = set()
        self._noticed: dict[str, tuple[int, str]] = {}
        self._weights = weights
        self._is_side = side
        self._provenance: dict[str, Any] = {}
        self._report: WriteReport | None = None
        self._closed = False
        self._volume = Volume()
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
        self._commits = Commits(self._journal)
        self._intake = Intake(self._commits, self._spill, self._volume, max_bytes, weights, links=not self._holds)
        self._rows = Rows(self._intake, self.notice)
        start = {
            "format": [FORMAT_MAJOR, FORMAT_MINOR],
            "recording": self._recording,
            "target": self.target.name,
            "if_exists": if_exists,
            "pid": self._pid,
            "side": side,
        }
        self._write_vital(payloads.json_frame(frames.START, start))
        self.set_provenance(provenance or {})

    def add_sequence(self, sequence: SequenceDescription) -> int:
        """Describe a sequence; its number for :meth:`begin_invocation`.

        Raises:
            UsageError: names or sizes that no reader would take.
        """
        described = checked_json(sequence)
        with self._lock:
            number = len(self._rows.sequences)
            self._rows.add_sequence(sequence)
            data = {"id": number, "sequence": described}
            self._write_vital(payloads.json_frame(frames.SEQUENCE, data))
            return number

    def add_binaries(self, sequence: int, kernels: Sequence[KernelFiles], *, keep: bool = True) -> None:
        """The device files behind operators of a sequence, each stored once; their digests alone unless ``keep``."""
        with self._lock:
            if not self._writes():
                return
            batch = JournalBatch(f"sequence {sequence}")

            def store(data: bytes) -> str:
                spec = ArgSpec("binary", "in", (len(data),), "uint8")
                raw = np.frombuffer(data, np.uint8)
                self._intake.content(batch, raw, spec, keep)
                return digest_of(raw).hex()

            entries = [kernel.to_json(sequence, store) for kernel in kernels]
            if not self._intake.commit(batch, payloads.json_frame(frames.BINARIES, entries)):
                self._commits.lose("binaries", "device files that could not be written", len(entries))

    def add_weight(self, raw: npt.NDArray[np.uint8], spec: ArgSpec, weight: Weight) -> bool:
        """Into a side file: these bytes, one axis. False where they could not be written."""
        with self._lock:
            batch = JournalBatch(f"weight {weight.name}")
            content = self._intake.content(batch, raw, spec, True)
            note = payloads.json_frame(frames.WEIGHTS, [weight.to_dict()])
            written = self._intake.commit(batch, note)
            return written and self._intake.stored_as(bytes.fromhex(weight.digest), spec.dtype) == content

    def note_weights(self, weights: Sequence[Weight]) -> None:
        """What has become known of weights since they were taken."""
        with self._lock:
            self._write_vital(payloads.json_frame(frames.WEIGHTS, [weight.to_dict() for weight in weights]))

    def begin_invocation(self, sequence: int) -> int:
        """A call of ``sequence`` starts; its number, from 0."""
        with self._lock:
            number = len(self._rows.invocations)
            self._rows.invocations[number] = sequence
            self._write_vital(payloads.invocation_begin_frame(number, sequence))
            return number

    def reassign(self, invocation: int, sequence: int) -> None:
        """Say that ``invocation`` is one of another sequence after all: its outputs turned out unlike the guess.

        What its steps recorded so far must have the same positions, shapes and dtypes there.
        """
        with self._lock:
            self._rows.invocations[invocation] = sequence
            self._write_vital(payloads.invocation_begin_frame(invocation, sequence))

    def begin_step(
        self,
        invocation: int,
        step: int,
        inputs: Arrays,
        *,
        previous: Arrays = NOTHING,
        watched: Arrays = NOTHING,
        values: Mapping[str, int | float] = NOTHING,
        assumed: Mapping[int, int] = NOTHING,
        withheld: str | None = None,
        places: Mapping[int, int] = NOTHING,
        group: Mapping[str, str | int] = NOTHING,
    ) -> dict[int, int]:
        """Before the kernel. Keys are operand positions; arrays may be views that die after the call.

        Args:
            inputs: contents of what the kernel reads.
            previous: old contents of outputs, kept (partial writers).
            watched: old contents of outputs of which only the digest is kept.
            values: runtime values of this dispatch.
            assumed: inputs that were not read, and the content each of them is taken to have still: an id that an
                earlier call returned. The snapshot says so of the step.
            withheld: why the step's contents are not kept, their digests alone; the snapshot says so. None: they are.
            places: first bytes in their buffers of operands that this call has elsewhere than the runlist says.
            group: of a step given as arrays, the call that it belongs to: its sequence's name, and which call of it.

        Returns:
            The content of each of ``inputs`` by position, for those that are kept as this level asks for.

        Raises:
            UsageError: an array that does not fit the runlist. Nothing else: failed writes are losses.
        """
        with self._lock:
            if not self._writes():
                return {}
            batch = JournalBatch(f"step {invocation}:{step}")
            if withheld is not None:
                self._withheld.add((invocation, step))
                self.leave_out(f"steps {withheld}; their digests are kept")
            elif self._holds:
                batch.hold = Hold()
            keep = self._level == "full" and withheld is None
            self._rows.place(invocation, step, places)
            found = self._rows.of(batch, invocation, step, INPUT, inputs, keep)
            self.steps += 1
            rows = found + self._rows.assumed(invocation, step, assumed)
            rows += self._rows.of(batch, invocation, step, PREVIOUS, previous, keep)
            rows += self._rows.of(batch, invocation, step, WATCHED, watched, keep)
            detail: dict[str, Any] = {"values": dict(values)} if values else {}
            if places:
                detail["places"] = {str(position): start for position, start in places.items()}
            if group:
                detail["group"] = dict(group)
            if assumed:
                detail["assumed"] = [self._rows.operand(invocation, step, position).spec.name for position in assumed]
            if clobbered := self._rows.clobbered(invocation, step, found):
                detail["clobbered"] = clobbered
            if reason := withheld or batch.withheld:
                detail["withheld"] = reason
            address = self._rows.address(invocation, step)
            if not self._intake.commit(batch, payloads.step_begin_frame(address, rows, detail)):
                self._lost_steps.add((invocation, step))
                self._commits.lose("step", "steps that could not be written")
                return {}
            if self._holds:
                hold = batch.hold or Hold(waits=False)
                hold.rows, self._on_hold[invocation, step] = rows, hold
            contents = tuple(content for _, role, content in rows if role != WATCHED)
            if self._intake.links and self._intake.all_here(contents) and not assumed:
                sequence = self._rows.invocations[invocation]
                place, described = (sequence, invocation, step), self._rows.sequences[sequence]
                self._intake.deduplication.moves.expect(place, described, inputs, previous, values, contents)
            wanted = self._level == "digest" or withheld is not None or batch.hold is not None
            return {position: content for position, _, content in found if wanted or self._intake.has(content)}

    def end_step(
        self,
        invocation: int,
        step: int,
        outputs: Arrays,
        *,
        elapsed_ns: int | None = None,
        state: str | None = None,
        reference: Arrays = NOTHING,
        decide: Decide | None = None,
    ) -> None:
        """After the kernel: contents of what it wrote, and what the runtime said of it.

        ``reference``: what the operator's own reference gave for the outputs, in their dtypes. ``decide`` is asked
        about a step whose contents are held, which without it are kept; of one left out anyhow it is told.
        """
        with self._lock:
            if not self._writes() or (invocation, step) in self._lost_steps:
                return
            batch = JournalBatch(f"step {invocation}:{step}")
            keep, seen, reason = self._level == "full" and (invocation, step) not in self._withheld, NOTHING, None
            hold = self._on_hold.get((invocation, step)) if self._holds else None
            if hold is not None:
                seen = {(OUTPUT, position): digest_of(flat_bytes(array)) for position, array in outputs.items()}
                reason = None if decide is None else decide({**self._intake.seen(hold), **seen})
                keep = hold.waits and reason is None
                self._intake.settle(hold, batch, keep)
            rows = self._rows.of(batch, invocation, step, OUTPUT, outputs, keep, seen)
            self._rows.wrote(invocation, step, rows)
            rows += self._rows.of(batch, invocation, step, REFERENCE, reference, keep)
            if hold is not None and keep:
                self._intake.need([content for _, _, content in rows], batch)
            self._ended(invocation, step)
            detail = {} if state is None else {"state": state}
            if (withheld := reason or batch.withheld) is not None:
                detail["withheld"] = withheld
            address = self._rows.address(invocation, step)
            if not self._intake.commit(batch, payloads.step_end_frame(address, rows, detail, elapsed_ns)):
                self._commits.lose("outputs", "ends of steps that could not be written; they show as in flight")
                if hold is not None and hold.waits:
                    self._intake.need([content for _, _, content in hold.rows])
            elif reason is not None:
                self.leave_out(f"steps {reason}; their digests are kept")

    def fail_step(self, invocation: int, step: int, error: str, *, state: str | None = None) -> None:
        """The kernel raised instead of coming back."""
        with self._lock:
            if not self._writes() or (invocation, step) in self._lost_steps:
                return
            if (hold := self._on_hold.get((invocation, step))) is not None and hold.waits:
                self._intake.keep(hold)
            self._ended(invocation, step)
            detail = {"error": error} if state is None else {"error": error, "state": state}
            address = self._rows.address(invocation, step)
            if not self._commits.append([payloads.step_failed_frame(address, detail)]):
                self._commits.lose("outputs", "failures of steps that could not be written; they show as in flight")

    def note_step(self, invocation: int, step: int, detail: Mapping[str, Any]) -> None:
        """Keep more of what is known of a step that has begun: JSON data by key, joined with what is there."""
        with self._lock:
            if not self._writes() or (invocation, step) in self._lost_steps:
                return
            address = self._rows.address(invocation, step)
            if not self._commits.append([payloads.step_note_frame(address, dict(detail))]):
                self._commits.lose("statistics", "notes on steps that could not be written")

    def notice(self, what: str, where: str) -> None:
        """Something about the run for :attr:`WriteReport.notes`: how often, and where first."""
        with self._lock:
            count, first = self._noticed.get(what, (0, where))
            self._noticed[what] = count + 1, first

    def holds(self, content: int) -> bool:
        """Whether this content is kept as the level asks for: not where it belongs to steps left out alone."""
        return self._level == "digest" or self._intake.has(content)

    def sequence(self, number: int) -> SequenceDescription:
        """As it was added."""
        return self._rows.sequences[number]

    def same(self, content: int, other: int) -> bool:
        """Whether two contents have the same bytes: one may have been kept, and the other only digested."""
        return self._intake.digests[content] == self._intake.digests[other]

    def leave_out(self, detail: str, count: int = 1) -> None:
        """Count what was left out on request; among the losses from the end of the invocation on."""
        with self._lock:
            self._commits.leave_out(detail, count)

    @property
    def full(self) -> bool:
        """Whether a content did not fit into ``max_bytes``: none is kept any more."""
        return self._intake.full

    @property
    def write_error(self) -> OSError | None:
        """The first thing that went wrong with a write; the losses say what it cost."""
        return self._commits.error

    @property
    def bytes_seen(self) -> int:
        """Of every tensor at every step so far."""
        return self._intake.bytes_seen

    @property
    def bytes_kept(self) -> int:
        """Of contents, before compression; what other contents give, and what lies in a side file, is not counted."""
        return self._volume.kept

    @property
    def volume(self) -> Volume:
        """What it came to so far, by whether it came from outside or was computed."""
        return self._volume

    def _ended(self, invocation: int, step: int) -> None:
        self._intake.deduplication.moves.ended(invocation, step)
        self._rows.ended(invocation, step)
        self._withheld.discard((invocation, step))
        if self._holds:
            self._on_hold.pop((invocation, step), None)

    def end_invocation(self, invocation: int) -> None:
        with self._lock:
            if self._writes():
                self._commits.say_left_out()
            sequence = self._rows.invocations.get(invocation, 0)
            if self._writes() and not self._commits.append([payloads.invocation_end_frame(invocation, sequence)]):
                self._commits.lose("invocation", "ends of invocations that could not be written")

    def lose(self, kind: str, detail: str, count: int = 1) -> None:
        """Say that something was not recorded, or not kept."""
        with self._lock:
            if self._writes():
                self._commits.lose(kind, detail, count)
                self._commits.append([])

    def set_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Replace the provenance by this JSON data."""
        with self._lock:
            self._provenance = dict(provenance)
            self._write_vital(payloads.json_frame(frames.PROVENANCE, self._provenance))

    def add_provenance(self, more: Mapping[str, Any]) -> None:
        """Say more of the run; what is known already stays."""
        with self._lock:
            self.set_provenance({**self._provenance, **more})

    def drain(self) -> None:
        """Wait until all that was given so far is compressed, or stuck where it is for want of space."""
        self._spill.drain()

    def close(self) -> WriteReport:
        """Wait for the compression, seal to :attr:`target`, remove the journal. A second call gives the same report.

        Raises:
            UnsealedError: sealing failed; the journal is kept, and the message says how to go on.
            TargetExistsError: meanwhile another process made the target; the journal is kept.
        """
        from fusion_replay.snapshot.seal.recording import seal
        from fusion_replay.snapshot.seal.side_file import seal_side

        with self._lock:
            if self._report is None:
                if self._closed:
                    raise UsageError(f"{self.target}: this recording was abandoned")
                try:  # whatever ends this early: others may recover the recording from here on
                    self._put_down()
                    started = time.perf_counter()
                    if not platform.moves_open_files():
                        self._release()  # from here on the journal's name alone keeps others away
                    if self._is_side:
                        sealed = seal_side(self._journal.path, self.target)
                    else:
                        unwritten = self._commits.unwritten
                        sealed = seal(self._journal.path, self.target, self._if_exists, unwritten=unwritten)
                finally:
                    self._release()
                self.target = sealed.path
                self._report = WriteReport(
                    path=sealed.path,
                    steps=sealed.steps,
                    invocations=sealed.invocations,
                    bytes_seen=self._intake.bytes_seen,
                    bytes_unique=self._intake.bytes_unique,
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
                if not platform.moves_open_files():
                    self._release()
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
            return self._commits.losses

    def _put_down(self) -> None:
        """Everything that sealing will look for is in its files."""
        self._seal_weights()
        self._commits.say_left_out()
        for hold in self._on_hold.values():  # in flight
            if hold.waits:
                self._intake.keep(hold)
        self.drain()
        self._intake.drop_unneeded()
        if not self._commits.append([(frames.CLOSE, [b""])], last=True) and self._spill.release_reserve():
            self._commits.append([(frames.CLOSE, [b""])], last=True)
        self._spill.let_go()

    def _seal_weights(self) -> None:
        if self._weights is not None:
            try:
                self.note_weights(self._weights.close())
            except (OSError, FusionReplayError) as error:
                self._commits.lose("weights", f"the side file could not be sealed: {error}")

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

    def _write_vital(self, frame: payloads.Frame) -> None:
        """Append what later frames are meaningless without; where it does not fit it goes before the next that does."""
        if self._writes():
            self._commits.first(frame)
            self._commits.append([])

    def _append_chunk(self, task: Task, chunk: bytes, mask: int) -> None:
        def tell(offset: int) -> None:
            self._journal.append([payloads.placed_frame(task.content, task.piece, mask, len(chunk), offset)])

        self._chunks.append(chunk, tell)
        self._volume.compressed(task.content, task.nbytes, len(chunk))
