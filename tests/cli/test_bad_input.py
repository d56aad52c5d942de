# SPDX-License-Identifier: Apache-2.0
"""Bad input: one line on stderr, the exit status of its kind, never a traceback, never 0."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from fusion_replay.cli import VERBS
from fusion_replay.snapshot.schema import USER_BLOCK, UserBlock

READING = ("replay", "show", "fsck")


def one_error(err: str) -> str:
    """The one line that an error is, without the notes that may precede it."""
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def broken(tmp_path: Path, good: Path) -> dict[str, Path]:
    """Files that are no usable snapshot, by what is wrong with them."""
    whole = good.read_bytes()
    made = {name: tmp_path / f"{name}.h5" for name in ("missing", "empty", "foreign", "truncated", "flipped", "other")}
    made["empty"].write_bytes(b"")
    made["foreign"].write_text("this is no snapshot, whatever its name says\n" * 100)
    made["truncated"].write_bytes(whole[: len(whole) * 2 // 3])
    made["flipped"].write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    with h5py.File(made["other"], "w") as file:
        file["data"] = [1, 2, 3]
    made["directory"] = tmp_path / "directory.h5"
    made["directory"].mkdir()
    made["newer"] = tmp_path / "newer.h5"
    made["newer"].write_bytes(_of_major_version(whole, 99))
    made["tiny"] = tmp_path / "tiny.h5"
    made["tiny"].write_bytes(whole[:100])
    return made


def _of_major_version(whole: bytes, major: int) -> bytes:
    """As a later program would write it: the checksum of the user block is right, the version is not ours."""
    block = UserBlock.unpack(whole[:USER_BLOCK], "good.h5")
    return replace(block, major=major).pack() + whole[USER_BLOCK:]


KINDS = ("missing", "empty", "foreign", "truncated", "other", "directory", "newer", "tiny")


@pytest.mark.parametrize(("verb", "kind"), [*itertools.product(READING, KINDS), ("fsck", "flipped")])
def test_no_usable_snapshot_is_3(run, broken, verb: str, kind: str) -> None:
    result = run(verb, broken[kind])
    assert result.status == 3
    if verb == "fsck" and not result.err:
        assert "FAILED" in result.out.splitlines()[-1]
    else:
        assert broken[kind].name in one_error(result.err)


@pytest.mark.parametrize("verb", READING)
@pytest.mark.parametrize("place", [".", "..", "/"])
def test_a_folder_whose_path_has_no_name(run, verb: str, place: str) -> None:
    result = run(verb, place)
    assert result.status == 3
    assert "a directory; expected a snapshot file such as" in one_error(result.err)


@pytest.mark.parametrize("verb", READING)
def test_unreadable_file(run, good: Path, verb: str) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    good.chmod(0)
    result = run(verb, good)
    assert result.status == 3
    assert good.name in one_error(result.err)


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "{good}", "--op", "GEMM"],
        ["replay", "{good}", "--op", "Frobnicate"],
        ["replay", "{good}", "--buffer", "nosuch"],
        ["replay", "{good}", "--step", "9:0"],
        ["replay", "{good}", "--step", "0:9"],
        ["replay", "{good}", "--step", "x"],
        ["replay", "{good}", "--invocation", "9"],
        ["replay", "{good}", "--invocation", "-1"],
        ["replay", "{good}", "--rule", "nosuch"],
        ["replay", "{good}", "--reference", "nosuch"],
        ["replay", "{good}", "--mode", "nosuch"],
        ["replay", "{good}", "--workers", "0"],
        ["replay", "{good}", "--nosuch"],
        ["replay"],
        ["replay", "{good}", "{good}"],
        ["show", "{good}", "9:9"],
        ["show", "{good}", "-1:0"],
        ["show", "{good}", "three"],
        ["show", "{good}", "--buffer", "nosuch"],
        ["show", "{good}", "--buffer", "A[9:3]"],
        ["show", "{good}", "--op", "GEMM"],
        ["show", "{good}", "--invocation", "9"],
        ["show", "{good}", "0:0", "--all"],
        ["show", "{good}", "--buffer", "A", "--op", "ElementwiseAdd"],
        ["show"],
        ["fsck"],
        ["record"],
        ["record", "--workload", "llama-decode"],
        ["record", "--sim", "npu2"],
        ["record", "--workload", "nosuch", "--sim", "npu2"],
        ["record", "--workload", "llama-decode", "--sim", "npu9"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "--nosuch", "1"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "--tokens", "none"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "--tokens", "0"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "--config", "nosuch"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "--fault", "nosuch"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "--fault", "0:1:nosuch"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "--fault", "0:9999:zeros"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "extra"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "-o", "{dir}/nosuch/x.h5"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "-o", "{good}"],
        ["demo", "-o", "{good}", "--if-exists", "error"],
        ["operators", "one", "two"],
        ["nosuch"],
        ["--nosuch"],
        ["-vq", "--nosuch"],
    ],
    ids=" ".join,
)
def test_usage_is_2(run, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    before = good.read_bytes()
    result = run(*(w.format(good=good, dir=tmp_path) for w in words))
    assert result.status == 2, result
    one_error(result.err)
    assert good.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [good.name], "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    "words",
    [
        ["operators", "Frobnicate"],
        ["record", "--workload", "op:Frobnicate", "--sim", "npu2"],
        ["record", "--workload", "llama-decode", "--sim", "npu2", "--fault", "Frobnicate:zeros", "-o", "x.h5"],
    ],
    ids=" ".join,
)
def test_missing_is_4_or_2(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.status in ((2,) if "--fault" in words else (4,))
    one_error(result.err)
    assert list(tmp_path.iterdir()) == []


def test_error_says_what_exists(run, good: Path) -> None:
    """The message of a filter that matches nothing names what there is."""
    assert "ElementwiseAdd" in run("show", good, "--op", "GEMM").err
    assert "nearest" in run("show", good, "--buffer", "Aa").err
    assert "--if-exists" in run("record", "--workload", "llama-decode", "--sim", "npu2", "-o", good).err


def test_names_with_control_characters_stay_on_one_line(run, tmp_path: Path) -> None:
    result = run("show", tmp_path / "a\nb\x1b[31m.h5")
    assert result.status == 3
    assert r"\x1b" in one_error(result.err)


def test_a_bug_is_70_and_says_how_to_see_more(run, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fusion_replay.snapshot as home

    def broken(*_: object, **__: object) -> None:
        raise TypeError("boom")

    monkeypatch.setattr(home, "open_snapshot", broken)
    result = run("show", good)
    assert result.status == 70
    assert "boom" in one_error(result.err)
    assert "-vv" in result.err
    with pytest.raises(TypeError, match="boom"):
        run("show", good, "-vv")


def test_interrupted_is_130(run, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fusion_replay.snapshot as home

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(home, "open_snapshot", interrupted)
    result = run("show", good)
    assert result.status == 130
    assert result.err.split("\n") == ["", "error: interrupted", ""]  # the first ends the terminal's own ^C


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(run, verb: str) -> None:
    result = run(verb, "--help")
    assert result.status == 0
    assert result.out.startswith(f"Usage: fusion-replay {verb}")
    assert result.err == ""


ADD = ("record", "--workload", "op:ReLU", "--sim", "npu2", "-o")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", [False, True])
def test_nothing_to_compare_with_is_3_and_nothing_runs(
    run, broken, tmp_path: Path, kind: str, program: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "never.h5"
    words = ["record", "-o", target, "--keep", "mismatch", "--against", broken[kind]]
    words += ["touch", tmp_path / "ran"] if program else ["--workload", "op:ReLU", "--sim", "npu2"]
    result = run(*words)
    assert result.status == 3
    assert broken[kind].name in one_error(result.err)
    assert not list(tmp_path.glob("never*"))
    assert not (tmp_path / "ran").exists()


def test_what_records_something_else_is_3(run, good: Path, tmp_path: Path) -> None:
    result = run(*ADD, tmp_path / "never.h5", "--keep", "mismatch", "--against", good)
    assert result.status == 3
    assert "no step could be compared" in one_error(result.err)
    assert not list(tmp_path.glob("never*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--against", "{good}"], "goes with keep 'mismatch'"),
        (["--keep", "mismatch", "--level", "digest"], "no contents are kept that it could choose"),
        (["--keep", "some"], "'all', 'mismatch'"),
    ],
)
def test_keeping_that_does_not_fit_is_2(run, good: Path, tmp_path: Path, words: list[str], said: str) -> None:
    result = run(*ADD, tmp_path / "never.h5", *(w.format(good=good) for w in words))
    assert result.status == 2
    assert said in result.err
    assert not list(tmp_path.glob("never*"))
