# SPDX-License-Identifier: Apache-2.0
"""Derived: an output that an operator which only moves data makes of its step's inputs; nothing of it is stored.

Such a content says which version of the movers made it. Every version that was ever written is kept (``movers_1``, ...)
and shares no code with the operators' references, which may change. Users' operators take no part: they may be missing
where the snapshot is read.

Tested in tests/snapshot/encodings/test_movers_1.py and write/test_deduplication.py.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import DamagedSnapshotError, HostileFileError, NewerFormatError, SnapshotError
from fusion_replay.model.arrays import flat_bytes
from fusion_replay.model.runlist import SequenceDescription
from fusion_replay.snapshot.encodings import movers_1
from fusion_replay.snapshot.encodings.link import (
    Bytes,
    Journalled,
    Link,
    Referred,
    Store,
    below,
    operands_of,
    reached,
)
from fusion_replay.snapshot.encodings.place import SMALL, Place, region
from fusion_replay.snapshot.schema import (
    DERIVED,
    INPUT,
    MAX_DEPTH,
    NO_CONTENT,
    OUTPUT,
    PREVIOUS,
    ContentKey,
    Index,
    digest_of,
)

VERSIONS: Mapping[int, ModuleType] = {1: movers_1}
"""Every version of the movers that was ever written into a file. Files before format 1.2 say none, and mean 1."""
NEWEST = max(VERSIONS)

MAX_OUTPUT = 64 << 20
"""Bytes of outputs of one step; beyond, computing them would take more memory than a recording may."""
MOST_OPERANDS = 16
"""Rows of operands of a step that made a derived content: one operand in, one out, each in a few roles."""
_REMEMBERED = 1 << 16  # outcomes
_STEP = struct.Struct("<III")
_UNFIT = (ArithmeticError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Derived(Link):
    """Operand ``position`` of this step, as version ``mover`` makes it of its inputs."""

    ENCODING: ClassVar[int] = DERIVED
    invocation: int
    step: int
    position: int
    mover: int = NEWEST

    def packed(self) -> tuple[int, bytes]:
        return self.mover, _STEP.pack(self.invocation, self.step, self.position)

    @classmethod
    def unpacked(cls, number: int, body: bytes) -> Self | None:
        if len(body) != _STEP.size or number > 0xFF:
            return None
        if number > NEWEST:
            raise NewerFormatError(
                f"version {number} of the movers; the newest known here is {NEWEST}: upgrade fusion-replay"
            )
        invocation, step, position = _STEP.unpack(body)
        return cls(invocation, step, position, number or 1)

    def references(self, journal: Journalled) -> Referred:
        row = journal.step_at.get((self.invocation, self.step), -1)
        if row >= 0 and journal.index.steps["n_operands"][row] > MOST_OPERANDS:
            return Referred([-1])
        read = [content for _, role, content in operands_of(journal.index, row) if _reads(role)] if row >= 0 else []
        return Referred(read or [-1], row, self.position, self.mover)


def _reads(role: Any) -> Any:
    """Whether a mover looks at operands of this role."""
    return (role == INPUT) | (role == PREVIOUS)


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a mover will write, by operand position; ``partial``: into old contents that it leaves."""

    depth: int
    digests: Mapping[int, bytes]
    partial: bool


class Moves:
    """Finds derived outputs: computes before a step what it will write, if it only moves data.

    ``depths``: of every content that is made of others, by its id. ``versions``: the regions of which a delta could be
    made.
    """

    def __init__(self, depths: Mapping[int, int], versions: Container[object]) -> None:
        self._depths, self._versions = depths, versions
        self._made: OrderedDict[Any, dict[int, bytes]] = OrderedDict()
        self._expected: dict[tuple[int, int], _Expected] = {}

    def expect(
        self,
        place: tuple[int, int, int],
        sequence: SequenceDescription,
        inputs: Mapping[int, npt.NDArray[Any]],
        previous: Mapping[int, npt.NDArray[Any]],
        values: Mapping[str, int | float],
        contents: tuple[int, ...],
    ) -> None:
        """Before step ``place`` (sequence, invocation, step), whose inputs and previous are ``contents``, all kept."""
        number, invocation, index = place
        step, op = sequence.steps[index], sequence.operator_of(index)
        outputs = {i: use for i, use in enumerate(step.operands) if use.spec.writes}
        total = sum(use.spec.nbytes for use in outputs.values())
        mover = VERSIONS[NEWEST]
        if not mover.moves(op.type) or not SMALL <= total <= MAX_OUTPUT:
            return
        partial = mover.partial(op.type)
        if partial and any(region(number, use) in self._versions for use in outputs.values()):
            return  # a patch is as small, and quicker read
        depth = 1 + max((self._depths.get(content, 0) for content in contents), default=MAX_DEPTH)
        if depth > MAX_DEPTH:
            return
        key = number, sequence.steps[index].operator, tuple(values.items()), contents
        digests = self._made.get(key)
        if digests is None:
            try:
                old = [None if i not in previous else flat_bytes(previous[i]) for i in outputs]
                given = [flat_bytes(inputs[i]) for i in sorted(inputs)]
                made = mover.moved(op.type, op.params, [u.spec for u in step.operands], given, old, values)
            except (SnapshotError, *_UNFIT):
                return  # what it writes is stored like anything else
            digests = self._made[key] = {position: digest_of(data) for position, data in made.items()}
            if len(self._made) > _REMEMBERED:
                self._made.popitem(last=False)
        self._expected[invocation, index] = _Expected(depth, digests, partial)

    def find(self, place: Place, key: ContentKey) -> Derived | None:
        expected = self._of(place)
        if expected is not None and place.role == OUTPUT and expected.digests.get(place.position) == key[0]:
            return Derived(place.invocation, place.step, place.position)
        return None

    def depth(self, place: Place) -> int:
        """Of what was found there."""
        return self._expected[place.invocation, place.step].depth

    def is_partial(self, place: Place) -> bool:
        """Whether what the step writes is a new version of what was there."""
        expected = self._of(place)
        return expected is not None and expected.partial

    def ended(self, invocation: int, step: int) -> None:
        """The step's outputs have been asked for, or never will be."""
        self._expected.pop((invocation, step), None)

    def forget(self) -> None:
        self._made.clear()
        self._expected.clear()

    def _of(self, place: Place) -> _Expected | None:
        return self._expected.get((place.invocation, place.step))


