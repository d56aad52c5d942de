# SPDX-License-Identifier: Apache-2.0
"""Faults between steps, found by comparing steps of the whole recording: each may agree with its own reference.

A reference judges a step on the inputs that the step had. It can't tell that these inputs were not what the producer
wrote, that a cache is written at the offset of another token, or that nobody recorded what filled it. These checks
compare steps with each other, across invocations, mostly by digests; a few tensors are read.

A ``certain`` finding contradicts the runlist itself. A ``suspect`` one is right in some programs (two prompts that both
start at position 0), and says what it rests on. A ``note`` says what the recording can't answer for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from fusion_replay.diverge.dataflow import CHANGED, Dataflow, dataflow
from fusion_replay.model import serialise
from fusion_replay.model.runlist import SequenceDescription, format_address
from fusion_replay.sources.describe import keeps_old_contents

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step
    from fusion_replay.snapshot import Snapshot

Weight = Literal["certain", "suspect", "note"]
WEIGHTS: tuple[Weight, ...] = get_args(Weight)

SHOWN = 5  # addresses and names that one sentence spells out


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that no single step shows.

    Attributes:
        kind: "clobbered", "caller_changed", "same_offset", "constant_length" or "unrecorded_contents".
        weight: "certain", "suspect" or "note".
        sentence: what is wrong and what follows from it, for a person.
        addresses: the steps that show it, the first ones first.
        buffers: the buffers concerned.
    """

    kind: str
    weight: Weight
    sentence: str
    addresses: tuple[str, ...]
    buffers: tuple[str, ...]

    to_dict = serialise.to_dict

    def record(self) -> dict[str, Any]:
        """JSON Lines: a ``finding``."""
        return {"type": "finding", **self.to_dict()}

    def __str__(self) -> str:
        return self.sentence


def findings(snapshot: Snapshot, graph: Dataflow | None = None) -> tuple[Finding, ...]:
    """All that can be said of a recording, the weightiest first.

    Args:
        graph: its dataflow, where the caller has it already.

    Raises:
        DamagedSnapshotError: a tensor that is read for this is damaged.
    """
    graph = dataflow(snapshot) if graph is None else graph
    found = [*_changed_between_steps(snapshot, graph), *_changed_weights(snapshot)]
    for number, sequence in enumerate(snapshot.sequences):
        calls = [i.index for i in snapshot.invocations if i.sequence == number and i.status == "complete"]
        partial = [s.index for s in sequence.steps if keeps_old_contents(sequence.operator_of(s.index))]
        if not (calls and partial):
            continue
        found += _unrecorded_contents(snapshot, sequence, calls, partial)
        if pair := _moving_pair(snapshot, sequence, calls):
            found += _same_offset(snapshot, sequence, pair, partial)
            found += _constant_length(snapshot, sequence, pair)
    return tuple(sorted(found, key=lambda f: WEIGHTS.index(f.weight)))


# --- buffers that changed between steps -----------------------------------------------------------------------------


