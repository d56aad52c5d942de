# SPDX-License-Identifier: Apache-2.0
"""``--import MODULE``, the option that every verb has: user operators for this one command."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fusion_replay.refs import plugins


def with_imports(command: click.Command) -> click.Command:
    """The command with the option; it is added once."""
    if not any(p.name == _OPTION for p in command.params):
        command.params.append(
            click.Option(
                ["--import", _OPTION],
                metavar="FILE.py|MODULE",
                multiple=True,
                expose_value=False,
                callback=_load,
                help="Python that declares operators (@fusion_replay.operator); repeatable.",
            )
        )
    return command


def load_named(arguments: Sequence[str]) -> None:
    """Load what these words import, for a verb that needs it before click has read them."""
    for i, word in enumerate(arguments):
        if word == "--":
            return
        if word == "--import" and i + 1 < len(arguments):
            plugins.load(arguments[i + 1])
        elif word.startswith("--import="):
            plugins.load(word.partition("=")[2])


_OPTION = "user_operators"


def _load(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    for where in value:
        plugins.load(where)
