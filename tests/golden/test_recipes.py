# SPDX-License-Identifier: Apache-2.0
"""Recipes that run code: a program under ``record``, a function; what they do wrong is the golden's failure alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.errors import MissingError, UsageError
from fusion_replay.golden.add import add
from fusion_replay.golden.check import CheckOptions, check_golden
from fusion_replay.golden.recipes import portable, record_again
from fusion_replay.recording.option_declaration import PREFIX
from golden_maker import record_workload
from integration.test_record_program import app
from system.test_processes import wait_until_gone

LEAVE = CheckOptions(on="npu", run_recipes=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.delenv(f"{PREFIX}OUT", raising=False)
    return tmp_path


def test_a_program_is_recorded_again(project: Path, goldens: Path) -> None:
    """An IRON program on doubles of its dispatch: recorded, accepted, recorded again."""
    app(project, "v6", "from common_app import *\nsequence(calls=1)\n")
    recipe = {"command": [sys.executable, "app.py"]}
    source = project / "first.h5"
    record_again(recipe, source, leave=True, root=project)
    path, golden = add(source, goldens, recipe=recipe)
    assert [s.op for s in golden.steps] == ["ElementwiseAdd", "ElementwiseMul", "ReLU"]
    found = check_golden(path, LEAVE)
    assert found.passed, found.lines
    assert {(s.question, s.state) for s in found.steps} == {("reference", "same"), ("npu", "same")}
    assert sorted(p.name for p in project.iterdir() if p.suffix == ".h5") == ["first.h5"]


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"command": [sys.executable, "-c", "raise SystemExit('no such model')"]}, "recorded nothing, exit status "),
        ({"command": [sys.executable, "-c", "pass"]}, "recorded nothing, exit status 4"),
        ({"command": ["no-such-program"]}, "recorded nothing, exit status "),
        ({"command": []}, "expected a list of words"),
        ({"command": "python app.py"}, "expected a list of words"),
        ({"python": "build"}, "expected file.py:function or module:function"),
        ({"python": "none.py:build"}, "recipe python 'none.py:build': "),
        ({"python": "build.py:none"}, "has no attribute 'none'"),
        ({"python": "build.py:number"}, "number is no function"),
        ({"python": "build.py:fails"}, "python build.py:fails failed: ValueError: on two lines"),
        ({"python": "build.py:nothing"}, "nothing was recorded; is there a device"),
        ({"python": "build.py:seven"}, "gave int: expected a callable to record, or None"),
        ({"workload": "op:ReLU", "device": "npu1", "options": {"param": ["size=x"]}}, "size"),
        ({"workload": "op:ReLU", "device": "npu1", "faults": ["0:0:nonsense"]}, "nonsense"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line(project: Path, goldens: Path, recipe: dict[str, Any], why: str) -> None:
    (project / "build.py").write_text(
        "number = 7\ndef fails():\n    raise ValueError('on two\\nlines')\n"
        "def nothing():\n    pass\ndef seven():\n    return 7\n"
    )
    path, _ = add(record_workload(project / "x.h5", "op:ReLU", param=["size=256"]), goldens, recipe=recipe)
    found = check_golden(path, CheckOptions(on="sim", run_recipes=True))
    assert found.kinds == ("recipe",)
    assert "can't be recorded again: " in found.headline
    assert why in " ".join(found.headline.split())
    assert found.compared == 1, "the reference is asked all the same"


@pytest.mark.parametrize("fault", ["0:0:hang", "ReLU:hang:0"])
@pytest.mark.parametrize("thin", [False, True])
def test_a_recipe_that_never_ends_is_refused_at_once(project: Path, goldens: Path, fault: str, thin: bool) -> None:
    recipe = {"workload": "op:ReLU", "device": "npu1", "faults": [fault], "options": {"param": ["size=256"]}}
    source = record_workload(project / "x.h5", "op:ReLU", param=["size=256"])
    path, _ = add(source, goldens, recipe=recipe, thin=thin)
    found = check_golden(path, CheckOptions(on="sim"))
    assert found.kinds == ("recipe",)
    assert f"with the fault {fault} a step never ends" in found.headline
    assert found.compared == (0 if thin else 1)


def test_a_program_that_takes_too_long_is_ended_with_its_recorder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "slow.py").write_text("import os, time\nopen('pid', 'w').write(f'{os.getpid()}')\ntime.sleep(600)\n")
    monkeypatch.setattr("fusion_replay.golden.recipes.PATIENCE", 6)
    with pytest.raises(MissingError, match=r"slow.py: still running after 6 s; it was ended"):
        record_again({"command": [sys.executable, "slow.py"]}, project / "x.h5", leave=True, root=project)
    wait_until_gone(int((project / "pid").read_text()))


def test_a_program_whose_step_hangs_is_stopped_and_the_step_is_named(
    project: Path, goldens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted while it ran through; checked when its last kernel never comes back."""
    app(
        project,
        "v3",
        """
        from common_app import *
        sequence(calls=1)
        if os.path.exists("hang"):
            from aie.utils.hostruntime.xrtruntime import hostruntime
            hostruntime.KERNELS["ReLU"] = hostruntime.KERNELS["Hang"]
        single(callable_of(operators.ReLU(size=N)), draw(7))
        """,
    )
    recipe = {"command": [sys.executable, "app.py"]}
    record_again(recipe, project / "first.h5", leave=True, root=project)
    path, golden = add(project / "first.h5", goldens, recipe=recipe)
    assert len(golden.steps) == 4
    (project / "hang").touch()
    monkeypatch.setattr("fusion_replay.golden.recipes.STEP_PATIENCE", 2)  # the other steps must have been done in it
    found = check_golden(path, LEAVE)
    assert not found.passed
    assert [(s.address, s.state) for s in found.steps if s.question == "npu" and s.state != "same"] == [
        ("1:0", "not_compared")
    ]
    assert "1:0 ReLU" in found.headline
    assert "KeyboardInterrupt" in " ".join(s.text for s in found.steps)


def test_a_recipe_has_no_path_of_this_machine(project: Path) -> None:
    words = [sys.executable, str(project / "tools/app.py"), "--n", "3"]
    assert portable({"command": words}, project) == {"command": ["python", "tools/app.py", "--n", "3"]}
    assert portable({"python": f"{project}/build.py:run"}, project) == {"python": "build.py:run"}
    assert portable({"python": "package.module:run"}, project) == {"python": "package.module:run"}
    with pytest.raises(UsageError, match=r"/elsewhere/app\.py is a path of this machine alone; give one below "):
        portable({"command": ["python", "/elsewhere/app.py"]}, project)
