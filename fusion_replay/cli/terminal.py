# SPDX-License-Identifier: Apache-2.0
"""What every verb prints through: verbosity, notes on stderr, the last line."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from fusion_replay.errors import TargetExistsError, UsageError
from fusion_replay.model.text import MARK, columns, fold, one_line, printable, shell
from fusion_replay.report.text import human_seconds

F = TypeVar("F", bound=Callable[..., Any])

_VERBOSITY = "fusion_replay.verbosity"
IMPORTED = "fusion_replay.imported"
"""Of a context's ``meta``: what ``--import``, an option of every verb, names."""


def verbosity_options(function: F) -> F:
    """``-v`` and ``-q``, before or after the verb; :class:`Terminal` reads the sum."""

    def add(ctx: click.Context, _param: click.Parameter, value: int) -> None:
        sign = -1 if _param.name == "quiet" else 1
        root = ctx.find_root()
        root.meta[_VERBOSITY] = root.meta.get(_VERBOSITY, 0) + sign * value

    loud = click.option(
        "-v", "--verbose", count=True, expose_value=False, callback=add, help="Say more; -vv: tracebacks."
    )
    quiet = click.option(
        "-q", "--quiet", count=True, expose_value=False, callback=add, help="Only errors and the last line."
    )
    return loud(quiet(function))


json_option = click.option("--json", "as_json", is_flag=True, help="JSON Lines on stdout: typed records.")
weights_option = click.option(
    "--weights", metavar="W.h5", help="The side file of F's weights.  [default: the one that F names, beside it]"
)


step_option = click.option(
    "--step", "steps", metavar="STEP", multiple=True, help="Only these steps: 3:412, 10-20, 3:400-412; repeatable."
)


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore] # generic in later versions of click
    """``512MiB``, ``2G`` or a number of bytes, as an int."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from fusion_replay.recording.option_declaration import size_in_bytes

        if isinstance(value, int) or value.strip() == "0":
            return int(value)
        return size_in_bytes(value, param.opts[0] if param else "size")


def examples(*lines: str) -> Callable[[F], F]:
    """The end of a verb's help: commands as they are typed, each on a line of its own."""
    told = "\b\nExamples:\n" + "\n".join(f"  fusion-replay {line}" for line in lines)

    def add(command: F) -> F:
        assert isinstance(command, click.Command)
        command.epilog = told
        return command

    return add


def report_options(function: F) -> F:
    """``--output`` and ``--markdown``: where the report goes, and in which form."""

    @functools.wraps(function)
    def elsewhere(*, output: str | None, markdown: bool, **given: Any) -> Any:
        if markdown and given.get("as_json"):
            raise UsageError("--markdown and --json: two forms of one report; leave out one of them")
        if output is None and not markdown:
            return function(**given)
        target = None if output is None else _free(output)
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            status = function(**given)
        told = text.getvalue()
        if markdown:
            from fusion_replay.report.markdown import document

            told = document(told)
        if target is None:
            click.echo(told, nl=False)
        else:
            target.write_text(told, encoding="utf-8", errors="backslashreplace")
            if not given.get("as_json"):  # there it stands on stderr
                click.echo(text.getvalue().rstrip("\n").rpartition("\n")[2])
        return status

    form = click.option("--markdown", is_flag=True, help="The report as Markdown, for a summary of a CI job.")
    help_ = "Write the report there; the last line stays on the screen."
    where = click.option("-o", "--output", metavar="FILE", help=help_)
    return where(form(cast(F, elsewhere)))


def _free(name: str) -> Path:
    """The file to write: never one that holds something already."""
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{path}: a directory; expected the name of the file to write")
    if path.is_file() and path.stat().st_size:
        raise TargetExistsError(f"{path} exists already; remove it, or give another --output")
    return path


def typed_option(names: Iterable[str]) -> str | None:
    """The first of these parameters of the verb that was typed, as it is spelled: ``--step``."""
    context, wanted = click.get_current_context(), set(names)
    typed = click.core.ParameterSource.COMMANDLINE
    found = (p for p in context.command.params if p.name in wanted and context.get_parameter_source(p.name) is typed)
    return next((p.opts[0] for p in found), None)


def colour(text: str, code: str) -> str:
    """ANSI colour where stdout is a terminal and NO_COLOR (https://no-color.org) is unset."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or columns() is None:
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def program(name: str = "fusion-replay") -> str:
    """What to type for a program of this installation: its name where the shell finds it, else a path beside the one
    that was typed (``.venv/bin/fusion-replay``)."""
    folder, typed = os.path.split(sys.argv[0])
    if typed != "fusion-replay" or not folder or shutil.which(typed):
        return name
    return os.path.join(folder, name)


def command_line(*words: str | os.PathLike[str]) -> str:
    """A command to type next, quoted for the shell; it imports what this one was told to import."""
    context = click.get_current_context(silent=True)
    imported = context.meta.get(IMPORTED, ()) if context else ()
    return shell([program(), *words, *(word for name in imported for word in ("--import", name))])


@dataclass
class Terminal:
    """One verb's way to talk: results on stdout, notes on stderr, one last line.

    With ``as_json`` stdout carries nothing but JSON Lines and the last line goes to stderr.
    """

    as_json: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def verbosity(self) -> int:
        ctx = click.get_current_context(silent=True)
        return int(ctx.find_root().meta.get(_VERBOSITY, 0)) if ctx else 0

    @property
    def quiet(self) -> bool:
        return self.verbosity < 0

    def say(self, line: str) -> None:
        """One line, whatever is in it; on a terminal no wider than it."""
        if not (self.quiet or self.as_json):
            room = columns()
            told = printable(line) if room is None else "\n".join(fold(printable(line), room))
            click.echo(colour(told, "31") if told.startswith(MARK) else told)

    def report(self, text: str) -> None:
        """A text that was laid out: its line breaks are ours (:func:`fusion_replay.model.text.block`)."""
        for line in text.split("\n"):
            self.say(line)

    def records(self, records: Iterable[Any]) -> None:
        """JSON Lines on stdout, whatever the verbosity."""
        from fusion_replay.report.jsonl import encode

        for record in records:
            click.echo(encode(record))

    def note(self, text: str) -> None:
        if not self.quiet:
            click.echo(f"note: {one_line(text)}", err=True)

    def error(self, text: str) -> None:
        """What went wrong and does not end the verb; also where it is to be quiet."""
        click.echo(f"error: {one_line(text)}", err=True)

    def notes(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.note(text)

    def next(self, command: str) -> None:
        """What to type next, for verbs that judge nothing and so end without PASSED or FAILED."""
        if not (self.quiet or self.as_json):
            click.echo(f"next: {command}")  # in one piece, whatever the terminal: it is there to be copied

    def close(self, passed: bool, *, also: str = "", next: str | None = None) -> None:
        """The last line: ``PASSED in 1.2 s; ALSO; next: COMMAND``."""
        word = colour("PASSED", "1;32") if passed else colour("FAILED", "1;31")
        parts = [f"{word} in {human_seconds(time.monotonic() - self.started)}"]
        parts += [one_line(also)] if also else []
        parts += [f"next: {next}"] if next else []
        click.echo("; ".join(parts), err=self.as_json)
