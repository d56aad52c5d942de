# SPDX-License-Identifier: Apache-2.0
"""A sequence description as compact JSON and back; arg specs and buffers are listed once and referred to by number.

Tested in tests/hostile/test_made_to_hurt.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from fusion_replay.errors import DamagedSnapshotError, HostileFileError, SnapshotError, UsageError
from fusion_replay.model.runlist import (
    DTYPE_BYTES,
    ArgSpec,
    BufferDescription,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.snapshot.schema import MAX_CONTENT, MAX_NAME, MAX_OPERANDS, MAX_RANK


def dump_json(data: Any) -> bytes:
    """JSON bytes; numpy scalars become numbers, tuples lists, anything unknown its ``str``."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, default=_plain).encode("utf-8", "replace")


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def load_json(text: bytes, what: str) -> Any:
    """Parsed JSON; anything that is none is a damaged file. Halves of characters, which no text can have, become ``?``:
    names go into digests, files and terminals, as UTF-8."""
    try:
        data = json.loads(text.decode("utf-8"))
        if _HALF.search(text):
            data = json.loads(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
        return data
    except (ValueError, RecursionError) as error:
        raise DamagedSnapshotError(f"{what}: no valid JSON ({error.__class__.__name__})") from error


def sequence_to_json(sequence: SequenceDescription) -> dict[str, Any]:
    specs: dict[ArgSpec, int] = {}
    uses = []
    for step in sequence.steps:
        row = [[specs.setdefault(use.spec, len(specs)), use.buffer, use.start, use.stop] for use in step.operands]
        uses.append([step.operator, row])
    return {
        "name": sequence.name,
        "origin": dict(sequence.origin),
        "input_args": list(sequence.input_args),
        "output_args": list(sequence.output_args),
        "operators": [_operator_to_json(op) for op in sequence.operators],
        "buffers": [[b.name, b.nbytes, b.role, b.external] for b in sequence.buffers],
        "specs": [[s.name, s.direction, list(s.shape), s.dtype] for s in specs],
        "steps": uses,
    }


def checked_json(sequence: SequenceDescription) -> dict[str, Any]:
    """As :func:`sequence_to_json`, of a sequence that can be read back: what can't is refused while it is recorded.

    Raises:
        UsageError: names or sizes beyond the limits of the format.
    """
    data = sequence_to_json(sequence)
    try:
        sequence_from_json(load_json(dump_json(data), "it"), "it")
    except SnapshotError as error:
        raise UsageError(f"a sequence that no recording can hold: {str(error).removeprefix('it: ')}") from error
    return data


def sequence_from_json(data: Any, what: str) -> SequenceDescription:
    """Undo :func:`sequence_to_json`.

    Raises:
        DamagedSnapshotError: keys, types or references that don't fit (HostileFileError: beyond the limits).
    """
    try:
        specs = [_spec(entry) for entry in data["specs"]]
        operators = tuple(map(_operator, data["operators"]))
        steps = tuple(_step(index, entry, specs, len(operators)) for index, entry in enumerate(data["steps"]))
        return SequenceDescription(
            name=_name(data["name"]),
            operators=operators,
            buffers=tuple(BufferDescription(_name(b[0]), _count(b[1]), b[2], bool(b[3])) for b in data["buffers"]),
            steps=steps,
            input_args=tuple(map(_name, data["input_args"])),
            output_args=tuple(map(_name, data["output_args"])),
            origin={_name(k): str(v) for k, v in _mapping(data["origin"]).items()},
        )
    except HostileFileError as error:
        raise HostileFileError(f"{what}: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DamagedSnapshotError(f"{what}: the sequence description does not fit ({error!r})") from error


def _operator_to_json(op: OperatorDescription) -> dict[str, Any]:
    found: dict[str, Any] = {"type": op.type, "module": op.module, "label": op.label, "params": dict(op.params)}
    if op.given is not None:
        found["given"] = list(op.given)
    if op.gate is not None:
        found["gate"] = dict(op.gate)
    return found


def _operator(entry: Any) -> OperatorDescription:
    given, gate = entry.get("given"), entry.get("gate")
    return OperatorDescription(
        _name(entry["type"]),
        _mapping(entry["params"]),
        str(entry["module"]),
        entry["label"],
        None if given is None else tuple(map(_name, given)),
        None if gate is None else _mapping(gate),
    )


def _spec(entry: Any) -> ArgSpec:
    name, direction, shape, dtype = entry
    if direction not in ("in", "out", "inout") or dtype not in DTYPE_BYTES:
        raise ValueError(f"argument {name!r}: {direction!r} {dtype!r}")
    if len(shape) > MAX_RANK:
        raise HostileFileError(f"argument {name!r} has {len(shape)} axes; the limit is {MAX_RANK}")
    extents = tuple(map(_count, shape))
    if math.prod(extents) * DTYPE_BYTES[dtype] > MAX_CONTENT:
        raise HostileFileError(f"argument {name!r} of shape {extents} is larger than {MAX_CONTENT} bytes")
    return ArgSpec(_name(name), direction, extents, dtype)


def _step(index: int, entry: Any, specs: list[ArgSpec], operators: int) -> StepDescription:
    operator, uses = entry
    if len(uses) > MAX_OPERANDS:
        raise HostileFileError(f"step {index} has {len(uses)} operands; the limit is {MAX_OPERANDS}")
    if _count(operator) >= operators:
        raise ValueError(f"step {index}: operator {operator} of {operators}")
    operands = tuple(
        OperandUse(specs[_count(spec)], _name(buffer), _count(start), None if stop is None else _count(stop))
        for spec, buffer, start, stop in uses
    )
    return StepDescription(index, operator, operands)


def _name(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a name is {type(text).__name__}")
    if len(text) > MAX_NAME:
        raise HostileFileError(f"a name of {len(text)} characters; the limit is {MAX_NAME}")
    return text


def _count(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no count")
    if number >> 63:
        raise HostileFileError(f"{number} is beyond any size")
    return number


def _mapping(data: Any) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise TypeError(f"expected an object, found {type(data).__name__}")
    return data


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        scalar = item()
        if isinstance(scalar, bool | int | float | str):
            return scalar
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
