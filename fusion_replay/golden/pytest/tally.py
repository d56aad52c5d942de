# SPDX-License-Identifier: Apache-2.0
"""What a run of pytest says about goldens at its end, from the reports alone: workers of pytest-xdist included."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fusion_replay.golden import github
from fusion_replay.golden.check_report import GoldenReport, GoldenResult, Problem
from fusion_replay.golden.pytest.settings import MARKER, RESULTS, Settings
from fusion_replay.model import serialise
from fusion_replay.model.text import one_line, shell
from fusion_replay.system.messages import count

if TYPE_CHECKING:
    from collections.abc import Iterable


class Tally:
    """Counts reports.

    Attributes:
        deselected: tests that a filter left out.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.deselected = 0
        self.results: dict[tuple[str, str], GoldenResult] = {}
        self.outcomes: dict[str, str] = {}
        self.skipped: Counter[str] = Counter()
        self.npu_ran = 0
        self.recordings: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.problems: list[Problem] = []

    def add(self, report: pytest.TestReport) -> None:
        """One report of one phase of one test."""
        worse = report.outcome if report.outcome != "passed" else self.outcomes.get(report.nodeid, "passed")
        self.outcomes[report.nodeid] = worse
        if report.when == "call":
            self.npu_ran += MARKER in report.keywords
            for data in getattr(report, RESULTS, ()):
                result = serialise.from_dict(GoldenResult, data, report.nodeid)
                self.results[report.nodeid, result.name] = result
            self._recorded(report)
        if report.skipped and (why := _reason(report)).startswith(("no NPU here", "not run: the device")):
            self.skipped[why] += 1
        if report.nodeid.endswith("::folder") and report.failed and self.settings.dir is not None:
            self.problems.append(Problem("folder", str(self.settings.dir), str(report.longrepr)))

    def close(self, config: pytest.Config, whole: bool) -> bool:
        """Look at what only the end of a run can tell; whether that makes it red.

        Args:
            whole: nothing stopped it early, and nothing was chosen by name.
        """
        red: list[Problem] = []
        folder = self.settings.dir
        if folder is not None and self.settings.named and not self.results and not config.option.collectonly:
            text = f"no golden was checked ({self.deselected} tests deselected)"
            red.append(Problem("not_compared", str(folder), text))
        if self.settings.require_npu and not self.npu_ran and not config.option.collectonly:
            red.append(Problem("not_compared", "--fr-require-npu", f"no test marked {MARKER} ran"))
        if folder is not None and folder.is_dir() and whole and not self.deselected and self.outcomes:
            red += self._unused(config, folder)
        self.problems += red
        if self.results or self.problems:
            github.write_summary(self.report)
        return bool(red)

    @property
    def report(self) -> GoldenReport:
        """As of a check without pytest; a golden that several tests checked is there once, a failure first."""
        by_path: dict[str, GoldenResult] = {}
        for result in sorted(self.results.values(), key=lambda r: r.name):
            old = by_path.get(result.path)
            if old is None or (old and not result):
                by_path[result.path] = result
        on: Any = self.settings.on
        return GoldenReport(str(self.settings.dir or "goldens"), on, tuple(by_path.values()), tuple(self.problems))

    def lines(self) -> list[str]:
        """For the terminal."""
        found = []
        report = self.report
        if report.results or report.problems:
            found.append(report.sentence)
            found += [str(p) for p in self.problems if p.kind != "folder"]
            pending = sorted({r.pending for r in report.failed if r.pending})
            if pending:
                where = os.path.relpath(Path(pending[0]).parent)
                found.append(f"for review: {shell(['fusion-replay', 'golden', 'review', where])}")
        found += [f"{n:,} test{'' if n == 1 else 's'} skipped: {why}" for why, n in self.skipped.items()]
        if (folder := self.settings.record_dir) is not None:
            made = self.recordings
            parts = [f"{count(made['recorded'], 'test')} recorded in {folder}, {count(made['steps'], 'step')}"]
            parts.append(f"{made['nothing']:,} dispatched nothing")
            parts += [f"{n:,} not recorded: {why}" for why, n in self.reasons.most_common(3)]
            found.append("; ".join(parts))
        found = list(map(one_line, found))
        return found + (list(github.error_lines(report)) if github.active() else [])

    def _recorded(self, report: pytest.TestReport) -> None:
        for key, value in report.user_properties:
            if key == "fr_recorded":
                self.recordings["recorded"] += 1
            elif key == "fr_recorded_steps":
                self.recordings["steps"] += int(str(value))
            elif key == "fr_dispatched":
                self.recordings["nothing"] += 1
            elif key == "fr_not_recorded":
                self.reasons[str(value)] += 1

    def _unused(self, config: pytest.Config, folder: Path) -> Iterable[Problem]:
        """Goldens of tests that are no more, or that passed without them, in files that this run covers."""
        from fusion_replay.errors import SnapshotError
        from fusion_replay.golden.document import Golden
        from fusion_replay.golden.pytest.items import short
        from fusion_replay.golden.store import Folder

        used = {(nodeid, result.name) for (nodeid, _), result in self.results.items()}
        asked = [Path(os.path.abspath(config.invocation_params.dir / a)) for a in config.args]
        for path in Folder.scan(short(folder)).goldens:
            try:
                golden = Golden.read(path)
            except SnapshotError:
                continue  # its own item says it
            test = (golden.recipe or {}).get("test")
            if not isinstance(test, str) or (test, golden.name) in used:
                continue
            file = config.rootpath / test.partition("::")[0]
            if any(file.is_relative_to(a) for a in asked) and self.outcomes.get(test, "passed") == "passed":
                text = f"unused golden: {test} does not check it; remove it, or correct its recipe"
                yield Problem("unused", str(path), text)


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(text).removeprefix("Skipped: ")


__all__ = ["Tally"]
