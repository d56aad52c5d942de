# SPDX-License-Identifier: Apache-2.0
"""Screens that end the search: what is wrong stands out, nothing that blames is cut, and the next command leads on."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.__main__ import main
from fusion_replay.cli import VERBS
from fusion_replay.cli import progress as progress_module

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("add", "check", "review", "accept", "reject", "lint")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def block(tmp_path: Path) -> Path:
    """out = relu((a + b) * a), two calls, all as it should be."""
    return _block(tmp_path / "block.h5")


def _block(path: Path, *faults: str, **options: object) -> Path:
    from fusion_replay.simulator.operators import ElementwiseAdd, ElementwiseMul, ReLU

    runlist = [
        (ElementwiseAdd(size=256), "a", "b", "h"),
        (ElementwiseMul(size=256), "h", "a", "m"),
        (ReLU(size=256), "m", "out"),
    ]
    call = fr.simulate(runlist, "npu2", faults, input_args=["a", "b"], output_args=["out"])
    rng = np.random.default_rng(3)
    with fr.record(path, call, **options):
        for _ in range(2):
            for name in ("a", "b"):
                call.get_buffer(name)[:] = rng.standard_normal(256).astype(ml_dtypes.bfloat16)
            call()
    return path


def last(out: str) -> str:
    return out.rstrip("\n").rpartition("\n")[2]


# --- what is wrong stands out ---------------------------------------------------------------------------------------


def test_the_row_of_a_mismatch_is_marked_and_red_on_a_terminal(
    run, bad: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped = run("replay", bad, "--all").out
    assert [line.split()[1] for line in piped.splitlines() if line.startswith("> ")] == ["1:0", "ElementwiseAdd"]
    assert "MISMATCH" in piped, "ours"
    assert piped.count("MISMATCH") == 1, "and not IRON's"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda *_: False, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["replay", str(bad), "--failed"]) == 1
    shown = capsys.readouterr().out
    assert "\x1b[31m> 1:0" in shown or "> 1:0" in shown


def test_the_steps_that_fail_are_a_list(run, block: Path, tmp_path: Path) -> None:
    broken = _block(tmp_path / "broken.h5", "ReLU:zeros", "1:0:zeros")
    failed = run("replay", broken, "--failed")
    assert failed.status == 1
    rows = [line.split()[1] for line in failed.out.splitlines() if re.match(r"> \d+:\d+ ", line)]
    assert rows == ["0:2", "1:0"]  # zeros are what 1:2 should give of what 1:0 left
    assert "all 2 that mismatch:" in run("replay", broken).out
    assert not re.search(r"^> ", run("replay", block, "--failed").out, re.MULTILINE)


def test_tables_are_whole_in_a_pipe(run, tmp_path: Path) -> None:
    """Names of 150 characters, 30 operators: a terminal would cut them, a file keeps them."""
    a = np.ones(4, ml_dtypes.bfloat16)
    path = tmp_path / "wide.h5"
    with fr.record(path) as rec:
        for _ in range(3):
            with rec.step("ElementwiseAdd", {"A": a, "B": a}, {"size": 4}) as step:
                step.outputs["C" + "x" * 150] = a
    found = run("replay", path, "--all")
    assert found.out.count("C" + "x" * 150) >= 3
    assert "--json has all" not in found.out


# --- the next command leads on --------------------------------------------------------------------------------------


def test_all_steps_match_and_the_answer_may_be_wrong_all_the_same(run, block: Path) -> None:
    found = run("replay", block)
    assert found.status == 0
    assert last(found.out).endswith(
        f"if the answer is wrong all the same, diff it with a good run, or; next: fusion-replay bisect {block}"
    )
    assert run("bisect", block).status == 0
    assert "bisect" not in run("replay", block, "--step", "0:1").out, "a part is no answer"


def test_digests_alone_are_never_to_be_replayed(run, tmp_path: Path, here: Path) -> None:
    path = _block(tmp_path / "digest.h5", level="digest")
    for words in (("show", path), ("show", path, "0:1"), ("show", path, "--all"), ("fsck", path)):
        found = run(*words)
        assert found.status == 0
        assert "fusion-replay replay" not in found.out, words
    assert "fusion-replay diff OTHER.h5" in run("show", path).out
    words = ("record", "--workload", "op:ReLU", "--sim", "npu1", "--level", "digest", "-o", "r.h5")
    assert last(run(*words).out).endswith("next: fusion-replay show r.h5")


# --- options ----------------------------------------------------------------------------------------------------------


def test_a_report_goes_to_a_file_that_is_free(run, bad: Path, here: Path) -> None:
    plain = run("replay", bad)
    written = run("replay", bad, "--output", "report.txt")
    assert written.status == 1
    assert written.out.startswith("FAILED in ")
    assert len(written.out.splitlines()) == 1
    assert Path("report.txt").read_text().splitlines()[:-1] == plain.out.splitlines()[:-1]
    again = run("replay", bad, "-o", "report.txt")
    assert again.status == 2
    assert "report.txt exists already; remove it, or give another --output" in again.err
    assert run("replay", bad, "-o", "report.jsonl", "--json").status == 1
    assert json.loads(Path("report.jsonl").read_text().splitlines()[-1])["type"] == "summary"


@pytest.mark.parametrize("words", [("replay", "{bad}"), ("diff", "{good}", "{bad}"), ("show", "{bad}", "1:0")])
def test_a_report_as_markdown(run, good: Path, bad: Path, words: tuple[str, ...]) -> None:
    given = [w.format(good=good, bad=bad) for w in words]
    plain, marked = run(*given), run(*given, "--markdown")
    assert marked.status == plain.status
    first, *_, end = marked.out.rstrip("\n").split("\n")
    assert first.startswith("**")
    assert first.endswith("**")
    assert marked.out.count("```") == 2
    inside = marked.out.split("```")[1]
    assert all(line in inside for line in plain.out.splitlines()[1:-1] if line.strip())
    assert end.strip("` ").partition(" ")[0] == plain.out.splitlines()[-1].partition(" ")[0]
    assert run(*given, "--markdown", "--json").status == 2


def test_limits_that_are_typed_are_named(run, good: Path, tmp_path: Path) -> None:
    bad, a = tmp_path / "off.h5", np.ones(64, ml_dtypes.bfloat16)
    with fr.record(bad) as rec, rec.step("ElementwiseAdd", {"A": a, "B": a}, {"size": 64}) as step:
        step.outputs["C"] = a * np.asarray(2.5, a.dtype)
    wide = run("replay", bad, "--rtol", "0.5", "--atol", "100")
    assert wide.status == 0, wide.out
    strict = run("replay", good, "--rtol", "0", "--atol", "0", "--step", "0:0", "--json")
    verdict = json.loads(strict.out.splitlines()[1])["outputs"][0]["verdict"]
    assert (verdict["decided_by"], verdict["tolerance"]["rtol"]) == ("tolerance", 0.0)
    named = run("replay", bad, "--atol", "ElementwiseAdd=1e-3")
    assert named.status == 1
    assert re.search(r"limits   auto: rtol \S+ atol 0\.001", named.out)
    assert run("replay", bad, "--atol", "GEMV=1000").status == 1, "of another operator"
    for wrong in ("x", "ElementwiseAdd=", "-1", "nan"):
        assert run("replay", bad, f"--rtol={wrong}").status == 2
    assert run("replay", bad, "--rtol", "1", "--rule", "bound").status == 2


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("1:2", ["1:2"]),
        ("1", ["0:1", "1:1"]),
        ("0,1:1-2", ["0:0", "1:0", "1:1", "1:2"]),
    ],
)
def test_steps_are_ranges_everywhere(run, block: Path, here: Path, text: str, steps: list[str]) -> None:
    replayed = [json.loads(line) for line in run("replay", block, "--step", text, "--json").out.splitlines()]
    assert [r["address"] for r in replayed if r["type"] == "step"] == steps
    shown = [json.loads(line) for line in run("show", block, text, "--json").out.splitlines()]
    assert [r["address"] for r in shown if r["type"] in ("listed_step", "recorded_step")] == steps
    assert run("export", block, "--step", text, "-o", "part.h5").status == 0
    with fr.open("part.h5") as part:
        assert [s.address for s in part] == steps
    again = run("replay", block, "--on", "sim", "--step", text, "--json")
    assert {json.loads(line).get("address") for line in again.out.splitlines()} >= set(steps)


@pytest.mark.parametrize("text", ["3:9", "40-50", "2:0-1"])
def test_steps_that_are_not_there(run, block: Path, text: str) -> None:
    for verb in (("replay", block, "--step"), ("show", block), ("export", block, "--step")):
        found = run(*verb, text)
        assert found.status == 2
        assert "6 steps of 2 invocations" in found.err


@pytest.mark.parametrize("size", ["512MiB", "0", "1000000"])
def test_a_cache_as_the_help_prints_it(run, good: Path, size: str) -> None:
    assert run("replay", good, "--cache", size).status == 0
    assert "512MiB" in run("replay", "--help").out


def test_a_cache_of_no_size(run, good: Path) -> None:
    assert run("replay", good, "--cache", "much").status == 2


# --- progress ---------------------------------------------------------------------------------------------------------


def test_a_bar_comes_after_two_seconds_whether_anybody_counts_or_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import time

    assert progress_module.PATIENCE == 2.0
    monkeypatch.setattr(progress_module, "PATIENCE", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def shown(label: str, due: str, count: bool) -> str:
        told, until = "", time.monotonic() + 20
        with progress_module.Progress(label) as progress:
            if count:
                progress(3, 7)
            while due not in told and time.monotonic() < until:
                time.sleep(0.05)
                told += capsys.readouterr().err
        return told

    assert "3/7" in shown("counting", "3/7", True)
    assert "silent" in shown("silent", "silent", False)


def test_bisect_and_attribute_count_everything_they_do(block: Path) -> None:
    for verb in (fr.bisect, fr.attribute):
        seen: list[tuple[int, int]] = []
        verb(block, progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert len(seen) > 6, "every step judged counts, not only the runs"
        assert all(0 < done <= total for done, total in seen)


# --- ways in ----------------------------------------------------------------------------------------------------------


def test_record_without_arguments_says_both_ways_in(run) -> None:
    found = run("record")
    assert found.status == 2
    assert "record python app.py" in found.err
    assert "record --workload llama-decode --sim npu2" in found.err
    assert "record --list" in found.err


def test_record_lists_workloads_and_faults(run) -> None:
    from fusion_replay.simulator.faults.catalogue import KINDS

    found = run("record", "--list")
    assert found.status == 0
    for name in ("llama", "llama-decode", "minilm", "op:NAME", *KINDS):
        assert re.search(rf"^  {re.escape(name)}[ \[,:]", found.out, re.MULTILINE), name
    assert run("record", "--list", "--sim", "npu1").status == 2


def test_what_may_match_to_the_bit_is_one_line_on_request(run, here: Path) -> None:
    words = ("record", "--workload", "op:Repeat", "--sim", "npu1")
    assert "may match to the bit" not in run(*words).out
    assert run(*words, "-v").out.count("may match to the bit") == 1


@pytest.mark.parametrize("verb", [*VERBS, *(f"golden {v}" for v in GROUPS), "oracle map", "oracle onnx"])
def test_every_help_ends_with_two_examples(run, verb: str) -> None:
    text = run(*verb.split(), "--help").out.rstrip("\n").splitlines()
    shown = text[text.index("  Examples:") + 1 :]
    assert len(shown) == 2
    assert all(line.strip().startswith(f"fusion-replay {verb}") for line in shown)


@pytest.mark.parametrize("name", ["Gemv", "gemv", "GEMV", "elementwiseadd"])
def test_operators_are_found_in_any_case(run, here: Path, name: str) -> None:
    assert run("record", "--workload", f"op:{name}", "--sim", "npu1", "-o", "x.h5").status == 0
    assert run("operators", name).status == 0


@pytest.mark.usefixtures("registry")
def test_but_a_recorded_operator_is_its_own_name(run, tmp_path: Path) -> None:
    """A class called Gemv is somebody's own, and not judged by GEMV."""
    a = np.ones(4, ml_dtypes.bfloat16)
    with fr.record(tmp_path / "x.h5") as rec, rec.step("Gemv", {"A": a}, {"M": 2, "K": 2}) as step:
        step.outputs["C"] = a
    assert run("replay", tmp_path / "x.h5").status == 4


