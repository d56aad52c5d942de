# SPDX-License-Identifier: Apache-2.0
"""Where users' operators come from: a file or module by name, ``pyproject.toml``, installed packages.

Each is Python code that uses ``@fusion_replay.operator`` when it is imported. Files and modules run because somebody
named them; ``[tool.fusion-replay] import = [...]`` (on the command line) and the entry-point group
``fusion_replay.operators`` are read before the first question to the registry: whoever asks none pays nothing. A
project's code runs only where the project is that of the working directory and belongs to the user; it is told, and
:func:`skip_project` turns it off.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from fusion_replay.errors import UsageError
from fusion_replay.model import declared
from fusion_replay.system import platform
from fusion_replay.system.messages import in_words, line_in, say

GROUP = "fusion_replay.operators"
TABLE = "fusion-replay"

_loaded: dict[str, ModuleType] = {}
"""What was asked for by its resolved path or module name: naming the same twice is no clash with itself."""

_waiting: list[Callable[[], None]] = []
_importing: ContextVar[str] = ContextVar("importing", default="")
"""What is imported for the operators that it declares, as it was named."""
_lock = threading.RLock()
_running = False
_reads: list[Callable[[], None]] = []
"""Of those that wait: readers of a project."""


def before_first_use(load: Callable[[], None]) -> None:
    """Run ``load`` before the next question to the registry. What it raises reaches whoever asks; it runs once."""
    with _lock:
        _waiting.append(load)


@contextlib.contextmanager
def reading_project(start: str | os.PathLike[str] = ".", *, tell: Callable[[str], None] = say) -> Iterator[None]:
    """Inside the block the first question to the registry reads ``pyproject.toml``, see :func:`load_project`."""

    def read() -> None:
        load_project(start, tell=tell)

    before_first_use(read)
    _reads.append(read)
    try:
        yield
    finally:
        _reads.remove(read)
        if read in _waiting:  # nobody asked
            _waiting.remove(read)


def skip_project() -> None:
    """No project is read at the first question, if that was not asked yet."""
    with _lock:
        _waiting[:] = [load for load in _waiting if load not in _reads]


def ready() -> None:
    """What waits for the first question to the registry happens now."""
    global _running
    if not _waiting:
        return
    with _lock:  # other threads wait
        if _running:  # an operator that is being loaded asks for another one
            return
        _running = True
        try:
            while _waiting:
                try:
                    _waiting[0]()
                finally:
                    _waiting.pop(0)
        finally:
            _running = False


def load(where: str, base: str | os.PathLike[str] = ".", *, asked_by: str = "--import") -> None:
    """Import a file (``my_op.py``, any path with a separator) or a module (``package.ops``) that declares operators.

    Args:
        where: the file or module.
        base: directory that relative paths start from; modules are looked for there too.
        asked_by: who named it, for messages.

    Raises:
        UsageError: no such file or module, code that raises, or code that declares no operator.
    """
    directory = Path(base).absolute()
    is_file = where.endswith(".py") or os.sep in where or "/" in where
    path = directory / where
    key = str(path.resolve()) if is_file else where
    if key in _loaded:
        return
    what = f"{asked_by} {where}"
    if is_file and not path.is_file():
        raise UsageError(f"{what}: {'a directory' if path.is_dir() else 'no such file'}; expected a Python file")
    before = _declarations()
    token = _importing.set(where)
    try:
        module = _run_file(path) if is_file else _import_module(where, directory)
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        if not is_file and error.name is not None and f"{where}.".startswith(f"{error.name}."):
            raise UsageError(f"{what}: no such module, here or installed; give a file as {where}.py") from None
        raise UsageError(f"{what}: {_with_line(error, path)}") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what}: {_with_line(error, path)}") from error
    finally:
        _importing.reset(token)
    if not _declares(module, before):
        raise UsageError(
            f"{what}: it declares no operator and no kernel; write @fusion_replay.operator(NAME) before a function "
            "(`fusion-replay operators --new NAME` prints a whole file)"
        )
    _loaded[key] = module


def importing() -> str:
    """The file or module that :func:`load` is running just now; empty where it is none."""
    return _importing.get()


@contextlib.contextmanager
def forgetting() -> Iterator[None]:
    """Inside the block users' code may declare and load anything; at its end all that is forgotten."""
    ready()
    before = {id(table): dict(table) for table in (*declared.TABLES, _loaded)}
    try:
        yield
    finally:
        for table in (*declared.TABLES, _loaded):
            kept = before.get(id(table), {})
            table.clear()
            table.update(kept)


