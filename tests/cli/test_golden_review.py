# SPDX-License-Identifier: Apache-2.0
"""``golden review|accept|reject|lint`` as they are typed, at a terminal and without one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from click.testing import Result as Answered

from cli import test_golden
from cli.test_golden import accepted, at_home, edit, folder, moved_inputs, moved_npu, records
from commands import Command
from fusion_replay.cli import golden_review, program
from fusion_replay.golden.project import Project

__all__ = ["accepted", "at_home", "folder"]


@pytest.fixture(scope="module")
def proposed(accepted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``goldens`` with recipes that draw other inputs, and what a check proposes for both in ``new``; made once."""
    from fusion_replay.golden.check import CheckOptions, check_folder

    root = tmp_path_factory.mktemp("proposed")
    shutil.copytree(accepted, root / "goldens")
    for name in test_golden.NAMES:
        edit(root / f"goldens/{name}.golden.json", lambda d: d["recipe"]["options"].update(seed=1))
    report = check_folder(root / "goldens", CheckOptions(on="sim", write_new=True, new_dir=root / "new"))
    assert [r.pending is not None for r in report.results] == [True, True]
    return root


@pytest.fixture
def waiting(proposed: Path, at_home: None) -> list[str]:
    """Both golden's names, waiting in ``new`` for ``goldens``."""
    for name in ("goldens", "new"):
        shutil.copytree(proposed / name, name)
    return list(test_golden.NAMES)


def bytes_of(*folders: str) -> dict[Path, bytes]:
    return {p: p.read_bytes() for f in folders for p in Path(f).iterdir()}


