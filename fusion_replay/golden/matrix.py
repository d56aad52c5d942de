# SPDX-License-Identifier: Apache-2.0
"""The goldens in ``snapshots/``: IRON's CI matrix on the software NPU, whole where it is small, recipes where not.

A recording that holds what the file before it held replaces nothing, so that making all of them again leaves a
checkout as it was unless a number changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusion_replay import __version__, provenance
from fusion_replay.errors import SnapshotError
from fusion_replay.golden.recipe import Recipe, recipe_of
from fusion_replay.record import record
from fusion_replay.snapshot import open_snapshot
from fusion_replay.snapshot.describe import sequence_to_json
from fusion_replay.workloads.matrix import cases

if TYPE_CHECKING:
    from fusion_replay.workloads.matrix import Case

SMALL = 150_000
"""Bytes of all buffers of a sequence: up to here every recording is kept whole."""
MEDIUM = 600_000
"""The same for the smallest recording of an operator on a device: one of each is kept whole where it can be."""

RECIPE_SUFFIX = ".recipe.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one case.

    Attributes:
        path: its golden, whole or recipe.
        state: "new", "changed", or "unchanged" (the file was left alone).
        steps: how many were recorded.
        mismatches: labels of the steps that rule ``auto`` rejects.
        file_bytes: size of ``path``.
    """

    name: str
    path: Path
    state: Literal["new", "changed", "unchanged"]
    steps: int
    mismatches: tuple[str, ...]
    file_bytes: int


def make(case: Case, folder: Path) -> Entry:
    """Record one case and bring its golden in ``folder`` up to date."""
    kept = folder / f"{case.name}.h5"
    written = folder / f"{case.name}{RECIPE_SUFFIX}"
    with recorded(case) as fresh:
        with open_snapshot(fresh) as snapshot:
            recipe = recipe_of(snapshot, case.name, made_from(case))
        whole = is_kept_whole(case)
        path, other = (kept, written) if whole else (written, kept)
        other.unlink(missing_ok=True)
        state = _update_snapshot(fresh, kept) if whole else _update_text(recipe.to_json(), written)
    return Entry(case.name, path, state, len(recipe.steps), recipe.mismatches, path.stat().st_size)


def remake(case: Case) -> Recipe:
    """Record ``case`` again and say what came out, for :func:`fusion_replay.golden.recipe.differences`."""
    with recorded(case) as fresh, open_snapshot(fresh) as snapshot:
        return recipe_of(snapshot, case.name, made_from(case))


def is_kept_whole(case: Case) -> bool:
    """By the size of the buffers alone, so that it does not depend on how well something compresses."""
    if case.kind == "application" or (size := _buffer_bytes(case)) > MEDIUM:
        return False
    smallest = min(cases(case.device, case.operator), key=lambda c: (_buffer_bytes(c), c.name))
    return size <= SMALL or case == smallest


def _buffer_bytes(case: Case) -> int:
    sizes: dict[str, int] = {}
    for step, *names in case.plan.sequence.runlist:
        sizes.update({n: a.nbytes for n, a in zip(names, step.arg_specs(), strict=True)})
    return sum(sizes.values())


def made_from(case: Case) -> dict[str, Any]:
    """What a recipe says of where it came from."""
    return {"device": case.device, "operator": case.operator, "parameters": dict(case.parameters)}


@contextmanager
def recorded(case: Case) -> Iterator[Path]:
    """A recording of ``case`` on the software NPU, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="fusion-replay-") as folder:
        target = Path(folder) / f"{case.name}.h5"
        run = case.build()
        with record(target, on_error="raise") as recorder:
            for callable_ in run.callables:
                recorder.attach(callable_)
            # Where and when a golden was made says nothing about it, and would change it every time.
            recorder.writer.set_provenance(_provenance(case.name))
            run.execute()
        yield target


def _provenance(name: str) -> dict[str, Any]:
    return {
        "fusion_replay": __version__,
        "command": ["fusion-replay", "record", "--matrix", "--only", name],
        "packages": provenance.package_versions(("numpy", "ml_dtypes")),
    }


def _update_snapshot(fresh: Path, kept: Path) -> Literal["new", "changed", "unchanged"]:
    if not kept.exists():
        shutil.copyfile(fresh, kept)
        return "new"
    if _holds(kept) == _holds(fresh):
        return "unchanged"
    shutil.copyfile(fresh, kept)
    return "changed"


def _update_text(text: str, path: Path) -> Literal["new", "changed", "unchanged"]:
    before = path.read_text("utf-8") if path.exists() else None
    if before == text:
        return "unchanged"
    path.write_text(text, "utf-8")
    return "new" if before is None else "changed"


def _holds(path: str | os.PathLike[str]) -> object:
    """What a recording holds, without who made it when, and how long its steps took."""
    try:
        with open_snapshot(path) as snapshot:
            steps = [
                (
                    step.address,
                    step.status,
                    dict(step.values),
                    [(t.name, t.digest, t.kept) for t in (*step.inputs.values(), *step.outputs.values())],
                )
                for step in snapshot.steps()
            ]
            return [sequence_to_json(s) for s in snapshot.sequences], steps
    except SnapshotError as error:  # made again where it can't be read
        return str(error)


__all__ = ["MEDIUM", "RECIPE_SUFFIX", "SMALL", "Entry", "is_kept_whole", "made_from", "make", "recorded", "remake"]
