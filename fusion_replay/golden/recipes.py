# SPDX-License-Identifier: Apache-2.0
"""Recipes of goldens: how each is recorded again. One key says the kind, its neighbours the arguments:

``matrix``    a case of IRON's CI matrix, on the software NPU
``workload``  a built-in workload with ``device``, ``faults`` and ``options``, on the software NPU
``python``    ``file.py:function`` or ``module:function``, called with the recording under way: it gives a callable to
              record, or calls what it likes
``command``   a program's words, run under ``record``
``test``      the pytest test that records it; only that test can

The last three run code that the golden names, so they need the caller's leave.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_replay.errors import FusionReplayError, MissingError, UsageError
from fusion_replay.recording.options import Options
from fusion_replay.recording.recorder import Recorder
from fusion_replay.system.messages import in_words
from fusion_replay.system.processes import run

KINDS = ("matrix", "workload", "python", "command", "test")
ON_SOFTWARE = ("matrix", "workload")
"""Kinds that run nothing but this package, on the software NPU."""

_PYTHON = "python"  # of a command: the interpreter that runs us, whatever it is called here
PATIENCE = 3600.0  # seconds for a program
STEP_PATIENCE = 600.0  # seconds for one of its steps


def kind_of(recipe: Mapping[str, Any] | None) -> str | None:
    """The recipe's kind; None where there is none.

    Raises:
        UsageError: a recipe of no known kind.
    """
    if recipe is None:
        return None
    found = [k for k in KINDS if k in recipe]
    if len(found) != 1:
        raise UsageError(f"recipe with {', '.join(map(str, recipe)) or 'nothing'}: expected one of {', '.join(KINDS)}")
    return found[0]


def portable(recipe: Mapping[str, Any] | None, root: Path) -> Mapping[str, Any] | None:
    """The recipe with paths below the project's folder ``root`` relative to it: a golden is read on other machines.

    Raises:
        UsageError: a path that is elsewhere.
    """

    def relative(text: str) -> str:
        if not Path(text).is_absolute():
            return text
        if text == sys.executable:
            return _PYTHON
        try:
            return Path(text).relative_to(root.absolute()).as_posix()
        except ValueError:
            raise UsageError(
                f"recipe: {text} is a path of this machine alone; give one below {root.absolute()}, or a program that "
                "is found by its name"
            ) from None

    kind = kind_of(recipe)
    if recipe is None or kind not in ("python", "command"):
        return recipe
    if kind == "command":
        words = recipe[kind]
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            return recipe  # whoever follows it says so
        return {**recipe, kind: [relative(w) for w in words]}
    file, colon, function = str(recipe[kind]).rpartition(":")
    return {**recipe, kind: f"{relative(file)}{colon}{function}"}


def in_a_few_words(recipe: Mapping[str, Any] | None) -> str:
    kind = kind_of(recipe)
    if recipe is None or kind is None:
        return "no recipe"
    value = recipe[kind]
    return f"{kind} {' '.join(map(str, value)) if isinstance(value, list) else value}"


def record_again(recipe: Mapping[str, Any] | None, target: Path, *, leave: bool, root: Path) -> None:
    """Make the recording that the recipe describes.

    Args:
        target: the file to write; nothing lies there yet.
        leave: whether code that the recipe names may run.
        root: the project's folder, which relative paths of ``python`` start from and where ``command`` runs.

    Raises:
        MissingError: no recipe, no leave, nothing came out, or what it ran failed.
        UsageError: a malformed recipe.
    """
    kind = kind_of(recipe)
    if recipe is None or kind is None:
        raise MissingError("it has no recipe, so it can't be recorded again: add it with --command or --python")
    if kind == "test":
        raise MissingError(f"only its test records it again: pytest {recipe['test']}")
    if kind not in ON_SOFTWARE and not leave:
        raise MissingError(f"its recipe runs code ({in_a_few_words(recipe)}); allow that with --run-recipes")
    try:
        _follow(recipe, kind, target, root)
    except FusionReplayError:
        raise
    except Exception as error:  # of the code that the recipe names, or of the device
        raise MissingError(f"{in_a_few_words(recipe)} failed: {in_words(error)}") from error


def _follow(recipe: Mapping[str, Any], kind: str, target: Path, root: Path) -> None:
    if kind in ON_SOFTWARE:
        record_run(built(recipe), target)
    elif kind == "python":
        record_built(_entry(str(recipe["python"]), root), target)
    else:
        _run_program(recipe["command"], target, root)


def built(recipe: Mapping[str, Any], faults: Sequence[str] = ()) -> Any:
    """The run of a recipe of the software NPU, with these faults besides its own.

    Raises:
        UsageError: a malformed recipe, or a fault that fits none of its steps.
    """
    if "matrix" not in recipe:
        return _workload(recipe, faults)
    from fusion_replay.simulator.workloads.matrix import cases

    found = [c for c in cases() if c.name == recipe["matrix"]]
    if not found:
        raise UsageError(f"recipe: no case of the matrix is called {recipe['matrix']!r}")
    return found[0].build(faults)


def record_built(build: Callable[[], Any], target: Path) -> None:
    """Record what ``build`` does, and what the callable does that it gives, if it gives one.

    IRON's dispatches are found wherever they happen; the software NPU's callables are recorded when they are given
    back.
    """
    with Recorder(target, options=Options(on_error="raise")) as recorder:
        built = build()
        if built is not None:
            if not callable(built):
                raise UsageError(f"{build!r} gave {type(built).__name__}: expected a callable to record, or None")
            recorder.attach(built)
            built()
    _need_steps(recorder, getattr(build, "__qualname__", repr(build)))


def record_run(run: Any, target: Path, *, about: Mapping[str, Any] | None = None) -> None:
    """Record every invocation of a workload's run; ``about`` replaces the provenance."""
    with Recorder(target, options=Options(on_error="raise"), dispatches=False) as recorder:
        for callable_ in run.callables:
            recorder.attach(callable_)
        if about is not None:
            recorder.recording.writer.set_provenance(about)
        run.execute()
    _need_steps(recorder, run.describe())


