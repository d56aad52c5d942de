# SPDX-License-Identifier: Apache-2.0
"""Files with right digests and evil contents: refused in one line, before anything large is allocated."""

from __future__ import annotations

import contextlib
import json
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from fusion_replay.errors import SnapshotError
from fusion_replay.snapshot import SnapshotWriter, open_snapshot
from fusion_replay.snapshot.fsck import check, recover
from fusion_replay.snapshot.journal import frames
from fusion_replay.snapshot.schema import TABLES
from snapshot_forge import Forge
from snapshot_maker import contents, gemv_silu, record, run


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(record(tmp_path / "t.h5", 1))


def read_everything(path: Path) -> None:
    with open_snapshot(path) as snap:
        for step in snap:
            for tensor in (*step.inputs.values(), *step.outputs.values()):
                tensor.numpy()


def refused(path: Path) -> str:
    """The message with which both roads refuse ``path``, having allocated little."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    messages = []
    with pytest.raises(SnapshotError) as caught:
        read_everything(path)
    messages.append(str(caught.value))
    try:
        report = check(path)
        assert not report.ok
        messages += report.problems
    except SnapshotError as error:
        messages.append(str(error))
    assert all("\n" not in message for message in messages)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    return messages[0]


def test_the_forge_itself_makes_sound_files(forge: Forge) -> None:
    for name in TABLES:
        forge.table(name, getattr(forge.index, name).copy())
    forge.text("provenance", {"a": 1})
    assert check(forge.seal()).ok
    with open_snapshot(forge.path) as snap:
        assert snap.provenance == {"a": 1}
        assert len([t.numpy() for s in snap for t in s.outputs.values()]) == 3


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("steps", "invocation", 99),
        ("steps", "step", 99),
        ("steps", "status", 9),
        ("steps", "n_operands", 65535),
        ("steps", "first_operand", 2**63),
        ("steps", "first_operand", 2**64 - 1),
        ("steps", "detail", 2**32 - 1),
        ("operands", "role", 77),
        ("operands", "position", 500),
        ("operands", "content", 10_000),
        ("invocations", "sequence", 3),
        ("invocations", "status", 200),
        ("contents", "dtype", b"float128"),
        ("contents", "dtype", b"int8"),
        ("contents", "digest", b"short"),
        ("contents", "digest", b"0" * 32),
        ("contents", "nbytes", 2**62),
        ("contents", "nbytes", 2**64 - 2),
        ("contents", "nbytes", 1 << 35),
        ("contents", "row_bytes", 0),
        ("contents", "row_bytes", 2**63),
        ("contents", "piece_bytes", 0),
        ("contents", "piece_bytes", 3),
        ("contents", "piece_bytes", 2**32 - 1),
        ("contents", "encoding", 7),
        ("contents", "n_chunks", 2**32 - 1),
        ("contents", "first_chunk", 2**64 - 1),
        ("chunks", "offset", 2**64 - 1),
        ("chunks", "offset", 2**63),
        ("chunks", "size", 2**32 - 1),
        ("chunks", "size", 0),
        ("chunks", "mask", 0x80),
        ("chunks", "mask", 3),
    ],
)
def test_a_lying_number(forge: Forge, table: str, column: str, value: Any) -> None:
    rows = getattr(forge.index, table).copy()
    rows[column][0] = value
    forge.table(table, rows)
    assert refused(forge.seal())


def test_a_tensor_of_another_size_than_the_runlist_says(forge: Forge) -> None:
    rows = forge.index.operands.copy()
    first, second = rows["content"][0], rows["content"][1]
    rows["content"][0], rows["content"][1] = second, first
    forge.table("operands", rows)
    assert "the runlist says" in refused(forge.seal())


def test_decompression_bombs(forge: Forge) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    rows, contents_rows = forge.index.chunks.copy(), forge.index.contents
    place = forge.put(bomb)
    rows["offset"][:], rows["size"][:], rows["mask"][:] = place, len(bomb), 0
    forge.table("chunks", rows)
    assert "claims another size" in refused(forge.seal())
    assert len(contents_rows)


@pytest.mark.parametrize("rows", [2**31, 2**40, 2**63, -1])
def test_a_table_of_impossible_length(forge: Forge, rows: int) -> None:
    forge.directory["tables"]["steps"]["rows"] = rows
    assert "impossible" in refused(forge.seal())


def test_a_bomb_of_a_table(forge: Forge) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    forge.entry("operands", bomb, rows=1000, mask=0)
    assert "claims another size" in refused(forge.seal())


@pytest.mark.parametrize(
    "columns",
    [[["invocation", "|O"]], [["step", "<u4"]], [], [["invocation", "V99999999"]], "x", [["a", 5]], [[1, 2, 3]]],
)
def test_odd_columns(forge: Forge, columns: Any) -> None:
    forge.directory["tables"]["steps"]["columns"] = columns
    assert refused(forge.seal())


def test_columns_of_a_later_minor_version_are_passed_over(forge: Forge) -> None:
    old = forge.index.steps
    wider = np.zeros(len(old), np.dtype([("future", "<f8"), *old.dtype.descr]))
    for name in old.dtype.names or ():
        wider[name] = old[name]
    forge.table("steps", wider)
    forge.directory["tables"]["steps"] |= {
        "itemsize": wider.dtype.itemsize,
        "columns": [[n, wider.dtype[n].str] for n in wider.dtype.names or ()],
    }
    assert check(forge.seal(minor=1)).ok
    with open_snapshot(forge.path) as snap:
        assert [s.address for s in snap] == ["0:0", "0:1", "0:2"]


@pytest.mark.parametrize("key", ["steps", "chunks", "sequences", "losses", "provenance", "details"])
def test_missing_and_strange_entries(forge: Forge, key: str) -> None:
    entry = forge.directory["tables"].pop(key)
    assert refused(forge.seal())
    for strange in (None, 5, [], {}, {**entry, "offset": "x"}, {**entry, "digest": None}, {**entry, "size": 2**60}):
        forge.directory["tables"][key] = strange
        assert refused(forge.seal())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"nonsense", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"tables":5}', b"null"]
)
def test_a_directory_that_is_none(forge: Forge, text: bytes) -> None:
    assert refused(forge.seal(text))


def test_a_directory_outside_the_file(forge: Forge) -> None:
    for block in (
        {"directory_offset": 2**64 - 1},
        {"directory_offset": 2**63},
        {"directory_size": 2**64 - 1},
        {"directory_size": 2**40},
        {"directory_size": 0},
    ):
        assert refused(forge.seal(**block))


def change(path: list[Any], value: Any) -> Callable[[Any], None]:
    def apply(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    "edit",
    [
        change([0, "name"], 5),
        change([0, "name"], "x" * 5000),
        change([0, "specs", 0, 2], [2**40, 2**40]),
        change([0, "specs", 0, 2], [1] * 33),
        change([0, "specs", 0, 2], [-1]),
        change([0, "specs", 0, 2], [1.5]),
        change([0, "specs", 0, 2], [True]),
        change([0, "specs", 0, 2], [2**70]),
        change([0, "specs", 0, 3], "object"),
        change([0, "specs", 0, 1], "sideways"),
        change([0, "operators"], []),
        change([0, "operators", 0], None),
        change([0, "operators", 0, "params"], []),
        change([0, "steps", 0], [99, []]),
        change([0, "steps", 0, 1, 0], [99, "W", 0, None]),
        change([0, "steps", 0, 1, 0], [-1, "W", 0, None]),
        change([0, "steps", 0, 1, 0], [0, "W", -5, None]),
        change([0, "steps"], None),
        change([0, "buffers"], [["x"]]),
        change([0, "origin"], 7),
        change([0], "tiny"),
    ],
)
def test_an_impossible_sequence(forge: Forge, edit: Callable[[Any], None]) -> None:
    entry = forge.directory["tables"]["sequences"]
    raw = bytes(forge.data[entry["offset"] : entry["offset"] + entry["size"]])
    text = raw if entry["mask"] & 2 else zstandard.ZstdDecompressor().decompress(raw)
    data = json.loads(text)
    edit(data)
    forge.text("sequences", data)
    assert refused(forge.seal())


@pytest.mark.parametrize("name", ["sequences", "details", "losses", "provenance"])
@pytest.mark.parametrize("text", [b"5", b'["x"]', b"[[1]]", b"nonsense", b"[" * 50_000, b"\xff"])
def test_texts_that_are_something_else(forge: Forge, name: str, text: bytes) -> None:
    forge.text(name, text)
    assert refused(forge.seal())


def journal(tmp_path: Path) -> Path:
    writer = SnapshotWriter(tmp_path / "j.h5")
    sequence = writer.add_sequence(gemv_silu())
    for number in range(2):
        run(writer, sequence, contents(0, number))
    writer.abandon()
    return tmp_path / "j.h5.journal"


def test_journals_cut_anywhere(tmp_path: Path) -> None:
    path = journal(tmp_path)
    data = path.read_bytes()
    steps = []
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        try:
            with open_snapshot(path) as snap:
                steps.append(len(snap))
                for step in snap:
                    for tensor in step.inputs.values():
                        tensor.numpy()  # a step that is there has its inputs
        except SnapshotError:
            assert not steps
    assert steps == sorted(steps)
    assert steps[-1] == 6


def test_journals_with_flipped_bits_never_lie(tmp_path: Path) -> None:
    path = journal(tmp_path)
    data = path.read_bytes()
    rng = random.Random(1)
    right = {(0, number): contents(0, number) for number in range(2)}
    for _ in range(400):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            with open_snapshot(path) as snap:
                for step in snap.steps(op="GEMV"):
                    for tensor, key in ((step.inputs["A"], "W"), (step.inputs["B"], "x"), (step.outputs["C"], "y0")):
                        if tensor.kept:
                            assert tensor.numpy().tobytes() == right[0, step.invocation][key].tobytes()
        except SnapshotError:
            continue


def test_journal_frames_with_right_checksums_and_evil_numbers(tmp_path: Path) -> None:
    rng = random.Random(2)
    base = journal(tmp_path).read_bytes()
    kinds = [1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 20, 21, 99]
    for _ in range(150):
        for old in tmp_path.iterdir():
            old.unlink()
        path = tmp_path / "j.h5.journal"
        file = frames.JournalFile(path)
        with open(tmp_path / "base", "wb") as copy:
            copy.write(base)
        with open(tmp_path / "base", "rb") as source:
            for frame in frames.scan(source, frames.ScanResult()):
                payload = bytearray(frame.payload)
                if rng.random() < 0.2 and payload:
                    at = rng.randrange(min(60, len(payload)))
                    payload[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", rng.randbytes(4)])
                file.append([(frame.kind, [bytes(payload)])])
                if rng.random() < 0.1:
                    file.append([(rng.choice(kinds), [rng.randbytes(rng.randrange(80))])])
        file.close()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.suppress(SnapshotError):  # and nothing else
            check(path)
            recover(path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
