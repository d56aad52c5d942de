# SPDX-License-Identifier: Apache-2.0
"""Pending goldens after a check: what would change step by step, and accepting or rejecting it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from fusion_replay.diverge.environment import environment_changes, in_one_line
from fusion_replay.errors import DamagedSnapshotError, MismatchError, SnapshotError, UsageError
from fusion_replay.golden import moves
from fusion_replay.golden.document import Golden, sha256_of
from fusion_replay.golden.observe import Observation
from fusion_replay.golden.project import Project
from fusion_replay.golden.store import CONTENTS, NEW, Folder, document, name_of
from fusion_replay.model.text import one_line, printable
from fusion_replay.system.messages import count


@dataclass(frozen=True, slots=True)
class Pending:
    """A golden that waits for a review.

    Attributes:
        name: of the golden.
        path: the pending document.
        new: what it says; None where it can't be read.
        target: the document that it would become.
        old: what that says now; None where there is none.
        problem: why it can't be accepted as it is; empty where it can.
    """

    name: str
    path: Path
    new: Golden | None
    target: Path
    old: Golden | None
    problem: str = ""

    @property
    def contents(self) -> Path | None:
        """The pending contents, where they change."""
        path = self.path.with_name(f"{self.name}{CONTENTS}{NEW}")
        return path if path.exists() else None

    def lines(self, every: bool = False) -> list[str]:
        """The difference for a person: what else changed, then the steps that differ."""
        if self.new is None:
            return [one_line(f"{self.name}: {self.problem}")]
        if self.old is None:
            return [f"{self.name}: new, {count(len(self.new.steps), 'step')}"]
        outcomes, extra = moves.of_remade(self.old, Observation(self.new.steps, ()), None, reference_too=True)
        wrong = [o for o in outcomes if not o]
        lines = [f"{self.name}: {len(wrong):,} of {len(outcomes):,} steps differ"]
        lines += [f"  {text}" for text in _head(self.old, self.new)]
        lines += [f"  {p.text}" for p in extra]
        shown = wrong if every else wrong[:10]
        said = self.new.moved  # the check's own words, which know more than two documents do
        lines += [
            f"  {o.label}: {'after it, ' if o.state == 'follows' else ''}{said.get(o.address, o.text)}" for o in shown
        ]
        lines += [f"  and {len(wrong) - len(shown):,} more steps; -v shows all"] if len(wrong) > len(shown) else []
        return list(map(printable, lines + ([f"  {self.problem}"] if self.problem else [])))

    def to_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "path": str(self.path),
            "target": str(self.target),
            "contents": self.contents is not None,
            "problem": self.problem,
            "lines": self.lines(every=True),
        }


def waiting(folder: Path, into: Path | None = None) -> tuple[Pending, ...]:
    """The pending goldens in ``folder``; ``into``: the folder of goldens that they belong to, where it is another.

    Raises:
        UsageError: no such folder.
    """
    listing = Folder.scan(folder)
    goldens = listing if into is None else Folder.scan(into)
    return tuple(_pending(path, goldens, beside=into is None) for path in listing.pending)


def choose(pending: tuple[Pending, ...], names: tuple[str, ...], every: bool, folder: Path) -> tuple[Pending, ...]:
    """Those that were asked for.

    Raises:
        UsageError: a name that waits for nothing, nothing waits at all, or neither names nor ``every``.
    """
    if not names and not every:
        raise UsageError(f"name what to take, or give --all; waiting in {folder}: {_names(pending)}")
    unknown = [n for n in names if n not in {p.name for p in pending}]
    if unknown or not pending:
        what = f"nothing called {unknown[0]} waits" if unknown else "nothing waits for a review"
        raise UsageError(f"{folder}: {what}; waiting: {_names(pending)}")
    return tuple(p for p in pending if every or p.name in names)


def accept(pending: Pending, project: Project, *, accept_mismatch: str = "") -> tuple[Path, ...]:
    """Make the pending golden the golden; the files that were written.

    Raises:
        UsageError: it can't be accepted as it is, or its folder can't be written.
        MismatchError: it holds mismatches that nobody gave a reason for.
        DamagedSnapshotError: its contents are not those that it names.
    """
    if pending.problem or pending.new is None:
        raise UsageError(f"{pending.path}: {pending.problem}")
    new = replace(pending.new, replaces="", moved={})
    if new.mismatches:
        why = accept_mismatch.strip() or new.accepted_mismatch
        if not why:
            raise MismatchError(
                f"{pending.name}: {len(new.mismatches)} of {len(new.steps)} steps would be accepted as mismatches, "
                f'first {new.mismatches[0]}; if that is right, --accept-mismatch "why"'
            )
        new = replace(new, accepted_mismatch=why)
    else:
        new = replace(new, accepted_mismatch="")
    written = []
    try:
        pending.target.parent.mkdir(parents=True, exist_ok=True)
        if (source := pending.contents) is not None:
            written.append(_place(source, _contents_target(pending, new, project)))
        written.append(_place(new.to_json(), pending.target))
        reject(pending)
    except OSError as error:
        raise UsageError(f"{error.filename or pending.target}: can't be written: {error.strerror}") from None
    return tuple(written)


def reject(pending: Pending) -> None:
    """Remove the pending files; the golden stays as it is."""
    for path in (pending.contents, pending.path):
        if path is not None:
            path.unlink(missing_ok=True)


def _pending(path: Path, goldens: Folder, *, beside: bool) -> Pending:
    name = name_of(path)
    target = document(path.parent, name) if beside else goldens.find(name) or document(goldens.path, name)
    try:
        old = Golden.read(target) if target.exists() else None
        found = Pending(name, path, Golden.read(path), target, old)
        return replace(found, problem=_problem(found))
    except SnapshotError as error:
        return Pending(name, path, None, target, None, f"can't be read: {error}")


def _problem(pending: Pending) -> str:
    new = pending.new
    assert new is not None
    if new.name != pending.name:
        return f"it calls itself {new.name!r}; correct or reject it"
    now = sha256_of(pending.target) if pending.old is not None else ""
    if new.replaces != now:
        what = "the golden has changed since this was written" if now else "the golden that it replaces is gone"
        return f"{what} ({pending.target}); reject it and check again"
    if new.contents is None or (pending.old is not None and new.contents == pending.old.contents):
        return ""
    source = pending.contents
    if source is None:
        return f"its contents {name_of(pending.path)}{CONTENTS}{NEW} are missing beside it; fetch them too"
    if source.stat().st_size != new.contents.size or sha256_of(source) != new.contents.sha256:
        return f"{source}: not the contents that it names (SHA-256); fetch them again"
    return ""


def _head(old: Golden, new: Golden) -> list[str]:
    found = []
    if (change := in_one_line(environment_changes(old.provenance, new.provenance))) != "":
        found.append(f"environment: {change}")
    if old.contents != new.contents:
        sizes = [f"{g.contents.size:,} bytes" if g.contents else "none" for g in (old, new)]
        found.append(f"contents: {sizes[0]} -> {sizes[1]}")
    if old.tolerances != new.tolerances:
        found.append("tolerances: changed")
    return found


def _contents_target(pending: Pending, new: Golden, project: Project) -> Path:
    """Where its contents lie already, or beside it; what comes from a URL has to be put there by somebody."""
    if new.contents is None:
        raise DamagedSnapshotError(f"{pending.path}: names no contents, but {pending.contents} lies beside it")
    beside = pending.target.with_name(new.contents.file)
    if project.contents is None or beside.exists() or "://" in project.contents:
        return beside
    return project.root / project.contents / new.contents.file


def _place(what: str | Path, target: Path) -> Path:
    """Replace ``target`` at once by a text or a copy of a file."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if isinstance(what, str):
            part.write_text(what, "utf-8")
        else:
            shutil.copyfile(what, part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _names(pending: tuple[Pending, ...]) -> str:
    return ", ".join(p.name for p in pending) or "nothing"


__all__ = ["Pending", "accept", "choose", "reject", "waiting"]