def _need_steps(recorder: Recorder, what: str) -> None:
    if recorder.report is None or not recorder.report.steps:
        raise MissingError(f"{what}: nothing was recorded; is there a device, and does it dispatch step by step?")


def _workload(recipe: Mapping[str, Any], more: Sequence[str] = ()) -> Any:
    from fusion_replay.simulator.faults import parse_fault
    from fusion_replay.simulator.faults.catalogue import KINDS
    from fusion_replay.simulator.workloads import find

    faults, options, device = recipe.get("faults", []), recipe.get("options", {}), recipe.get("device")
    if not isinstance(faults, list) or not isinstance(options, dict) or not isinstance(device, str):
        raise UsageError(f"recipe of workload {recipe['workload']}: expected device, faults (a list), options (names)")
    parsed = [parse_fault(str(f)) for f in (*faults, *more)]
    if endless := next((f for f in parsed if KINDS[f.kind].endless), None):
        raise UsageError(
            f"recipe of workload {recipe['workload']}: with the fault {endless} a step never ends, so no recording "
            "comes of it that could be checked; take the fault out of the recipe"
        )
    return find(str(recipe["workload"])).build(device, parsed, options)


def _entry(where: str, root: Path) -> Callable[[], Any]:
    """``file.py:function`` or ``module:function``, imported."""
    source, colon, name = where.rpartition(":")
    if not colon or not source or not name.isidentifier():
        raise UsageError(f"recipe python {where!r}: expected file.py:function or module:function")
    if str(root) not in sys.path:
        sys.path.append(str(root))  # last: nothing installed is shadowed
    try:
        if source.endswith(".py"):
            spec = importlib.util.spec_from_file_location(f"recipe.{Path(source).stem}", root / source)
            if spec is None or spec.loader is None:
                raise UsageError(f"recipe python {where!r}: {source} is no Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
        found = getattr(module, name)
    except UsageError:
        raise
    except Exception as error:
        raise MissingError(f"recipe python {where!r}: {in_words(error)}") from error
    if not callable(found):
        raise UsageError(f"recipe python {where!r}: {name} is no function")
    entry: Callable[[], Any] = found
    return entry


def _run_program(words: Any, target: Path, root: Path) -> None:
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise UsageError(f"recipe command {words!r}: expected a list of words")
    words = [sys.executable if i == 0 and w == _PYTHON else w for i, w in enumerate(words)]
    options = ["-o", str(target.absolute()), "--step-timeout", f"{STEP_PATIENCE:g}"]
    arguments = [sys.executable, "-m", "fusion_replay", "record", *options, "--", *words]
    try:
        done = run(arguments, PATIENCE, cwd=root)
    except subprocess.TimeoutExpired:
        raise MissingError(f"{' '.join(words)}: still running after {PATIENCE:g} s; it was ended") from None
    if not target.exists():
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise MissingError(f"{' '.join(words)}: recorded nothing, exit status {done.returncode}: {last}")


__all__ = [
    "KINDS",
    "ON_SOFTWARE",
    "built",
    "in_a_few_words",
    "kind_of",
    "portable",
    "record_again",
    "record_built",
    "record_run",
]
