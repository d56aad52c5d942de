# SPDX-License-Identifier: Apache-2.0
"""The journal of what is tried: on the disk before it is tried, read by the next run, refused where it is not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion_replay.errors import UsageError
from fusion_replay.system.attempts import Attempts


def test_a_try_stands_in_the_file_before_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "tries"
    attempts = Attempts(path, "plan")
    attempts.begin("0:3")
    assert path.read_text() == '{"plan": "plan"}\n{"try": "0:3"}\n'
    attempts.end("0:3", [1, "good"])
    assert path.read_text().splitlines()[-1] == '{"done": "0:3", "value": [1, "good"]}'


def test_the_next_run_knows_what_ended_and_what_did_not(tmp_path: Path) -> None:
    path = tmp_path / "tries"
    path.write_text(
        '{"plan": "plan"}\n{"try": "a"}\n{"done": "a", "value": 7}\n{"try": "b"}\n{"try": "b"}\n{"done": "c"}\n{"tr'
    )
    attempts = Attempts(path, "plan")
    assert (attempts.done, attempts.unfinished) == ({"a": 7}, {"b": 2})
    attempts.begin("d")
    assert path.read_text().endswith('{"tr\n{"try": "d"}\n'), "a torn line ends where the machine went down"


def test_it_goes_when_nobody_needs_it(tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    Attempts(kept, "plan").close(keep=True)
    Attempts(gone, "plan").close(keep=False)
    assert (kept.exists(), gone.exists()) == (True, False)


def test_without_a_path_nothing_is_kept() -> None:
    attempts = Attempts(None, "plan")
    attempts.begin("a")
    attempts.end("a", 1)
    attempts.close(keep=True)
    assert attempts.done == {"a": 1}


@pytest.mark.parametrize("text", ['{"plan": "another"}\n', "no JSON\n", "[1]\n"])
def test_the_journal_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tries"
    path.write_text(text)
    with pytest.raises(UsageError, match="is the journal of something else"):
        Attempts(path, "plan")
    assert path.read_text() == text


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't be written .*; give --journal FILE"):
        Attempts(tmp_path / "nowhere" / "tries", "plan")
