# SPDX-License-Identifier: Apache-2.0
"""The options of ``record`` that choose what is kept, as :class:`fusion_replay.keeping.Keeping` takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from fusion_replay.keeping import Keeping

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
    click.option("--max-invocations", metavar="N", type=int, help="Keep contents of the first N calls, then digests."),
)
_NAMES = ("level", "op", "step", "buffer", "invocation", "only_matching", "max_bytes", "max_steps", "max_invocations")


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


__all__ = ["keeping_options", "take_keeping"]
