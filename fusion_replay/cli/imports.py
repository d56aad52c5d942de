# SPDX-License-Identifier: Apache-2.0
"""``--import MODULE`` and ``--no-import``, options of every verb: whose operators this one command knows."""

from __future__ import annotations

from collections.abc import Sequence

import click

from fusion_replay.cli.terminal import IMPORTED
from fusion_replay.refs import plugins


def with_imports(command: click.Command) -> click.Command:
    """The command with the options; they are added once."""
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
        command.params.append(
            click.Option(
                [_NO_PROJECT],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_skip,
                help="Run no code that pyproject.toml names.",
            )
        )
    return command


def load_named(arguments: Sequence[str]) -> None:
    """Load what these words import, for a verb that needs it before click has read them."""
    for i, word in enumerate(arguments):
        if word == "--":
            return
        if word == _NO_PROJECT:
            plugins.skip_project()
        if word == "--import" and i + 1 < len(arguments):
            plugins.load(arguments[i + 1])
        elif word.startswith("--import="):
            plugins.load(word.partition("=")[2])


_OPTION = "user_operators"
_NO_PROJECT = "--no-import"


def _skip(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        plugins.skip_project()


def _load(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    ctx.meta[IMPORTED] = value
    for where in value:
        plugins.load(where)
