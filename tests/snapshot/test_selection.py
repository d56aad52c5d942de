# SPDX-License-Identifier: Apache-2.0
"""Which steps filters mean."""

from __future__ import annotations

from pathlib import Path

import pytest

import fusion_replay as fr
import snapshot_maker as maker
from fusion_replay.errors import UsageError
from fusion_replay.snapshot.selection import select


@pytest.fixture
def snap(tmp_path: Path) -> fr.Snapshot:
    return fr.open(maker.record(tmp_path / "x.h5", invocations=2))


def test_filters(snap: fr.Snapshot) -> None:
    assert [s.address for s in select(snap, ["1:2", "0:0"])] == ["0:0", "1:2"]
    assert [s.address for s in select(snap, [(1, 2), "0:0-1"])] == ["0:0", "0:1", "1:2"]
    assert [s.address for s in select(snap, (1, 2))] == ["1:2"]
    assert [s.address for s in select(snap, "2")] == ["0:2", "1:2"]
    assert [s.address for s in select(snap, op="gemv", invocation=1)] == ["1:0"]
    assert [s.address for s in select(snap, buffer="W")] == ["0:0", "1:0"]
    assert len(select(snap)) == 6


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"steps": ["7:7"]}, r"no step 7:7; it has 6 steps of 2 invocations"),
        ({"steps": ["7"]}, r"matches step 7; it has 6 steps"),
        ({"steps": ["3-1"]}, r"a range from 3 down to 1"),
        ({"steps": ["x:1"]}, r"expected numbers counted from 0|expected INVOCATION:STEP"),
        ({"op": "Frob"}, r"matches op Frob; .*GEMV"),
        ({"steps": ["0:0"], "op": "SiLU"}, r"matches step 0:0, op SiLU"),
        ({"invocation": 9}, r"matches invocation 9"),
    ],
)
def test_filters_that_match_nothing(snap: fr.Snapshot, filters: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        select(snap, **filters)  # type: ignore[arg-type]
