# SPDX-License-Identifier: Apache-2.0
"""What is told from inside somebody else's program: one line on stderr, and exceptions in one line's words."""

from __future__ import annotations

import contextlib
import sys


def in_words(error: BaseException) -> str:
    """An exception on one line of at most 2,000 characters: it goes into a message and into the snapshot."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:2000]


def say(message: str) -> None:
    """One line on stderr; a closed stderr stops nothing."""
    with contextlib.suppress(Exception):
        sys.stderr.write(f"fusion-replay: {message}\n")  # one write: print() lets another thread between text and end
        sys.stderr.flush()


__all__ = ["in_words", "say"]