@pytest.mark.parametrize(("word", "verb"), [("list", "show"), ("compare", "diff"), ("run", "record")])
def test_words_of_other_tools(run, word: str, verb: str) -> None:
    assert f"no verb {word!r}; nearest: {verb} " in run(word).err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("_FUSION_REPLAY_COMPLETE", f"{shell}_source")
    written = run()
    assert written.status == 0
    assert "_FUSION_REPLAY_COMPLETE" in written.out
    assert "_FUSION_REPLAY_COMPLETE=bash_source fusion-replay >> ~/.bashrc" in (ROOT / "docs/verbs.md").read_text()


def test_a_program_to_rehearse_with(run, here: Path) -> None:
    """Written twice it is no other; what it prints and does is tested in test_readme, where it is recorded."""
    assert run("demo", "--app").out.rstrip().endswith("next: fusion-replay record python app.py")
    assert run("demo", "--app").status == 0
    Path("app.py").write_text("mine = 1\n")
    assert run("demo", "--app").status == 2
    assert Path("app.py").read_text() == "mine = 1\n"


# --- importing, and what is no recording ------------------------------------------------------------------------------


@pytest.mark.usefixtures("registry")
def test_what_to_type_next_imports_what_this_command_did(run, here: Path) -> None:
    Path("my ops.py").write_text(
        "import fusion_replay as fr\n@fr.operator('Twice', tolerance=fr.exact())\ndef twice(A):\n    return A * 2\n"
    )
    with fr.record("x.h5") as rec, rec.step("Twice", {"A": np.ones(4, np.float32)}) as step:
        step.outputs["C"] = np.ones(4, np.float32)
    found = run("replay", "x.h5", "--import", "my ops.py")
    assert last(found.out).endswith("next: fusion-replay show x.h5 0:0 --import 'my ops.py'")


