# SPDX-License-Identifier: Apache-2.0
"""Small files that would grow: right digests, every number possible, and far more to read than bytes in the file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zstandard

from fusion_replay.errors import HostileFileError, UsageError
from fusion_replay.model.runlist import (
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.encodings.chunks import Layout
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.read import limits
from fusion_replay.snapshot.read.limits import FACTOR
from fusion_replay.snapshot.schema import (
    CHUNKED,
    DELTA,
    DERIVED,
    DIGEST_ONLY,
    INPUT,
    NO_CONTENT,
    OPERANDS,
    PARTS,
    SKIP_SHUFFLE,
    SKIP_ZSTD,
    TABLES,
)
from hostile.test_made_to_hurt import Forge
from snapshot_maker import record

MB, MIB, GIB = 10**6, 1 << 20, 1 << 30


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(record(tmp_path / "t.h5", 1))


def repeated(unit: bytes, times: int, before: bytes = b"", after: bytes = b"") -> tuple[bytes, int]:
    """A zstd frame of so much, and how much that is; it is never in memory."""
    step = max(1, MIB // len(unit))
    length = len(before) + len(unit) * times + len(after)
    coder = zstandard.ZstdCompressor(level=1).compressobj(size=length)
    parts = [coder.compress(before)]
    parts += [coder.compress(unit * min(step, times - done)) for done in range(0, times, step)]
    return b"".join([*parts, coder.compress(after), coder.flush()]), length


def text(forge: Forge, name: str, unit: bytes, times: int, before: bytes, after: bytes) -> None:
    frame, length = repeated(unit, times, before, after)
    forge.entry(name, frame, rows=1, itemsize=length, mask=1)


def rows(forge: Forge, name: str, row: Any, times: int) -> None:
    forge.entry(name, repeated(row.tobytes(), times)[0], rows=times, mask=1)


def objects(forge: Forge) -> None:
    text(forge, "details", b"{},", 100 * MB, b"[", b"{}]")


def one_word(forge: Forge) -> None:
    text(forge, "provenance", b"word", 150 * MB, b'{"a":"', b'"}')


def steps_of_a_runlist(forge: Forge) -> None:
    sequence = json.dumps({"name": "x", "origin": {}, "input_args": [], "output_args": [], "buffers": [], "specs": []})
    before = f'[{sequence[:-1]},"operators":[{{"type":"X","module":"","label":"","params":{{}}}}],"steps":['
    text(forge, "sequences", b"[0,[]],", 20 * MB, before.encode(), b"[0,[]]]}]")


def invocations(forge: Forge) -> None:
    rows(forge, "invocations", forge.index.invocations[:1], 40 * MB)


def steps(forge: Forge) -> None:
    rows(forge, "steps", np.zeros(1, TABLES["steps"]), 20 * MB)


def contents(forge: Forge) -> None:
    rows(forge, "contents", bare(forge), 5 * MB)


def bare(forge: Forge, nbytes: int = 16) -> np.ndarray:
    """A row of the contents table without bytes."""
    row = np.zeros(1, TABLES["contents"])
    row["digest"], row["dtype"], row["encoding"] = b"0" * 32, b"bfloat16", DIGEST_ONLY
    row["nbytes"] = row["row_bytes"] = nbytes
    row["piece_bytes"] = min(MIB, nbytes)
    return row


def shared_operands(forge: Forge) -> None:
    """Every step has the same 65,535 operands, which are none."""
    operands = np.full(65_535, np.array((0, 0, 0xFFFFFFFF), OPERANDS))
    step = np.zeros(1, TABLES["steps"])
    step["n_operands"] = 65_535
    forge.table("operands", operands)
    rows(forge, "steps", step, 20_000)


def large(forge: Forge, sizes: list[int]) -> np.ndarray:
    """Contents of these sizes whose chunks are all one chunk of zeros; behind them, a chunk that is an empty patch."""
    blob = zstandard.ZstdCompressor().compress(bytes(MIB))
    table = np.concatenate([bare(forge, size) for size in sizes])
    table["encoding"], table["n_chunks"] = CHUNKED, [size // MIB for size in sizes]
    chunks = np.zeros(max(size // MIB for size in sizes) + 1, TABLES["chunks"])
    chunks["offset"], chunks["size"] = forge.put(blob), len(blob)
    chunks[-1] = forge.put(bytes(4)), 4, SKIP_SHUFFLE | SKIP_ZSTD
    forge.table("chunks", chunks)
    return table


def unused(forge: Forge, table: np.ndarray, parts: list[tuple[int, int, int]] = ()) -> None:  # type: ignore[assignment]
    """The contents table, and steps without operands."""
    none = forge.index.steps.copy()
    none["n_operands"] = none["first_operand"] = 0
    forge.table("steps", none)
    operands = forge.index.operands.copy()
    operands["content"] = NO_CONTENT
    forge.table("operands", operands)
    forge.table("contents", table)
    if parts:
        forge.table("parts", np.array(parts, TABLES["parts"]))


def one_chunk(forge: Forge) -> None:
    unused(forge, large(forge, [4 * GIB]))


def one_chunk_for_many(forge: Forge) -> None:
    unused(forge, large(forge, [500 * MIB] * 400))


def patches_on_one_chunk(forge: Forge) -> None:
    table = large(forge, [500 * MIB] * 2)
    table["encoding"][1], table["extent"][1], table["depth"][1] = DELTA, 4, 1
    table["n_chunks"][1], table["first_chunk"][1] = 1, 500
    zeros = xxhash.xxh3_128()
    for _ in range(500):
        zeros.update(bytes(MIB))
    table["digest"] = zeros.hexdigest().encode()
    unused(forge, table)


def doubling(forge: Forge, sizes: list[int], part: Callable[[int], list[tuple[int, int]]]) -> None:
    """Each content is two parts of the one before."""
    table = np.concatenate([large(forge, sizes[:1]), *(bare(forge, size) for size in sizes[1:])])
    table["encoding"][1:], table["extent"][1:] = PARTS, 2
    table["depth"], table["source"] = np.arange(len(sizes)), np.maximum(0, 2 * np.arange(len(sizes)) - 2)
    unused(forge, table, [(k, *where) for k in range(len(sizes) - 1) for where in part(k)])


def parts_twice_as_long(forge: Forge) -> None:
    doubling(forge, [MIB << k for k in range(16)], lambda k: [(0, MIB << k)] * 2)


def parts_as_long(forge: Forge) -> None:
    doubling(forge, [128 * MIB] * 41, lambda k: [(0, 64 * MIB)] * 2)


def steps_that_made_much(forge: Forge) -> None:
    """A thousand contents made by one step of 65,535 operands."""
    table = np.concatenate([bare(forge), *[bare(forge)] * 970])
    table["encoding"][1:], table["depth"][1:] = DERIVED, 1
    step = forge.index.steps.copy()
    step["n_operands"], step["first_operand"] = 0, 0
    step["n_operands"][0] = 65_535
    forge.table("steps", step)
    rows(forge, "operands", np.array([(0, 0, 0)], OPERANDS), MB)
    forge.table("contents", table)


KINDS: dict[str, tuple[Callable[[Forge], None], ...]] = {
    "texts": (objects, one_word, steps_of_a_runlist),
    "rows": (invocations, steps, contents, shared_operands),
    "chunks": (one_chunk, one_chunk_for_many, patches_on_one_chunk),
    "links": (parts_twice_as_long, parts_as_long, steps_that_made_much),
}

REFUSED = {shared_operands: "steps that share operands", steps_that_made_much: "a step that can't have made it"}

CHILD = """
import resource, sys
from pathlib import Path
from fusion_replay.__main__ import main
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for file in sys.argv[1:]:
    for verb in ("show", "fsck", "replay"):
        try:
            code = main([verb, file])
        except SystemExit as end:
            code = end.code
        print("exit", Path(file).name, verb, code, flush=True)
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print("peak", peak.split()[1])
"""


def run(files: list[Path]) -> tuple[dict[tuple[str, str], str], int]:
    """The exit codes of every verb on these files in one process, and its peak of memory, KiB."""
    command = [sys.executable, "-c", CHILD, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={"OMP_NUM_THREADS": "1"})
    found = [line.split() for line in done.stdout.splitlines() if line.startswith(("exit ", "peak "))]
    assert found, done.stderr[-2000:]
    assert found[-1][0] == "peak", done.stderr[-2000:]
    return {(name, verb): code for _, name, verb, code in found[:-1]}, int(found[-1][1])


@pytest.mark.parametrize("kind", KINDS)
def test_small_files_that_would_grow_are_refused(tmp_path: Path, kind: str) -> None:
    files = []
    for make in KINDS[kind]:
        forge = Forge(record(tmp_path / f"{make.__name__}.h5", 1))
        make(forge)
        files.append(forge.seal())
        assert files[-1].stat().st_size < MB
        with pytest.raises(HostileFileError, match=REFUSED.get(make, "the limit is .*if you trust")):
            open_snapshot(files[-1])
    codes, peak = run(files)
    assert codes == {(file.name, verb): "3" for file in files for verb in ("show", "fsck", "replay")}
    assert peak < MIB  # KiB


@pytest.mark.parametrize("make", [objects, invocations, one_chunk, parts_as_long], ids=lambda make: make.__name__)
def test_the_message_says_what_there_is_and_how_to_raise_the_limit(forge: Forge, make: Callable[[Forge], None]) -> None:
    make(forge)
    with pytest.raises(HostileFileError) as caught:
        open_snapshot(forge.seal())
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r"would take [\d,]+\.\d MB of (memory|decoding)|[\d,]+ steps and invocations", message)
    assert re.search(
        r"too much for a file of \d+\.\d kB: the limit is [\d,.]+( MB)?; if you trust the file: \w+=\d+$", message
    )


def test_what_the_message_says_opens_it(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    one_chunk(forge)
    with pytest.raises(HostileFileError) as caught:
        open_snapshot(forge.seal())
    name, factor = str(caught.value).rpartition(" ")[2].split("=")
    assert int(factor) > 1
    monkeypatch.setenv(name, factor)
    open_snapshot(forge.path).close()
    monkeypatch.setenv(name, str(int(factor) - 1))
    with pytest.raises(HostileFileError):
        open_snapshot(forge.path)


@pytest.mark.parametrize("text", ["0", "0.5", "-3", "nan", "much", "1e"])
def test_a_factor_that_is_none(forge: Forge, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(FACTOR, text)
    with pytest.raises(UsageError, match=FACTOR):
        open_snapshot(forge.path)


def test_weights_that_are_all_one_value_open(forge: Forge) -> None:
    """As those of Llama 3.2 1B, 2.5 GB, in a file of a few kB; the largest tensor has 501 MiB."""
    unused(forge, large(forge, [501 * MIB, *[32 * MIB] * 62]))
    assert forge.seal().stat().st_size < 100_000
    with open_snapshot(forge.path) as snap:
        assert int(snap.index.contents["nbytes"].sum()) > 2.4e9


def test_long_recordings_open(forge: Forge) -> None:
    """100,000 steps, all alike, with 400,000 operands and 300,000 contents."""
    alike = np.zeros(100_000, TABLES["steps"])
    rows(forge, "invocations", forge.index.invocations[:1], 100_000)
    alike["invocation"] = np.arange(100_000)
    alike["n_operands"], alike["first_operand"] = 4, np.arange(100_000) * 4
    forge.table("steps", alike)
    rows(forge, "operands", np.array([(0, 0, 0xFFFFFFFF)], OPERANDS), 400_000)
    rows(forge, "contents", bare(forge), 300_000)
    with open_snapshot(forge.seal()) as snap:
        assert len(snap) == 100_000


@pytest.mark.long
def test_a_runlist_of_100000_entries_opens(forge: Forge) -> None:
    sequence = json.dumps({"name": "x", "origin": {}, "input_args": [], "output_args": [], "buffers": []})
    before = f'[{sequence[:-1]},"specs":[["A","in",[8],"bfloat16"]],"operators":[{{"type":"X","module":"","label":"",'
    entry = b"[0,[" + b",".join([b'[0,"a buffer",0,16]'] * 4) + b"]],"
    text(forge, "sequences", entry, 99_999, before.encode() + b'"params":{}}],"steps":[', entry[:-1] + b"]}]")
    unused(forge, bare(forge))
    with open_snapshot(forge.seal()) as snap:
        assert len(snap.sequences[0].steps) == 100_000


def grown_journal(path: Path, pieces: int) -> Path:
    """A killed recording with a content of so many pieces, which all are one slot of the spill file."""
    shape = (pieces * MIB // 2,)
    spec = ArgSpec("A", "in", shape)
    writer = SnapshotWriter(path)
    number = writer.add_sequence(
        SequenceDescription(
            "x",
            (OperatorDescription("X"),),
            (BufferDescription("b", spec.nbytes, "scratch", True),),
            (StepDescription(0, 0, (OperandUse(spec, "b"),)),),
        )
    )
    invocation = writer.begin_invocation(number)
    writer.begin_step(invocation, 0, {})
    writer.abandon()
    layout, slots = Layout.of(shape, 2), (0,) * pieces
    record = payloads.ContentRecord(0, "bfloat16", bytes(16), payloads.SPILLED, layout, shape, slots)
    row = [(0, INPUT, 0)]
    journal = path.with_name(f"{path.name}.journal")
    with open(journal, "rb") as written:
        before = [(f.kind, [f.payload]) for f in frames.scan(written, frames.ScanResult())]
    journal.unlink()
    file = frames.JournalFile(journal)
    file.append(before)
    file.append([record.frame(), payloads.step_begin_frame((invocation, number, 0), row, {})])
    file.close()
    path.with_name(f"{path.name}.spill").write_bytes(bytes(MIB))
    return journal


def test_a_journal_whose_slots_are_all_one(tmp_path: Path) -> None:
    """Nor does recovery, which would drop it as damaged, touch it."""
    journal = grown_journal(tmp_path / "t.h5", 4096)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for look in (open_snapshot, check, recover):
        with pytest.raises(HostileFileError, match=FACTOR):
            look(journal)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_journal_is_held_against_all_its_files(tmp_path: Path) -> None:
    """A few more bytes beside it, and 700 MiB may be there."""
    journal = grown_journal(tmp_path / "t.h5", 720)
    with open_snapshot(journal) as snap:
        assert len(snap) == 1
    (tmp_path / "t.h5.spill").write_bytes(bytes(1))
    with pytest.raises(HostileFileError, match=FACTOR):
        open_snapshot(journal)


def test_what_this_process_recorded_is_sealed_whatever_the_limits_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TENSOR", limits.Limit(1, 0))
    path = record(tmp_path / "t.h5", 1)
    with pytest.raises(HostileFileError, match=FACTOR):
        open_snapshot(path)
    assert not check(path).ok
