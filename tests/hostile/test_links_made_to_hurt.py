# SPDX-License-Identifier: Apache-2.0
"""Links between contents that lie: circles, ends outside, depths and sizes that can't be. Refused when opened."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_replay.errors import SnapshotError
from fusion_replay.snapshot import open_snapshot
from fusion_replay.snapshot.encodings import registry
from fusion_replay.snapshot.fsck import check
from fusion_replay.snapshot.journal import frames, payloads
from fusion_replay.snapshot.schema import CHUNKED, DELTA, DERIVED, DIGEST_ONLY, PACKED, PARTS, SIDE
from hostile.test_made_to_hurt import Forge, refused
from moving_runlists import Machine, recorded


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    """Of a recording with contents of every kind."""
    forge = Forge(recorded(tmp_path / "t.h5", Machine(3), 4))
    assert {PACKED, DELTA, PARTS, DERIVED} <= set(forge.index.contents["encoding"].tolist())
    return forge


def first(forge: Forge, encoding: int) -> int:
    return int(np.flatnonzero(forge.index.contents["encoding"] == encoding)[0])


@pytest.mark.parametrize("encoding", [DELTA, PARTS, DERIVED, PACKED])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("source", 2**64 - 1),
        ("source", 2**32),
        ("extent", 0),
        ("extent", 2**64 - 1),
        ("extent", 1 << 40),
        ("depth", 81),
        ("depth", 255),
        ("nbytes", 64),
    ],
)
def test_a_lying_link(forge: Forge, encoding: int, column: str, value: Any) -> None:
    rows = forge.index.contents.copy()
    rows[column][first(forge, encoding)] = value
    forge.table("contents", rows)
    if (encoding, column, value) == (DERIVED, "extent", 0):  # the operand that it reads
        with pytest.raises(SnapshotError):
            open_snapshot(forge.seal())
    else:
        assert refused(forge.seal())


@pytest.mark.parametrize("encoding", [DELTA, PARTS, DERIVED])
def test_a_link_without_a_depth(forge: Forge, encoding: int) -> None:
    rows = forge.index.contents.copy()
    rows["depth"][first(forge, encoding)] = 0
    forge.table("contents", rows)
    assert refused(forge.seal())


@pytest.mark.parametrize("base", ["itself", "digest only"])
def test_a_patch_on_nothing(forge: Forge, base: str) -> None:
    rows = forge.index.contents
    row = first(forge, DELTA)
    bare = rows[row : row + 1].copy()
    bare["encoding"], bare["n_chunks"], bare["depth"] = DIGEST_ONLY, 0, 0
    rows = np.concatenate([rows, bare])
    rows["source"][row] = row if base == "itself" else len(rows) - 1
    forge.table("contents", rows)
    assert "can't be on" in refused(forge.seal())


def test_a_circle(forge: Forge) -> None:
    rows = forge.index.contents.copy()
    one = first(forge, DELTA)
    other = int(rows["source"][one])
    rows["encoding"][other], rows["source"][other], rows["n_chunks"][other] = DELTA, one, 1
    rows["extent"][other] = rows["extent"][one]
    for depths in ((1, 1), (1, 2), (2, 1), (0, 0)):
        rows["depth"][one], rows["depth"][other] = depths
        forge.table("contents", rows)
        assert "can't be on" in refused(forge.seal())


@pytest.mark.parametrize(
    ("column", "value"),
    [("content", 2**32 - 1), ("offset", 2**64 - 1), ("offset", 1 << 40), ("nbytes", 2**64 - 1), ("nbytes", 1)],
)
def test_a_lying_part(forge: Forge, column: str, value: int) -> None:
    rows = forge.index.parts.copy()
    rows[column][0] = value
    forge.table("parts", rows)
    assert "parts that make no content" in refused(forge.seal())


def test_many_contents_of_the_same_parts(forge: Forge) -> None:
    """A million rows that share parts would take more memory than the file has."""
    rows = forge.index.contents
    row = first(forge, PARTS)
    forge.table("contents", np.concatenate([rows, np.repeat(rows[row : row + 1], 200_000)]))
    assert "parts that make no content" in refused(forge.seal())


@pytest.mark.parametrize(
    ("encoding", "to"),
    [
        (a, b)
        for a in (PACKED, DELTA, PARTS, DERIVED)
        for b in (CHUNKED, PACKED, DELTA, PARTS, DERIVED, SIDE, 7)
        if a != b
    ],
)
def test_another_encoding_than_it_has(forge: Forge, encoding: int, to: int) -> None:
    rows = forge.index.contents.copy()
    row = first(forge, encoding)
    rows["encoding"][row] = to
    forge.table("contents", rows)
    assert refused(forge.seal())


def test_a_walk_that_never_ends(forge: Forge) -> None:
    """The parameters of a derived step are data of the file too."""
    import json

    entry = forge.directory["tables"]["sequences"]
    raw = bytes(forge.data[entry["offset"] : entry["offset"] + entry["size"]])
    from fusion_replay.snapshot.encodings.chunks import decompress

    text = raw if entry["mask"] & 2 else decompress(raw, entry["rows"] * entry["itemsize"], "t")
    data = json.loads(text)
    for operator in data[0]["operators"]:
        if operator["type"] == "StridedCopy":
            operator["params"] |= {"input_sizes": [2**40, 64], "input_strides": [0, 1]}
            operator["params"] |= {"output_sizes": [2**40, 64], "output_strides": [0, 1]}
        if operator["type"] == "Repeat":
            operator["params"] |= {"repeat": 2**40}
    forge.text("sequences", data)
    assert "can't be made" in refused(forge.seal()) or "disagree" in refused(forge.path)


def test_random_lies_never_give_wrong_bits(tmp_path: Path) -> None:
    machine = Machine(3)
    path = recorded(tmp_path / "t.h5", machine, 3)
    sealed, rng = path.read_bytes(), random.Random(0)
    for _ in range(80):
        path.write_bytes(sealed)
        forge = Forge(path)
        for table in ("contents", "parts"):
            rows = getattr(forge.index, table).copy()
            for _ in range(rng.randrange(4)):
                column = rng.choice(
                    ["source", "extent", "depth", "encoding"] if table == "contents" else ["content", "offset"]
                )
                limit = np.iinfo(rows[column].dtype).max
                rows[column][rng.randrange(len(rows))] = rng.choice([0, 1, rng.randrange(len(rows)), limit]) % (
                    limit + 1
                )
            forge.table(table, rows)
        try:
            with open_snapshot(forge.seal()) as snap:
                machine.check(snap, all_there=False)
        except SnapshotError:
            continue


def test_journal_links_with_right_checksums_and_evil_numbers(tmp_path: Path) -> None:
    machine = Machine(3)
    journal = recorded(tmp_path / "t.h5", machine, 3, close=False)
    base, rng = tmp_path / "base", random.Random(4)
    journal.rename(base)
    spill = journal.with_name("t.h5.spill")
    for _ in range(60):
        journal.unlink(missing_ok=True)
        file = frames.JournalFile(journal)
        with open(base, "rb") as source:
            for frame in frames.scan(source, frames.ScanResult()):
                payload = bytearray(frame.payload)
                if frame.kind == frames.CONTENT and rng.random() < 0.3:
                    record = payloads.ContentRecord.parse(bytes(payload), 0)
                    if record.link is not None:
                        tail = len(registry.pack(record.link))
                        at = len(payload) - tail + rng.randrange(min(tail, 40))
                        number = rng.choice([0, 1, 2**31, 2**32 - 1, rng.randrange(60)])
                        payload[at : at + 4] = struct.pack("<I", number)[: len(payload) - at]
                file.append([(frame.kind, [bytes(payload)])])
        file.close()
        assert spill.exists()
        try:
            check(journal)
            with open_snapshot(journal) as snap:
                machine.check(snap, all_there=False)
        except SnapshotError:
            continue
