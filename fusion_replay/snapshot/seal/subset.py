# SPDX-License-Identifier: Apache-2.0
"""A snapshot with some of the steps of another: same addresses, same runlists, compressed chunks copied as they are.

What was not taken over is said in the new file's losses. Contents stored in a way that leans on others (or on another
file) are written out whole, so the new file needs nothing but itself.
"""

from __future__ import annotations

import errno
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.model.runlist import DTYPE_BYTES
from fusion_replay.snapshot.encodings.chunks import Layout
from fusion_replay.snapshot.read.reader import Snapshot
from fusion_replay.snapshot.read.step import RecordedStep
from fusion_replay.snapshot.read.store import ChunkSource, ContentStore
from fusion_replay.snapshot.schema import (
    CHUNKED,
    CHUNKS,
    DIGEST_ONLY,
    INVOCATIONS,
    LOST,
    MAX_CONTENT,
    NO_CONTENT,
    PART_SUFFIX,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    Index,
    Loss,
)
from fusion_replay.snapshot.seal import recording as seal
from fusion_replay.snapshot.target import IfExists, beside, publish

_RAW = SKIP_SHUFFLE | SKIP_ZSTD
_FILES = ("xclbin", "instructions")
_HELD = 0x20
"""In a filter mask of :class:`_SubsetStore`: no chunk of the file, but bytes ``offset`` on of a decoded content; the
row of the subset that they belong to stands above the bits of any offset."""
_ROW = MAX_CONTENT.bit_length()


@dataclass(slots=True)
class Subset:
    """Tables and tensors of some steps, ready to be written; the caller may still change texts in ``index``."""

    index: Index
    store: ChunkSource


def subset(
    snapshot: Snapshot, steps: Sequence[RecordedStep], *, drop: Collection[int] = (), binaries: bool = True
) -> Subset:
    """The index of ``steps`` alone, in the order of the recording.

    Args:
        steps: of this snapshot; each once.
        drop: rows of the contents table of which only the digest is taken over.
        binaries: take over the device files behind the operators of these steps.
    """
    old = snapshot.index
    chosen = np.array(sorted(step.row for step in steps), np.int64)
    table = old.steps[chosen].copy()
    spans = [np.arange(r["first_operand"], r["first_operand"] + r["n_operands"], dtype=np.int64) for r in table]
    operands = old.operands[np.concatenate(spans) if spans else []].copy()
    table["first_operand"] = np.cumsum(table["n_operands"], dtype=np.uint64) - table["n_operands"]
    files, entries = _binaries(old, steps) if binaries else ([], [])
    used = np.unique([*operands["content"][operands["content"] != NO_CONTENT].tolist(), *files]).astype(np.int64)
    operands["content"] = _renumbered(operands["content"], used)
    details, table["detail"] = np.unique(table["detail"], return_inverse=True)
    invocations, sequences = _invocations(old, table)
    contents, chunks, shapes = _contents(snapshot, used, _shapes_of(steps), drop)
    left_out = len(old.steps) - len(table)
    losses = [*old.losses]
    if left_out:
        losses.append(Loss("export", "steps of the recording that were not exported", left_out))
    if dropped := len(set(used.tolist()) & set(drop)):
        losses.append(Loss("export", "tensors left out of the export on request; their digests are kept", dropped))
    index = Index(
        recording=uuid.uuid4().hex,
        provenance={**old.provenance, "exported_from": old.recording},
        sequences=tuple(old.sequences[n] for n in sequences),
        details=[old.details[n] for n in details.tolist()] or [{}],
        losses=tuple(losses),
        invocations=invocations,
        steps=table,
        operands=operands,
        contents=contents,
        chunks=chunks,
        shapes=shapes,
        binaries=[{**entry, "sequence": sequences.index(entry["sequence"])} for entry in entries],
    )
    return Subset(index, _SubsetStore(snapshot.store, used))