def loaded() -> tuple[str, ...]:
    """What :func:`load` has imported so far, as another process can give it to :func:`load` again."""
    return tuple(_loaded)


def load_project(start: str | os.PathLike[str] = ".", *, tell: Callable[[str], None] = say) -> None:
    """What the nearest ``pyproject.toml`` at or above ``start`` names in ``[tool.fusion-replay] import = [...]``.

    Paths are relative to that file. It runs nothing where somebody else owns, or may write, the file or its folder.

    Args:
        tell: gets one line: what runs, or why it does not.

    Raises:
        UsageError: no valid TOML, an unknown key, anything but a list of names, or as :func:`load`.
    """
    project = next((p for d in _upwards(Path(start)) if (p := d / "pyproject.toml").is_file()), None)
    if project is None:
        return
    import tomllib

    try:
        table: Any = tomllib.loads(project.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{project}: can't be read: {error}") from error
    given = table.get("tool", {}).get(TABLE, {})
    for key in given:
        if key != "import" and not key.startswith("golden-"):  # those are checked where goldens are
            raise UsageError(f"{project}: [tool.{TABLE}] {key}: unknown; known: import, and what begins with golden-")
    names = given.get("import", [])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise UsageError(f"{project}: [tool.{TABLE}] import: expected a list of files and modules, found {names!r}")
    if not names:
        return
    if why := _not_ours(project) or _not_ours(project.parent):
        tell(f"{project}: the operators that it names are left out: {why}; --import FILE.py runs a file of your choice")
        return
    tell(f"{project}: runs {', '.join(names)}, as [tool.{TABLE}] import says; --no-import leaves it out")
    for name in names:
        load(name, project.parent, asked_by=f"{project}: [tool.{TABLE}] import")


def load_entry_points() -> None:
    """What installed packages offer in the group ``fusion_replay.operators``.

    A package that can't be loaded is told on stderr and left out: it must not stop a recording that needs none of it.
    """
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value)):
        try:
            point.load()
        except Exception as error:
            say(f"operators of entry point {point.name} ({point.value}) are left out: {in_words(error)}")


# --- parts ----------------------------------------------------------------------------------------------------------


def _run_file(path: Path) -> ModuleType:
    """Run a file as a module of its own; what lies beside it can be imported by it."""
    name = f"imported.{path.stem}"
    while name in sys.modules:
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _reachable(path.parent)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str, directory: Path) -> ModuleType:
    _reachable(directory)
    return importlib.import_module(name)


def _reachable(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.append(str(directory))  # last: nothing installed is shadowed


def _declarations() -> dict[int, str]:
    """Identity and source of everything that users declared so far: operators, and kernels of the software NPU."""
    return {id(entry): entry.source for table in declared.TABLES for entry in table.values()}


def _declares(module: ModuleType, before: dict[int, str]) -> bool:
    """Something was registered meanwhile, or, for a module that was imported already, by it earlier."""
    now = _declarations()
    return bool(now.keys() - before.keys()) or any(s.startswith(f"{module.__name__}.") for s in now.values())


def _with_line(error: BaseException, path: Path) -> str:
    """The exception, with the line of the named file where it came from."""
    line = line_in(str(path), error) or (error.lineno if isinstance(error, SyntaxError) else None)
    where = f"line {line}: " if line else ""
    return where + (f"{type(error).__name__}: {error.msg}" if isinstance(error, SyntaxError) else in_words(error))


def _not_ours(path: Path) -> str:
    """Why what lies here may be somebody else's word; empty where it is the user's own."""
    return platform.not_ours(str(path), path.stat())


def _upwards(start: Path) -> list[Path]:
    here = start.absolute()
    return [here, *here.parents]


before_first_use(load_entry_points)
