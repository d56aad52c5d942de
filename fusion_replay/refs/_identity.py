# SPDX-License-Identifier: Apache-2.0
"""Whether the catalogue's reference is that of a recorded operator: module, fields, folds and arguments decide.

Two operators of one name may compute different things (the FastFlowLM GEMM takes a packed B), and a field that is not
known may change the result. A reference that was not made for exactly this operator judges nothing.
Tested in tests/sources/iron/test_autumn.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusion_replay.errors import FusionReplayError, UsageError
from fusion_replay.model.runlist import OperandUse, OperatorDescription
from fusion_replay.operators.spec import OperatorSpec
from fusion_replay.refs import _catalogue
from fusion_replay.refs._folds import Fold, composed
from fusion_replay.refs._registered import REGISTERED
from fusion_replay.system.messages import in_words

_DEEP = 4
HOME = "iron.operators"
"""amd/IRON's package of operators: ``gemv.py`` since September 2026, ``gemv/op.py`` before, one class of each name."""

NEUTRAL = (
    "finishes",  # amd/IRON iron/common/declare/operator.py: which chains one array serves, tuning, tracing, and names
    "prepares",
    "pinned",
    "trace",
    "placements",  # where an operand lies, not what it is; its place is that of the step
    "trace_size",  # iron/common/base.py
    "verbose",
    "num_aie_columns",  # how the work is spread, in every operator that has them
    "num_channels",
    "tile_size",
)
"""Fields of any operator without effect on the numbers of one call, unless they are parameters of it."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The reference that was made for an operator; ``spec`` None: there is none, and ``why``."""

    spec: OperatorSpec | None
    why: str = ""


def coverage(op: OperatorDescription, uses: Sequence[OperandUse] = ()) -> Coverage:
    """Whether, and by what, the catalogue covers this operator; ``uses``: as this step calls it.

    An operator of which nothing but its name and fields is known (arrays, the software NPU, recordings before format
    1.2) is the catalogue's of that name, and so is any whose name a user has registered.
    """
    spec = _catalogue.lookup(op.type)
    if spec is None:
        return Coverage(None, f"no reference for operator {op.type}")
    if op.given is None:
        return Coverage(spec)
    try:
        spec = _covering(op.type, op.module, op.params, op.given)
        if uses and not spec.shapeless:
            _check_arguments(spec, op.params, uses)
    except FusionReplayError as error:
        return Coverage(None, f"the catalogue's {op.type} is not this one: {error}")
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a file's parameters may be anything
        return Coverage(None, f"the catalogue's {op.type} is not this one: its fields do not fit ({in_words(error)})")
    return Coverage(spec)


def spec_of(op: OperatorDescription) -> OperatorSpec | None:
    """The spec that was made for exactly this operator; None: there is none."""
    return coverage(op).spec


def folds_of(op: OperatorDescription) -> tuple[list[Fold], list[Fold]]:
    """What is folded into an operator that the catalogue covers: its prologue, its finish."""
    prepare, finish = (_chain(op.params.get(kind), 1) for kind in ("prepare", "finish"))
    return prepare, finish


def home_of(spec: OperatorSpec) -> str:
    """The module of IRON's whose class the reference was made for."""
    return f"{HOME}.{spec.home or spec.aliases[0]}"


def _covering(type_: str, module: str, params: Mapping[str, Any], given: Sequence[str], depth: int = 0) -> OperatorSpec:
    """
    Raises:
        FusionReplayError: it is another operator than the catalogue's of this name; the message says why.
    """
    spec = _catalogue.find(type_)
    if spec.type not in REGISTERED:  # a user's word is taken: for any module, with any field
        if module not in (home_of(spec), f"{home_of(spec)}.op", HOME):
            raise UsageError(f"it is of {module or 'no module'}, the reference of {home_of(spec)}")
        known = {p.name for p in spec.params} | {*NEUTRAL, *spec.neutral, "finish", "prepare", "bound_values"}
        for name in given:
            value = params.get(name)
            if name not in known:
                raise UsageError(f"its field {name}={_short(value)} is not known")
            if isinstance(value, Mapping) and "unreadable" in value:
                raise UsageError(f"its field {name} could not be read ({value['unreadable']})")
        _check_values(spec, params.get("bound_values"))
    prepare, finish = (_chain(params.get(kind), depth + 1) for kind in ("prepare", "finish"))
    return composed(spec, params, prepare, finish) if prepare or finish else spec


def _check_values(spec: OperatorSpec, bound: Any) -> None:
    """A per-call value moves an operand, or is one that the reference takes; a bounded extent is neither."""
    for name in bound if isinstance(bound, Mapping) else ():
        if name not in spec.values and not name.endswith("_offset"):
            raise UsageError(f"its per-call value {name} is not known")


def _chain(links: Any, depth: int) -> list[Fold]:
    if not links:
        return []
    if depth > _DEEP:
        raise UsageError(f"operators are folded into each other more than {_DEEP} deep")
    folds = []
    for link in links if isinstance(links, list) else [links]:
        op = link.get("op") if isinstance(link, Mapping) else None
        if not isinstance(op, Mapping) or not isinstance(link.get("at"), int) or not isinstance(op.get("type"), str):
            raise UsageError(f"what is folded into it is no operator: {_short(link)}")
        params, given = op.get("params"), op.get("given")
        if not isinstance(params, Mapping) or not isinstance(given, list) or not all(isinstance(n, str) for n in given):
            raise UsageError(f"the fields of {op['type']}, folded into it, are not known")
        folds.append(Fold(_covering(op["type"], str(op.get("module")), params, given, depth), params, link["at"]))
    return folds


def _check_arguments(spec: OperatorSpec, params: Mapping[str, Any], uses: Sequence[OperandUse]) -> None:
    declared = spec.arg_specs(params)
    for side in ("in", "inout", "out"):
        ours = [s.size for s in declared if s.direction == side]
        theirs = [u.spec.size for u in uses if u.spec.direction == side]
        if ours != theirs:
            raise UsageError(f"its {side} arguments have {_sizes(theirs)} elements, the reference takes {_sizes(ours)}")


def _sizes(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes)) or "no"


def _short(value: Any) -> str:
    text = str(value.get("class", value) if isinstance(value, Mapping) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


__all__ = ["Coverage", "coverage", "folds_of", "spec_of"]
