# SPDX-License-Identifier: Apache-2.0
"""Calling an operator's own ``reference()``, in every form that IRON has had.

Until late August 2026 references compute on torch bf16 tensors, afterwards on numpy arrays (amd/IRON
iron/common/sequence.py). A partial writer takes its outputs' old contents behind the inputs, and per-call values by
name (iron/operators/copy.py). The software NPU's operators take ``previous=`` and values.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.verdict import as_numpy
from fusion_replay.model.arrays import to_torch

NDArray = npt.NDArray[Any]


def call_reference(
    operator: Any, inputs: Sequence[NDArray], previous: Sequence[NDArray], values: Mapping[str, int | float]
) -> tuple[NDArray, ...]:
    """What the operator expects of itself, in the order of its outputs.

    Since September 2026 it may be asked by argument name, outputs' old contents and values included
    (``call_reference``, amd/IRON iron/common/image/callable.py); a declared operator's ``reference()`` takes an output
    where it has a parameter of that name.

    Args:
        operator: an object with ``reference()``.
        inputs: in arg-spec order, bf16 as ``ml_dtypes.bfloat16``; the reference gets copies, for it may write in place.
        previous: old contents of the outputs, handed to a reference that takes them.
        values: runtime values of the dispatch; those that the reference names are passed on.
    """
    give = to_torch if uses_torch(type(operator)) else np.array
    declared = getattr(operator, "buffers", None)
    old: dict[str, NDArray] = {}
    if isinstance(declared, (list, tuple)):
        writes = [b.name for b in declared if b.direction.drains and not b.direction.fills]
        old = {name: give(x) for name, x in zip(writes, previous, strict=False)}
        if callable(getattr(operator, "call_reference", None)):
            named = {b.name: give(x) for b, x in zip((b for b in declared if b.direction.fills), inputs, strict=True)}
            found = operator.call_reference(named, old, dict(values))
            return tuple(as_numpy(np.asarray(found[b.name])) for b in declared if b.direction.drains)
        previous = ()
    parameters = inspect.signature(operator.reference).parameters.values()
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    arrays = [give(x) for x in inputs]
    arrays += [give(x) for x in previous[: max(0, len(places) - len(arrays))]]
    by_name = {*places[len(arrays) :], *(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    keywords: dict[str, Any] = {k: v for k, v in values.items() if anything or k in by_name}
    keywords |= {k: v for k, v in old.items() if k in by_name}
    if previous and "previous" in by_name:
        keywords["previous"] = give(previous[0])
    result = operator.reference(*arrays, **keywords)
    return tuple(as_numpy(r) for r in (result if isinstance(result, (tuple, list)) else (result,)))


def uses_torch(kind: type[Any]) -> bool:
    """Whether this operator's reference computes on torch tensors: IRON's modules import torch where they do."""
    homes = {base.__module__ for base in kind.__mro__}
    if kind.__module__.partition(".")[0] == "iron":
        homes.add("iron.common.sequence")
    return any("torch" in vars(sys.modules[home]) for home in homes if home in sys.modules)
