# SPDX-License-Identifier: Apache-2.0
"""Opening a snapshot, sealed or not, and finding steps in it.

Tested in tests/snapshot/test_roundtrip.py and tests/golden/test_snapshot_versions.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import ForeignFileError, SnapshotError, SnapshotNotFoundError, UsageError
from fusion_replay.model.runlist import (
    BufferDescription,
    SequenceDescription,
    format_address,
    parse_address,
    parse_buffer,
)
from fusion_replay.model.step_filter import StepFilter
from fusion_replay.snapshot.binaries import KernelBinaries, read_binaries
from fusion_replay.snapshot.encodings.side_file import SideFile, find_weights, weights_of
from fusion_replay.snapshot.journal import reading as journal
from fusion_replay.snapshot.journal.frames import FRAME_MAGIC
from fusion_replay.snapshot.read.groups import grouped
from fusion_replay.snapshot.read.limits import Allowance, check_index
from fusion_replay.snapshot.read.sealed import read_sealed
from fusion_replay.snapshot.read.step import RecordedStep
from fusion_replay.snapshot.read.store import CHECKING_CACHE, DEFAULT_CACHE, ContentStore
from fusion_replay.snapshot.schema import DIGEST_ONLY, JOURNAL_SUFFIX, LOST, SIDE, STATUS, Index, Loss
from fusion_replay.system import platform
from fusion_replay.system.files import regular
from fusion_replay.system.messages import count

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Invocation:
    """One call of a sequence: ``sequence`` indexes :attr:`Snapshot.sequences`."""

    index: int
    sequence: int
    status: str
    steps_recorded: int


class Snapshot:
    """A recording, read-only: ``len(snap)`` steps, ``snap["3:412"]``, ``snap.steps(op="GEMV")``. A context manager."""

    def __init__(
        self, path: Path, index: Index, store: ContentStore, *, sealed: bool, notes: tuple[str, ...] = ()
    ) -> None:
        index = grouped(index)
        self.path = path
        self.sealed = sealed
        self.format_version: tuple[int, int] = index.version
        self.provenance: dict[str, Any] = index.provenance
        self.sequences: tuple[SequenceDescription, ...] = index.sequences
        self.losses: tuple[Loss, ...] = index.losses
        self.notes: tuple[str, ...] = notes
        self.index = index
        self.store = store

    @cached_property
    def invocations(self) -> tuple[Invocation, ...]:
        counts = np.bincount(self.index.steps["invocation"], minlength=len(self.index.invocations)).tolist()
        return tuple(
            Invocation(number, sequence, STATUS[status], counts[number])
            for number, (sequence, status) in enumerate(self.index.invocations.tolist())
            if status != LOST
        )

    @cached_property
    def binaries(self) -> tuple[KernelBinaries, ...]:
        """The device files (xclbin, instructions) behind the operators, where the recording kept or named them.

        Raises:
            DamagedSnapshotError: the table does not fit the sequences.
        """
        return read_binaries(self.index, self.store, str(self.path))

    @property
    def digests_only(self) -> bool:
        """Whether steps were recorded and none of their contents were kept: it can be compared, not judged."""
        return len(self) > 0 and bool((self.index.contents["encoding"] == DIGEST_ONLY).all())

    def __len__(self) -> int:
        return len(self.index.steps)

    def __getitem__(self, address: str | tuple[int, int]) -> RecordedStep:
        """The step at ``"3:412"`` or ``(3, 412)``.

        Raises:
            UsageError: no address, or no such step in this recording.
        """
        invocation, step = parse_address(address) if isinstance(address, str) else address
        row = self._row_of.get((invocation, step))
        if row is None:
            raise UsageError(f"{self.path}: no step {invocation}:{step}; {self._there_is(invocation)}")
        return RecordedStep(self.index, self.store, row)

    def get(self, invocation: int, step: int) -> RecordedStep | None:
        """The step at this address, None where it left no record."""
        row = self._row_of.get((invocation, step))
        return None if row is None else RecordedStep(self.index, self.store, row)

    def at(self, row: int) -> RecordedStep:
        """The step in this row of the steps table."""
        return RecordedStep(self.index, self.store, row)

    def __iter__(self) -> Iterator[RecordedStep]:
        return self.steps()

    def steps(
        self,
        invocation: int | None = None,
        op: str | None = None,
        buffer: str | None = None,
        step: int | str | None = None,
    ) -> Iterator[RecordedStep]:
        """Steps in the order they ran; a filter that matches nothing gives none.

        Args:
            invocation: only of this one.
            op: operator type, IRON's class name or an alias, in any case.
            buffer: ``name`` (any part of it) or ``name[start:end]`` (whatever overlaps these bytes).
            step: entries of the runlist: ``412``, ``10-20``, with their invocation ``3:412``, ``3:400-412``; several
                separated by commas.
        """
        chosen = self._matching(op, buffer)
        table = self.index.steps
        mask = np.ones(len(table), np.bool_)
        if invocation is not None:
            mask &= table["invocation"] == invocation
        if step is not None:
            within = np.zeros(len(table), np.bool_)
            for at, first, last in StepFilter.parse(str(step)).alternatives:
                its = (table["step"] >= first) & (table["step"] <= last)
                within |= its if at is None else its & (table["invocation"] == at)
            mask &= within
        if chosen is not None:
            of_sequence = self.index.invocations["sequence"][table["invocation"]]
            for number, steps in enumerate(chosen):
                mask &= (of_sequence != number) | steps[np.where(of_sequence == number, table["step"], 0)]
        wanted = None if buffer is None else parse_buffer(buffer)
        for row in np.flatnonzero(mask).tolist():
            found = RecordedStep(self.index, self.store, row)
            if wanted is None or any(use.touches(*wanted) for use in found.description.operands):
                yield found

    def buffer(self, name: str) -> BufferDescription:
        """The base buffer of this name, as the last sequence that has one describes it.

        Raises:
            UsageError: no recorded sequence has it; the message names the nearest ones.
        """
        known = {b.name: b for s in self.sequences for b in s.buffers}
        if name not in known:
            from difflib import get_close_matches  # only for a name that is not found

            near = get_close_matches(name, known, n=3)
            has = f"nearest: {', '.join(near)}" if near else f"it has {', '.join(sorted(known)[:8]) or 'none'}"
            raise UsageError(f"buffer {name!r} is not in {self.path}; {has}")
        return known[name]

    def to_dataframe(self, of: str = "steps") -> pd.DataFrame:
        """A table of pandas, a row each: ``"steps"`` by address, ``"operands"``, or ``"losses"``; no contents are read.

        Raises:
            MissingDependencyError: no pandas here; the extra ``tables`` brings it.
            UsageError: another word.
        """
        from fusion_replay.snapshot.frames import to_dataframe

        return to_dataframe(self, of)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self.sealed else ", not sealed"
        return f"<Snapshot {self.path}: {extent(len(self), len(self.invocations))}{state}>"

    def _repr_html_(self) -> str:
        from fusion_replay.model.notebook import card

        unfinished = [i for i in self.invocations if i.status != "complete"]
        state = "sealed" if self.sealed else "not sealed"
        told = [f"{state}, {len(unfinished):,} invocations did not complete" if unfinished else state]
        told += [f"loss: {x.kind}: {x.detail} ({x.count:,})" for x in self.losses[:5]]
        rows = [(s.name, f"{len(s.steps):,}", len(s.operators), len(s.buffers), s.ran_on) for s in self.sequences[:10]]
        head = ("sequence", "steps", "operators", "buffers", "ran on")
        return card(f"{self.path}: {extent(len(self), len(self.invocations))}", told, [head, *rows])

    @cached_property
    def _row_of(self) -> dict[tuple[int, int], int]:
        table = self.index.steps
        addresses = zip(table["invocation"].tolist(), table["step"].tolist(), strict=True)
        return {address: row for row, address in enumerate(addresses)}

    def _there_is(self, invocation: int) -> str:
        """The addresses there are: of this invocation, where it has any, else of all."""
        every = list(self._row_of)
        if not every:
            return "it holds no step"
        its = [address for address in every if address[0] == invocation]
        of = f"invocation {invocation} has {count(len(its), 'step')}"
        if not its:
            its, of = every, f"it has {extent(len(self), len(self.invocations))}"
        first, last = (format_address(*address) for address in (min(its), max(its)))
        return f"{of}, {first}" + ("" if first == last else f" to {last}")

    def _matching(self, op: str | None, buffer: str | None) -> list[npt.NDArray[np.bool_]] | None:
        """Per sequence and runlist entry: does it pass the filters?"""
        if op is None and buffer is None:
            return None
        from fusion_replay.refs import canonical  # listing steps needs none of it

        wanted_op = None if op is None else canonical(op)
        wanted = None if buffer is None else parse_buffer(buffer)
        chosen = []
        for sequence in self.sequences:
            types = [wanted_op is None or canonical(o.type) == wanted_op for o in sequence.operators]
            flags = [  # by the buffer's name: which of its bytes, a call may decide
                types[s.operator] and (wanted is None or any(use.touches(wanted[0]) for use in s.operands))
                for s in sequence.steps
            ]
            chosen.append(np.array(flags or [False], np.bool_))
        return chosen


def open_snapshot(
    path: str | os.PathLike[str],
    *,
    cache_bytes: int = DEFAULT_CACHE,
    weights: str | os.PathLike[str] | None = None,
) -> Snapshot:
    """Open a sealed snapshot, a journal, or the recording that is being written beside ``path``.

    Args:
        path: ``X.h5`` or ``X.h5.journal``; where X.h5 is missing its journal is read instead, and the notes say so.
        cache_bytes: decoded tensors kept in memory, at most.
        weights: the side file with the weights that the recording left out; None: the one it names, beside it. Where
            that is missing, or another, the notes say so and those tensors count as not kept.

    Raises:
        UsageError: ``weights`` are not those of this recording.
        SnapshotNotFoundError, ForeignFileError, NewerFormatError, DamagedSnapshotError: each in one line.
    """
    return with_side(_open(Path(path), cache_bytes), weights)


def extent(steps: int, invocations: int) -> str:
    """``6 steps of 2 invocations``"""
    return f"{count(steps, 'step')} of {count(invocations, 'invocation')}"


def with_side(snap: Snapshot, weights: str | os.PathLike[str] | None) -> Snapshot:
    """The same snapshot, with the side file that its weights are in where it has any; it closes the file.

    Raises:
        UsageError, SnapshotError: as :func:`open_snapshot`; ``snap`` is closed then.
    """
    needed = weights_of(snap.index.weights, str(snap.path))
    if (snap.index.contents["encoding"] == SIDE).any():
        try:
            given = None if weights is None else Path(weights)
            snap.store.side, notes = find_weights(snap.path, needed, given, _open_part)
        except BaseException:
            snap.close()
            raise
        snap.notes = (*snap.notes, *notes)
    elif weights is not None:
        snap.close()
        raise UsageError(f"{snap.path}: has its weights in itself; leave out the side file {weights}")
    return snap


def open_side_file(path: Path) -> SideFile:
    """The weights in a side file, and in the journal of who records into it. Errors: :class:`SideFile`."""
    return SideFile(path, _open_part)


def _open_part(path: Path) -> Snapshot:
    return open_snapshot(path, cache_bytes=CHECKING_CACHE)


def _open(path: Path, cache_bytes: int) -> Snapshot:
    notes: tuple[str, ...] = ()
    if path.is_dir():
        raise SnapshotNotFoundError(f"{path}: a directory; expected a snapshot file such as {path / 'decode.h5'}")
    beside = path.with_name(path.name + JOURNAL_SUFFIX)
    try:
        file = open(path, "rb", buffering=0, opener=regular)  # noqa: SIM115 - the store closes it
    except FileNotFoundError:
        if not beside.exists():
            raise SnapshotNotFoundError(f"{path}: no such file, and no {beside.name} beside it") from None
        return _open_journal(
            beside,
            cache_bytes,
            (f"read from {beside}: the recording was not closed; `fusion-replay fsck --recover {path}` seals it",),
        )
    except OSError as error:
        raise SnapshotError(f"{path}: can't be read ({error.strerror})") from error
    if platform.read_at(file.fileno(), len(FRAME_MAGIC), 0) == FRAME_MAGIC:
        file.close()
        return _open_journal(path, cache_bytes, (f"{path} is the journal of a recording that was not closed",))
    try:
        _, index = read_sealed(file, path)
    except BaseException:
        file.close()
        raise
    if beside.exists():
        notes = (f"an unfinished recording lies beside it: {beside}",)
    return Snapshot(path, index, ContentStore(index, file, cache_bytes=cache_bytes), sealed=True, notes=notes)


def opened(
    snapshot: str | os.PathLike[str] | Snapshot, *, weights: str | os.PathLike[str] | None = None
) -> AbstractContextManager[Snapshot]:
    """A file, opened for the block; or an open Snapshot, which the block leaves open. Errors: :func:`open_snapshot`."""
    if isinstance(snapshot, (str, os.PathLike)):
        return open_snapshot(snapshot, weights=weights)
    return nullcontext(snapshot)


def _open_journal(path: Path, cache_bytes: int, notes: tuple[str, ...]) -> Snapshot:
    try:
        files, summary = journal.open_journal(path)
    except OSError as error:
        raise SnapshotError(f"{path}: can't be read ({error.strerror})") from error
    try:
        if not summary.start and not summary.sequences:
            raise ForeignFileError(f"{path}: no journal of fusion-replay, or nothing of it can be read")
        index = summary.index()
        check_index(index, os.fstat(files.journal.fileno()).st_size, str(path))
        Allowance(str(path), files.size).check_contents(index)
    except BaseException:
        files.close()
        raise
    name, one_at_a_time = str(path), threading.Lock()  # the copies share their place in the file

    def relocate() -> Index:
        with one_at_a_time, _again(files.journal) as copy:
            return journal.read_journal(copy, name).index()

    store = ContentStore(index, files.journal, files.spill, files.chunks, cache_bytes=cache_bytes, relocate=relocate)
    return Snapshot(path, index, store, sealed=False, notes=(*notes, *index.notes))


def _again(file: BinaryIO) -> BinaryIO:
    # The same open file, since its name may be gone: the recording may have been sealed meanwhile.
    return os.fdopen(os.dup(file.fileno()), "rb", buffering=1 << 16)
