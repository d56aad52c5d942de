# SPDX-License-Identifier: Apache-2.0
"""Check goldens: does the reference still agree with what was recorded, and does the NPU still give it?

The first question needs only the golden. The second records again from the recipe, on the software NPU or a real one,
or dispatches what was recorded again where the recording can run by itself. A thin golden has no contents, so it is
always recorded again and answers both at once.
"""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusion_replay.compare.verdict import compare
from fusion_replay.diverge.environment import environment_changes
from fusion_replay.diverge.explain import explain_difference
from fusion_replay.errors import FusionReplayError, SnapshotError, UsageError
from fusion_replay.golden import moves, recipes
from fusion_replay.golden.check_report import CheckedStep, GoldenReport, GoldenResult, Problem
from fusion_replay.golden.document import Golden
from fusion_replay.golden.observe import Observation, observe
from fusion_replay.golden.pending import propose
from fusion_replay.golden.problems import document_problems, folder_problems
from fusion_replay.golden.project import Project
from fusion_replay.golden.redispatched import Device, can_dispatch, dispatch_again
from fusion_replay.golden.store import NEW, SUFFIX, Folder, contents_of, name_of
from fusion_replay.golden.tolerances import in_force
from fusion_replay.snapshot import open_snapshot
from fusion_replay.sources import provenance

if TYPE_CHECKING:
    from fusion_replay.golden.document import GoldenStep
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot

Progress = Callable[[int, int], object]

_CACHE = 64 << 20  # bytes of decoded tensors per golden: each is read once
_JUDGING = ("fusion_replay", "python", "packages")  # of a provenance, what can move a reference


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How goldens are checked.

    Attributes:
        on: also record again, on "sim" (the software NPU) or "npu".
        exact: a device's output must be the recorded one to the bit, its limits don't count.
        run_recipes: recipes may run the code that they name.
        write_new: put what was found where a person can review it, wherever something moved.
        new_dir: the folder for that; beside each golden where it is None.
        fetch_private: contents may be fetched from addresses that are not public, and over http there.
    """

    on: Literal["sim", "npu"] | None = None
    exact: bool = False
    run_recipes: bool = False
    write_new: bool = False
    new_dir: Path | None = None
    fetch_private: bool = False


def check_folder(
    folder: Path,
    options: CheckOptions = CheckOptions(),
    *,
    only: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> GoldenReport:
    """Check every golden in ``folder`` and the folders in it.

    Args:
        only: a pattern such as ``npu1-*``, or a part of the name.
        workers: goldens that are checked at a time, by default one per core; the report is the same for any number.
            On an NPU always one.
        progress: called with (goldens done, goldens in all).

    Raises:
        UsageError: no folder, a pattern that matches nothing, a malformed ``pyproject.toml``.
    """
    listing, project = Folder.scan(folder), Project.find(folder)
    chosen = [p for p in listing.goldens if only is None or matches(name_of(p), only)]
    if only is not None and not chosen and listing.goldens:
        some = ", ".join(name_of(p) for p in listing.goldens[:3])
        raise UsageError(f"{folder}: no golden matches {only!r}; it has {len(listing.goldens)}, such as {some}")

    device = Device()

    def one(path: Path) -> GoldenResult:
        return check_golden(path, options, project, device)

    results: list[GoldenResult] = []
    at_a_time = 1 if options.on == "npu" else max(1, workers or os.cpu_count() or 1)
    with ThreadPoolExecutor(at_a_time, "golden") as pool:
        for result in pool.map(one, chosen):
            results.append(result)
            if progress is not None:
                progress(len(results), len(chosen))
    problems = folder_problems(listing)
    left_out = len(listing.goldens) - len(chosen)
    return GoldenReport(str(folder), options.on, tuple(results), tuple(problems), left_out)


def check_golden(
    path: Path,
    options: CheckOptions = CheckOptions(),
    project: Project | None = None,
    device: Device | None = None,
    *,
    remade: Path | None = None,
) -> GoldenResult:
    """Check the golden at ``path``; whatever is wrong with it is in the result.

    Args:
        device: one for all goldens that are checked on an NPU: once it is lost the others are not run.
        remade: a recording that was made again already; its device and recipe are the caller's business.
    """
    name = name_of(path)
    project = Project.find(path.parent) if project is None else project
    try:
        golden = Golden.read(path)
    except SnapshotError as error:
        return GoldenResult(name, str(path), problems=(Problem("unreadable", name, str(error)),))
    return _Check(golden, path, options, project, device or Device(), remade).result()


def matches(name: str, pattern: str) -> bool:
    """Whether a golden's name fits ``pattern``: with wildcards as a whole, without as a part."""
    return fnmatch.fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else pattern in name


