# SPDX-License-Identifier: Apache-2.0
"""Every verb that reads prints JSON Lines that obey the published schema, and nothing else on stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from published import PUBLISHED


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "x.h5"
    one = np.ones(4, np.float32).astype(ml_dtypes.bfloat16)
    with fr.record(path) as rec:
        for scale in (2, 3):
            with rec.step("ElementwiseAdd", {"A": one, "B": one}, {"size": 4}) as s:
                s.outputs["C"] = one * scale
        with pytest.raises(OSError), rec.step("ElementwiseAdd", {"A": one, "B": one}, {"size": 4}):
            raise OSError("the kernel timed out")
    return path


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (("replay", "F"), {"config", "step", "skip", "summary"}),
        (("replay", "F", "--mode", "cumulative"), {"config", "step", "skip", "final", "summary"}),
        (("show", "F"), {"snapshot", "sequence", "invocation", "operator_use", "unfinished"}),
        (("show", "F", "0:0"), {"recorded_step", "tensor"}),
        (("show", "F", "--op", "ElementwiseAdd"), {"listed_step"}),
        (("show", "F", "--buffer", "C"), {"buffer", "write"}),
        (("fsck", "F"), {"fsck"}),
        (("operators",), {"operator"}),
        (("doctor",), {"check"}),
    ],
)
def test_verbs_print_what_the_schema_says(
    run: Callable[..., Any], recording: Path, words: tuple[str, ...], kinds: set[str]
) -> None:
    found = set()
    for line in run(*(recording if w == "F" else w for w in words), "--json").out.splitlines():
        record = json.loads(line, parse_constant=pytest.fail)
        PUBLISHED.validate(record)
        found.add(record["type"])
    assert found >= kinds
