# SPDX-License-Identifier: Apache-2.0
"""The fixture ``npu_golden``: record what a function does on the device at hand, and compare it with its golden."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.golden.add import golden_of
from fusion_replay.golden.check import CheckOptions, check_golden
from fusion_replay.golden.check_report import GoldenResult, Problem
from fusion_replay.golden.document import Golden
from fusion_replay.golden.pending import propose
from fusion_replay.golden.project import Project
from fusion_replay.golden.pytest.items import short, tell
from fusion_replay.golden.pytest.record import name_of_test
from fusion_replay.golden.pytest.settings import Settings, failed_key
from fusion_replay.golden.pytest.update import accept_at_once, accept_waiting
from fusion_replay.golden.recipes import record_built
from fusion_replay.golden.store import CONTENTS, Folder, checked_name, document
from fusion_replay.model.text import shell
from fusion_replay.refs import plugins
from fusion_replay.snapshot import open_snapshot


class NpuGolden:
    """What a test gets; see :meth:`check`."""

    def __init__(self, item: pytest.Item, settings: Settings) -> None:
        self._item, self._settings = item, settings
        self._checked: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where goldens live: ``--fr-dir``, or ``golden-dir`` of the project."""
        if self._settings.dir is not None:
            return short(self._settings.dir)
        return Project.find(self._item.config.rootpath).folder

    def check(self, build: Callable[[], Any], *, name: str | None = None, exact: bool = False) -> GoldenResult:
        """Record what ``build`` does and compare it with the golden.

        Args:
            build: called with the recording under way; it dispatches, or gives a callable to record.
            name: of the golden; by default the test's id.
            exact: the same bits, not only the same within the steps' limits.

        Raises:
            pytest.fail.Exception: the golden is missing or does not hold; the first line says what moved.
            FusionReplayError: nothing was dispatched, the golden is another test's, or the name is none.
        """
        __tracebackhide__ = True
        if not callable(build):
            raise UsageError(f"npu_golden.check: expected a function that dispatches, found {type(build).__name__}")
        name = checked_name(name_of_test(self._item.nodeid) if name is None else name)
        if name in self._checked:
            raise UsageError(f"npu_golden.check: {name} was checked in this test already; give another name=")
        self._checked.add(name)
        with tempfile.TemporaryDirectory(prefix="fusion-replay-") as made, plugins.reading_project(self._root):
            recording = Path(made) / f"{name}{CONTENTS}"
            record_built(build, recording)
            result = self._compared(name, recording, exact or self._settings.exact)
        if failure := tell(self._item, result, self._settings):
            self._item.config.stash.setdefault(failed_key, {})[result.path] = failure
            pytest.fail(failure, pytrace=False)
        return result

    @property
    def _root(self) -> Path:
        return self._item.config.rootpath

    def _compared(self, name: str, recording: Path, exact: bool) -> GoldenResult:
        folder = self.folder
        path = (Folder.scan(folder).find(name) if folder.is_dir() else None) or document(folder, name)
        if not path.exists():
            result = self._missing(path, name, recording)
            if result is not None:
                return result
        self._refuse_somebody_elses(path)
        options = CheckOptions(None, exact, False, True, self._settings.new_dir, self._settings.fetch_private)
        result = check_golden(path, options, remade=recording)
        if not result and self._settings.update:
            return accept_at_once(
                result, lambda new: check_golden(path, replace(options, new_dir=new), remade=recording), folder
            )
        return result

    def _missing(self, path: Path, name: str, recording: Path) -> GoldenResult | None:
        """Make it where that was asked for (None: it is there now), else propose it."""
        try:
            with open_snapshot(recording) as snapshot:
                golden = golden_of(snapshot, name, recipe={"test": self._item.nodeid})
            if self._settings.update_new:
                with tempfile.TemporaryDirectory(prefix="fusion-replay-") as waits:
                    propose(path, golden, recording, Path(waits))
                    accept_waiting(Path(waits), path.parent)
                return None
            pending, note = propose(path, golden, recording, self._settings.new_dir), ""
        except FusionReplayError as error:
            pending, note = None, str(error)
        elsewhere = self._settings.new_dir
        goldens = os.path.relpath(path.parent)
        where = [goldens] if elsewhere is None else [os.path.relpath(elsewhere), "--into", goldens]
        look = shell(["golden", "review", *where])
        text = f"no such golden; `fusion-replay {look}`, or run again with --fr-update-new-only"
        problem = Problem("missing", name, f"{path}: {text}")
        return GoldenResult(
            name,
            str(path),
            problems=(problem,),
            notes=(note,) if note else (),
            pending=None if pending is None else str(pending),
        )

    def _refuse_somebody_elses(self, path: Path) -> None:
        try:
            recipe = Golden.read(path).recipe or {}
        except FusionReplayError:
            return  # the check says it
        if recipe.get("test", self._item.nodeid) != self._item.nodeid:
            raise UsageError(f"{path}: the golden of {recipe['test']}; give name=, or correct its recipe")


__all__ = ["NpuGolden"]
