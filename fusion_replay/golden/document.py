# SPDX-License-Identifier: Apache-2.0
"""``NAME.golden.json``: an accepted recording as the text that people review.

Of every step it has the digests of contents from outside, of the outputs, and of the reference's outputs where they
differ, rounded statistics of that difference, the limits in force and the verdict. The contents themselves lie in
``NAME.h5``, named here by size and SHA-256, or are made again from the recipe (a *thin* golden). Canonical JSON, one
step per line: equal goldens are equal text, and a change is a diff that a person can read. docs/goldens.md describes
every key.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_replay.compare.tolerance import Tolerance
from fusion_replay.diverge.changed_sides import Digests
from fusion_replay.errors import DamagedSnapshotError, ForeignFileError, NewerFormatError, SnapshotError
from fusion_replay.golden import fields
from fusion_replay.golden.tolerances import StepTolerance, limits_from_dict, limits_to_dict
from fusion_replay.model.text import one_line, shell
from fusion_replay.replaying.replay_report import canonical_json
from fusion_replay.system.files import refuse_lfs_pointer, regular

FORMAT, VERSION = "fusion-replay.golden", 1
SUFFIX = ".golden.json"
_MARKED = re.compile(rb"(?ms)^<<<<<<< .*?(?:^>>>>>>> |\Z)")
_ADDRESS = re.compile(rb'^\{"address":"(\d{1,9}:\d{1,9})"', re.M)
MAX_BYTES = 64 << 20  # of a document: some 100,000 steps


@dataclass(frozen=True, slots=True)
class GoldenStep:
    """One step of a golden.

    Attributes:
        address: "INVOCATION:STEP".
        op, flow: operator type and data flow ("GEMV", "a, b -> c").
        inputs: digests of the inputs that no earlier step of the recording has written.
        outputs: what the device wrote.
        expected: what the reference says, for the outputs that it does not match bit for bit.
        stats: deviation of those, by output.
        limits: of rule ``auto``, those in force.
        verdict: "match" or "mismatch".
    """

    address: str
    op: str
    flow: str
    inputs: Digests
    outputs: Digests
    expected: Digests
    stats: Mapping[str, Mapping[str, Any]]
    limits: Tolerance
    verdict: str

    @property
    def label(self) -> str:
        return one_line(f"{self.address} {self.op} {self.flow}")

    @property
    def reference(self) -> dict[str, str]:
        """Digests of all that the reference says."""
        return {**self.outputs, **self.expected}

    def to_dict(self) -> dict[str, Any]:
        found = {n: getattr(self, n) for n in ("address", "op", "flow", "verdict")}
        found |= {"outputs": dict(self.outputs), "limits": limits_to_dict(self.limits)}
        optional = {"inputs": self.inputs, "expected": self.expected, "stats": self.stats}
        return found | {k: dict(v) for k, v in optional.items() if v}

    @classmethod
    def from_dict(cls, data: Any, where: str) -> GoldenStep:
        step = fields.mapping(data, where)
        address, op, flow, verdict = (fields.text(step, n, where) for n in ("address", "op", "flow", "verdict"))
        if verdict not in ("match", "mismatch"):
            raise ValueError(f"{where}: verdict {verdict!r}: expected match or mismatch")
        inputs, outputs, expected = (
            fields.digests(step.get(n, {}), f"{where}: {n}") for n in ("inputs", "outputs", "expected")
        )
        stats = {
            k: fields.mapping(v, f"{where}: stats")
            for k, v in fields.mapping(step.get("stats", {}), f"{where}: stats").items()
        }
        limits = limits_from_dict(step.get("limits"), where)
        return cls(address, op, flow, inputs, outputs, expected, stats, limits, verdict)


@dataclass(frozen=True, slots=True)
class Contents:
    """The recording that belongs to a golden: ``file`` is a name without a folder, ``size`` in bytes."""

    file: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, file: str) -> Contents:
        return cls(file, path.stat().st_size, sha256_of(path))

    def to_dict(self) -> dict[str, Any]:
        return {"file": self.file, "bytes": self.size, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Golden:
    """What was accepted.

    Attributes:
        name: of the golden, and of its files.
        steps: every step, in the order of the recording.
        recorded_on: what the recording ran on, in words.
        recipe: how to record it again, see :mod:`fusion_replay.golden.recipes`; None where nobody knows.
        tolerances: limits of this golden alone, each with its reason.
        provenance: of the recording.
        contents: the recording; None for a thin golden.
        losses: what the recording does not have, in words.
        accepted_mismatch: why steps that mismatch were accepted all the same; empty where none does.
        replaces: of a pending golden, SHA-256 of the document that it is to replace.
        moved: of a pending golden, what the check said of each step that moved, by address.
    """

    name: str
    steps: tuple[GoldenStep, ...]
    recorded_on: tuple[str, ...] = ()
    recipe: Mapping[str, Any] | None = None
    tolerances: tuple[StepTolerance, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    contents: Contents | None = None
    losses: tuple[str, ...] = ()
    accepted_mismatch: str = ""
    replaces: str = ""
    moved: Mapping[str, str] = field(default_factory=dict)

    @property
    def mismatches(self) -> tuple[str, ...]:
        """Labels of the steps that rule ``auto`` rejects."""
        return tuple(s.label for s in self.steps if s.verdict == "mismatch")

    def to_json(self) -> str:
        """The document: every key on a line of its own, every step and tolerance too."""
        head: dict[str, Any] = {"name": self.name, "recorded_on": list(self.recorded_on), "recipe": self.recipe}
        optional: dict[str, Any] = {
            "losses": self.losses,
            "accepted_mismatch": self.accepted_mismatch,
            "replaces": self.replaces,
        }
        optional |= {"moved": dict(self.moved)}
        head |= {k: list(v) if isinstance(v, tuple) else v for k, v in optional.items() if v}
        if self.contents is not None:
            head["contents"] = self.contents.to_dict()
        lines = [f'"format":"{FORMAT}/{VERSION}"']
        lines += [f"{canonical_json(k)}:{canonical_json(v)}" for k, v in head.items()]
        inner = [f"{canonical_json(k)}:{canonical_json(v)}" for k, v in sorted(self.provenance.items())]
        lines.append(_block("provenance", "{}", inner))
        lines.append(_block("tolerances", "[]", (canonical_json(t.to_dict()) for t in self.tolerances)))
        lines += [f'"n_steps":{len(self.steps)}']
        lines.append(_block("steps", "[]", (canonical_json(s.to_dict()) for s in self.steps)))
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def read(cls, path: Path) -> Golden:
        """The golden in a file.

        Raises:
            SnapshotError: it cannot be read.
            ForeignFileError: it is no golden, or a git-LFS pointer.
            NewerFormatError: a later version of the format.
            DamagedSnapshotError: a golden that is not as it was written; says where.
        """
        return cls.parse(read_bounded(path), str(path))

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Golden:
        """As :meth:`read`, of bytes; ``where`` names them in messages."""
        refuse_lfs_pointer(raw, where)
        _refuse_conflict(raw, where)
        try:
            data = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
        except (ValueError, RecursionError) as error:
            raise DamagedSnapshotError(
                f"{where}: no JSON: {error}; restore it, or make it again with `fusion-replay golden add`"
            ) from None
        _check_format(data, where)
        try:
            return cls._from_dict(data)
        except (ValueError, TypeError) as error:
            raise DamagedSnapshotError(f"{where}: {error}; restore it from version control") from None

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> Golden:
        steps = tuple(
            GoldenStep.from_dict(s, f"line of step {i}") for i, s in enumerate(fields.sequence(data, "steps", "golden"))
        )
        said = data.get("n_steps")
        if said != len(steps):
            raise ValueError(f"it says {said} steps and has {len(steps)}: lines were deleted or added by hand")
        if twice := [address for address, n in Counter(s.address for s in steps).items() if n > 1]:
            raise ValueError(f"step {twice[0]} is there twice")
        name, recipe = fields.text(data, "name", "golden"), data.get("recipe")
        if not is_name(name):
            raise ValueError(f"golden: name {name!r:.100}: expected letters, digits and ._-+=, at most 200")
        contents = data.get("contents")
        return cls(
            name=name,
            steps=steps,
            recorded_on=fields.texts(data, "recorded_on", "golden"),
            recipe=None if recipe is None else fields.mapping(recipe, "recipe"),
            tolerances=tuple(StepTolerance.from_dict(t) for t in fields.sequence(data, "tolerances", "golden")),
            provenance=fields.mapping(data.get("provenance", {}), "provenance"),
            contents=None if contents is None else _contents(fields.mapping(contents, "contents")),
            losses=fields.texts(data, "losses", "golden") if "losses" in data else (),
            accepted_mismatch=fields.text(data, "accepted_mismatch", "golden") if "accepted_mismatch" in data else "",
            replaces=fields.text(data, "replaces", "golden") if "replaces" in data else "",
            moved={k: str(v) for k, v in fields.mapping(data.get("moved", {}), "moved").items()},
        )


def is_name(text: str) -> bool:
    """Whether a golden, and so a file, can be called so."""
    plain = all(c.isalnum() or c in "._-+=" for c in text)
    return bool(text) and not text.startswith((".", "-")) and len(text) <= 200 and plain


def _refuse_conflict(raw: bytes, where: str) -> None:
    """Git's markers begin lines, and no line of a golden begins so."""
    if not _MARKED.search(raw):
        return
    steps = dict.fromkeys(m.decode() for part in _MARKED.findall(raw) for m in _ADDRESS.findall(part))
    what = f" of step{'' if len(steps) == 1 else 's'} {', '.join([*steps][:5])}" if steps else ""
    more = f" and {len(steps) - 5} more" if len(steps) > 5 else ""
    raise DamagedSnapshotError(
        f"{where}: a merge conflict{what}{more}; `{shell(['fusion-replay', 'golden', 'merge', where])}` merges what "
        "can be, with --ours or --theirs all of it"
    )


