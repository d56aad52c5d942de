# SPDX-License-Identifier: Apache-2.0
"""Goldens are brought up to date, and left alone where nothing changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import fusion_replay as fr
from fusion_replay.golden import matrix
from fusion_replay.golden.matrix import is_kept_whole, make
from fusion_replay.simulator.workloads.matrix import MatrixCase, cases


def case(name: str) -> MatrixCase:
    (found,) = cases(only=name)
    return found


SMALL, OTHER = case("npu1-relu-2048-c4-ch1-t512"), case("npu1-tanh-2048-c4-ch1-t512")
LARGE = case("npu2-gemm-M64-K512-N256-c4-bcol-m16-k64-n64-parts4")


@pytest.mark.parametrize(
    ("golden", "suffixes"), [(SMALL, [".golden.json", ".h5"]), (LARGE, [".golden.json"])], ids=["whole", "thin"]
)
def test_made_again_nothing_is_touched(golden: MatrixCase, suffixes: list[str], tmp_path: Path) -> None:
    first = make(golden, tmp_path)
    assert (first.state, first.mismatches) == ("new", ())
    folder = tmp_path / golden.device / golden.operator
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert sorted(before) == [golden.name + s for s in suffixes]
    second = make(golden, tmp_path)
    assert (second.state, second.path, second.file_bytes) == ("unchanged", first.path, sum(map(len, before.values())))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_the_repository_s_own_is_left_as_it_is(tmp_path: Path) -> None:
    """Also where the software NPU's operators stand in another module since it was made."""
    folder = Path(__file__).parents[2] / "snapshots" / SMALL.device / SMALL.operator
    shutil.copytree(folder, tmp_path / SMALL.device / SMALL.operator)
    assert make(SMALL, tmp_path).state == "unchanged"


def test_another_recording_or_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    golden = make(SMALL, tmp_path).path.with_name(f"{SMALL.name}.h5")
    good = golden.read_bytes()
    (tmp_path / "elsewhere").mkdir()
    golden.write_bytes(make(OTHER, tmp_path / "elsewhere").path.with_name(f"{OTHER.name}.h5").read_bytes())
    assert make(SMALL, tmp_path).state == "changed"
    with fr.open(golden) as snap:
        assert snap.sequences[0].name == SMALL.name
    golden.write_bytes(good[:1000])
    assert make(SMALL, tmp_path).state == "changed"
    assert fr.replay(golden).passed


def test_a_whole_golden_gives_way_to_a_thin_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = make(SMALL, tmp_path).path.with_name(f"{SMALL.name}.h5")
    assert contents.exists()
    monkeypatch.setattr(matrix, "MEDIUM", 0)
    assert not make(SMALL, tmp_path).whole
    assert not contents.exists()


def test_versions_alone_change_nothing(tmp_path: Path) -> None:
    path = make(SMALL, tmp_path).path
    path.write_text(path.read_text().replace('"numpy":"', '"numpy":"0.'))
    assert make(SMALL, tmp_path).state == "unchanged"


def test_a_changed_number_changes_the_golden(tmp_path: Path) -> None:
    path = make(LARGE, tmp_path).path
    path.write_text(path.read_text().replace("rel_l2", "rel_l3", 1))
    assert make(LARGE, tmp_path).state == "changed"


def test_what_is_kept_whole() -> None:
    """At 2048 elements everything; of the rest the smallest of each operator where 600 kB hold it."""
    whole = {c.name for c in cases() if is_kept_whole(c)}
    assert SMALL.name in whole
    assert LARGE.name not in whole
    by_operator = {(c.device, c.operator): is_kept_whole(c) for c in cases() if is_kept_whole(c)}
    never = {(c.device, c.operator) for c in cases()} - set(by_operator)
    assert {operator for _, operator in never} == {"mha", "swiglu_decode", "swiglu_prefill", "llama_3.2_1b"}
    assert sum("-transpose-" in n for n in whole) == 2


def test_where_it_was_made_is_not_in_it(tmp_path: Path) -> None:
    with fr.open(make(SMALL, tmp_path).path.with_name(f"{SMALL.name}.h5")) as snap:
        assert set(snap.provenance) == {"fusion_replay", "command", "packages"}
        assert snap.provenance["command"][-1] == SMALL.name
