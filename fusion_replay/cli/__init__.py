# SPDX-License-Identifier: Apache-2.0
"""The command line: one module per verb, loaded when its verb is typed.

This file holds what all verbs share on the way in and out: the table of verbs, and the one place where an error
becomes one line on stderr and an exit status. No verb prints a traceback; ``-vv`` asks for one.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click

from fusion_replay import __version__
from fusion_replay.cli.imports import with_imports
from fusion_replay.cli.terminal import Terminal, verbosity_options
from fusion_replay.errors import FusionReplayError
from fusion_replay.model.text import one_line, shell
from fusion_replay.refs import plugins
from fusion_replay.system import platform

PROGRAM = "fusion-replay"

# verb -> (module, its line in --help); the module has a click command named like the verb
VERBS: dict[str, tuple[str, str]] = {
    "record": ("fusion_replay.cli.record", "Record an IRON program, or a workload on the software NPU."),
    "replay": ("fusion_replay.cli.replay", "Judge every recorded step against its reference."),
    "diff": ("fusion_replay.cli.diff", "What differs between two recordings, what first, where it went."),
    "bisect": ("fusion_replay.cli.bisect", "Which step introduced the error of the final output."),
    "oracle": (
        "fusion_replay.cli.oracle",
        "A framework model's tensors, to judge a runlist by.",
    ),
    "show": ("fusion_replay.cli.show", "What a snapshot holds: steps, arrays, provenance, losses."),
    "export": ("fusion_replay.cli.export", "Recorded steps as a file of another kind."),
    "fsck": ("fusion_replay.cli.fsck", "Check a snapshot's integrity; recover a recording that was killed."),
    "golden": ("fusion_replay.cli.golden", "Regression tests: recordings that were accepted; add, check, review."),
    "operators": ("fusion_replay.cli.operators", "What is supported: operators, parameters, tolerances."),
    "demo": ("fusion_replay.cli.demo", "The tour: record a decode with a fault inside, find the fault."),
    "doctor": ("fusion_replay.cli.doctor", "What this machine has and what it lacks for recording."),
}

INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + platform.SIGPIPE
BUG = 70  # EX_SOFTWARE of sysexits.h: distinct from 1, which means mismatch


class _Verbs(click.Group):
    """A group whose commands are imported one at a time: ``show`` must not pay for what ``replay`` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(VERBS[cmd_name][0])
        command = module.command
        assert isinstance(command, click.Command)
        return with_imports(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(_no_verb(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.command(
    cls=_Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""Exit status: 0 right, 1 mismatch, 2 usage, 3 no usable snapshot, 4 something needed is missing.

    \b
    Examples:
      fusion-replay record python app.py
      fusion-replay replay app-001.h5

    \b
    Completion in bash (zsh_source and fish_source for the others):
      _FUSION_REPLAY_COMPLETE=bash_source fusion-replay >> ~/.bashrc""",
)
@click.version_option(__version__, message=f"{PROGRAM} %(version)s")
@verbosity_options
@click.pass_context
def program(ctx: click.Context) -> None:
    """Flight recorder for AMD IRON operator sequences: record on the NPU, replay and judge anywhere."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command line and turn whatever happens into an exit status."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal can't spell must not end a report
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with plugins.reading_project(tell=Terminal().note):
            status = program.main(args=list(arguments), prog_name=PROGRAM, standalone_mode=False)
        if sys.stdout is not None:  # closed by the caller: fusion-replay ... >&-
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except FusionReplayError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else PROGRAM
        return _fail(f"{error.format_message()} (see: {command} --help)", 2)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", INTERRUPTED)
    except SystemExit as error:
        if f"_{PROGRAM.upper().replace('-', '_')}_COMPLETE" in os.environ:  # the shell asks, and click has answered
            return error.code if isinstance(error.code, int) else 0
        return PIPE_CLOSED  # click's answer to a pipe that was closed, whose 1 would mean mismatch here
    except BrokenPipeError:  # the same, found while flushing
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains again while it shuts down
        return PIPE_CLOSED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    except Exception as error:
        if _wants_traceback(arguments):
            raise
        again = "run it again with -vv for the traceback and report it"
        return _fail(f"internal error, {type(error).__name__}: {error}; this is a bug in {PROGRAM}: {again}", BUG)


_MEANT = {"list": "show", "ls": "show", "info": "show", "inspect": "show", "compare": "diff", "run": "record"}
"""Verbs of other tools, and what they are here."""


def _no_verb(word: str) -> str:
    near = [_MEANT[word]] if word in _MEANT else difflib.get_close_matches(word, VERBS)
    if os.path.isfile(word):
        return f"{word} is a file, no verb; look at it with: {shell([PROGRAM, 'show', word])}"
    return f"no verb {word!r}; {'nearest' if near else 'verbs'}: {', '.join(near or VERBS)}"


def _fail(message: str, status: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return status


def _wants_traceback(arguments: Sequence[str]) -> bool:
    return sum(a.count("v") for a in arguments if a.startswith("-v") and set(a[1:]) == {"v"}) >= 2
