# SPDX-License-Identifier: Apache-2.0
"""An operator that nobody knows: what replay says, the template it points to, and the way back to a verdict."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr

Command = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("registry")

VERBS = [
    ("show", "good.h5"),
    ("replay", "good.h5"),
    ("fsck", "good.h5"),
    ("operators",),
    ("doctor",),
    ("record", "--workload", "op:ReLU", "--sim", "npu2", "-o", "relu.h5"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_operator(path: Path, name: str = "Frobnicate", body: str = "A + B") -> Path:
    path.write_text(f"import fusion_replay as fr\n\n\n@fr.operator({name!r})\ndef fn(A, B):\n    return {body}\n")
    return path


def test_exit_4_names_the_command_that_prints_a_template(run: Command, unknown: Path) -> None:
    result = run("replay", unknown)
    assert result.status == 4
    assert "no reference for operator Frobnicate" in result.err
    assert result.out.splitlines()[-1].endswith(f"; next: fusion-replay operators --new Frobnicate --from {unknown}")


def test_the_same_where_other_steps_match(run: Command, here: Path) -> None:
    a = np.ones(4, ml_dtypes.bfloat16)
    with fr.record("mixed.h5") as rec:
        for op in ("ElementwiseAdd", "My Op"):
            with rec.step(op, inputs={"A": a, "B": a}, params={"size": 4}) as step:
                step.outputs["C"] = a + a
    result = run("replay", "mixed.h5")
    assert result.status == 4
    assert result.out.splitlines()[-1].endswith("; next: fusion-replay operators --new 'My Op' --from mixed.h5")


def test_the_imported_operator_decides(run: Command, unknown: Path, here: Path) -> None:
    right, wrong = write_operator(here / "right.py"), write_operator(here / "wrong.py", body="A - B")
    assert run("replay", unknown, "--import", right).status == 0
    result = run("replay", unknown, "--import", wrong)
    assert result.status == 2
    assert "'Frobnicate' is registered already by imported.right.fn" in result.err


def test_a_wrong_description_is_a_mismatch(run: Command, unknown: Path, here: Path) -> None:
    assert run("replay", unknown, "--import", write_operator(here / "wrong.py", body="A - B")).status == 1


@pytest.mark.parametrize("verb", VERBS, ids=lambda words: words[0])
def test_every_verb_imports(run: Command, good: Path, here: Path, verb: tuple[str, ...]) -> None:
    write_operator(here / "zig.py", "Zig")
    expected = (0, 4) if verb == ("doctor",) else (0,)  # 4: no NPU here
    assert run(verb[0], "--import", "zig.py", *verb[1:]).status in expected
    assert "imported.zig" in sys.modules
    missing = run(verb[0], "--import", "gone.py", *verb[1:])
    assert missing.status == 2
    assert missing.err == "error: --import gone.py: no such file; expected a Python file\n"


def test_the_project_file_imports(run: Command, unknown: Path, here: Path) -> None:
    write_operator(here / "mine.py")
    (here / "pyproject.toml").write_text('[tool.fusion-replay]\nimport = ["mine.py"]\n')
    assert run("replay", unknown).status == 0
    assert "Frobnicate" in run("operators", "--json").out


def test_a_broken_project_file_is_a_usage_error_where_operators_matter(run: Command, unknown: Path, here: Path) -> None:
    (here / "pyproject.toml").write_text('[tool.fusion-replay]\nimport = ["gone.py"]\n')
    result = run("replay", unknown)
    assert result.status == 2
    assert "pyproject.toml: [tool.fusion-replay] import gone.py: no such file" in result.err
    assert run("fsck", unknown).status == 0


def test_the_template_runs_as_it_is(run: Command, here: Path) -> None:
    printed = run("operators", "--new", "MyGatedNorm")
    assert printed.status == 0
    (here / "my_gated_norm.py").write_text(printed.out)
    ran = subprocess.run([sys.executable, "my_gated_norm.py"], capture_output=True, text=True, cwd=here)
    assert ran.returncode == 0, ran.stderr
    assert "1 of 1 step matches" in ran.stdout
    assert run("replay", "my_gated_norm.h5").status == 4
    assert run("replay", "my_gated_norm.h5", "--import", "my_gated_norm.py").status == 0


def test_the_template_of_a_recording_has_its_arguments(run: Command, here: Path) -> None:
    a = np.ones((2, 3), np.float32)
    with (
        fr.record("run.h5") as rec,
        rec.step("Blend", inputs={"x": a, "mask": a}, params={"alpha": 0.5, "mode": "mix", "not a name": 1}) as step,
    ):
        step.outputs["y"] = a
    printed = run("operators", "--new", "Blend", "--from", "run.h5")
    assert printed.status == 0
    function = next(n for n in ast.parse(printed.out).body if isinstance(n, ast.FunctionDef))
    assert ast.unparse(function.args) == "x, mask, *, alpha=0.5, mode='mix'"
    assert "out  y: float32 (2, 3)" in printed.out
    (here / "blend.py").write_text(
        printed.out.replace('raise NotImplementedError("write here what it computes")', "return x")
    )
    assert run("replay", "run.h5", "--import", "blend.py").status == 0


def test_a_strangers_names_end_up_in_no_code(run: Command, here: Path) -> None:
    evil = 'x"""\nraise SystemExit(7)\n"""'
    with fr.record("run.h5") as rec, rec.step(f"Op{evil}", inputs={evil: np.ones(1, np.float32)}) as step:
        step.outputs[evil] = np.ones(1, np.float32)
    printed = run("operators", "--new", f"Op{evil}", "--from", "run.h5")
    assert printed.status == 0
    kinds = [type(n).__name__ for n in ast.parse(printed.out).body]
    assert kinds == ["Expr", "Import", "Import", "FunctionDef"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--new", "gemv"), "GEMV has a reference"),
        (("--new", "Zig", "--json"), "leave out the other NAME and --json"),
        (("--new", "Zig", "--from", "gone.h5"), "gone.h5"),
        (("--from", "gone.h5"), "add --new"),
    ],
)
def test_templates_that_cannot_be(run: Command, here: Path, words: tuple[str, ...], message: str) -> None:
    result = run("operators", *words)
    assert result.status in (2, 3)
    assert message in result.err


def test_no_step_of_that_type(run: Command, good: Path) -> None:
    result = run("operators", "--new", "Zig", "--from", good)
    assert result.status == 2
    assert "no step of" in result.err
