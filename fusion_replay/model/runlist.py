# SPDX-License-Identifier: Apache-2.0
"""What a recording talks about, as plain frozen data: operators, buffers, runlist steps and sequences.

Sources produce these descriptions, the snapshot stores them, replay and the reports read them. Nothing here
imports anything heavier than the standard library, knows a file format or a device.

Units: ``nbytes``, ``start`` and ``stop`` are bytes; shapes count elements.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fusion_replay.errors import UsageError
from fusion_replay.model.byte_spans import ByteSpans

Direction = Literal["in", "out", "inout"]
Json = None | bool | int | float | str | list[Any] | dict[str, Any]

DTYPE_BYTES: dict[str, int] = {
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
    "bool": 1,
    "float8_e3m4": 1,
    "float8_e4m3": 1,
    "float8_e4m3b11fnuz": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn": 1,
    "int4": 1,
    "uint4": 1,
}
"""Element types a snapshot can hold, by their numpy / ml_dtypes name, with their size in bytes. Four bits have a byte
of their own, as in ``ml_dtypes``."""

SMALL = frozenset(name for name in DTYPE_BYTES if name.startswith("float8") or name.endswith(("4_e2m1fn", "int4")))
"""Those that only ``ml_dtypes`` knows: contents hold them as uint8, the runlist says what they are."""


def stored_dtype(name: str) -> str:
    """The dtype under which contents hold an element type."""
    return "uint8" if name in SMALL else name


WHOLE_CALL = "whole call"
"""``origin["dispatch"]`` of a sequence whose steps could not be seen: each call of it is one step."""


@dataclass(frozen=True, slots=True)
class ArgSpec:
    """One runtime argument of an operator: IRON's ``AIERuntimeArgSpec`` with a name.

    Attributes:
        name: the argument's name, unique within the operator ("A", "angles").
        direction: "in", "out" or "inout".
        shape: elements per axis.
        dtype: a key of :data:`DTYPE_BYTES`.
    """

    name: str
    direction: Direction
    shape: tuple[int, ...]
    dtype: str = "bfloat16"

    @property
    def reads(self) -> bool:
        return self.direction != "out"

    @property
    def writes(self) -> bool:
        return self.direction != "in"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class OperatorDescription:
    """One operator object of a sequence: IRON's class name, its module, and every field as JSON data.

    Attributes:
        given: names of the fields whose value is not the class's own; None where unrecorded (before format 1.2,
            arrays, the software NPU): it is the catalogue's operator of that name then.
        gate: the limits that IRON itself judges it by, as data, where it says any.
    """

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""
    label: str | None = None
    given: tuple[str, ...] | None = None
    gate: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class BufferDescription:
    """A named buffer: its size in bytes, whose it is, and whether its first contents come from outside.

    ``role`` is IRON's ("input", "output", "scratch"). ``external`` is true for every buffer that some step reads
    before the sequence has wholly written it: inputs, weights, caches. IRON's ``input_args`` leave weights out.
    """

    name: str
    nbytes: int
    role: Literal["input", "output", "scratch"] = "scratch"
    external: bool = False


@dataclass(frozen=True, slots=True)
class OperandUse:
    """One argument of one runlist step: which buffer (or byte slice of it), seen through which arg spec."""

    spec: ArgSpec
    buffer: str
    start: int = 0
    stop: int | None = None

    @property
    def label(self) -> str:
        """``name`` for a whole buffer, ``name[start:stop]`` (bytes) for a slice, as a runlist spells it."""
        return self.buffer if self.stop is None else f"{self.buffer}[{self.start}:{self.stop}]"

    @property
    def end(self) -> int:
        """The byte of the buffer behind the last one that is used."""
        return self.start + self.spec.nbytes

    def touches(self, buffer: str, start: int = 0, stop: int | None = None) -> bool:
        """Whether it shares bytes with ``buffer``, or with its bytes from ``start`` to ``stop``."""
        inside = stop is None or (self.start < stop and start < self.end)
        return self.buffer == buffer and inside


@dataclass(frozen=True, slots=True)
class StepDescription:
    """One runlist entry: ``operator`` indexes :attr:`SequenceDescription.operators`."""

    index: int
    operator: int
    operands: tuple[OperandUse, ...]

    def placed(self, places: Mapping[int, int]) -> StepDescription:
        """The step as one call of it ran: operands of these positions began at these bytes of their buffers."""
        if not places:
            return self
        uses = list(self.operands)
        for position, start in places.items():
            uses[position] = replace(uses[position], start=start, stop=start + uses[position].spec.nbytes)
        return replace(self, operands=tuple(uses))

    @property
    def flow(self) -> str:
        """``W_ffn_down_7, ffn_hidden -> ffn_output``."""
        reads = ", ".join(o.label for o in self.operands if o.spec.reads)
        writes = ", ".join(o.label for o in self.operands if o.spec.writes)
        return f"{reads} -> {writes}"


@dataclass(frozen=True, slots=True)
class SequenceDescription:
    """A runlist as data.

    ``origin`` says where it came from, all optional strings: ``variant`` ("V3", "simulator", "arrays"), ``device``
    ("npu1", "npu2"), ``flavour`` (the reference flavour that ``reference="auto"`` means), ``rule``, ``dispatch``.
    """

    name: str
    operators: tuple[OperatorDescription, ...]
    buffers: tuple[BufferDescription, ...]
    steps: tuple[StepDescription, ...]
    input_args: tuple[str, ...] = ()
    output_args: tuple[str, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def ran_on(self) -> str:
        """What it ran on, for people; the software NPU is labelled as such."""
        variant, device = self.origin.get("variant", "unknown source"), self.origin.get("device", "")
        name = {"simulator": "the software NPU", "arrays": "arrays given by the caller"}.get(variant, f"IRON {variant}")
        return f"{name} ({device})" if device else name

    def operator_of(self, step: int) -> OperatorDescription:
        return self.operators[self.steps[step].operator]


def parse_address(text: str) -> tuple[int, int]:
    """``"3:412"`` -> ``(3, 412)``: invocation and step, both counted from 0.

    Raises:
        UsageError: anything else.
    """
    invocation, colon, step = text.strip().partition(":")
    if not (colon and _is_count(invocation) and _is_count(step)):
        raise UsageError(f"step address {text!r}: expected INVOCATION:STEP, two counts from 0 such as 3:412")
    return int(invocation), int(step)


def format_address(invocation: int, step: int) -> str:
    """``(3, 412)`` -> ``"3:412"``, the way a step is named everywhere; :func:`parse_address` reads it back."""
    return f"{invocation}:{step}"


def parse_buffer(text: str) -> tuple[str, int, int | None]:
    """A runlist's buffer name: ``"kv"`` -> ``("kv", 0, None)``, ``"kv[64:128]"`` (bytes) -> ``("kv", 64, 128)``.

    Raises:
        UsageError: a slice that is not ``[start:stop]`` with ``0 <= start < stop``.
    """
    if not text.endswith("]"):
        return text, 0, None
    name, _, inside = text[:-1].partition("[")
    start, colon, stop = inside.partition(":")
    if not (name and colon and _is_count(start) and _is_count(stop) and int(start) < int(stop)):
        raise UsageError(f"buffer {text!r}: expected NAME[START:STOP] in bytes with START below STOP")
    return name, int(start), int(stop)


def _is_count(text: str) -> bool:
    """Digits, as few as any size has: Python refuses to read 5,000, and those of other scripts."""
    return text.isascii() and text.isdigit() and len(text) <= 19


STATIC_FROM = 1 << 16
"""Bytes from which a buffer that no step writes may be taken for unchanged: below, looking costs next to nothing."""


def static_buffers(sequence: SequenceDescription) -> frozenset[str]:
    """Names of the buffers that hold weights, as far as a runlist can tell: large, no step writes them, no input."""
    changing = {use.buffer for step in sequence.steps for use in step.operands if use.spec.writes}
    changing.update(sequence.input_args)
    return frozenset(
        b.name for b in sequence.buffers if b.nbytes >= STATIC_FROM and b.role == "scratch" and b.name not in changing
    )


def external_buffers(steps: Iterable[StepDescription], partial: Container[int] = ()) -> frozenset[str]:
    """Names of the buffers of which some byte is used before the steps have written it.

    ``partial`` holds the indices of steps whose outputs keep some of their old contents (StridedCopy into a cache):
    such a write needs what was there before and covers nothing.
    """
    written: ByteSpans[int] = ByteSpans()
    external: set[str] = set()
    for step in steps:
        keeps = step.index in partial
        for use in step.operands:
            found = written.read(use.buffer, use.start, use.end)
            if (use.spec.reads or keeps) and any(span.writer is None for span in found):
                external.add(use.buffer)
        for use in step.operands:
            if use.spec.writes and not keeps:
                written.write(use.buffer, use.start, use.end, step.index)
    return frozenset(external)
