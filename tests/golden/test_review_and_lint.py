# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.errors import MismatchError, TargetExistsError, UsageError
from fusion_replay.golden.add import add
from fusion_replay.golden.check import CheckOptions, check_golden
from fusion_replay.golden.document import Golden
from fusion_replay.golden.lint import lint
from fusion_replay.golden.project import Project
from fusion_replay.golden.review import accept, waiting
from golden_maker import record_workload

Maker = Callable[..., Path]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def moved(make: Maker) -> Path:
    path = make("gelu", "op:GELU")
    edit(path, lambda d: d["recipe"]["options"].update(seed=1))
    return path


def test_a_failing_check_proposes_and_an_accepted_one_passes(make: Maker, tmp_path: Path) -> None:
    path = moved(make)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    new = tmp_path / "new"
    options = CheckOptions(on="sim", write_new=True, new_dir=new)
    assert check_golden(path, options).pending == str(new / "gelu.golden.json.new")
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    (note,) = check_golden(path, options).notes
    assert "left over from before, it was not overwritten" in note
    assert f"`fusion-replay golden accept gelu --dir {new} --into {path.parent}`" in note
    (pending,) = waiting(new, path.parent)
    assert any("inputs moved" in line for line in pending.lines())
    accept(pending, Project(tmp_path))
    assert check_golden(path, CheckOptions(on="sim")).passed
    assert list(new.iterdir()) == []


def test_an_old_review_does_not_undo_a_newer_golden(make: Maker, tmp_path: Path) -> None:
    path = moved(make)
    check_golden(path, CheckOptions(on="sim", write_new=True))
    edit(path, lambda d: d.update(accepted_mismatch="touched"))
    (pending,) = waiting(path.parent)
    with pytest.raises(UsageError, match="the golden has changed since this was written"):
        accept(pending, Project(tmp_path))


def test_add_overwrites_nothing_and_refuses_mismatches(make: Maker, tmp_path: Path, goldens: Path) -> None:
    make("gelu", "op:GELU")
    with pytest.raises(TargetExistsError, match="exists already"):
        add(tmp_path / "recordings" / "gelu.h5", goldens)
    bad = record_workload(tmp_path / "bad.h5", "op:GELU", "0:0:zeros")
    with pytest.raises(MismatchError, match="1 of 1 steps mismatch"):
        add(bad, goldens)
    _, golden = add(bad, goldens, accept_mismatch="known")
    assert (golden.accepted_mismatch, len(golden.mismatches)) == ("known", 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(make: Maker) -> None:
    path = moved(make)
    path.parent.chmod(0o500)
    assert "can't be written" in check_golden(path, CheckOptions(on="sim", write_new=True)).notes[0]


@pytest.mark.parametrize("limits", [{"rtol": 1.5}, {"atol": 100.0}, {"error_rate": 1.0}, {"ulps": 40000}])
def test_limits_that_let_zeros_pass_are_red(make: Maker, limits: dict[str, float]) -> None:
    path = make("gelu", "op:GELU")
    assert lint(path.parent).passed
    edit(path, lambda d: d["tolerances"].append({"op": "GELU", "limits": limits, "why": "it failed"}))
    (problem,) = lint(path.parent).problems
    assert problem.kind == "zeros"
    assert "an output of zeros would pass" in problem.text


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda d: d["provenance"].clear(), "provenance"),
        (lambda d: d["tolerances"].append({"op": "GELU", "limits": {"rtol": 0.05}, "why": " "}), "why"),
        (lambda d: d["tolerances"].append({"step": "7:7", "limits": {}, "why": "w"}), "unused_tolerance"),
    ],
)
def test_what_lint_finds(make: Maker, change: Callable[[dict[str, Any]], object], kind: str) -> None:
    path = make("gelu", "op:GELU")
    edit(path, change)
    assert kind in [p.kind for p in lint(path.parent).problems]


def test_sizes_and_duplicates(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.fusion-replay]\ngolden-max-bytes = 10\n")
    make("a", "op:GELU")
    folder = make("b", "op:GELU").parent
    assert sorted(p.kind for p in lint(folder).problems) == ["duplicate", "size", "size"]
    assert Golden.read(folder / "a.golden.json").contents is not None
