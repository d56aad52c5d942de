# SPDX-License-Identifier: Apache-2.0
"""Oracle files: what is kept, what is shared, and files that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fusion_replay as fr
from fusion_replay.errors import TargetExistsError, UsageError
from fusion_replay.oracle.file import FORMAT, OracleWriter, open_oracle


def test_values_come_back_and_equal_contents_are_stored_once(tmp_path: Path) -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    half = a.astype(ml_dtypes.bfloat16)
    report = fr.oracle.write(
        {"a": a, "again": a.copy(), "half": half, "ids": np.array([1, 2])}, tmp_path / "o.safetensors"
    )
    assert (report.tensors, report.contents, report.nbytes) == (4, 3, 24 + 12 + 16)
    plain = load_file(tmp_path / "o.safetensors")  # the library's own reader
    assert set(plain) == {"a", "half", "ids"}
    assert plain["a"].dtype == np.float32
    with open_oracle(tmp_path / "o.safetensors") as oracle:
        assert [t.name for t in oracle.tensors] == ["a", "again", "half", "ids"]
        np.testing.assert_array_equal(oracle.read(oracle["again"]), a)
        assert oracle.read(oracle["half"]).tobytes() == half.tobytes()
        assert [t.is_float for t in oracle.tensors] == [True, True, True, False]
        with pytest.raises(UsageError, match=r"no tensor 'agian'; nearest: again"):
            oracle["agian"]


def test_any_safetensors_file_is_an_oracle(tmp_path: Path) -> None:
    save_file({"x": np.ones(3, np.float32)}, tmp_path / "o.safetensors")
    with open_oracle(tmp_path / "o.safetensors") as oracle:
        assert [(t.name, t.shape, t.dtype) for t in oracle.tensors] == [("x", (3,), "F32")]


def test_what_a_file_cannot_hold_is_left_out_and_said(tmp_path: Path) -> None:
    report = fr.oracle.write({"a": np.ones(2, np.float32), "c": np.ones(2, np.complex64)}, tmp_path / "o.safetensors")
    assert report.left_out == ("c",)
    assert "left out: c" in str(report)


def test_nothing_is_overwritten_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "o.safetensors"
    fr.oracle.write({"a": np.ones(2)}, path)
    with pytest.raises(TargetExistsError, match="exists already"):
        fr.oracle.write({"b": np.ones(2)}, path)
    with pytest.raises(UsageError, match="given twice"):
        _twice(tmp_path / "p.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["o.safetensors"]
    with pytest.raises(UsageError, match=r"the folder .* does not exist"):
        fr.oracle.write({"a": np.ones(2)}, tmp_path / "no" / "o.safetensors")
    with pytest.raises(UsageError, match="expected a mapping from names to arrays, found list"):
        fr.oracle.write([np.ones(2)], tmp_path / "q.safetensors")  # type: ignore[arg-type]


def _twice(path: Path) -> None:
    with OracleWriter(path) as out:
        out.add("a", np.ones(1))
        out.add("a", np.ones(1))


def _map(**changed: Any) -> str:
    tensor = {"name": "a", "key": "a", "module": "", "kind": "output", "call": 0}
    return json.dumps({"format": FORMAT, "made_by": "", "tensors": [tensor], **changed})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_map(tensors=[{"name": "a", "key": "b"}]), r"names 'b', which is not among its 1 tensors"),
        (_map(tensors=[{"name": "a", "key": "a"}] * 2), "two tensors called 'a'"),
        (_map(tensors=[{"name": "a", "key": "a", "kind": "guess"}]), "expected one of output, input, value"),
        (_map(tensors=[{"key": "a"}]), "expected a text, found nothing"),
        (_map(tensors="a"), "no list of tensors"),
        (_map(format="other/9"), "expected a map of format fusion-replay.oracle/1, found 'other/9'"),
        ("[" * 100_000, "can't be read"),
        ("{", "can't be read"),
    ],
)
def test_maps_that_lie_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "o.safetensors", {"fusion_replay_oracle": text})
    with pytest.raises(UsageError, match=said) as caught, open_oracle(tmp_path / "o.safetensors"):
        pass
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no safetensors")
    for path, said in (
        (tmp_path / "text", "expected a safetensors file"),
        (tmp_path, "a folder"),
        (tmp_path / "x", "none"),
    ):
        with pytest.raises(UsageError, match=said), open_oracle(path):
            pass
