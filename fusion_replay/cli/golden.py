# SPDX-License-Identifier: Apache-2.0
"""``golden``: recordings that were accepted, and what becomes of them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fusion_replay.cli.golden_files import list_, remove, score, show
from fusion_replay.cli.golden_review import accept, default_folder, lint, reject, review
from fusion_replay.cli.golden_team import init, merge
from fusion_replay.cli.imports import with_imports
from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import Terminal, command_line, examples, json_option, verbosity_options
from fusion_replay.errors import UsageError
from fusion_replay.report.text import count, human_bytes

if TYPE_CHECKING:
    from fusion_replay.golden.check import CheckOptions
    from fusion_replay.golden.check_report import GoldenReport

_FAILURES_SHOWN = 20


@examples("golden add gelu.h5 --dir goldens", "golden check goldens")
@click.group("golden")
@verbosity_options
def command() -> None:
    """Goldens: accepted recordings as regression tests. A golden is text that people review, NAME.golden.json, and
    its contents, NAME.h5, beside it or elsewhere. [tool.fusion-replay] golden-dir says where they live."""


@examples("golden add gelu.h5 --dir goldens", 'golden add run.h5 --command "python app.py"')
@click.command("add")
@click.argument("file", metavar="F", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="Of the golden.  [default: that of F]")
@click.option("--dir", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Where it goes.")
@click.option("--thin", is_flag=True, help="Keep digests only: checked by recording it again.")
@click.option(
    "--tolerance",
    "limits",
    metavar="TEXT",
    multiple=True,
    help='Limits of its own: "GEMV=rtol 0.05 atol 1e-3 because ...", "0:3=ulps 2 because ..."; repeatable.',
)
@click.option("--command", "words", metavar="TEXT", help='The program that records it again, "python app.py".')
@click.option("--python", "entry", metavar="FILE.py:FUNCTION", help="The function that records it again.")
@click.option("--accept-mismatch", metavar="WHY", default="", help="Accept steps that mismatch, for this reason.")
@verbosity_options
def add_(
    file: Path,
    name: str | None,
    folder: Path | None,
    thin: bool,
    limits: tuple[str, ...],
    words: str | None,
    entry: str | None,
    accept_mismatch: str,
) -> int:
    """Make a golden of recording F. Nothing is overwritten; a recording with a mismatch, or with steps that could not
    be judged, is refused."""
    from fusion_replay.golden import tolerances
    from fusion_replay.golden.add import add
    from fusion_replay.golden.recipes import in_a_few_words

    if words and entry:
        raise UsageError("golden add: --command and --python are two ways to record it again; give one")
    recipe = {"command": shlex.split(words)} if words else {"python": entry} if entry else None
    folder = default_folder() if folder is None else folder
    parsed = [tolerances.parse(text) for text in limits]
    out = Terminal()
    with Progress("judging", quiet=out.quiet):
        path, golden = add(
            file, folder, name=name, thin=thin, tolerances=parsed, recipe=recipe, accept_mismatch=accept_mismatch
        )
    kept = "thin" if golden.contents is None else human_bytes(golden.contents.size)
    out.say(f"{path}: {count(len(golden.steps), 'step')}, {kept}, {in_a_few_words(golden.recipe)}")
    out.close(True, next=command_line("golden", "check", folder))
    return 0


@examples("golden check goldens", "golden check goldens --on sim --write-new")
@click.command("check")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--filter", "only", metavar="PATTERN", help="Only these goldens: npu1-*, or a part of the name.")
@click.option("--on", type=click.Choice(["sim", "npu"]), help="Also record again, on the software NPU or a real one.")
@click.option("--exact", is_flag=True, help="With --on: the same bits, not only the same within limits.")
@click.option("--run-recipes", is_flag=True, help="Recipes may run the programs and functions that they name.")
@click.option("--write-new", is_flag=True, help="Write *.new beside what moved, for golden review.")
@click.option("--new-dir", metavar="D", type=click.Path(path_type=Path), help="As --write-new, into this folder.")
@click.option("--fetch-private", is_flag=True, help="Fetch contents from this machine's network too, and over http.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Goldens at a time; the report is the same.")
@click.option("--junit", metavar="FILE", type=click.Path(path_type=Path), help="Also as JUnit XML: a test per golden.")
@json_option
@verbosity_options
def check_(
    folder: Path | None,
    only: str | None,
    on: Literal["sim", "npu"] | None,
    exact: bool,
    run_recipes: bool,
    write_new: bool,
    new_dir: Path | None,
    fetch_private: bool,
    workers: int | None,
    junit: Path | None,
    as_json: bool,
) -> int:
    """Check the goldens in DIR: does the reference still agree with what was recorded; with --on, does the NPU still
    give it. The first line of a failure says which of them moved. Exit 0 when all hold, 1 when something moved or is
    wrong with a golden, 3 for files that can't be used, 4 when something needed is missing."""
    from fusion_replay.golden import github
    from fusion_replay.golden.check import CheckOptions, check_folder

    out = Terminal(as_json)
    if exact and on is None:
        raise UsageError("golden check: --exact is for --on sim or --on npu")
    options = CheckOptions(on, exact, run_recipes, write_new or new_dir is not None, new_dir, fetch_private)
    folder = default_folder() if folder is None else folder
    with Progress("checking goldens", quiet=out.quiet) as progress:
        report = check_folder(folder, options, only=only, workers=workers, progress=progress)
    if as_json:
        out.records(report.records())
    else:
        for line in _lines(report):
            out.say(line)
        for line in github.error_lines(report) if github.active() else ():
            click.echo(line)
    github.write_summary(report)
    if junit is not None:
        from fusion_replay.golden.junit import write

        write(report, junit)
    out.say(report.sentence)
    out.close(report.passed, next=_next(report, folder, options))
    return report.exit_status


def _lines(report: GoldenReport) -> list[str]:
    lines = list(map(str, report.problems))
    for result in report.failed[:_FAILURES_SHOWN]:
        lines += result.lines
    if (left := len(report.failed) - _FAILURES_SHOWN) > 0:
        lines.append(f"and {count(left, 'golden')} more that fail; --json has all")
    lines += [f"{r.name}: note: {n}" for r in report.results if r for n in r.notes]
    return lines


def _next(report: GoldenReport, folder: Path, options: CheckOptions) -> str | None:
    """What to type after a failure: it leads to a review where there is something to review."""
    if any(r.pending for r in report.failed):
        elsewhere = options.new_dir is not None
        return command_line("golden", "review", *((options.new_dir, "--into", folder) if elsewhere else (folder,)))
    first = next((r for r in report.failed if any(not s for s in r.steps)), None)
    if first is None or options.write_new:
        return None
    on = () if options.on is None else ("--on", options.on)
    leave = ("--run-recipes",) if options.run_recipes else ()
    return command_line("golden", "check", folder, "--filter", first.name, "--write-new", *on, *leave)


for _each in (add_, check_, review, accept, reject, lint, list_, show, remove, score, init, merge):
    command.add_command(with_imports(_each))
