# SPDX-License-Identifier: Apache-2.0
"""One option of a recording: who offers it and how, and its value from text.

Tested in tests/recording/test_options.py.
"""

from __future__ import annotations

import math
import re
import typing
from dataclasses import dataclass
from typing import Any

from fusion_replay.errors import UsageError

PREFIX = "FUSION_REPLAY_"
MOST = 1 << 62
"""No count or size is larger."""
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", re.IGNORECASE)
_FACTORS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, slots=True)
class Option:
    """One field of :class:`~fusion_replay.recording.options.Options`, for what offers it to users.

    Attributes:
        kind: bool, int, float, str, or the Literal of what it may be.
        keyword: ``record()`` takes it.
        help: on the command line, which offers what has one. A switch that is on by default is offered as ``--no-``.
        flags: on the command line, where they are not ``--`` and the name.
        metavar: what stands for the value in the help.
        text: the command line and the environment hand the text on to ``Options.of``.
        above_zero: 0 is refused on the command line.
        keeps: says what is kept; what differs from its default stands in the snapshot's provenance.
    """

    name: str
    kind: Any
    default: Any
    keyword: bool = True
    help: str | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    text: bool = False
    above_zero: bool = False
    keeps: bool = False

    @property
    def variable(self) -> str:
        """``step_timeout`` -> ``FUSION_REPLAY_STEP_TIMEOUT``."""
        return PREFIX + self.name.upper()

    def parse(self, text: str) -> Any:
        """The value of its environment variable.

        Raises:
            UsageError: malformed; names the variable, what was expected and what was found.
        """
        name, kind = self.variable, self.kind
        if self.text or kind is str:
            return text
        if kind is bool:
            if text.lower() not in _WORDS:
                raise UsageError(f"{name}={text!r}: expected 1 or 0; correct or unset it")
            return _WORDS[text.lower()]
        if kind is int:
            if not (text.isascii() and text.isdigit()):
                raise UsageError(f"{name}={text!r}: expected a count; correct or unset it")
            return int(text)
        if kind is float:
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if not 0 <= number < math.inf:
                raise UsageError(f"{name}={text!r}: expected a number of seconds, 0 or more; correct or unset it")
            return number
        choices = typing.get_args(kind)
        if text not in choices:
            raise UsageError(f"{name}={text!r}: expected {' or '.join(map(repr, choices))}; correct or unset it")
        return text


def size_in_bytes(text: str, name: str = "max_bytes") -> int:
    """``2G`` -> 2,000,000,000; ``2GiB`` -> 2**31; ``500000`` -> itself.

    Raises:
        UsageError: no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{name} {text!r}: expected a size above 0, such as 500M or 2G")
    number, unit, binary = found.groups()
    size = float(number) * (1024 if binary else 1000) ** _FACTORS[unit.upper()]
    if not 1 <= size < MOST:
        raise UsageError(f"{name} {text!r}: expected a size above 0, such as 500M or 2G")
    return int(size)


__all__ = ["MOST", "PREFIX", "Option", "size_in_bytes"]