def check(index: Index, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_]]:
    """By what is wrong: which of these rows."""
    wrong = (index.contents["source"][rows] >= len(index.steps)) | (index.contents["extent"][rows] > 0xFFFF)
    wrong[~wrong] = ~_fit(index, rows[~wrong])
    unknown = index.contents["mover"][rows] > NEWEST
    return {
        "a step that can't have made it": wrong,
        "a version of the movers that is not known here; upgrade fusion-replay": unknown,
    }


def _fit(index: Index, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """A step whose end is lost has no outputs; what was made of its inputs is still what it wrote."""
    contents, steps = index.contents, index.steps[index.contents["source"][rows].astype(np.int64)]
    owner, chosen = reached(steps["first_operand"], np.minimum(steps["n_operands"], MOST_OPERANDS))
    operands = index.operands[chosen]
    missing = operands["content"] == NO_CONTENT
    source = np.where(missing, 0, operands["content"]).astype(np.int64)
    unsound = _reads(operands["role"]) & (missing | ~below(index, source, rows[owner]))
    output = operands["role"] == OUTPUT
    mine = output & (operands["position"] == contents["extent"][rows][owner]) & (operands["content"] == rows[owner])
    flags = _reads(operands["role"]), unsound, output, mine
    read, bad, written, made = (np.bincount(owner, flag, len(rows)) for flag in flags)
    found: npt.NDArray[np.bool_] = (read > 0) & (bad == 0) & ((made > 0) | (written == 0))
    return found & (steps["n_operands"] <= MOST_OPERANDS) & (contents["nbytes"][rows] <= MAX_OUTPUT)


def sources(index: Index, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of these rows, checked: each, as often as its step has inputs, and the content of each input."""
    steps = index.steps[index.contents["source"][rows].astype(np.int64)]
    owner, chosen = reached(steps["first_operand"], steps["n_operands"])
    operands = index.operands[chosen]
    read = _reads(operands["role"])
    return rows[owner[read]], operands["content"][read].astype(np.int64)


def read(store: Store, row: int, what: str) -> Bytes:
    """What the step that wrote it makes of its inputs."""
    index = store.index
    content = index.contents[row]
    record = index.steps[int(content["source"])]
    sequence = index.sequences[int(index.invocations["sequence"][int(record["invocation"])])]
    step = sequence.steps[int(record["step"])]
    op, at = sequence.operator_of(step.index), f"{int(record['invocation'])}:{step.index} {step.flow}"
    rows = {(role, p): source for p, role, source in operands_of(index, int(content["source"])) if source >= 0}

    def given(positions: Sequence[tuple[int, int]]) -> Bytes | None:
        found = next((rows[spot] for spot in positions if spot in rows), None)
        return None if found is None else store.read(found, what)

    inputs = [given([(INPUT, i)]) for i, use in enumerate(step.operands) if use.spec.reads]
    previous = [given([(PREVIOUS, i), (INPUT, i)]) for i, use in enumerate(step.operands) if use.spec.writes]
    try:
        if any(data is None for data in inputs):
            raise HostileFileError("an input was not recorded")
        values = dict(index.details[int(record["detail"])].get("values", {}))
        mover = VERSIONS[max(1, int(content["mover"]))]
        specs = [use.spec for use in step.operands]
        made: dict[int, Bytes] = mover.moved(op.type, op.params, specs, inputs, previous, values)
        return made[int(content["extent"])]
    except (HostileFileError, *_UNFIT) as error:
        raise DamagedSnapshotError(f"{what}: can't be made of the inputs of {at} ({error})") from error


__all__ = ["MAX_OUTPUT", "NEWEST", "VERSIONS", "Derived", "Moves", "check", "read", "sources"]
