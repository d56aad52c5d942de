# SPDX-License-Identifier: Apache-2.0
"""The options of ``record`` that choose what is kept."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import click

from fusion_replay.recording.retention import Keeping

_OPTIONS = (
    click.option(
        "--level",
        type=click.Choice(["full", "digest"]),
        help="digest: of every tensor its digest alone, enough to compare two runs.  [default: full]",
    ),
    click.option(
        "--op", metavar="TYPES", help="Keep contents of these operators' steps; of all other steps digests alone."
    ),
    click.option("--step", metavar="STEPS", help="... of these steps: numbers, ranges, addresses (412,10-20,3:412)."),
    click.option("--buffer", metavar="NAMES", help="... of steps that use these buffers (name, or name[start:end])."),
    click.option("--invocation", metavar="NUMBERS", help="... of these calls (0,3-5). All filters given must agree."),
    click.option("--only-matching", is_flag=True, help="What the filters leave out is not recorded, digests neither."),
    click.option(
        "--max-bytes", metavar="SIZE", help="Keep contents of this size (500M, 2G; before compression), then digests."
    ),
    click.option("--max-steps", metavar="N", type=int, help="Keep contents of the first N steps, then digests."),
    click.option(
        "--keep",
        type=click.Choice(["all", "mismatch"]),
        help="mismatch: keep contents of steps that deviate, from --against or else from their references, which are "
        "then computed at every step, on the recorded thread: about the time that replay takes.  [default: all]",
    ),
    click.option(
        "--against", metavar="EARLIER.h5", help="With --keep mismatch: from this recording, of any level, bit for bit."
    ),
    click.option("--max-invocations", metavar="N", type=int, help="Keep contents of the first N calls, then digests."),
)
_NAMES = tuple(field.name for field in dataclasses.fields(Keeping))


def keeping_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_keeping(options: dict[str, Any]) -> dict[str, Any]:
    """Those that were given, out of a command's options: arguments of ``record()``, fields of the settings.

    Raises:
        UsageError: malformed, or at odds with each other.
    """
    found = {name: options.pop(name) for name in _NAMES}
    given = {name: value for name, value in found.items() if value is not None and value is not False}
    Keeping.of(**given)  # refused before anything is built or run
    return given


def usable(against: str | None) -> str | None:
    """The earlier snapshot by its absolute name, since a program may change its folder; looked at before anything runs.

    Raises:
        SnapshotError: it can't be compared with.
    """
    if against is None:
        return None
    from fusion_replay.replaying.deviating import Decider

    Decider(against)
    return os.path.abspath(against)


__all__ = ["keeping_options", "take_keeping", "usable"]
