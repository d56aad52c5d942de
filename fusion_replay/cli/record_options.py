# SPDX-License-Identifier: Apache-2.0
"""The options of ``record``, made of the fields of :class:`~fusion_replay.recording.options.Options`.

Tested in tests/recording/test_options.py and tests/cli/test_bad_input.py.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Callable
from typing import Any

import click

from fusion_replay.recording.option_declaration import Option
from fusion_replay.recording.options import options


def recording_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Those that the command line offers, in the order of the fields. One that is not typed is None or False."""
    for option in reversed(options()):
        if option.help is not None:
            command = _click_option(option)(command)
    return command


def take_typed(given: dict[str, Any]) -> dict[str, Any]:
    """Those that were typed, out of what click has found: fields of the options, by name."""
    found = {o.name: given.pop(o.name) for o in options() if o.help is not None}
    unset = {o.name: None if o.default is None else False for o in options()}
    typed = {name: value for name, value in found.items() if value is not None and value is not unset[name]}
    if "binaries" in typed:
        typed["binaries"] = False  # the switch is --no-binaries
    return typed


def _click_option(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    word = option.name.replace("_", "-")
    if option.kind is bool and option.default is None:
        return click.option(*option.flags, option.name, default=None, help=option.help)
    if option.kind is bool:
        return click.option(
            f"--no-{word}" if option.default else f"--{word}", option.name, is_flag=True, help=option.help
        )
    kind: Any = None
    if typing.get_origin(option.kind) is typing.Literal:
        kind = click.Choice(typing.get_args(option.kind))
    elif option.kind is float:
        kind = click.FloatRange(min=0, min_open=option.above_zero)
    elif not option.text:
        kind = option.kind
    flags = option.flags or (f"--{word}",)
    return click.option(*flags, option.name, type=kind, metavar=option.metavar, help=option.help)


def usable(against: str | None) -> str | None:
    """The earlier snapshot by its absolute name, since a program may change its folder; looked at before anything runs.

    Raises:
        SnapshotError: it can't be compared with.
    """
    if against is None:
        return None
    from fusion_replay.replaying.deviating import DeviationCheck

    DeviationCheck(against)
    return os.path.abspath(against)


__all__ = ["recording_options", "take_typed", "usable"]
