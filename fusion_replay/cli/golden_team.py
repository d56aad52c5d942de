# SPDX-License-Identifier: Apache-2.0
"""``golden init`` and ``merge``: goldens that several people change in git."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusion_replay.cli.golden_review import default_folder, refuse_in_ci
from fusion_replay.cli.terminal import Terminal, command_line, verbosity_options
from fusion_replay.errors import MismatchError, UsageError
from fusion_replay.model.text import shell

if TYPE_CHECKING:
    from fusion_replay.golden.merge import Side


@click.command("init")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option("--lfs", is_flag=True, help="Contents (*.h5) go to git-LFS.")
@verbosity_options
def init(folder: Path | None, lfs: bool) -> int:
    """Make DIR ready for several people: .gitattributes and .gitignore in it, and in this clone's configuration the
    driver by which git merges goldens step by step. Every clone needs it once."""
    from fusion_replay.golden.team import init as prepare

    out = Terminal()
    folder = default_folder() if folder is None else folder
    for line in prepare(folder, lfs=lfs):
        out.say(line)
    out.close(True)
    return 0


@click.command("merge")
@click.argument("files", metavar="FILE | %O %A %B [%P]", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--ours", "take", flag_value="ours", help="Where both sides changed a step, this branch's.")
@click.option("--theirs", "take", flag_value="theirs", help="Where both sides changed a step, the other's.")
@verbosity_options
def merge(files: tuple[Path, ...], take: Side | None) -> int:
    """Merge FILE, a golden that git left in conflict, step by step: accepts of different steps merge by themselves,
    --ours or --theirs decides where both changed the same. With three files it is git's merge driver, set up by golden
    init. Exit 0 when nothing is left to decide, else 1."""
    from fusion_replay.golden import team

    out = Terminal()
    if len(files) in (3, 4) and take is None:
        return _drive(*files)
    if len(files) != 1:
        raise UsageError(f"golden merge: {len(files)} files: expected one in conflict, or the three of a merge driver")
    if take is not None:
        refuse_in_ci("merge")
    path = files[0]
    merged = team.resolve(path, take)
    for each in merged.conflicts:
        out.say(f"both changed {each}")
    if merged.conflicts:
        out.close(False, next=f"{command_line('golden', 'merge', path, '--ours')} (or --theirs)")
        return MismatchError.exit_code
    contents = merged.golden.contents
    also = "" if contents is None else _contents_of(path.with_name(contents.file), contents.sha256)
    out.close(True, also=also, next=shell(["git", "add", path]))
    return 0


def _contents_of(path: Path, digest: str) -> str:
    """What is left to do where the contents beside the golden are the other side's."""
    from fusion_replay.golden.document import sha256_of

    if not path.is_file() or sha256_of(path) == digest:
        return ""
    return f"{path} is not the recording that it names: `git checkout --ours` or `--theirs` of that file gives it"


def _drive(base: Path, ours: Path, theirs: Path, name: Path | None = None) -> int:
    """For git: silent where all is merged, one line where not."""
    from fusion_replay.golden import team

    merged = team.merge_files(base, ours, theirs)
    if merged is not None and not merged.conflicts:
        return 0
    path = ours if name is None else name
    what = "no three goldens" if merged is None else f"both changed {'; '.join(merged.conflicts[:3])}"
    left = 0 if merged is None else len(merged.conflicts) - 3
    more = f" and {left} more" if left > 0 else ""
    decide = command_line("golden", "merge", path)
    Terminal().error(f"{path}: {what}{more}; `{decide} --ours` or `--theirs` decides")
    return MismatchError.exit_code


__all__ = ["init", "merge"]