def write_subset(part: Subset, target: Path, if_exists: IfExists = "error") -> Path:
    """Seal ``part`` as ``target``; its path (``if_exists="number"``: another one, if that was taken meanwhile).

    Raises:
        TargetExistsError: ``target`` appeared meanwhile; it was not overwritten.
        UsageError: it can't be written.
    """
    unfinished = beside(target, f".{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
    try:
        seal.write_sealed(unfinished, part.index, part.store)
        return publish(unfinished, target, if_exists)
    except FusionReplayError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # h5py reports a full disk as any of them
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        raise UsageError(f"{target}: can't be written: {'no space left' if full else error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


class _SubsetStore:
    """Contents for the rows of a subset: chunks as stored, or decoded ones in pieces."""

    def __init__(self, store: ContentStore, rows: npt.NDArray[Any]) -> None:
        self._store = store
        self._rows = rows.tolist()

    def raw_chunk(self, chunk: tuple[int, int, int], what: str) -> bytes:
        offset, size, mask = chunk
        if mask & _HELD:
            row, offset = offset >> _ROW, offset & ((1 << _ROW) - 1)
            return self._store.read(self._rows[row], what)[offset : offset + size].tobytes()
        return self._store.raw_chunk(chunk, what)


def _held_chunks(row: int, layout: Layout) -> npt.NDArray[Any]:
    return np.array([((row << _ROW) + a, b - a, _RAW | _HELD) for a, b in layout.spans()], CHUNKS)


def _renumbered(contents: npt.NDArray[Any], used: npt.NDArray[Any]) -> npt.NDArray[Any]:
    there = contents != NO_CONTENT
    return np.where(there, np.searchsorted(used, np.where(there, contents, 0)), NO_CONTENT)


def _invocations(old: Index, table: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], list[int]]:
    """The invocations of these steps under their own numbers, the others as lost; and the sequences still needed."""
    numbers = np.unique(table["invocation"])
    rows = np.zeros(int(numbers[-1]) + 1 if len(numbers) else 0, INVOCATIONS)
    rows["status"] = LOST
    rows[numbers] = old.invocations[numbers]
    sequences = np.unique(rows["sequence"][numbers])
    rows["sequence"][numbers] = np.searchsorted(sequences, rows["sequence"][numbers])
    return rows, sequences.tolist()


def _binaries(old: Index, steps: Sequence[RecordedStep]) -> tuple[list[int], list[dict[str, Any]]]:
    """Rows of the device files' contents, and entries, of the operators that these steps run."""
    ran = {(int(old.invocations["sequence"][step.invocation]), step.description.operator) for step in steps}
    entries = [entry for entry in old.binaries if (entry.get("sequence"), entry.get("operator")) in ran]
    digests = {str(entry[key]["digest"]).encode() for entry in entries for key in _FILES if entry.get(key)}
    wanted = (old.contents["dtype"] == b"uint8") & np.isin(old.contents["digest"], np.array(sorted(digests), "S32"))
    return (np.flatnonzero(wanted).tolist() if digests else []), entries


def _shapes_of(steps: Sequence[RecordedStep]) -> dict[int, set[tuple[int, ...]]]:
    """The shapes in which each content is used."""
    shapes: dict[int, set[tuple[int, ...]]] = {}
    for step in steps:
        for _, tensor in step.tensors():
            if tensor.row is not None:
                shapes.setdefault(tensor.row, set()).add(tensor.shape)
    return shapes


def _contents(
    snapshot: Snapshot, used: npt.NDArray[Any], uses: dict[int, set[tuple[int, ...]]], drop: Collection[int]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], list[tuple[int, ...]]]:
    """Rows, chunks and shapes of the contents taken over."""
    contents = snapshot.index.contents[used].copy()
    chunks: list[npt.NDArray[Any]] = []
    shapes: list[tuple[int, ...]] = []
    first = 0
    for row, (content, origin) in enumerate(zip(contents, used.tolist(), strict=True)):
        content["shape"], content["place"] = b"", NO_CONTENT
        content["source"] = content["extent"] = content["depth"] = 0
        itemsize = DTYPE_BYTES[content["dtype"].decode("ascii")]
        flat = (int(content["nbytes"]) // itemsize,)
        wanted = sorted(uses.get(origin, set())) or [flat]
        if int(content["encoding"]) == DIGEST_ONLY or origin in drop:
            content["encoding"], content["n_chunks"], content["first_chunk"] = DIGEST_ONLY, 0, first
            shapes.append(wanted[0])
            continue
        layout = snapshot.store.layout_of(origin)[0]
        whole = int(content["encoding"]) == CHUNKED
        shape = next((s for s in wanted if whole and _same_cut(Layout.of(s, itemsize), layout)), None)
        rows = snapshot.store.chunks_of(origin)
        if shape is None:  # leans on other contents, or was cut along a shape that no step here uses
            shape = wanted[0]
            layout = Layout.of(shape, itemsize)
            rows = _held_chunks(row, layout)
        content["encoding"], content["row_bytes"], content["piece_bytes"] = (
            CHUNKED,
            layout.row_bytes,
            layout.piece_bytes,
        )
        content["n_chunks"], content["first_chunk"] = len(rows), first
        first += len(rows)
        chunks.append(rows)
        shapes.append(shape)
    return contents, np.concatenate(chunks) if chunks else np.zeros(0, CHUNKS), shapes


def _same_cut(a: Layout, b: Layout) -> bool:
    return (a.nbytes, a.row_bytes, a.piece_bytes) == (b.nbytes, b.row_bytes, b.piece_bytes)


__all__ = ["Subset", "subset", "write_subset"]
