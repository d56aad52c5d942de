# SPDX-License-Identifier: Apache-2.0
"""Goldens as items of pytest: one per golden, and one for the folder as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.errors import FusionReplayError, SnapshotError
from fusion_replay.golden.check import CheckOptions, check_golden
from fusion_replay.golden.check_report import GoldenResult
from fusion_replay.golden.document import Golden
from fusion_replay.golden.problems import folder_problems
from fusion_replay.golden.pytest.settings import Settings, failed_key, results_key, settings_key
from fusion_replay.golden.pytest.update import accept_at_once
from fusion_replay.golden.recipes import kind_of
from fusion_replay.golden.store import Folder, name_of
from fusion_replay.model import serialise
from fusion_replay.model.text import printable
from fusion_replay.refs import plugins


class GoldenFailedError(FusionReplayError):
    """A golden that does not hold; the text is all there is to say."""


class GoldenFolder(pytest.Directory):
    """The folder: what lies in it, and an item that judges what is wrong with it as a whole."""

    def collect(self) -> Iterable[Any]:
        yield FolderItem.from_parent(self, name="folder")
        yield from pytest.Dir.from_parent(self, path=self.path).collect()


class GoldenFile(pytest.File):
    def collect(self) -> Iterable[pytest.Item]:
        yield GoldenItem.from_parent(self, name="steps")


class _Item(pytest.Item):
    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, FusionReplayError) else super().repr_failure(excinfo)


class FolderItem(_Item):
    """Two goldens of one name, contents that no golden names, no golden at all."""

    def runtest(self) -> None:
        problems = folder_problems(Folder.scan(short(self.path)))
        if self.config.stash[settings_key].update_new:
            problems = [p for p in problems if p.kind != "not_compared"]  # they are being made
        if problems:
            raise GoldenFailedError("\n".join(map(str, problems)))

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"goldens in {self.path.name}"


class GoldenItem(_Item):
    """One golden."""

    def runtest(self) -> None:
        settings, path = self.config.stash[settings_key], short(self.path)
        options = _options(path, settings)
        with plugins.reading_project(self.config.rootpath):
            result = check_golden(path, options)
            if not result and settings.update:
                into = short(settings.dir or self.path.parent)
                result = accept_at_once(result, lambda new: check_golden(path, replace(options, new_dir=new)), into)
        failure = tell(self, result, settings) or self.config.stash.get(failed_key, {}).get(str(path), "")
        if failure:
            raise GoldenFailedError(failure)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"golden {name_of(self.path)}"


def _options(path: Path, settings: Settings) -> CheckOptions:
    """What its test records again, nobody else can: the second question is left to that test."""
    on: Any = settings.on
    try:
        golden = Golden.read(path)
        if golden.contents is not None and kind_of(golden.recipe) == "test":
            on = None
    except (SnapshotError, FusionReplayError):
        pass  # the check says it
    return CheckOptions(on, settings.exact, settings.run_recipes, True, settings.new_dir, settings.fetch_private)


def short(path: Path) -> Path:
    """As people type it: from the working directory, where it lies below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def tell(item: pytest.Item, result: GoldenResult, settings: Settings) -> str:
    """Put a result where reports and JUnit find it; what to say where it does not hold."""
    item.stash.setdefault(results_key, []).append(serialise.to_dict(result))
    item.user_properties += result.properties
    details = [printable(f"  {s.label}: {s.state}: {s.text}") for s in result.steps if s.state != "same"]
    if details and settings.details:
        item.add_report_section("call", "goldens", "\n".join(details))
    return "" if result else "\n".join([*result.lines, *(details if settings.details else [])])


__all__ = ["FolderItem", "GoldenFailedError", "GoldenFile", "GoldenFolder", "GoldenItem", "short", "tell"]