@pytest.mark.usefixtures("registry")
def test_importing_never_records(run, good: Path, here: Path) -> None:
    Path("mine.py").write_text(
        "import numpy as np\nimport fusion_replay as fr\n"
        "@fr.operator('Twice', tolerance=fr.exact())\ndef twice(A):\n    return A * 2\n"
        "with fr.record('made.h5') as rec:\n    pass\n"
    )
    found = run("replay", good, "--import", "mine.py")
    assert found.status == 2
    assert "mine.py records into made.h5 while it is imported" in found.err
    assert "if __name__ == '__main__':" in found.err
    assert [p.name for p in here.glob("made*")] == []


@pytest.mark.torch
def test_a_model_of_torch_is_refused_with_what_to_do() -> None:
    import torch

    with pytest.raises(fr.FusionReplayError, match=r"Linear is a module of torch.*rec\.step.*fr\.compare"):
        fr.check(torch.nn.Linear(2, 2), [])


def test_onnx_files_are_refused_with_what_to_do(run, here: Path) -> None:
    Path("model.onnx").write_bytes(b"\x08\x07" + bytes(5000))
    with pytest.raises(fr.FusionReplayError, match=r"model\.onnx is an ONNX model.*rec\.step"):
        fr.check("model.onnx", [])
    for verb in ("replay", "show"):
        found = run(verb, "model.onnx")
        assert found.status == 3
        assert "a model or its weights, no recording of what an NPU computed" in found.err