def typed(answers: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> Answered:
    """A review at a terminal where these lines are typed."""
    monkeypatch.setattr(golden_review, "at_a_terminal", lambda: True)
    done = CliRunner().invoke(program, ["golden", "review", *words], input=answers, standalone_mode=False)
    assert done.exception is None, done.output
    return done


# --- review -----------------------------------------------------------------------------------------------------------


def test_without_a_terminal_the_differences_are_printed(run: Command, waiting: list[str]) -> None:
    before = bytes_of("goldens", "new")
    seen = run("golden", "review", "new", "--into", "goldens")
    assert seen.status == 1
    lines = seen.out.splitlines()
    assert lines[0] == "gelu: 2 of 2 steps differ"
    assert lines[1].startswith("  contents: ")
    assert lines[2].startswith("  0:0 GELU A -> C: inputs moved: input A: digest ")
    assert lines[-2] == "new: 2 goldens waiting, 2 left"
    assert lines[-1].startswith("FAILED")
    assert lines[-1].endswith("; next: fusion-replay golden accept gelu --dir new --into goldens")
    assert bytes_of("goldens", "new") == before
    listed = records(run("golden", "review", "new", "--into", "goldens", "--json"))
    assert [(r["type"], r["name"], r["target"], r["contents"]) for r in listed] == [
        ("golden_pending", "gelu", "goldens/gelu.golden.json", True),
        ("golden_pending", "relu", "goldens/relu.golden.json", True),
    ]


def test_nothing_waits(run: Command, folder: Path) -> None:
    seen = run("golden", "review", folder)
    assert seen.status == 0
    assert seen.out.splitlines()[0] == "goldens: 0 goldens waiting, 0 left"


def test_at_a_terminal_each_is_decided(run: Command, waiting: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    relu = Path("goldens/relu.golden.json").read_bytes()
    done = typed("a\nr\n", "new", "--into", "goldens", monkeypatch=monkeypatch)
    assert done.return_value == 0
    assert "gelu: accepted, goldens/gelu.h5, goldens/gelu.golden.json" in done.output
    assert "new/relu.golden.json.new: removed" in done.output
    assert "new: 2 goldens waiting, 0 left" in done.output
    assert list(Path("new").iterdir()) == []
    assert Path("goldens/relu.golden.json").read_bytes() == relu
    assert run("golden", "check", "goldens", "--on", "sim", "--filter", "gelu").status == 0
    assert run("golden", "check", "goldens", "--on", "sim", "--filter", "relu").status == 1


def test_skipping_is_what_enter_does(waiting: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = bytes_of("goldens", "new")
    done = typed("\nx\ns\n", "new", "--into", "goldens", monkeypatch=monkeypatch)
    assert done.return_value == 1
    assert "'x' is not one of 'a', 'r', 's'" in done.output
    assert "new: 2 goldens waiting, 2 left" in done.output
    assert bytes_of("goldens", "new") == before


def test_one_that_can_not_be_accepted_does_not_end_the_review(
    waiting: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(Path("goldens/gelu.golden.json"), lambda d: d.update(losses=["touched"]))
    done = typed("a\na\n", "new", "--into", "goldens", monkeypatch=monkeypatch)
    assert done.return_value == 1
    assert "error: new/gelu.golden.json.new: the golden has changed since this was written" in done.output
    assert "relu: accepted, " in done.output
    assert "next: fusion-replay golden reject gelu --dir new" in done.output
    assert sorted(p.name for p in Path("new").iterdir()) == ["gelu.golden.json.new", "gelu.h5.new"]


# --- accept, reject ---------------------------------------------------------------------------------------------------


def test_accept_some_then_all_without_a_terminal(run: Command, waiting: list[str]) -> None:
    seen = run("golden", "accept", "gelu", "--dir", "new", "--into", "goldens")
    assert seen.status == 0
    assert seen.out.splitlines()[0] == "gelu: accepted, goldens/gelu.h5, goldens/gelu.golden.json"
    assert seen.out.splitlines()[-1].endswith("; 1 golden accepted; next: fusion-replay golden check goldens")
    assert sorted(p.name for p in Path("new").iterdir()) == ["relu.golden.json.new", "relu.h5.new"]
    assert run("golden", "accept", "--all", "--dir", "new", "--into", "goldens").status == 0
    assert run("golden", "check", "goldens", "--on", "sim", "--exact").status == 0
    assert "replaces" not in Path("goldens/gelu.golden.json").read_text()


def test_reject_leaves_the_golden(run: Command, waiting: list[str]) -> None:
    before = bytes_of("goldens")
    seen = run("golden", "reject", "gelu", "--dir", "new")
    assert (seen.status, seen.out.splitlines()[0]) == (0, "new/gelu.golden.json.new: removed")
    assert sorted(p.name for p in Path("new").iterdir()) == ["relu.golden.json.new", "relu.h5.new"]
    assert run("golden", "reject", "--all", "--dir", "new").status == 0
    assert list(Path("new").iterdir()) == []
    assert bytes_of("goldens") == before


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["accept", "--dir", "new"], 2, "name what to take, or give --all; waiting in new: gelu, relu"),
        (["accept", "nope", "--dir", "new"], 2, "new: nothing called nope waits; waiting: gelu, relu"),
        (["accept", "--all", "--dir", "goldens"], 2, "goldens: nothing waits for a review; waiting: nothing"),
        (["accept", "--all", "--dir", "none"], 2, "none: expected a folder of goldens, found nothing"),
        (["accept", "--all", "--dir", "new", "--into", "none"], 2, "none: expected a folder of goldens"),
        (["accept", "gelu", "--dir", "new"], 2, "the golden that it replaces is gone"),
        (["reject", "--dir", "new"], 2, "name what to take, or give --all"),
        (["reject", "nope", "--dir", "new"], 2, "nothing called nope waits"),
        (["review", "none"], 2, "none: expected a folder of goldens"),
        (["lint", "none"], 2, "none: expected a folder of goldens"),
        (["lint", "goldens", "--allow", "nope"], 2, "golden lint --allow nope: expected one of size, total"),
    ],
)
def test_usage(run: Command, waiting: list[str], words: list[str], status: int, says: str) -> None:
    before = bytes_of("goldens", "new")
    seen = run("golden", *words)
    assert (seen.status, seen.out) == (status, "")
    assert says in seen.err
    assert len(seen.err.splitlines()) == 1
    assert bytes_of("goldens", "new") == before


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("gelu.h5.new", lambda p: p.unlink(), "its contents gelu.h5.new are missing beside it; fetch them too"),
        ("gelu.h5.new", lambda p: p.write_bytes(b"x"), "not the contents that it names (SHA-256); fetch them again"),
        ("gelu.golden.json.new", lambda p: p.write_text("x"), "can't be read: new/gelu.golden.json.new: no JSON"),
        (
            "gelu.golden.json.new",
            lambda p: p.write_text(p.read_text().replace("golden/1", "golden/7")),
            "update fusion-replay",
        ),
        ("gelu.golden.json.new", lambda p: edit(p, lambda d: d.update(name="x")), "it calls itself 'x'"),
    ],
)
def test_spoilt_proposals_are_not_accepted(run: Command, waiting: list[str], name: str, spoil: Any, says: str) -> None:
    spoil(Path("new") / name)
    before = bytes_of("goldens", "new")
    seen = run("golden", "accept", "gelu", "--dir", "new", "--into", "goldens")
    assert (seen.status, seen.out) == (2, "")
    assert says in seen.err
    assert says in run("golden", "review", "new", "--into", "goldens").out
    assert bytes_of("goldens", "new") == before