class _Check:
    """One golden under way: what is open, and what was found so far."""

    def __init__(
        self, golden: Golden, path: Path, options: CheckOptions, project: Project, device: Device, remade: Path | None
    ) -> None:
        self.golden, self.path, self.options, self.project = golden, path, options, project
        self.device, self.remade = device, remade
        self.steps: list[CheckedStep] = []
        self.problems = document_problems(golden, name_of(path))
        self.notes: list[str] = []
        self.candidate: tuple[Golden, Path | None] | None = None
        self.environment: tuple[str, ...] = ()
        self.limits = in_force(golden.tolerances)

    def result(self) -> GoldenResult:
        with ExitStack() as stack:
            recorded = self._recorded(stack)
            if recorded is not None:
                self._judge(recorded)
            if self.options.on is not None or self.golden.contents is None or self.remade is not None:
                scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fusion-replay-")))
                if recorded is None or not self._dispatched(recorded, scratch):
                    self._again(stack, recorded, scratch)
            return self._finished()

    def _recorded(self, stack: ExitStack) -> Snapshot | None:
        try:
            contents = contents_of(self.golden, self.path, self.project, private=self.options.fetch_private)
            return None if contents is None else stack.enter_context(open_snapshot(contents, cache_bytes=_CACHE))
        except FusionReplayError as error:
            kind = "contents" if isinstance(error, SnapshotError) else "missing"
            self.problems.append(Problem(kind, self.golden.name, str(error)))
            return None

    def _judge(self, recorded: Snapshot) -> None:
        """Question one, from the golden's own contents."""
        if (seen := self._observed(recorded)) is None:
            return
        steps, problems = moves.of_recording(self.golden, seen)
        self._found(steps, problems, provenance.gather(), _JUDGING)
        self._could_be(seen, None, self.golden.provenance)

    def _dispatched(self, recorded: Snapshot, scratch: Path) -> bool:
        """Question two, from what was recorded; False where a new recording is needed for it."""
        on = self.options.on
        if on is None or not can_dispatch(self.golden, recorded, on, self.options.run_recipes):
            return False
        try:
            steps = dispatch_again(self.golden, recorded, on, self.device, scratch, exact=self.options.exact)
        except FusionReplayError as error:
            kind = "contents" if isinstance(error, SnapshotError) else "missing"
            self.problems.append(Problem(kind, self.golden.name, f"can't be dispatched again: {error}"))
            return True
        self._found(steps, (), provenance.gather(), None)
        if self.options.write_new and any(s.state == "moved" for s in steps):
            self.notes.append("dispatched again, not recorded again: --run-recipes makes what can be reviewed")
        return True

    def _again(self, stack: ExitStack, recorded: Snapshot | None, scratch: Path) -> None:
        """Question two, from a recording made now; of a thin golden both."""
        target = scratch / f"{self.golden.name}.h5" if self.remade is None else self.remade
        try:
            if self.remade is None:
                recipes.record_again(self.golden.recipe, target, leave=self.options.run_recipes, root=self.project.root)
            fresh = stack.enter_context(open_snapshot(target, cache_bytes=_CACHE))
        except FusionReplayError as error:
            self.problems.append(Problem("recipe", self.golden.name, f"can't be recorded again: {error}"))
            return
        if wrong := _wrong_device(fresh, self.options.on):
            self.problems.append(Problem("environment", self.golden.name, wrong))
            return
        if (seen := self._observed(fresh)) is None:
            return
        near = None if recorded is None or self.options.exact else _near(recorded, fresh)
        steps, problems = moves.of_remade(self.golden, seen, near, reference_too=recorded is None)
        if recorded is not None:
            steps = _explained(steps, recorded, fresh)
        self._found(steps, problems, fresh.provenance, None)
        if self.candidate is None or any(s.state == "moved" for s in steps) or problems:
            whole = self.golden.contents is not None
            self._could_be(seen, target if whole else None, fresh.provenance)

    def _observed(self, snapshot: Snapshot) -> Observation | None:
        try:
            return observe(snapshot, self.limits)
        except SnapshotError as error:
            self.problems.append(Problem("contents", self.golden.name, str(error)))
            return None

    def _found(
        self,
        steps: Iterable[CheckedStep],
        problems: Iterable[Problem],
        now: Mapping[str, Any],
        keys: tuple[str, ...] | None,
    ) -> None:
        self.steps += steps
        self.problems += problems
        changed = _environment(self.golden.provenance, now, keys)
        self.environment = tuple(dict.fromkeys((*self.environment, *changed)))

    def _could_be(self, seen: Observation, contents: Path | None, about: Mapping[str, Any]) -> None:
        """What the golden would be if what was found is right; a step that can't be judged has no place in one.

        In the environment that it names nothing of its provenance changes: who recorded again when is no news.
        """
        if not _environment(self.golden.provenance, about, None):
            about = self.golden.provenance
        if not seen.skips:
            self.candidate = replace(self.golden, steps=seen.steps, provenance=about), contents

    def _finished(self) -> GoldenResult:
        found = GoldenResult(
            self.golden.name, str(self.path), tuple(self.steps), tuple(self.problems), self.environment
        )
        if not found.compared and not found.problems:
            text = "nothing was compared: no step of it could be judged"
            found = replace(found, problems=(Problem("not_compared", self.golden.name, text),))
        pending = None
        if not found and self.options.write_new and self.candidate is not None:
            try:
                golden, contents = self.candidate
                said = {s.address: s.text for s in reversed(self.steps) if s.state == "moved"}
                pending = propose(self.path, replace(golden, moved=said), contents, self.options.new_dir)
            except UsageError as error:
                self.notes.append(str(error))
        waiting = self.path.with_name(self.golden.name + SUFFIX + NEW)
        if pending is None and waiting.exists() and not self.notes:
            self.notes.append(f"{waiting} waits for a review")
        if self.golden.mismatches:
            n = len(self.golden.mismatches)
            self.notes.append(f"{n} known mismatch{'' if n == 1 else 'es'}: {self.golden.accepted_mismatch}")
        return replace(found, notes=tuple(self.notes), pending=None if pending is None else str(pending))


