# SPDX-License-Identifier: Apache-2.0
"""``golden list``, ``show``, ``remove`` and ``score``: the goldens that there are, and what they would catch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fusion_replay.cli.golden_review import default_folder, refuse_in_ci
from fusion_replay.cli.terminal import Terminal, command_line, verbosity_options
from fusion_replay.errors import MismatchError, MissingError, SnapshotError, UsageError
from fusion_replay.model.text import table
from fusion_replay.report.text import count, human_bytes

if TYPE_CHECKING:
    from fusion_replay.golden.document import Golden

_SHOWN = 20  # steps

_dir = click.option("--dir", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Where goldens live.")


@click.command("list")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@verbosity_options
def list_(folder: Path | None) -> int:
    """The goldens in DIR: steps, contents, recipe. Nothing is judged. Exit 0, 3 where one can't be read."""
    from fusion_replay.golden.document import Golden
    from fusion_replay.golden.store import Folder, name_of

    out = Terminal()
    rows: list[tuple[str, ...]] = []
    bad = 0
    for path in Folder.scan(default_folder() if folder is None else folder).goldens:
        try:
            golden = Golden.read(path)
        except SnapshotError as error:
            bad += 1
            out.error(str(error))
            continue
        rows.append((name_of(path), *_facts(golden)))
    out.report(table(rows, indent=""))
    out.say(f"{count(len(rows), 'golden')}{f', {bad} that can not be read' if bad else ''}")
    return SnapshotError.exit_code if bad else 0


@click.command("show")
@click.argument("name", metavar="NAME")
@_dir
@verbosity_options
def show(name: str, folder: Path | None) -> int:
    """What golden NAME holds: where it comes from, its limits, and its steps (-v: all)."""
    from fusion_replay.golden.document import Golden

    out = Terminal()
    path = _find(name, folder)
    golden = Golden.read(path)
    out.say(f"{path}: {', '.join(_facts(golden))}")
    out.say(f"recorded on {', '.join(golden.recorded_on) or 'nobody knows what'}")
    if golden.accepted_mismatch:
        out.say(f"mismatches were accepted: {golden.accepted_mismatch}")
    for tolerance in golden.tolerances:
        out.say(f"limits of {tolerance.target}: {tolerance.limits}, because {tolerance.why}")
    shown = golden.steps if out.verbosity > 0 else golden.steps[:_SHOWN]
    out.report(table((s.label, s.verdict, str(s.limits)) for s in shown))
    if len(shown) < len(golden.steps):
        out.say(f"and {count(len(golden.steps) - len(shown), 'step')} more; -v shows all")
    out.next(command_line("golden", "check", path.parent, "--filter", name))
    return 0


@click.command("remove")
@click.argument("names", metavar="NAMES...", nargs=-1, required=True)
@_dir
@verbosity_options
def remove(names: tuple[str, ...], folder: Path | None) -> int:
    """Remove the goldens called NAMES with the contents beside them and what waits for a review. Refused where CI is
    set."""
    from fusion_replay.golden.store import CONTENTS, NEW

    refuse_in_ci("remove")
    out = Terminal()
    for path in [_find(name, folder) for name in names]:  # all are found before the first one goes
        beside = path.with_name(path.name.removesuffix(".golden.json") + CONTENTS)
        for file in (path, beside, *(p.with_name(p.name + NEW) for p in (path, beside))):
            if file.is_file():
                file.unlink()
                out.say(f"{file}: removed")
    out.close(True, also=f"{count(len(names), 'golden')} removed")
    return 0


@click.command("score")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@verbosity_options
def score(folder: Path | None) -> int:
    """Which kinds of faults the goldens in DIR would catch: each is recorded again on the software NPU with every kind
    in it. For what no golden of an operator catches, the smallest input tried that does. -v: every golden. Exit 0 when
    some golden of each operator catches each kind, 1 otherwise, 4 where nothing could be scored."""
    from fusion_replay.golden.score import score as judge

    out = Terminal()
    found = judge(default_folder() if folder is None else folder)
    if out.verbosity > 0:
        out.report(table((s.golden, s.op, s.kind, s.outcome) for s in found.scored))
    for kind in dict.fromkeys(s.kind for s in found.scored):
        of = Counter(s.outcome for s in found.scored if s.kind == kind)
        out.say(f"{kind}: caught {of['caught']:,}, by --exact alone {of['exact']:,}, survives {of['survives']:,}")
    for each in found.proposals:
        how = "only --exact does, as with" if each.exact else "this does"
        way = f"{how}: {each.command}" if each.command else "no input that was tried does"
        out.say(f"no golden of {each.op} catches {each.kind}; {way}")
    goldens = len({s.golden for s in found.scored})
    left = f"; {count(len(found.left_out), 'golden')} left out" if found.left_out else ""
    out.say(f"{count(goldens, 'golden')} scored{left}")
    out.close(bool(found.scored) and not found.proposals)
    if not found.scored:
        return MissingError.exit_code
    return MismatchError.exit_code if found.proposals else 0


def _find(name: str, folder: Path | None) -> Path:
    from fusion_replay.golden.store import Folder, name_of

    listing = Folder.scan(default_folder() if folder is None else folder)
    found = listing.find(name)
    if found is None:
        near = ", ".join(name_of(p) for p in listing.goldens[:3])
        raise UsageError(f"{listing.path}: no golden is called {name!r}; it has {near or 'none'}")
    return found


def _facts(golden: Golden) -> tuple[str, ...]:
    from fusion_replay.golden.recipes import in_a_few_words

    kept = "thin" if golden.contents is None else human_bytes(golden.contents.size)
    return count(len(golden.steps), "step"), kept, in_a_few_words(golden.recipe)


__all__ = ["list_", "remove", "score", "show"]
