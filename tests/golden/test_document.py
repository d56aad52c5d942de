# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.errors import DamagedSnapshotError, ForeignFileError, NewerFormatError, SnapshotError
from fusion_replay.golden.document import Contents, Golden, GoldenStep, is_name
from fusion_replay.golden.tolerances import StepTolerance

A, B = "a" * 32, "b" * 32
STEP = GoldenStep(
    "0:0", "GELU", "A -> C", {"A": A}, {"C": B}, {"C": A}, {"C": {"max_abs": 0.5}}, Tolerance(0.04), "match"
)
GOLDEN = Golden(
    "x",
    (STEP, replace(STEP, address="0:1", inputs={}, expected={}, stats={})),
    ("the software NPU (npu2)",),
    {"workload": "op:GELU", "device": "npu2"},
    (StepTolerance("GELU", Tolerance(0.04), "measured"), StepTolerance("0:1", Tolerance(ulps=0), "exact")),
    {"packages": {"numpy": "2.0"}},
    Contents("x.h5", 10, "0" * 64),
    ("dispatch: fused (1)",),
    "known",
)

text = st.text(max_size=5)
plain = st.characters(categories=["L", "Nd"]) | st.sampled_from("._-+=")
names = st.text(plain, min_size=1, max_size=5).filter(is_name)
digests = st.dictionaries(text, st.text("0123456789abcdef", min_size=32, max_size=32), max_size=2)
limits = st.builds(
    Tolerance,
    st.floats(0, 1), st.floats(0, 1), st.none() | st.integers(0, 9), st.floats(0, 1),
    range_frac=st.none() | st.floats(0.1, 1),
)  # fmt: skip
steps = st.builds(
    GoldenStep,
    st.from_regex(r"\A[0-9]:[0-9]\Z"), text, text, digests, digests, digests,
    st.dictionaries(text, st.dictionaries(text, st.integers() | st.just("NaN"))), limits,
    st.sampled_from(["match", "mismatch"]),
)  # fmt: skip


@given(
    st.builds(Golden, names, st.lists(steps, max_size=3, unique_by=lambda s: s.address).map(tuple), st.just(("sim",)))
)
def test_written_and_read_back_it_is_the_same(golden: Golden) -> None:
    assert Golden.parse(golden.to_json().encode(), "x") == golden


def test_all_of_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(GOLDEN.to_json())
    assert Golden.read(tmp_path / "x") == GOLDEN


def test_a_change_of_one_step_is_a_change_of_one_line() -> None:
    lines = GOLDEN.to_json().splitlines()
    other = replace(GOLDEN, steps=(GOLDEN.steps[0], replace(GOLDEN.steps[1], outputs={"C": A})))
    differing = [pair for pair in zip(lines, other.to_json().splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(differing) == 1
    assert json.loads(differing[0][0].rstrip(","))["address"] == "0:1"


def broken(change: Any) -> bytes:
    data = json.loads(GOLDEN.to_json())
    change(data)
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("raw", "error", "why"),
    [
        (b"", DamagedSnapshotError, "no JSON"),
        (b"\xff\xfe", DamagedSnapshotError, "no JSON"),
        (b"[" * 100_000, DamagedSnapshotError, "no JSON"),
        (b"[]", ForeignFileError, "no golden: format None"),
        (b'{"format":"other/1"}', ForeignFileError, "no golden: format 'other/1', expected fusion-replay.golden/1"),
        (b'{"format":"fusion-replay.golden/2"}', NewerFormatError, "this version reads up to"),
        (b"version https://git-lfs.github.com/spec/v1\noid", ForeignFileError, "run `git lfs pull`"),
        (b'{"format":"fusion-replay.golden/1"}', DamagedSnapshotError, "steps: expected a list, found nothing"),
        (broken(lambda d: d["steps"].pop()), DamagedSnapshotError, "says 2 steps and has 1: lines were deleted"),
        (broken(lambda d: d["steps"][1].update(address="0:0")), DamagedSnapshotError, "step 0:0 is there twice"),
        (broken(lambda d: d["steps"][1].update(verdict="fine")), DamagedSnapshotError, "step 1: verdict 'fine'"),
        (broken(lambda d: d["steps"][0]["outputs"].update(C="zz")), DamagedSnapshotError, "32 hexadecimal digits"),
        (broken(lambda d: d["steps"][0]["limits"].update(rtol=-1)), DamagedSnapshotError, "rtol=-1"),
        (broken(lambda d: d["steps"][0]["limits"].update(rtol="x")), DamagedSnapshotError, "expected numbers"),
        (broken(lambda d: d["contents"].update(file="../x.h5")), DamagedSnapshotError, "without a folder"),
        (broken(lambda d: d["contents"].update(bytes=True)), DamagedSnapshotError, "a number of bytes"),
        (broken(lambda d: d["contents"].update(sha256="0")), DamagedSnapshotError, "64 hexadecimal digits"),
        (broken(lambda d: d["tolerances"][0].pop("why")), DamagedSnapshotError, "why: expected a text"),
        (broken(lambda d: d.update(name="")), DamagedSnapshotError, "name '': expected letters, digits"),
        (broken(lambda d: d.update(name="../x")), DamagedSnapshotError, "name '../x': expected letters, digits"),
        (broken(lambda d: d.update(steps=3)), DamagedSnapshotError, "steps: expected a list"),
    ],
)  # fmt: skip
def test_what_is_no_golden(raw: bytes, error: type[SnapshotError], why: str, tmp_path: Path) -> None:
    (tmp_path / "x.golden.json").write_bytes(raw)
    with pytest.raises(error, match=r"x\.golden\.json: ") as caught:
        Golden.read(tmp_path / "x.golden.json")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_document_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="No such file"):
        Golden.read(tmp_path / "none")


def test_no_reader_allocates_more_than_a_document(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ForeignFileError, match="longer than"):
        Golden.read(tmp_path / "x")
