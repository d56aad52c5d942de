# SPDX-License-Identifier: Apache-2.0
"""Runs a function once a module has been imported, by any code; all other imports are left alone."""

from __future__ import annotations

import importlib.machinery
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, cast

Wanted = Callable[[str], bool]
Then = Callable[[ModuleType], None]


class AfterImport:
    """A meta path finder that finds nothing itself: it asks the others, and wraps the loader of a wanted module.

    ``then`` must not raise. Modules that are loaded already are handed to it by :meth:`install`.
    """

    def __init__(self, wanted: Wanted, then: Then) -> None:
        self._wanted, self._then = wanted, then
        self._asking = threading.local()

    def install(self) -> None:
        sys.meta_path.insert(0, self)
        for name, module in list(sys.modules.items()):
            if self._wanted(name) and module is not None:
                self._then(module)

    def remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        before = getattr(self._asking, "name", None)
        if before == name or not self._wanted(name):
            return None  # asked back by a second one of these on the path, which this one has just asked
        self._asking.name = name
        try:
            return self._wrapped(name, path, target)
        finally:
            self._asking.name = before

    def _wrapped(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> importlib.machinery.ModuleSpec | None:
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: importlib.machinery.ModuleSpec | None = None
            if finder is not self and find is not None:
                spec = find(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = cast(Any, _Loader(spec.loader, self._then))
                return spec
        return None


class _Loader:
    """The real loader, with one thing to do afterwards; the module keeps no trace of it."""

    def __init__(self, loader: Any, then: Then) -> None:
        self._loader, self._then = loader, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        create = getattr(self._loader, "create_module", None)
        module: ModuleType | None = create(spec) if create is not None else None
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then(module)


__all__ = ["AfterImport"]
