# SPDX-License-Identifier: Apache-2.0
"""A recording's final output, computed from its first k recorded steps and by the references from there on.

``Hybrid.run(k)`` takes the first ``k`` steps from the recording and lets the references go on from there. With
``k = 0`` references do everything, with ``k = len(steps)`` nothing is computed. What one step adds to the error of the
final output is the difference of two neighbours: the references carry it on, so those differences add up to the whole.

Only steps that the output depends on take part (:meth:`~fusion_replay.diverge.dataflow.Dataflow.backward`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.sums import norm
from fusion_replay.diverge.array_chains import Chains
from fusion_replay.diverge.dataflow import Dataflow, Final, dataflow
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.model.arrays import flat_bytes, numpy_dtype
from fusion_replay.replaying.chain import follow
from fusion_replay.replaying.judge import NotComparedError, Plan
from fusion_replay.snapshot.read.store import NOT_KEPT
from fusion_replay.snapshot.schema import COMPLETE

if TYPE_CHECKING:
    from fusion_replay.model.step import Step
    from fusion_replay.snapshot import Snapshot

Floats = npt.NDArray[np.float64]


class Hybrid:
    """One final output of one invocation, and the steps that it depends on.

    Attributes:
        steps: those steps, in the order in which they ran, those of earlier invocations (caches) included.
        invocation: whose output it is.
        outputs: the output buffers, by name.
        stand_ins: addresses of steps that have no reference here or never finished: their recorded outputs stand in
            for references, with the reason.

    Args:
        invocation: by default the last that is complete.
        output: one of its output buffers, by default all of them.

    Raises:
        UsageError: no such invocation or output.
        MissingError: the recording holds no output of it, or not its contents.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        plan: Plan | None = None,
        *,
        invocation: int | None = None,
        output: str | None = None,
        graph: Dataflow | None = None,
    ) -> None:
        self.graph = dataflow(snapshot) if graph is None else graph
        self._plan = plan or Plan()
        self.invocation = _invocation(snapshot, invocation)
        finals = [f for f in self.graph.outputs(self.invocation) if f.piece.producer >= 0]
        known = tuple(dict.fromkeys(f.buffer for f in finals))
        if output is not None and output not in known:
            raise UsageError(
                f"{snapshot.path}: invocation {self.invocation} has no output {output!r}; it has {', '.join(known)}"
            )
        self._finals = tuple(f for f in finals if output in (None, f.buffer))
        self.outputs = tuple(dict.fromkeys(f.buffer for f in self._finals))
        if not self._finals:
            raise MissingError(f"{snapshot.path}: no recorded step wrote an output of invocation {self.invocation}")
        needed = self.graph.backward({f.piece.producer for f in self._finals})
        rows = np.flatnonzero(needed).tolist()
        self.steps: tuple[Step, ...] = tuple(snapshot[_address(self.graph, row)] for row in rows)
        self._of_row = dict(zip(rows, self.steps, strict=True))
        self.stand_ins: dict[str, str] = {}
        _need_contents(snapshot, self.steps)

    def recorded(self) -> Floats:
        """The final output as the recording has it, all its elements in one row."""
        return self._finally(None)

    def run(self, k: int) -> Floats:
        """The final output with the first ``k`` of :attr:`steps` from the recording and the others by reference."""
        chains = Chains(self.graph)
        for step in self.steps[k:]:
            try:
                follow(step, self._plan, chains.of(step))
            except NotComparedError as why:
                self.stand_ins[step.address] = why.reason
        return self._finally(chains)

    def _finally(self, chains: Chains | None) -> Floats:
        parts = [self._piece(final, chains) for final in self._finals]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _piece(self, final: Final, chains: Chains | None) -> Floats:
        step = self._of_row[final.piece.producer]
        tensor = next(t for t in step.outputs.in_order() if t.position == final.piece.wrote)
        whole = tensor.numpy() if chains is None else chains.of(step).read(step.invocation, tensor)
        raw = flat_bytes(whole)
        lo = final.piece.start - tensor.use.start
        cut = raw[lo : lo + final.piece.stop - final.piece.start]
        return cut.view(numpy_dtype(tensor.dtype)).astype(np.float64)


def difference(found: Floats, truth: Floats) -> Floats:
    """``found - truth``; 0 where both have the same NaN or infinity."""
    with np.errstate(invalid="ignore"):
        off: Floats = found - truth
    off[(found == truth) | (np.isnan(found) & np.isnan(truth))] = 0.0
    return off


def rel_l2(found: Floats, truth: Floats) -> float:
    """``|found - truth| / |truth|`` over what is a number in ``truth``; infinite where only one of the two has one."""
    off = norm(difference(found, truth))
    if not np.isfinite(off):
        return float("inf")
    size = norm(truth[np.isfinite(truth)])
    return off / size if size else (float("inf") if off else 0.0)


def max_abs(found: Floats, truth: Floats) -> float:
    """The largest absolute difference; infinite as in :func:`rel_l2`."""
    largest = float(np.max(np.abs(difference(found, truth)), initial=0.0))
    return largest if np.isfinite(largest) else float("inf")


METRICS = {"rel_l2": rel_l2, "max_abs": max_abs}


# --- parts ----------------------------------------------------------------------------------------------------------


def _invocation(snapshot: Snapshot, wanted: int | None) -> int:
    status = snapshot.index.invocations["status"].tolist()
    complete = [i.index for i in snapshot.invocations if status[i.index] == COMPLETE]
    if wanted is not None:
        if wanted not in [i.index for i in snapshot.invocations]:
            raise UsageError(f"{snapshot.path}: no invocation {wanted}; it has {len(snapshot.invocations)}")
        return wanted
    if not complete:
        raise MissingError(
            f"{snapshot.path}: no invocation is complete, so there is no final output; replay judges its steps"
        )
    return complete[-1]


def _address(graph: Dataflow, row: int) -> tuple[int, int]:
    invocation, step = graph.addresses[row].tolist()
    return invocation, step


def _need_contents(snapshot: Snapshot, steps: Sequence[Step]) -> None:
    for step in steps:
        lacking = [t for t in (*step.inputs.in_order(), *step.outputs.in_order()) if not t.kept]
        if lacking and step.status == "complete":
            why = lacking[0].absent
            names = ", ".join(t.name for t in lacking if t.absent == why)
            raise MissingError(
                f"{snapshot.path}: the final output depends on {step.label}, and the contents of {names} {why}"
                + ("; record with level 'full'" if why == NOT_KEPT else "")
            )


__all__ = ["METRICS", "Hybrid", "difference", "max_abs", "rel_l2"]
