# SPDX-License-Identifier: Apache-2.0
"""``diff A B``: exit status, the last line, one screen, and the published schema."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import byte_runlists
import fusion_replay as fr
from byte_runlists import Entry, Use
from published import PUBLISHED

Run = Callable[..., Any]
BF16 = ml_dtypes.bfloat16


def adds(
    path: Path, *, off: dict[int, float] | None = None, calls: int = 4, op: str = "ElementwiseAdd", level: Any = "full"
) -> Path:
    """``calls`` additions; call i is off by ``off[i]`` in element 3."""
    rng = np.random.default_rng(3)
    with fr.record(path, level=level) as rec:
        for i in range(calls):
            a, b = (rng.standard_normal(64).astype(BF16) for _ in "ab")
            with rec.step(op, {"A": a, "B": b}, {"size": 64}) as step:
                c = (a.astype(np.float32) + b.astype(np.float32)).astype(BF16)
                c[3] = c[3].astype(np.float32) * (1 + (off or {}).get(i, 0.0))
                step.outputs["C"] = c
    return path


def test_equal_is_0(run: Run, tmp_path: Path) -> None:
    found = run("diff", adds(tmp_path / "a.h5"), adds(tmp_path / "b.h5"))
    assert found.status == 0
    assert found.out.startswith("none of 4 steps differ")
    assert found.out.splitlines()[-1].startswith("PASSED")
    assert "next:" not in found.out


def test_inside_the_tolerance_is_0_and_says_so(run: Run, tmp_path: Path) -> None:
    """One bf16 step (2^-7 at most, relative), which is what the operator is allowed."""
    found = run("diff", adds(tmp_path / "a.h5"), adds(tmp_path / "b.h5", off={1: 2**-8 * 1.01}))
    assert found.status == 0
    assert "1 of 4 steps differs" in found.out
    assert "PASSED" in found.out
    assert "all differences lie inside the tolerance" in found.out


def test_a_mismatch_is_1_and_the_last_line_says_what_to_type(run: Run, tmp_path: Path) -> None:
    a, b = adds(tmp_path / "a.h5"), adds(tmp_path / "b.h5", off={2: 9.0})
    found = run("diff", a, b)
    assert found.status == 1
    assert "first: 2:0 ElementwiseAdd A, B -> C" in found.out
    assert found.out.splitlines()[-1].endswith(f"next: fusion-replay replay {b} --step 2:0")
    assert run("replay", b, "--step", "2:0").status == 1
    assert run("diff", a, b, "--invocation", 1).status == 0
    assert run("diff", f"{a}@2", f"{b}@2").status == 1
    assert run("diff", a, b, "--op", "elementwise_add").status == 1
    assert run("diff", b, a).status == 1


def test_at_most_one_screen_unless_asked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = adds(tmp_path / "a.h5", calls=60), adds(tmp_path / "b.h5", calls=60, off=dict.fromkeys(range(60), 2.0))
    assert "--all shows them" not in run("diff", a, b).out, "a pipe gets it whole"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "25")
    monkeypatch.setenv("NO_COLOR", "1")
    short, whole = run("diff", a, b).out.splitlines(), run("diff", a, b, "--all").out.splitlines()
    assert len(short) <= 25
    assert len(whole) > 60
    assert max(map(len, short[:-1] + whole[:-1])) <= 100
    assert any("more steps (--all shows them)" in line for line in short)
    assert sum(line.lstrip("> ").startswith(("1:0 ", "59:0 ")) for line in whole) == 2


def test_json_obeys_the_schema(run: Run, tmp_path: Path) -> None:
    a, b = adds(tmp_path / "a.h5"), adds(tmp_path / "b.h5", off={2: 9.0})
    found = run("diff", a, b, "--json")
    records = [json.loads(line) for line in found.out.splitlines()]
    for record in records:
        PUBLISHED.validate(record)
    assert [r["type"] for r in records][:2] == ["diff", "diff_step"]
    assert records[-1]["type"] == "diff_summary"
    assert (records[-1]["first"], records[-1]["passed"], found.status) == ("2:0", False, 1)


def test_what_only_one_side_ran_is_1(run: Run, tmp_path: Path) -> None:
    found = run("diff", adds(tmp_path / "a.h5"), adds(tmp_path / "b.h5", calls=2))
    assert found.status == 1
    assert "not compared: invocations 2 to 3 of a" in found.out


def test_bad_input(run: Run, tmp_path: Path) -> None:
    a, other = adds(tmp_path / "a.h5"), adds(tmp_path / "b.h5", op="ElementwiseMul")
    refused = run("diff", a, tmp_path / "nothing.h5")
    assert refused.status == 3
    assert run("diff", a, a, "--rule", "wild").status == 2
    assert run("diff", a, a, "--op", "GEMV").status == 2
    assert "no aligned step of operator 'GEMV'" in run("diff", a, a, "--op", "GEMV").err
    assert "it has 4" in run("diff", f"{a}@9", a).err
    assert run("diff", a).status == 2
    three = tmp_path / "three.h5"
    with fr.record(three) as rec:
        x = np.ones(8, BF16)
        with rec.step("Softmax", {"A": x}, {"rows": 1, "cols": 8}) as step:
            step.outputs["C"] = x
    refused = run("diff", a, three)
    assert refused.status == 2
    assert "different sequences" in refused.err
    assert "--align-anyway" in refused.err
    assert run("diff", a, other).status == 2, "the same buffers, another operator"
    anyway = run("diff", a, other, "--align-anyway")
    assert anyway.status == 0, "the sums are the same, whoever computed them"
    assert "1 with other operator" in anyway.out
    assert len(refused.err.splitlines()) == 1


def test_digests_alone_say_where_and_not_how_much(run: Run, tmp_path: Path) -> None:
    a, b = adds(tmp_path / "a.h5", level="digest"), adds(tmp_path / "b.h5", off={2: 9.0}, level="digest")
    found = run("diff", a, b)
    assert found.status == 4
    assert "first: 2:0" in found.out
    assert "only digests were kept" in found.out
    assert "record both with their contents" in " ".join(found.out.split())
    assert run("diff", a, a).status == 0
    assert run("diff", adds(tmp_path / "c.h5"), b).status == 4, "one side alone"


def test_two_toolchains_are_told_in_one_line(run: Run, tmp_path: Path) -> None:
    chain = [Entry((Use("x", "in"), Use("y", "out"))), Entry((Use("y", "in"), Use("z", "out")), "Second")]

    def on(name: str, build: str, **options: Any) -> Path:
        packages = {"packages": {"llvm-aie": build, "numpy": "2.4"}}
        return byte_runlists.record(
            tmp_path / name, chain, invocations=2, outputs=["z"], provenance=packages, **options
        )

    a = on("a.h5", "2026082101")
    b = on("b.h5", "2026082401", faults={(1, 0): lambda given: [given[0] ^ 1]})
    assert run("diff", a, b).out.splitlines()[0] == "2 of 4 steps differ; llvm-aie 2026082101 -> 2026082401"
    equal = on("c.h5", "2026082401")
    assert run("diff", a, equal).out.splitlines()[0] == "none of 4 steps differ; llvm-aie 2026082101 -> 2026082401"
    records = map(json.loads, run("diff", a, b, "--json").out.splitlines())
    assert [r for r in records if r["type"] == "diff_environment"] == [
        {"type": "diff_environment", "name": "llvm-aie", "old": "2026082101", "new": "2026082401"}
    ]


def test_an_operator_without_reference(run: Run, tmp_path: Path) -> None:
    a, b = adds(tmp_path / "a.h5", op="Nobodys"), adds(tmp_path / "b.h5", off={2: 9.0}, op="Nobodys")
    found = run("diff", a, b)
    assert found.status == 1, "the rule's own limits decide"
    assert "no reference for operator Nobodys" in found.out


def test_the_first_difference_has_a_cause_and_a_place(run: Run, tmp_path: Path) -> None:
    a, b = adds(tmp_path / "a.h5"), adds(tmp_path / "b.h5", off={2: -2.0})  # one element with the other sign
    found = run("diff", a, b)
    assert "cause    bit-flip, consistent: bit 15 of element 3" in found.out
    assert "where    column 0 of 8" in found.out
    *_, told, summary = map(json.loads, run("diff", a, b, "--json").out.splitlines())
    assert (told["type"], summary["type"]) == ("explanation", "diff_summary")
    assert (told["causes"][0]["name"], told["causes"][0]["grade"]) == ("bit-flip", "consistent")
    PUBLISHED.validate(told)
