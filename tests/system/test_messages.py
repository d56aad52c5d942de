# SPDX-License-Identifier: Apache-2.0
"""What goes to the stderr of somebody else's program."""

from __future__ import annotations

import io
import sys

import pytest

from fusion_replay.system.messages import in_words, say


def test_an_exception_is_one_bounded_line() -> None:
    assert in_words(ValueError("two\n  lines\tand a tab")) == "ValueError: two lines and a tab"
    assert in_words(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(in_words(ValueError("x" * 9999))) == 2000


def test_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("nothing was recorded")
    assert capsys.readouterr() == ("", "fusion-replay: nothing was recorded\n")


@pytest.mark.parametrize("gone", ["closed", "none"])
def test_a_stderr_that_is_gone_stops_nothing(gone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if gone == "closed" else None)
    say("nobody hears this")
