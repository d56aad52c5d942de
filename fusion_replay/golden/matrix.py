# SPDX-License-Identifier: Apache-2.0
"""The goldens in ``snapshots/``: IRON's CI matrix on the software NPU, whole where it is small, thin where not.

A recording that holds what the file before it held replaces nothing, so that making all of them again leaves a
checkout as it was unless a number changed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusion_replay import __version__
from fusion_replay.errors import SnapshotError
from fusion_replay.golden.add import golden_of
from fusion_replay.golden.document import Contents, Golden
from fusion_replay.golden.recipes import record_run
from fusion_replay.golden.store import CONTENTS, document
from fusion_replay.simulator.workloads.matrix import cases
from fusion_replay.snapshot import open_snapshot
from fusion_replay.snapshot.describe import sequence_to_json
from fusion_replay.sources import provenance

if TYPE_CHECKING:
    from fusion_replay.simulator.workloads.matrix import MatrixCase

State = Literal["new", "changed", "unchanged"]

SMALL = 150_000
"""Bytes of all buffers of a sequence: up to here every recording is kept whole."""
MEDIUM = 600_000
"""The same for the smallest recording of an operator on a device: one of each is kept whole where it can be."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one case.

    Attributes:
        path: its golden.
        state: "new", "changed", or "unchanged" (the files were left alone).
        whole: its contents lie beside it.
        steps: how many were recorded.
        mismatches: labels of the steps that rule ``auto`` rejects.
        file_bytes: size of ``path`` and its contents.
    """

    name: str
    path: Path
    state: State
    whole: bool
    steps: int
    mismatches: tuple[str, ...]
    file_bytes: int


def make(case: MatrixCase, folder: Path) -> Entry:
    """Record one case and bring its golden up to date, in the folder of its device and operator below ``folder``."""
    folder = folder / case.device / case.operator
    folder.mkdir(parents=True, exist_ok=True)
    path, kept = document(folder, case.name), folder / f"{case.name}{CONTENTS}"
    with recorded(case) as fresh:
        golden = _golden(case, fresh)
        states: list[State] = []
        if is_kept_whole(case):
            states.append(_update_snapshot(fresh, kept))
            golden = replace(golden, contents=Contents.of(kept, kept.name))
        else:
            kept.unlink(missing_ok=True)
        states.append(_update_text(golden, path))
    state: State = next((s for s in states if s != "unchanged"), "unchanged")
    size = path.stat().st_size + (kept.stat().st_size if golden.contents else 0)
    return Entry(case.name, path, state, golden.contents is not None, len(golden.steps), golden.mismatches, size)


def _golden(case: MatrixCase, recording: Path) -> Golden:
    with open_snapshot(recording) as snapshot:
        return golden_of(snapshot, case.name, recipe=recipe_of(case))


def is_kept_whole(case: MatrixCase) -> bool:
    """By the size of the buffers alone, so that it does not depend on how well something compresses."""
    if case.kind == "application" or (size := _buffer_bytes(case)) > MEDIUM:
        return False
    smallest = min(cases(case.device, case.operator), key=lambda c: (_buffer_bytes(c), c.name))
    return size <= SMALL or case == smallest


def _buffer_bytes(case: MatrixCase) -> int:
    sizes: dict[str, int] = {}
    for step, *names in case.plan.sequence.runlist:
        sizes.update({n: a.nbytes for n, a in zip(names, step.arg_specs(), strict=True)})
    return sum(sizes.values())


def recipe_of(case: MatrixCase) -> dict[str, Any]:
    """How the case is recorded again."""
    return {"matrix": case.name, "device": case.device, "operator": case.operator, "parameters": dict(case.parameters)}


@contextmanager
def recorded(case: MatrixCase) -> Iterator[Path]:
    """A recording of ``case`` on the software NPU, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="fusion-replay-") as folder:
        target = Path(folder) / f"{case.name}{CONTENTS}"
        # Where and when a golden was made says nothing about it, and would change it every time.
        record_run(case.build(), target, about=_provenance(case.name))
        yield target


def _provenance(name: str) -> dict[str, Any]:
    return {
        "fusion_replay": __version__,
        "command": ["fusion-replay", "record", "--matrix", "--only", name],
        "packages": provenance.package_versions(("numpy", "ml_dtypes")),
    }


def _update_snapshot(fresh: Path, kept: Path) -> State:
    if not kept.exists():
        shutil.copyfile(fresh, kept)
        return "new"
    if _holds(kept) == _holds(fresh):
        return "unchanged"
    shutil.copyfile(fresh, kept)
    return "changed"


def _update_text(golden: Golden, path: Path) -> State:
    """Versions of packages alone are no reason to touch a golden that a person would have to review."""
    existed = path.exists()
    try:
        if existed and replace(Golden.read(path), provenance=golden.provenance) == golden:
            return "unchanged"
    except SnapshotError:
        pass  # made again where it can't be read
    path.write_text(golden.to_json(), "utf-8")
    return "changed" if existed else "new"


def _holds(path: str | os.PathLike[str]) -> object:
    """What a recording holds, without who made it when, in which of our modules, and how long its steps took."""
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
            sequences = [sequence_to_json(s) for s in snapshot.sequences]
            for operator in (o for sequence in sequences for o in sequence["operators"]):
                operator.pop("module", None)
            return sequences, steps
    except SnapshotError as error:  # made again where it can't be read
        return str(error)


__all__ = ["MEDIUM", "SMALL", "Entry", "is_kept_whole", "make", "recipe_of", "recorded"]