def read_bounded(path: Path) -> bytes:
    """The bytes of a document.

    Raises:
        SnapshotError: no such file, no permission, or longer than any document.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SnapshotError(f"{path}: can't be read: {error.strerror or error}") from None
    if len(raw) > MAX_BYTES:
        raise ForeignFileError(f"{path}: longer than {MAX_BYTES:,} bytes, no golden is")
    return raw


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_format(data: Any, where: str) -> None:
    found = data.get("format") if isinstance(data, dict) else None
    kind, _, version = found.partition("/") if isinstance(found, str) else ("", "", "")
    if kind != FORMAT or not version.isdecimal() or len(version) > 9:
        raise ForeignFileError(f"{where}: no golden: format {found!r}, expected {FORMAT}/{VERSION}")
    if int(version) > VERSION:
        raise NewerFormatError(
            f"{where}: format {found}, this version reads up to {FORMAT}/{VERSION}; update fusion-replay"
        )


def _contents(data: Mapping[str, Any]) -> Contents:
    file, digest = fields.text(data, "file", "contents"), fields.text(data, "sha256", "contents")
    size = data.get("bytes")
    if not file or "/" in file or "\\" in file or file.startswith("."):
        raise ValueError(f"contents: file {file!r}: expected a file name without a folder")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"contents: bytes {size!r}: expected a number of bytes")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"contents: sha256 {digest!r}: expected 64 hexadecimal digits")
    return Contents(file, size, digest)


def _block(key: str, brackets: str, lines: Iterable[str]) -> str:
    inner = ",\n".join(lines)
    return f'"{key}":{brackets[0]}\n{inner}\n{brackets[1]}' if inner else f'"{key}":{brackets}'


def _finite(text: str) -> float:
    """``1e999`` is JSON, and no number that could be written again."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text:.20} is beyond any number")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


__all__ = ["FORMAT", "SUFFIX", "VERSION", "Contents", "Golden", "GoldenStep", "is_name", "sha256_of"]
