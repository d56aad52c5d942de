# SPDX-License-Identifier: Apache-2.0
"""Single changes to a stretch of a runlist that might make it do what the model does.

Each is a sentence and what to run. Steps that do the same with different parts of the same buffers (a product for each
head) are changed together. A change that takes a number is tried with the best one of many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion_replay import refs
from fusion_replay.oracle.exact import RunlistChange

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.oracle.stretch import Stretch

Floats = npt.NDArray[np.float64]
Edit = Callable[[Floats], Floats]

_ACTIVATIONS = ("GELU", "SiLU", "ReLU", "Tanh", "Sigmoid")
_NEAR = 4  # a runtime value is tried up to so far from the recorded one
_RESIDUALS = 16  # earlier boundaries that may have been left out
_WIDE = 2.0**7  # a constant is looked for between its recorded value over and times this


@dataclass(frozen=True)
class TriedChange:
    """One change. ``family`` is its kind in a word; of one family and place the better one counts."""

    family: str
    text: str
    change: RunlistChange


Search = Callable[[Callable[[float], RunlistChange], Sequence[float]], tuple[float, RunlistChange]]
"""Finds the number that makes an error smallest, from a few to begin with."""


def changes(stretch: Stretch, search: Search) -> Iterator[TriedChange]:
    """Every change that is worth trying, likely and cheap ones first."""
    groups = _groups(stretch)
    for group in groups:
        yield from _activation(group)
        yield from _runtime_values(stretch, group)
        yield from _exchanged_operands(group)
    for group in groups:
        for index in range(len(group[0].tensors)):
            yield from _slices(group, index)
            if group[0].outside[index]:
                yield from _contents(stretch, group, index, search)
    for group in groups:
        yield from _residual(stretch, group)
        yield from _epsilon(group, search)


# --- the steps of a stretch ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    row: int
    step: Step
    tensors: tuple[RecordedTensor, ...]
    outside: tuple[bool, ...]


_Group = list[_Row]


def _groups(stretch: Stretch) -> list[_Group]:
    """Steps of one operator on parts of the same buffers, in their order."""
    found: dict[object, _Group] = {}
    begin = max((spot[0] for spot in stretch.reached), default=-1)
    for row in stretch.rows:
        step = stretch.controls.exact.step(row)
        tensors = step.inputs.in_order()
        inner = {p for p, pieces in stretch.controls.exact.reads(row) if pieces}
        outside = tuple(t.position not in inner for t in tensors)
        sliced = any(u.stop is not None for u in step.description.operands)
        key = (step.description.operator, *(u.buffer for u in step.description.operands), row > begin)
        found.setdefault(key if sliced else row, []).append(_Row(row, step, tensors, outside))
    return list(found.values())


def _reads(group: _Group, index: int, edit: Edit) -> RunlistChange:
    def edited(arrays: list[Floats]) -> list[Floats]:
        return [edit(a) if i == index else a for i, a in enumerate(arrays)]

    return RunlistChange(reads=dict.fromkeys((r.row for r in group), edited))


def _first(edit: Edit) -> Callable[[list[Floats]], list[Floats]]:
    return lambda arrays: [edit(arrays[0]), *arrays[1:]]


def _plus(added: Floats) -> Edit:
    return lambda a: a + added


def _held(contents: Floats) -> Edit:
    return lambda _: contents


def _rolled(rows: int, columns: int, by: int, axis: int) -> Edit:
    return lambda a: np.roll(a.reshape(rows, columns), by, axis).reshape(-1)


def _name(group: _Group, index: int) -> str:
    return group[0].tensors[index].use.buffer


def _where(group: _Group) -> str:
    return f"{group[0].step.address} {group[0].step.op.type}"


# --- families --------------------------------------------------------------------------------------------------------


def _activation(group: _Group) -> Iterator[TriedChange]:
    op = group[0].step.op
    spec = refs.spec_of(op)
    if spec is None or spec.type not in _ACTIVATIONS:
        return
    for other in _ACTIVATIONS:
        if other != spec.type:
            made = replace(op, type=other, module="", given=None)
            change = RunlistChange(operators=dict.fromkeys((r.row for r in group), made))
            yield TriedChange("activation", f"{_where(group)} should be {other}", change)


def _runtime_values(stretch: Stretch, group: _Group) -> Iterator[TriedChange]:
    for name, value in group[0].step.values.items():
        if isinstance(value, int) and not isinstance(value, bool):
            near = {value + d for d in range(-_NEAR, _NEAR + 1)} | set(stretch.model.shape)
            for other in sorted(near - {value}, key=lambda n: (abs(n - value), n)):
                if other > 0:
                    change = RunlistChange(values={r.row: {name: other} for r in group})
                    yield TriedChange(
                        "runtime value", f"{name} of {_where(group)} should be {other}, is {value}", change
                    )


def _exchanged_operands(group: _Group) -> Iterator[TriedChange]:
    sizes = [t.use.spec.size for t in group[0].tensors]
    for i in range(len(sizes)):
        for j in range(i + 1, len(sizes)):
            if sizes[i] == sizes[j] and not _commutes(group):

                def swap(arrays: list[Floats], i: int = i, j: int = j) -> list[Floats]:
                    found = list(arrays)
                    found[i], found[j] = arrays[j], arrays[i]
                    return found

                text = f"{_name(group, i)} and {_name(group, j)} are exchanged in {_where(group)}"
                yield TriedChange("operands", text, RunlistChange(reads=dict.fromkeys((r.row for r in group), swap)))


def _commutes(group: _Group) -> bool:
    return group[0].step.op.type in ("ElementwiseAdd", "ElementwiseMul")


def _slices(group: _Group, index: int) -> Iterator[TriedChange]:
    """Each step of the group takes the part of another one."""
    if len(group) < 3 or len({r.tensors[index].use.start for r in group}) != len(group):
        return
    for by in (sign * far for far in (1, 2, 4, 8) if far < len(group) for sign in (-1, 1)):
        feeding = {r.row: group[(k + by) % len(group)].row for k, r in enumerate(group)}
        text = f"{_name(group, index)} in {_where(group)} and its like: the parts' order is off by {-by:+d}"
        yield TriedChange(
            "slices", text, RunlistChange(operands={row: {index: other} for row, other in feeding.items()})
        )


def _contents(stretch: Stretch, group: _Group, index: int, search: Search) -> Iterator[TriedChange]:
    """What came from outside: weights, tables, constants."""
    name, tensor = _name(group, index), group[0].tensors[index]
    for text, edit in _rearranged(stretch, tensor):
        yield TriedChange("order", f"{name} is {text}", _reads(group, index, edit))
    for other, contents in stretch.controls.exact.alike(tensor):
        text = f"{name} should hold what {other} holds"
        yield TriedChange("other contents", text, _reads(group, index, _held(contents)))
    recorded = tensor.numpy().reshape(-1)
    constant = bool(recorded.size) and bool((recorded == recorded[0]).all()) and bool(recorded[0])
    powers = np.arange(-7, 7.5, 0.5).tolist() if constant else (-6, -4, -3, -2, -1, 1, 2, 3, 4, 6)
    begin = [float(2**p) for p in powers]
    factor, change = search(lambda f: _reads(group, index, lambda a: a * f), begin)
    if constant:
        value = float(recorded[0])
        yield TriedChange("number", f"{name} should be {value * factor:.3g}, is {value:.3g}", change)
    else:
        yield TriedChange("number", f"{name} should be {factor:.3g} times what it is", change)


def _rearranged(stretch: Stretch, tensor: RecordedTensor) -> Iterator[tuple[str, Edit]]:
    size, shape = tensor.use.spec.size, [n for n in tensor.shape if n > 1]
    whole = [n for n in stretch.boundary.layout.whole if n > 1]
    if len(shape) != 2 and math.prod(whole) == size and len(whole) == 2:
        shape = whole
    elif len(shape) != 2:
        side = math.isqrt(size)
        shape = [side, side] if side * side == size and side > 1 else []
    if len(shape) != 2:
        return
    rows, columns = shape
    yield "transposed", lambda a: a.reshape(columns, rows).T.reshape(-1)
    for by in (-1, 1):
        yield f"off by {-by:+d} row", _rolled(rows, columns, by, 0)
    for by in (-1, 1):
        yield f"off by {-by:+d} column", _rolled(rows, columns, by, 1)


def _residual(stretch: Stretch, group: _Group) -> Iterator[TriedChange]:
    """Something that the model adds, and no step does."""
    if len(group) > 1:
        return
    size = group[0].tensors[0].use.spec.size if group[0].tensors else 0
    before = [b for b in stretch.controls.boundaries if b.place.row < group[0].row and b.place.elements == size]
    for b in reversed(before[-_RESIDUALS:]):
        added = stretch.controls.as_model(b)
        text = f"a residual is missing: {b.place.buffer} of {b.place.address} ({b.name}) is added nowhere"
        if not group[0].outside[0]:
            yield TriedChange("residual", text, _reads(group, 0, _plus(added)))
        if group[0].row == stretch.boundary.place.row:
            yield TriedChange("residual", text, RunlistChange(writes={group[0].row: _first(_plus(added))}))


def _epsilon(group: _Group, search: Search) -> Iterator[TriedChange]:
    step = group[0].step
    spec = refs.spec_of(step.op)
    if spec is None or spec.type != "LayerNorm":
        return
    width, recorded = int(step.op.params.get("tile_size") or 0), 1e-5
    if not width or len(group) > 1:
        return

    def of(epsilon: float) -> RunlistChange:
        scales: list[Floats] = []

        def note(arrays: list[Floats]) -> list[Floats]:
            variance = arrays[0].reshape(-1, width).var(1, keepdims=True)
            scales[:] = [np.sqrt((variance + recorded) / (variance + epsilon))]
            return arrays

        def scale(outputs: list[Floats]) -> list[Floats]:
            return [(outputs[0].reshape(-1, width) * scales[0]).reshape(-1)]

        return RunlistChange(reads={group[0].row: note}, writes={group[0].row: scale})

    epsilon, change = search(of, [10.0**e for e in range(-12, 1)])
    yield TriedChange("epsilon", f"epsilon of {_where(group)} should be {epsilon:.3g}, is {recorded:g}", change)


__all__ = ["Search", "TriedChange", "changes"]
