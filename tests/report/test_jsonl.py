# SPDX-License-Identifier: Apache-2.0
"""JSON Lines of a replay: strict JSON, the published schema, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.report.jsonl import encode, schema

BF16 = ml_dtypes.bfloat16
NAN = float("nan")


def bf(*values: float) -> np.ndarray:
    return np.array(values, np.float32).astype(BF16)


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    path = tmp_path / "x.h5"
    with fr.record(path) as rec:
        for c in (bf(3, 3), bf(NAN, 3), bf(0, 0)):
            with rec.step("ElementwiseAdd", {"A": bf(1, 1), "B": bf(2, 2)}, {"size": 2}) as s:
                s.outputs["C"] = c
        with rec.step("RMSNorm", {"A": bf(*range(64))}, {"size": 64, "tile_size": 64}) as s:
            s.outputs["C"] = bf(*range(64))
        with rec.step("Nobody\u00e9", {"A": bf(1)}) as s:
            s.outputs["C"] = bf(1)
    every = [
        *(encode(r) for r in fr.replay(path, reference="pr117").records()),
        *(encode(r) for r in fr.replay(path, mode="cumulative").records()),
    ]
    again = [*(encode(r) for r in fr.replay(path, reference="pr117", workers=2).records())]
    assert every[: len(again)] == again
    assert str(tmp_path) not in "".join(every)
    return every


def test_every_record_obeys_the_schema(lines: list[str]) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    kinds = set()
    for line in lines:
        assert line.isascii()
        record = json.loads(line, parse_constant=pytest.fail)  # no NaN, no Infinity
        validator.validate(record)
        kinds.add(record["type"])
    assert kinds == {"config", "step", "skip", "final", "summary"}


def test_the_schema_refuses_what_is_not_a_record(lines: list[str]) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    step = next(json.loads(line) for line in lines if '"type":"step"' in line)
    assert validator.is_valid(step)
    for broken in (
        {**step, "type": "stepp"},
        {**step, "extra": 1},
        {**step, "outputs": []},
        {**step, "address": "1-0"},
        {k: v for k, v in step.items() if k != "flavour"},
        {},
    ):
        assert not validator.is_valid(broken)


def test_order_and_summary(lines: list[str]) -> None:
    records = [json.loads(line) for line in lines]
    first_summary = next(i for i, r in enumerate(records) if r["type"] == "summary")
    head, *body, summary = records[: first_summary + 1]
    assert head["type"] == "config"
    assert (summary["compared"], summary["mismatches"], summary["skipped"]) == (4, 3, 1)
    assert summary["compared"] == sum(r["type"] == "step" for r in body)
    assert summary["skipped"] == sum(r["type"] == "skip" for r in body)
    assert summary["first_mismatch"] == "1:0"
    assert body[1]["outputs"][0]["verdict"]["stats"]["max_abs"] == "NaN"
    assert [row["op"] for row in summary["operators"]] == ["ElementwiseAdd", "RMSNorm"]


def test_what_is_no_json_is_refused() -> None:
    assert encode({"type": "x", "a": (1, float("-inf"))}) == '{"type":"x","a":[1,"-Infinity"]}'
    with pytest.raises(TypeError):
        encode({"a": object()})


@pytest.mark.parametrize(
    ("value", "printed"),
    [(np.bool_(True), "true"), (np.int64(3), "3"), (np.float32(0.5), "0.5"), (np.float64("nan"), '"NaN"')],
)
def test_a_scalar_of_numpy_is_a_number(value: object, printed: str) -> None:
    """`diff --json` of recordings of two devices ended in an internal error for one of them."""
    assert encode({"a": [value]}) == f'{{"a":[{printed}]}}'
    if printed != '"NaN"':
        assert canonical_json({"a": value}) == f'{{"a":{printed}}}'


def test_no_log_takes_a_record_for_a_command() -> None:
    line = encode({"a": "###[error]x"})
    assert "##[" not in line
    assert json.loads(line) == {"a": "###[error]x"}