def _changed_between_steps(snapshot: Snapshot, graph: Dataflow) -> Iterator[Finding]:
    """A consumer that saw other bytes than its producer wrote: within one invocation, and across two."""
    changed = graph.edges[(graph.edges["state"] == CHANGED) & (graph.edges["producer"] >= 0)]
    within: dict[tuple[str, str], str] = {}  # (producer, consumer) -> buffer
    across: dict[tuple[int, str], tuple[str, str]] = {}  # (sequence, buffer) -> the first (producer, consumer)
    for producer, consumer, position in zip(
        *(changed[n].tolist() for n in ("producer", "consumer", "position")), strict=True
    ):
        (wrote_in, wrote), (read_in, read) = graph.addresses[producer].tolist(), graph.addresses[consumer].tolist()
        number = int(snapshot.index.invocations["sequence"][read_in])
        sequence = snapshot.sequences[number]
        use = snapshot.at(consumer).description.operands[position]
        pair = format_address(wrote_in, wrote), format_address(read_in, read)
        if wrote_in == read_in:
            within.setdefault(pair, use.label)
        elif use.buffer not in sequence.input_args:
            across.setdefault((number, use.buffer), pair)
    if within:
        (producer_, consumer_), buffer = next(iter(within.items()))
        more = f" ({len(within)} such reads)" if len(within) > 1 else ""
        sentence = (
            f"{buffer} was clobbered between steps: {snapshot[consumer_].label} read other bytes than "
            f"{producer_} {snapshot[producer_].op.type} had written{more}"
        )
        addresses = tuple(c for _, c in within)
        yield Finding("clobbered", "certain", sentence, addresses, tuple(dict.fromkeys(within.values())))
    for (number, buffer), (producer_, consumer_) in across.items():
        name = snapshot.sequences[number].name
        sentence = (
            f"{buffer} of {name} was changed between invocations by somebody else: {producer_} wrote it last, "
            f"{consumer_} read other bytes; it is no input of the sequence"
        )
        yield Finding("caller_changed", "suspect", sentence, (consumer_,), (buffer,))


def _changed_weights(snapshot: Snapshot) -> Iterator[Finding]:
    """Buffers that no step of their sequence writes and that are no inputs of it: weights, tables."""
    for number, sequence in enumerate(snapshot.sequences):
        written = {u.buffer for s in sequence.steps for u in s.operands if u.spec.writes}
        outside = {b.name for b in sequence.buffers} - written - set(sequence.input_args)
        uses: dict[str, tuple[int, int]] = {}
        for step in sequence.steps:
            for position, use in enumerate(step.operands):
                if use.buffer in outside:
                    uses.setdefault(use.buffer, (step.index, position))
        calls = [i.index for i in snapshot.invocations if i.sequence == number]
        for buffer, (step_, position) in uses.items() if len(calls) > 1 else ():
            seen: dict[str, str] = {}  # digest -> the first address that had it
            for call in calls:
                recorded = snapshot.get(call, step_)
                digest = None if recorded is None else _operand(recorded, position).digest
                if digest is not None and recorded is not None:
                    seen.setdefault(digest, recorded.address)
            if len(seen) > 1:
                first, second = list(seen.values())[:2]
                sentence = (
                    f"{buffer} of {sequence.name} is written by no step and is no input, yet {second} read other bytes "
                    f"than {first}: somebody changed it between invocations"
                )
                yield Finding("caller_changed", "suspect", sentence, tuple(list(seen.values())[1:]), (buffer,))


def _unrecorded_contents(
    snapshot: Snapshot, sequence: SequenceDescription, calls: list[int], partial: list[int]
) -> Iterator[Finding]:
    """A cache that holds something before the first recorded call of all touches it."""
    if calls[0] != snapshot.invocations[0].index:
        return  # an earlier call is recorded; what the host made of its results for the cache is the host's
    filled: dict[str, str] = {}
    for number in partial:
        step = snapshot.get(calls[0], number)
        for tensor in () if step is None else step.outputs.in_order():
            old = tensor.previous
            if step is None or old is None or not old.kept or not _first_write(sequence, number, tensor):
                continue
            if old.numpy().view(np.uint8).any():
                filled.setdefault(tensor.use.buffer, step.address)
    if filled:
        names = _listed(list(filled))
        sentence = (
            f"{names} of {sequence.name} held contents before the first recorded call: what filled them (a prefill?) "
            "was not recorded, so nothing judges it"
        )
        yield Finding("unrecorded_contents", "note", sentence, tuple(filled.values()), tuple(filled))


def _first_write(sequence: SequenceDescription, number: int, tensor: RecordedTensor) -> bool:
    """Whether no earlier entry of the runlist touches this buffer."""
    return not any(u.buffer == tensor.use.buffer for s in sequence.steps[:number] for u in s.operands if u.spec.writes)


