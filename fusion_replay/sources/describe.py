# SPDX-License-Identifier: Apache-2.0
"""An IRON sequence as data: operators with parameters, steps with their arg specs, buffers with sizes and roles.

Reads attributes only and imports nothing of IRON, so one description serves all its forms: dataclass operators with
``get_arg_spec()`` (amd/IRON ``iron/common/base.py``), declared operators with ``buffers`` and ``ov``
(``iron/common/declare/``), and the software NPU, which has the first shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from fusion_replay import refs
from fusion_replay.errors import FusionReplayError, RunlistError
from fusion_replay.model.runlist import (
    DTYPE_BYTES,
    ArgSpec,
    BufferDescription,
    Direction,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
    external_buffers,
    parse_buffer,
)
from fusion_replay.sources.fields import gate_of, given_fields, parameters

_DTYPE_NAMES = {"bf16": "bfloat16", "f32": "float32", "i32": "int32", "i8": "int8", "ui8": "uint8"}
_BITS_OF = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


def describe_sequence(sequence: Any, origin: Mapping[str, str]) -> SequenceDescription:
    """The compiled sequence (IRON's ``OperatorSequence``) as plain data.

    Raises:
        RunlistError: a wrong argument count, a slice outside its base, a buffer smaller than what a step takes of it.
    """
    runlist = [(entry[0], [str(name) for name in entry[1:]]) for entry in sequence.runlist]
    indices: dict[int, int] = {}  # by identity, as IRON shares one design per operator object
    described: list[OperatorDescription] = []
    specs: list[tuple[tuple[ArgSpec, int], ...]] = []
    for op, _ in runlist:
        if id(op) not in indices:
            indices[id(op)] = len(described)
            described.append(describe_operator(op))
            specs.append(arg_specs(op, described[-1]))
    steps = tuple(
        _step(i, indices[id(op)], described[indices[id(op)]], specs[indices[id(op)]], names)
        for i, (op, names) in enumerate(runlist)
    )
    return SequenceDescription(
        name=str(getattr(sequence, "name", None) or type(sequence).__name__),
        operators=tuple(described),
        buffers=_buffers(sequence, steps, described),
        steps=steps,
        input_args=tuple(map(str, getattr(sequence, "input_args", ()))),
        output_args=tuple(map(str, getattr(sequence, "output_args", ()))),
        origin=dict(origin),
    )


# --- operators --------------------------------------------------------------------------------------------------


def describe_operator(op: Any) -> OperatorDescription:
    """Class name (an old ``AIE`` prefix dropped where that names a known operator), module, and every field.

    Which fields were given makes it one operator of several with its name; the software NPU's are the catalogue's own.
    """
    name = type(op).__name__
    ours = type(op).__module__.startswith("fusion_replay.")
    known = refs.lookup(name) if name.startswith("AIE") else None
    try:
        label = getattr(op, "name", None)
    except Exception:  # IRON's asks the current device, which need not be known
        label = None
    return OperatorDescription(
        type=known.type if known is not None else name,
        params=parameters(op),
        module=type(op).__module__,
        label=label if isinstance(label, str) else None,
        given=None if ours else given_fields(op),
        gate=None if ours else gate_of(op),
    )


# --- arguments --------------------------------------------------------------------------------------------------


def arg_specs(op: Any, description: OperatorDescription) -> tuple[tuple[ArgSpec, int], ...]:
    """Each runtime argument's spec, and where in its buffer the operator starts (elements; 0 before September 2026).

    Names are the catalogue's where its arguments agree with this operator's in count and direction, then the spec's
    own, else ``in0``, ``in1``, ``out0``.
    """
    declared = getattr(op, "buffers", None)
    raw = list(declared) if isinstance(declared, (list, tuple)) else list(op.get_arg_spec())
    if any(getattr(spec, "dtype", "") is None for spec in raw):  # one that follows the tuning
        raw = list(op.resolved().buffers)
    directions = [_direction(spec, last=i == len(raw) - 1) for i, spec in enumerate(raw)]
    names = _names(description, directions, [getattr(spec, "name", None) for spec in raw])
    specs = []
    for name, direction, spec in zip(names, directions, raw, strict=True):
        host = getattr(spec, "host_dtype", None)  # a block-float operand is bytes to the host (iron/common/declare)
        dtype, tail = _dtype(getattr(spec, "dtype", "bfloat16") if host is None else host)
        placement = getattr(spec, "placement", None)
        place = int(placement[1]) if isinstance(placement, (list, tuple)) and len(placement) > 1 else 0
        shape = _shape(spec.shape if host is None else getattr(spec, "host_shape", spec.shape))
        specs.append((ArgSpec(name, direction, (*shape, *tail), dtype), place))
    return tuple(specs)


def _direction(spec: Any, *, last: bool) -> Direction:
    """The spec's own word; before directions existed the last argument is the output."""
    direction: Any = getattr(spec, "direction", None)
    if hasattr(direction, "fills") and hasattr(direction, "drains"):
        return ("inout" if direction.fills else "out") if direction.drains else "in"
    if direction in ("in", "out", "inout"):
        return cast(Direction, direction)
    return "out" if last else "in"


def _shape(shape: Any) -> tuple[int, ...]:
    """Before amd/IRON pull request 158 StridedCopy gave a bare integer."""
    return tuple(int(n) for n in shape) if isinstance(shape, Iterable) else (int(shape),)


def _dtype(dtype: Any) -> tuple[str, tuple[int, ...]]:
    """Its name in a snapshot, and extra axes where an exotic type is kept as its bits."""
    if isinstance(dtype, str):
        name = _DTYPE_NAMES.get(dtype, dtype)
    elif str(dtype).startswith("torch."):
        name = str(dtype).removeprefix("torch.")
    else:
        name = np.dtype(dtype).name
    if name in DTYPE_BYTES:
        return name, ()
    size = np.dtype(name if isinstance(dtype, str) else dtype).itemsize
    return (_BITS_OF[size], ()) if size in _BITS_OF else ("uint8", (size,))


def _names(
    description: OperatorDescription, directions: Sequence[Direction], own: Sequence[str | None]
) -> tuple[str, ...]:
    spec = refs.spec_of(description)
    if spec is not None:
        try:
            declared = spec.arg_specs(description.params)
        except FusionReplayError:
            declared = ()  # replay will say what is wrong with the parameters
        if [s.direction for s in declared] == list(directions):
            return tuple(s.name for s in declared)
    if all(isinstance(n, str) and n.isidentifier() for n in own) and len(set(own)) == len(own):
        return tuple(str(n) for n in own)
    counts = {"in": 0, "out": 0, "inout": 0}
    names = []
    for direction in directions:
        names.append(f"{direction}{counts[direction]}")
        counts[direction] += 1
    return tuple(names)


# --- steps and buffers ------------------------------------------------------------------------------------------


def _step(
    index: int,
    operator: int,
    description: OperatorDescription,
    specs: Sequence[tuple[ArgSpec, int]],
    names: Sequence[str],
) -> StepDescription:
    if len(names) != len(specs):
        wanted = ", ".join(s.name for s, _ in specs)
        raise RunlistError(
            f"step {index} {description.type}: the runlist names {len(names)} buffers ({', '.join(names)}), "
            f"the operator takes {len(specs)} ({wanted}); correct the runlist entry"
        )
    operands = []
    for (spec, place), text in zip(specs, names, strict=True):
        name, start, stop = parse_buffer(text)
        if stop is not None and stop - start < place * DTYPE_BYTES[spec.dtype] + spec.nbytes:
            raise RunlistError(
                f"step {index} {description.type}: argument {spec.name} needs {spec.nbytes} bytes {spec.shape}, "
                f"slice {text} holds {stop - start}; correct the runlist entry"
            )
        if place:
            start += place * DTYPE_BYTES[spec.dtype]
            stop = start + spec.nbytes
        operands.append(OperandUse(spec, name, start, stop))
    return StepDescription(index, operator, tuple(operands))


def _buffers(
    sequence: Any, steps: Sequence[StepDescription], described: Sequence[OperatorDescription]
) -> tuple[BufferDescription, ...]:
    """Every base buffer in first-use order, then the compiled ones that no step names."""
    layout: Mapping[str, Any] = getattr(sequence, "subbuffer_layout", None) or {}
    explicit: Mapping[str, int] = getattr(sequence, "explicit_buffer_sizes", None) or {}
    partial = [s.index for s in steps if keeps_old_contents(described[s.operator])]
    external = external_buffers(steps, partial)
    needed: dict[str, int] = {}
    for step in steps:
        for use in step.operands:
            end = max(use.stop or 0, use.start + use.spec.nbytes)
            size = _size_of(use.buffer, layout, explicit)
            if size is not None and end > size:
                raise RunlistError(
                    f"step {step.index} {described[step.operator].type}: {use.label} ends at byte {end}, "
                    f"buffer {use.buffer!r} has {size}; correct the slice or the buffer's size"
                )
            needed[use.buffer] = max(needed.get(use.buffer, 0), end)
    for name in (*layout, *explicit):
        needed.setdefault(str(name), 0)
    return tuple(
        BufferDescription(
            name,
            least if (size := _size_of(name, layout, explicit)) is None else size,
            _role(sequence, name, layout),
            name in external,
        )
        for name, least in needed.items()
    )


def keeps_old_contents(description: OperatorDescription) -> bool:
    """Whether the operator is known to write only part of its output."""
    spec = refs.spec_of(description)
    return spec is not None and spec.partial


def _size_of(name: str, layout: Mapping[str, Any], explicit: Mapping[str, int]) -> int | None:
    """Bytes of a base buffer, None where only its uses say."""
    if name in explicit:
        return int(explicit[name])
    return int(layout[name][2]) if name in layout else None


def _role(sequence: Any, name: str, layout: Mapping[str, Any]) -> Literal["input", "output", "scratch"]:
    kind = layout[name][0] if name in layout else None
    if kind == "input" or name in getattr(sequence, "input_args", ()):
        return "input"
    if kind == "output" or name in getattr(sequence, "output_args", ()):
        return "output"
    return "scratch"


__all__ = ["arg_specs", "describe_operator", "describe_sequence", "keeps_old_contents"]