# --- parts ----------------------------------------------------------------------------------------------------------


def _near(recorded: Snapshot, fresh: Snapshot) -> moves.Near:
    def near(step: GoldenStep) -> str | None:
        said = []
        for old, new in _pairs(recorded[step.address], fresh[step.address]):
            if old.digest == new.digest:
                continue
            verdict = compare(new.numpy(), old.numpy(), "auto", tolerance=step.limits)
            if not verdict:
                return None
            said.append(f"output {new.name}: rel_l2 {verdict.stats.rel_l2:.2g} from the accepted one, {step.limits}")
        return "; ".join(said)

    return near


def _explained(steps: list[CheckedStep], recorded: Snapshot, fresh: Snapshot) -> list[CheckedStep]:
    """The first step whose output moved says where in it, by how much, and what would make it."""
    at = next((i for i, s in enumerate(steps) if s.state == "moved" and s.kind == "npu"), None)
    if at is None:
        return steps
    old, new = (snapshot[steps[at].address] for snapshot in (recorded, fresh))
    try:
        found = explain_difference(old, new, (recorded, fresh))
    except FusionReplayError:
        return steps  # it moved all the same
    if found is None:
        return steps
    size = next((v for o, n in _pairs(old, new) if (v := _distance(o, n))), "")
    text = "; ".join(filter(None, (steps[at].text, size, f"where: {found.where}", f"cause: {found.cause}")))
    return [*steps[:at], replace(steps[at], text=text), *steps[at + 1 :]]


def _pairs(old: Step, new: Step) -> Iterable[tuple[RecordedTensor, RecordedTensor]]:
    return zip(old.outputs.in_order(), new.outputs.in_order(), strict=True)


def _distance(old: RecordedTensor, new: RecordedTensor) -> str:
    """How far a content is from the accepted one; empty where it is the same."""
    if old.digest == new.digest:
        return ""
    stats = compare(new.numpy(), old.numpy(), "strict").stats
    return f"rel_l2 {stats.rel_l2:.2g}, max_abs {stats.max_abs:.3g} from the accepted one"


def _wrong_device(fresh: Snapshot, on: str | None) -> str | None:
    software = {s.origin.get("variant") == "simulator" for s in fresh.sequences}
    if on == "npu" and True in software:
        return "environment moved: its recipe ran on the software NPU, an NPU was asked for"
    if on == "sim" and False in software:
        return "environment moved: its recipe did not run on the software NPU, which was asked for"
    return None


def _environment(old: Mapping[str, Any], new: Mapping[str, Any], keys: tuple[str, ...] | None) -> tuple[str, ...]:
    """What is another one now, of what the golden says of its environment."""
    kept = {k: v for k, v in old.items() if keys is None or k in keys}
    now = {k: new[k] for k in kept if k in new}
    if isinstance(kept.get("packages"), dict) and isinstance(now.get("packages"), dict):
        now["packages"] = {k: v for k, v in now["packages"].items() if k in kept["packages"]}
    return tuple(map(str, environment_changes(kept, now)))


__all__ = ["CheckOptions", "check_folder", "check_golden", "matches"]