# --- positions that stand still -------------------------------------------------------------------------------------


def _moving_pair(snapshot: Snapshot, sequence: SequenceDescription, calls: list[int]) -> tuple[int, int] | None:
    """The first two invocations at different positions: a RoPE step with other angles. None: nothing says they move."""
    ropes = [s.index for s in sequence.steps if sequence.operator_of(s.index).type == "RoPE"]
    for number in ropes[:1]:
        angles: dict[str, int] = {}
        for call in calls:
            step = snapshot.get(call, number)
            if step is not None and len(step.inputs) > 1 and (digest := step.inputs[1].digest):
                angles.setdefault(digest, call)
        if len(angles) > 1:
            first, second = list(angles.values())[:2]
            return first, second
    return None


def _same_offset(
    snapshot: Snapshot, sequence: SequenceDescription, pair: tuple[int, int], partial: list[int]
) -> Iterator[Finding]:
    """Partial writers that touched the same bytes at two positions, with other data."""
    stuck: dict[str, str] = {}
    for number in partial:
        a, b = (snapshot.get(call, number) for call in pair)
        if a is None or b is None or a.values != b.values:
            continue  # other values for this dispatch: the offset was passed along
        if [t.digest for t in a.inputs.in_order()] == [t.digest for t in b.inputs.in_order()]:
            continue  # the same data again says nothing about the place
        for old, new in zip(a.outputs.in_order(), b.outputs.in_order(), strict=True):
            first, second = _touched(old), _touched(new)
            if first is not None and second is not None and _overlap(first, second) > 0.5:
                stuck[new.use.buffer] = b.address
    if stuck:
        sentence = (
            f"{_listed(list(stuck))} of {sequence.name}: written at the same offset in invocations {pair[0]} and "
            f"{pair[1]} though the position moved, so each token overwrites the last; was the offset that it was "
            "compiled with used, not the call's?"
        )
        yield Finding("same_offset", "suspect", sentence, tuple(stuck.values()), tuple(stuck))


def _touched(tensor: RecordedTensor) -> Any:
    """Mask of the bytes that changed; None where that is unknown or none did."""
    old = tensor.previous
    if old is None or not (old.kept and tensor.kept):
        return None
    mask = old.numpy().view(np.uint8) != tensor.numpy().view(np.uint8)
    return mask if mask.any() else None


def _overlap(a: Any, b: Any) -> float:
    """Share of the smaller set of bytes that lies in the other one."""
    return float(np.logical_and(a, b).sum() / min(a.sum(), b.sum()))


def _constant_length(snapshot: Snapshot, sequence: SequenceDescription, pair: tuple[int, int]) -> Iterator[Finding]:
    """Softmax over a cache that grows, with the same length at every position (or none passed at all)."""
    masked = [s.index for s in sequence.steps if sequence.operator_of(s.index).type == "Softmax"]
    stuck: dict[str, Any] = {}
    for number in masked:
        a, b = (snapshot.get(call, number) for call in pair)
        if a is not None and b is not None and a.values == b.values:
            stuck[b.address] = b
    if stuck:
        address, step = next(iter(stuck.items()))
        more = f" and {len(stuck) - 1} other steps" if len(stuck) > 1 else ""
        how = f"with {_spelled(step.values)}" if step.values else "with no length passed"
        sentence = (
            f"Softmax of {sequence.name} ran {how} in invocations {pair[0]} and {pair[1]} though the position moved "
            f"({address}{more}): it weighs cache rows that no token has filled, or misses some"
        )
        yield Finding("constant_length", "suspect", sentence, tuple(stuck), ())


def _spelled(values: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in values.items())


# --- parts ----------------------------------------------------------------------------------------------------------


def _operand(step: Step, position: int) -> RecordedTensor:
    return next(t for t in step.inputs.in_order() if t.position == position)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


__all__ = ["Finding", "findings"]
