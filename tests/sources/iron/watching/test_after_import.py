# SPDX-License-Identifier: Apache-2.0
"""The import hook touches the modules it was asked for, and no other import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fusion_replay.sources.iron.watching.after_import import AfterImport


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    (tmp_path / "hk_pkg").mkdir()
    (tmp_path / "hk_pkg" / "__init__.py").write_text("from . import wanted\n")
    (tmp_path / "hk_pkg" / "wanted.py").write_text("value = 1\n")
    (tmp_path / "hk_pkg" / "broken.py").write_text("raise RuntimeError('its own')\n")
    (tmp_path / "hk_other.py").write_text("value = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen: list[str] = []
    yield seen
    for name in [n for n in sys.modules if n.startswith("hk_")]:
        del sys.modules[name]


def hook(seen: list[str], *names: str) -> AfterImport:
    def then(module: ModuleType) -> None:
        seen.append(f"{module.__name__} {getattr(module, 'value', None)}")

    return AfterImport(lambda name: name in names, then)


def test_told_after_the_module_has_run(modules: list[str]) -> None:
    found = hook(modules, "hk_pkg.wanted")
    found.install()
    try:
        assert modules == []
        package = importlib.import_module("hk_pkg")
        other = importlib.import_module("hk_other")
    finally:
        found.remove()
    assert modules == ["hk_pkg.wanted 1"]
    for module in (package, other, sys.modules["hk_pkg.wanted"]):
        assert module.__spec__ is not None
        assert type(module.__loader__).__name__ == "SourceFileLoader"
        assert module.__spec__.loader is module.__loader__
        assert module.__file__ is not None


def test_two_hooks_on_one_path_are_both_told(modules: list[str]) -> None:
    """A block inside a recorded program: each asks the other for the module, and neither for ever."""
    first, second = hook(modules, "hk_pkg.wanted"), hook(modules, "hk_pkg.wanted")
    first.install()
    second.install()
    try:
        module = importlib.import_module("hk_pkg.wanted")
    finally:
        first.remove()
        second.remove()
    assert modules == ["hk_pkg.wanted 1"] * 2
    assert type(module.__loader__).__name__ == "SourceFileLoader"


def test_modules_that_are_there_already(modules: list[str]) -> None:
    importlib.import_module("hk_pkg")
    found = hook(modules, "hk_pkg.wanted")
    found.install()
    found.remove()
    assert modules == ["hk_pkg.wanted 1"]


def test_errors_and_absence_are_the_imports_own(modules: list[str]) -> None:
    found = hook(modules, "hk_pkg.broken", "hk_pkg.absent")
    found.install()
    try:
        with pytest.raises(RuntimeError, match="its own"):
            importlib.import_module("hk_pkg.broken")
        with pytest.raises(ModuleNotFoundError, match=r"hk_pkg\.absent"):
            importlib.import_module("hk_pkg.absent")
    finally:
        found.remove()
    assert modules == []
    assert "hk_pkg.broken" not in sys.modules


def test_the_source_can_still_be_had(modules: list[str]) -> None:
    found = hook(modules, "hk_pkg.wanted")
    found.install()
    try:
        spec = importlib.util.find_spec("hk_pkg.wanted")  # somebody looks without importing
    finally:
        found.remove()
    assert spec is not None
    assert spec.loader is not None
    assert spec.loader.get_source("hk_pkg.wanted") == "value = 1\n"  # type: ignore[attr-defined]
