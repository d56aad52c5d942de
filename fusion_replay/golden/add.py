# SPDX-License-Identifier: Apache-2.0
"""Make a golden of a recording: refused where it could not guard anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import MismatchError, MissingError, NothingComparedError, TargetExistsError, UsageError
from fusion_replay.golden.document import Contents, Golden
from fusion_replay.golden.observe import observe
from fusion_replay.golden.pending import write_new
from fusion_replay.golden.project import Project
from fusion_replay.golden.recipes import ON_SOFTWARE, kind_of, portable
from fusion_replay.golden.store import CONTENTS, checked_name, document
from fusion_replay.golden.tolerances import StepTolerance, in_force, unused
from fusion_replay.replaying.replayer import recorded_on
from fusion_replay.snapshot import open_snapshot

if TYPE_CHECKING:
    from fusion_replay.snapshot import Snapshot


def golden_of(
    snapshot: Snapshot,
    name: str,
    *,
    recipe: Mapping[str, Any] | None = None,
    tolerances: Sequence[StepTolerance] = (),
) -> Golden:
    """The golden of a recording, without its contents: every step judged by rule ``auto``, mismatches included.

    Raises:
        MissingError: a step that can't be judged: no reference, contents not kept, never finished.
        NothingComparedError: no step.
        UsageError: a tolerance for a step or an operator that the recording does not have.
    """
    seen = observe(snapshot, in_force(tolerances))
    if seen.skips:
        first = seen.skips[0]
        more = f" (and {len(seen.skips) - 1:,} more steps)" if len(seen.skips) > 1 else ""
        raise MissingError(f"{snapshot.path}: {first.label} cannot be part of a golden{more}: {first.reason}")
    if not seen.steps:
        raise NothingComparedError(f"{snapshot.path}: holds no step; a golden of it would guard nothing")
    if idle := unused(tolerances, seen.steps):
        raise UsageError(f"tolerance for {idle[0].target}: {snapshot.path} has no such step and no such operator")
    return Golden(
        name=name,
        steps=seen.steps,
        recorded_on=recorded_on(snapshot),
        recipe=recipe if recipe is not None else _own_recipe(snapshot),
        tolerances=tuple(tolerances),
        provenance={k: v for k, v in snapshot.provenance.items() if k != "recipe"},
        losses=tuple(f"{loss.kind}: {loss.detail} ({loss.count})" for loss in snapshot.losses),
    )


def add(
    recording: Path,
    folder: Path,
    *,
    name: str | None = None,
    thin: bool = False,
    tolerances: Sequence[StepTolerance] = (),
    recipe: Mapping[str, Any] | None = None,
    accept_mismatch: str = "",
) -> tuple[Path, Golden]:
    """Put the golden of ``recording`` into ``folder``, with a copy of the recording unless it is ``thin``.

    Args:
        name: by default that of the file.
        recipe: how to record it again; by default what the recording says of it.
        accept_mismatch: why steps that mismatch are to be accepted.

    Returns:
        The document's path, and what it says.

    Raises:
        MismatchError: a step mismatches and nobody accepted that.
        TargetExistsError: there is a golden of that name.
        UsageError: a name that is none, a recipe with a path outside the project, a recording that was not closed,
            ``thin`` without a recipe.
        MissingError: as :func:`golden_of`.
    """
    recipe = portable(recipe, Project.find(folder).root)
    name = checked_name(recording.name.removesuffix(CONTENTS) if name is None else name)
    path, contents = document(folder, name), folder / f"{name}{CONTENTS}"
    adopted = contents.exists() and recording.exists() and contents.samefile(recording)
    for target in (path,) if thin or adopted else (path, contents):
        if target.exists():
            raise TargetExistsError(f"{target}: exists already; give another --name, or check and accept the new one")
    with open_snapshot(recording) as snapshot:
        if not snapshot.sealed:
            raise UsageError(f"{recording}: not closed; `fusion-replay fsck --recover {recording}` seals it")
        golden = golden_of(snapshot, name, recipe=recipe, tolerances=tolerances)
    if golden.mismatches and not accept_mismatch.strip():
        raise MismatchError(
            f"{recording}: {len(golden.mismatches)} of {len(golden.steps)} steps mismatch, first "
            f'{golden.mismatches[0]}; see `fusion-replay replay {recording}`, or --accept-mismatch "why"'
        )
    if thin and golden.recipe is None:
        raise UsageError(
            f"{recording}: a thin golden is checked by recording it again; say how with --command or --python"
        )
    golden = replace(golden, accepted_mismatch=accept_mismatch.strip() if golden.mismatches else "")
    copied = not (thin or adopted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if copied:
            write_new(contents, recording)
        if not thin:
            golden = replace(golden, contents=Contents.of(contents, contents.name))
        try:
            write_new(path, golden.to_json())
        except OSError:
            if copied:
                contents.unlink()  # or it would lie there without a golden
            raise
    except OSError as error:
        raise UsageError(f"{folder}: can't be written: {error.strerror or error}") from None
    return path, golden


def _own_recipe(snapshot: Snapshot) -> dict[str, Any] | None:
    """What the recording says of how it was made, where that is a workload: nothing else is taken from a file."""
    said = snapshot.provenance.get("recipe")
    return said if isinstance(said, dict) and kind_of(said) in ON_SOFTWARE else None


__all__ = ["add", "golden_of"]
