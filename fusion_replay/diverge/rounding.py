# SPDX-License-Identifier: Apache-2.0
"""A rounding mode that a kernel left behind: which one, and in which steps it would have shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay import operators, refs
from fusion_replay.model import serialise
from fusion_replay.model.bf16 import round_bf16, wide

if TYPE_CHECKING:
    from fusion_replay.diverge.evidence import Evidence
    from fusion_replay.model.step import Step


@dataclass(frozen=True, slots=True)
class Leak:
    """A rounding mode that another kernel left behind (Xilinx/mlir-aie pull request 3726).

    Attributes:
        affected: the first step that shows it.
        leaking: the kernel that ran just before it.
        since: the last step before that still rounded as it should; kernels from here to ``leaking`` may have left the
            mode, and those between don't round. None where none is recorded.
    """

    affected: str
    leaking: str | None
    since: str | None

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        if self.leaking is None:
            return f"first affected is {self.affected}, before which no step is recorded"
        before = "" if self.since in (None, self.leaking) else f", or one before it back to {self.since}"
        return f"left behind by {self.leaking}{before}; first affected is {self.affected}"


def leak_at(step: Step, known: Evidence) -> Leak:
    """Who left the mode that ``step`` shows, as far as ``known`` says what ran before it."""
    before = known.before(step)
    since = next((s.address for s in before if rounds(s)), None)
    return Leak(step.address, before[0].address if before else None, since)


def rounds(step: Step) -> bool:
    """Would another rounding mode have shown in this step's output? Not where bits are moved, or results are exact."""
    spec = refs.spec_of(step.op)
    if spec is None or spec.exact_bits:
        return False
    if spec.raw or not all(t.kept for t in step.inputs.in_order()):
        return True  # products and sums: hardly ever exact
    try:
        values = _unrounded(spec, step)
    except Exception:
        return True
    return not all(bool(np.array_equal(v, round_bf16(v), equal_nan=True)) for v in values)


def _unrounded(spec: operators.OperatorSpec, step: Step) -> list[npt.NDArray[Any]]:
    import array_api_compat as aac

    inputs = [
        np.asarray(wide(t.numpy()), np.float64).reshape(s.shape)
        for t, s in zip(step.inputs.in_order(), [a for a in spec.arg_specs(step.op.params) if a.reads], strict=True)
    ]
    call = operators.Call(spec.bind(step.op.params), aac.array_namespace(*inputs), (), step.values, lambda x: x)
    result = spec.flavour("exact")[1](call, *inputs)
    return [np.asarray(r, np.float64) for r in (result if isinstance(result, tuple) else (result,))]


__all__ = ["Leak", "leak_at", "rounds"]