def test_mismatches_are_accepted_with_a_reason_only(run: Command, folder: Path) -> None:
    moved_npu(folder)
    assert run("golden", "check", folder, "--on", "sim", "--write-new").status == 1
    seen = run("golden", "accept", "--all")
    assert seen.status == 1
    assert "1 of 2 steps would be accepted as mismatches, first 1:0 GELU A -> C; if that is right, --accept" in seen.err
    last = run("golden", "review").out.splitlines()[-1]
    assert last.endswith("; next: fusion-replay golden reject gelu --dir goldens"), (
        "what accept refuses is not proposed"
    )
    assert run("golden", "accept", "--all", "--accept-mismatch", "known to AMD").status == 0
    seen = run("golden", "check", folder, "--on", "sim")
    assert seen.status == 0
    assert "gelu: note: 1 known mismatch: known to AMD" in seen.out


def test_a_target_that_can_not_be_written(run: Command, waiting: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion_replay.golden import review

    def refused(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", "goldens/gelu.h5")

    monkeypatch.setattr(review.shutil, "copyfile", refused)
    before = bytes_of("goldens", "new")
    seen = run("golden", "accept", "gelu", "--dir", "new", "--into", "goldens")
    assert seen.status == 2
    assert "goldens/gelu.h5: can't be written: Permission denied" in seen.err
    assert bytes_of("goldens", "new") == before


# --- CI ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["accept", "reject"])
def test_in_ci_nothing_is_decided(run: Command, waiting: list[str], verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    before = bytes_of("goldens", "new")
    seen = run("golden", verb, "--all", "--dir", "new")
    assert (seen.status, seen.out) == (2, "")
    assert seen.err.startswith(f"error: golden {verb}: refused where CI is set; keep the *.new files as an artifact")
    assert "fusion-replay golden accept --all --dir D --into GOLDENS" in seen.err
    assert bytes_of("goldens", "new") == before
    monkeypatch.setenv("CI", "false")
    assert run("golden", verb, "nope", "--dir", "new").err == (
        "error: new: nothing called nope waits; waiting: gelu, relu\n"
    )


def test_in_ci_a_check_still_proposes_and_a_review_still_prints(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1")
    moved_inputs(folder)
    assert run("golden", "check", folder, "--on", "sim", "--new-dir", "new").status == 1
    assert run("golden", "review", "new", "--into", folder).out.splitlines()[0] == "gelu: 2 of 2 steps differ"
    monkeypatch.setattr(golden_review, "at_a_terminal", lambda: True)
    assert "golden review: refused where CI is set" in run("golden", "review", "new", "--into", folder).err


# --- lint -------------------------------------------------------------------------------------------------------------


def test_nothing_found(run: Command, folder: Path) -> None:
    seen = run("golden", "lint", folder)
    assert seen.status == 0
    assert seen.out.splitlines()[0].startswith("2 goldens, 4 steps, ")
    assert seen.out.splitlines()[0].endswith(": 0 findings")
    assert records(run("golden", "lint", folder, "--json"))[-1]["passed"] is True


def test_a_tolerance_that_lets_zeros_pass_is_red_although_the_check_is_green(run: Command, good: Path) -> None:
    loose = ("--tolerance", "ElementwiseAdd=rtol 1.5 because it failed otherwise")
    assert run("golden", "add", good, *loose).status == 0
    assert run("golden", "check").status == 0
    seen = run("golden", "lint")
    assert seen.status == 1
    assert seen.out.splitlines()[0] == (
        "zeros: good: 0:0 ElementwiseAdd A, B -> C: an output of zeros would pass its limits (rtol 1.5 atol 0); "
        "tighten them"
    )
    assert seen.out.splitlines()[-1].startswith("FAILED")
    assert run("golden", "lint", "--allow", "zeros").status == 0


def test_the_whole_folder_may_be_too_large(run: Command, folder: Path) -> None:
    size = sum(p.stat().st_size for p in folder.iterdir())
    project = Path("pyproject.toml")
    project.write_text(f"[tool.fusion-replay]\ngolden-max-total-bytes = {size}\n")
    assert run("golden", "lint", folder).status == 0
    project.write_text(f"[tool.fusion-replay]\ngolden-max-total-bytes = {size - 1}\n")
    seen = run("golden", "lint", folder)
    assert seen.status == 1
    assert seen.out.splitlines()[0] == (
        f"total: goldens: {size:,} bytes in all, golden-max-total-bytes allows {size - 1:,}; keep some thin"
    )


def test_an_operator_of_the_project_that_no_golden_has(run: Command, folder: Path, registry: None) -> None:
    Path("my_ops.py").write_text(
        "import fusion_replay as fr\n\n@fr.operator('Mine')\ndef mine(A):\n    return A\n\n"
        "@fr.operator('Relu2')\ndef other(A):\n    return A\n"
    )
    seen = run("golden", "lint", folder, "--import", "my_ops.py")
    assert seen.status == 1
    assert seen.out.splitlines()[0] == (
        "unexercised: goldens: operator Mine is declared here, and no golden has a step of it; add one"
    )
    listed = records(run("golden", "lint", folder, "--import", "my_ops.py", "--json"))
    assert [r["kind"] for r in listed if r["type"] == "golden_problem"] == ["unexercised", "unexercised"]
    assert (listed[-1]["type"], listed[-1]["problems"]) == ("golden_lint", 2)


def test_goldens_that_can_not_be_read(run: Command, folder: Path) -> None:
    for path in folder.glob("*.golden.json"):
        path.write_text("nothing")
    seen = run("golden", "lint", folder)
    assert seen.status == 3
    assert seen.out.splitlines()[0].startswith("unreadable: gelu: goldens/gelu.golden.json: no JSON")


def test_a_malformed_project_is_one_line(run: Command, folder: Path) -> None:
    for text, says in {
        "golden-max-bytes = -1": "golden-max-bytes=-1: expected a number of bytes",
        "golden-colour = 1": "golden-colour: unknown; known: golden-dir, golden-contents",
        "golden-dir = 3": "golden-dir=3: expected a text",
    }.items():
        Path("pyproject.toml").write_text(f"[tool.fusion-replay]\n{text}\n")
        seen = run("golden", "check", folder)
        assert (seen.status, seen.out) == (2, "")
        assert says in seen.err
    Path("pyproject.toml").write_text("[tool.fusion-replay]\ngolden-dir = 'kept'\n")
    assert Project.find().folder == Path("kept")
