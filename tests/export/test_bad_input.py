# SPDX-License-Identifier: Apache-2.0
"""What can't be exported is refused in one line that says what to do; nothing is overwritten or left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
import snapshot_maker as maker
from export_maker import one_step
from fusion_replay.errors import FusionReplayError, MissingError, SnapshotError, TargetExistsError, UsageError
from fusion_replay.export import FORMATS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return maker.record(tmp_path / "x.h5")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"as_": "zip"}, r"format 'zip': expected one of h5, plain-h5, npz, safetensors, jsonl, xrt"),
        ({"as_": "npz", "steps": "0:9"}, r"no step 0:9"),
        ({"as_": "npz", "compression": "lzma"}, r"compression 'lzma': npz takes none, deflate"),
        ({"as_": "jsonl", "compression": "gzip"}, r"compression 'gzip': jsonl has no choice"),
        ({"as_": "npz", "if_exists": "maybe"}, r"if_exists='maybe': expected 'error'"),
        ({"slice_": True}, r"slice: expected one step, such as --step 1:2, found 6"),
        ({"path": "nowhere/out"}, r"the folder nowhere does not exist"),
        ({"path": "."}, r"a folder; expected the name of what to write"),
    ],
)
def test_arguments(source: Path, arguments: dict[str, Any], said: str) -> None:
    before = sorted(source.parent.iterdir())
    with pytest.raises(UsageError, match=said):
        fr.export(source, **arguments)
    assert sorted(source.parent.iterdir()) == before


@pytest.mark.parametrize("format_", ["h5", "npz", "issue"])
def test_a_read_only_folder_is_named(
    source: Path, tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that is mounted read-only; root may write into any other folder."""
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (tmp_path, os.W_OK))
    how = {"issue": True, "steps": "0:0"} if format_ == "issue" else {"as_": format_}
    with pytest.raises(UsageError, match=rf"out: can't be written: the folder {tmp_path} is read-only; .* with -o"):
        fr.export(source, tmp_path / "out", **how)
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


@pytest.mark.parametrize("format_", sorted(set(FORMATS) - {"xrt"}))
def test_an_existing_target_stays(source: Path, tmp_path: Path, format_: str) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"mine")
    with pytest.raises(TargetExistsError, match=r"exists already; choose another name \(-o\), or --if-exists number"):
        fr.export(source, target, format_)
    assert target.read_bytes() == b"mine"
    assert fr.export(source, target, format_, if_exists="number").path == tmp_path / "out-001"
    assert fr.export(source, target, format_, if_exists="number").path == tmp_path / "out-002"
    assert fr.export(source, target, format_, if_exists="replace").path == target
    assert target.read_bytes() != b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out-001", "out-002", "x.h5"]


@pytest.mark.parametrize("format_", sorted(set(FORMATS) - {"xrt"}))
def test_a_folder_is_never_replaced(source: Path, tmp_path: Path, format_: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(TargetExistsError, match="folders are never replaced"):
        fr.export(source, tmp_path / "out", format_, if_exists="replace")


@pytest.mark.parametrize("format_", ["plain-h5", "npz", "safetensors"])
def test_contents_that_were_not_kept(tmp_path: Path, format_: str) -> None:
    """The formats that hold contents name the array and the way out; asked for, they leave it out and count it."""
    source = maker.record(tmp_path / "x.h5")
    part = tmp_path / "bare.h5"
    with fr.open(source) as snap:
        from fusion_replay.snapshot.seal.subset import subset, write_subset

        write_subset(subset(snap, list(snap), drop=[snap["0:0"].inputs["A"].row or 0]), part)
    with pytest.raises(MissingError, match=r"2 of 1\d arrays .* first invocation_0000/step_0000_GEMV/inputs/A; leave"):
        fr.export(part, tmp_path / "out", format_)
    report = fr.export(part, tmp_path / "out", format_, skip_missing=True)
    assert report.missing == 2
    assert "2 arrays kept as digests only" in str(report)


def test_nothing_kept_at_all(tmp_path: Path) -> None:
    source = one_step(tmp_path / "x.h5", {"A": np.ones(3)}, np.ones(2))
    with fr.open(source) as snap:
        from fusion_replay.snapshot.seal.subset import subset, write_subset

        write_subset(subset(snap, list(snap), drop=[0, 1, 2]), tmp_path / "bare.h5")
    with pytest.raises(MissingError, match=r"2 of 2 arrays .*; export --as h5 or jsonl, which hold digests"):
        fr.export(tmp_path / "bare.h5", tmp_path / "out", "npz", skip_missing=True)
    line = fr.export(tmp_path / "bare.h5", tmp_path / "out", "jsonl").path.read_text()
    assert '"stats":null' in line


def test_a_damaged_array_stops_the_export_and_leaves_nothing(tmp_path: Path) -> None:
    source = one_step(tmp_path / "x.h5", {"A": np.random.default_rng(0).standard_normal(50_000)}, np.ones(2))
    with fr.open(source) as snap:
        place = int(snap.index.chunks["offset"][0]) + 100
    data = bytearray(source.read_bytes())
    data[place] ^= 1
    source.write_bytes(data)
    for format_ in ("npz", "safetensors", "plain-h5", "jsonl"):
        with pytest.raises(SnapshotError, match="0:0 Odd, input A"):
            fr.export(source, tmp_path / "out", format_)
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(FusionReplayError, match="no such file"):
        fr.export(tmp_path / "missing.h5", tmp_path / "out", "npz")
