# SPDX-License-Identifier: Apache-2.0
"""``replay F --attribute``: introduced or inherited, and each step's share of the final error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion_replay.cli import page
from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import Terminal, command_line, typed_option
from fusion_replay.errors import MismatchError, UsageError

TAKES = ("invocation", "reference", "rule")


def attribution(
    file: str,
    every: bool,
    weights: str | None,
    out: Terminal,
    options: dict[str, Any],
    html: Path | None = None,
    budget: int = 0,
) -> int:
    """Exit status 1 when a step mismatches by itself, or every step agrees and the final output is wrong, or buffers
    were clobbered."""
    if other := typed_option(set(options) - {*TAKES}):
        raise UsageError(f"replay --attribute: takes --invocation, --reference, --rule and --all; leave {other} out")
    from fusion_replay.diverge.attribution import attribute
    from fusion_replay.snapshot import open_snapshot

    with open_snapshot(file, weights=weights) as snapshot:
        out.notes(snapshot.notes)
        with Progress("attributing", quiet=out.quiet) as progress:
            found = attribute(snapshot, every=every, progress=progress, **{k: options[k] for k in TAKES})
        if html is not None:
            from fusion_replay.diverge.explain import explain_first
            from fusion_replay.replay import replay
            from fusion_replay.report.page.replay_page import replay_page

            report = replay(snapshot, reference=options["reference"], rule=options["rule"])
            why = explain_first(snapshot, report)
            told = replay_page(snapshot, report, why=why, found=found.findings, budget=budget, attribution=found)
            page.write(html, told, out)
    if out.as_json:
        out.records(found.records())
    else:
        from fusion_replay.report.attribution import layout

        out.report(layout(found, every=every))
    wrong = [s for s in found.steps if s.ok is False]
    bad = found.bad
    first = next(iter(found.attributed or found.suspects), None) if found.total else None
    show = None if first is None else command_line("show", file, first.address)
    next_ = command_line("bisect", file) if wrong else show
    out.close(not bad, next=next_)
    return MismatchError.exit_code if bad else 0


__all__ = ["attribution"]
