# SPDX-License-Identifier: Apache-2.0
"""``replay --html``: where the page goes, what is refused before anything long starts, and what never changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.conftest import write_adds
from fusion_replay.record import record
from fusion_replay.report.page.document import MARK


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adds(tmp_path_factory.mktemp("page") / "wrong.h5", wrong=1)


def test_the_page_is_written_and_the_verdict_stays(run, wrong: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    plain = run("replay", wrong)
    result = run("replay", wrong, "--html", page)
    assert result.status == plain.status == 1
    assert result.out.splitlines()[:-1] == plain.out.splitlines()[:-1], "the last line has a duration"
    assert f"{page}: " in result.err
    first = page.read_bytes()
    assert first.startswith(MARK.encode())
    run("replay", wrong, "--html", page)
    assert page.read_bytes() == first, "written anew, byte for byte"
    elsewhere = shutil.copy(wrong, tmp_path / "wrong.h5")
    run("replay", elsewhere, "--html", page)
    assert page.read_bytes() == first, "the folder is no part of it"
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".h5"] == ["out.html"]


def test_what_is_not_ours_is_left_alone(run, wrong: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "notes.html"
    foreign.write_text("<!doctype html>\nmine")
    result = run("replay", wrong, "--html", foreign)
    assert (result.status, result.out) == (2, "")
    assert f"{foreign}: exists and is no page of ours; choose another name" in result.err
    assert foreign.read_text() == "<!doctype html>\nmine"
    missing = run("replay", wrong, "--html", tmp_path / "nowhere" / "x.html")
    assert (missing.status, missing.out) == (2, "")
    assert len(missing.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--html-budget", "1M"], "replay --html-budget: is about a page; add --html OUT"),
        (["--html", "OUT", "--html-budget", "much"], "--html-budget 'much': expected a size above 0"),
        (["--html", "OUT", "--html-budget", "0"], "--html-budget '0': expected a size above 0"),
        (["--html", "OUT", "--on", "sim"], "replay --html: is of a recording as it was judged; leave --on out"),
    ],
)
def test_what_cannot_be_meant(run, wrong: Path, tmp_path: Path, words: list[str], told: str) -> None:
    page = tmp_path / "out.html"
    result = run("replay", wrong, *(page if w == "OUT" else w for w in words))
    assert result.status == 2
    assert told in result.err
    assert len(result.err.splitlines()) == 1
    assert not page.exists()


def test_attribution_has_a_page_too(run, wrong: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    assert run("replay", wrong, "--attribute", "--html", page).status == 1
    assert '"attribution":{' in page.read_text()


def test_nothing_to_compare_is_said_on_the_page(run, unknown: Path, tmp_path: Path) -> None:
    digests, empty = tmp_path / "digests.h5", tmp_path / "empty.h5"
    write_adds(digests, level="digest")
    with record(empty):
        pass
    for recording, told in (
        (unknown, "Nothing was compared: 3 steps, first 0:0 Frobnicate A, B -&gt; C"),
        (digests, "ElementwiseAdd A, B -&gt; C: the contents of A were not kept.</bdi>"),
        (empty, "Nothing was compared: the recording holds no step."),
    ):
        page = tmp_path / f"{recording.stem}.html"
        assert run("replay", recording, "--html", page).status == 4
        assert told in page.read_text(), recording


def test_diff_and_bisect_write_one_too(run, wrong: Path, tmp_path: Path) -> None:
    good = write_adds(tmp_path / "good.h5")
    for words in (("diff", good, wrong), ("bisect", wrong)):
        plain = run(*words)
        result = run(*words, "--html", tmp_path / "out.html")
        assert (result.status, result.out.splitlines()[:-1]) == (plain.status, plain.out.splitlines()[:-1])
        assert (tmp_path / "out.html").read_bytes().startswith(MARK.encode())
    refused = run("bisect", "--run", "true", "--against", good, "--html", tmp_path / "out.html")
    assert (refused.status, refused.out) == (2, "")
    assert "bisect --html: is of a search for the step of one recording" in refused.err


def test_waiting_goldens_have_a_page(run, tmp_path: Path) -> None:
    (tmp_path / "goldens").mkdir()
    result = run("golden", "review", tmp_path / "goldens", "--html", tmp_path / "out.html")
    assert result.status == 0
    assert "Nothing waits in goldens." in (tmp_path / "out.html").read_text()
