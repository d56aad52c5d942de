# SPDX-License-Identifier: Apache-2.0
"""The operators that are known: the catalogue's, and what users have registered; found by any of their names."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fusion_replay.errors import UnknownOperatorError, UsageError
from fusion_replay.model.bf16 import Array
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.model.step import OperandMap, RecordedTensor
from fusion_replay.model.text import shell
from fusion_replay.operators.evaluation import evaluate
from fusion_replay.operators.spec import OperatorSpec
from fusion_replay.refs._plugins import ready
from fusion_replay.refs._registered import REGISTERED, user_specs


@cache
def _builtin() -> dict[str, OperatorSpec]:
    """The ``SPEC`` of every module of this folder whose name has no leading underscore, by type."""
    here = str(Path(__file__).parent)
    names = [m.name for m in pkgutil.iter_modules([here]) if not (m.ispkg or m.name.startswith("_"))]
    specs = [importlib.import_module(f"{__package__}.{name}").SPEC for name in names]
    return {spec.type: spec for spec in specs}


def builtin(op_type: str) -> OperatorSpec | None:
    """The built-in operator of this type or alias, whatever a user has put in its place; None where there is none."""
    specs = _builtin()
    return specs.get(op_type) or next(
        (s for s in specs.values() if op_type in s.aliases or op_type == f"AIE{s.type}"), None
    )


def register(spec: OperatorSpec, *, replace: bool = False) -> OperatorSpec:
    """Add a user's operator.

    Raises:
        UsageError: the name, or one of its aliases, is taken and ``replace`` is false.
    """
    if not replace:
        for name in (spec.type, *spec.aliases):
            taken = _find(name)
            if taken is not None:
                whose = "built in" if taken is _builtin().get(taken.type) else f"registered already by {taken.source}"
                raise UsageError(
                    f"operator {name!r} is {whose}{'' if name == taken.type else f' as an alias of {taken.type}'}; "
                    "give yours another name, or replace=True to put it in its place"
                )
    REGISTERED[spec.type] = spec
    return spec


def _find(op_type: str) -> OperatorSpec | None:
    if op_type in REGISTERED:
        return REGISTERED[op_type]
    if op_type in _builtin():
        return _builtin()[op_type]
    for spec in (*REGISTERED.values(), *_builtin().values()):
        if op_type in spec.aliases or op_type == f"AIE{spec.type}":
            return REGISTERED.get(spec.type, spec)
    return None


def find(op_type: str) -> OperatorSpec:
    """The operator of this type, by IRON's class name, CI's snake-case name or an old ``AIE...`` class name.

    Raises:
        UnknownOperatorError: none is known.
    """
    ready()
    found = _find(op_type)
    if found is None:
        near = _nearest(op_type)
        raise UnknownOperatorError(
            f"operator {op_type!r} is unknown; "
            + (f"nearest: {', '.join(near)}" if near else f"known: {', '.join(s.type for s in specs())}")
            + f". Describe it with @fusion_replay.operator({op_type!r}): `{template_command(op_type)}` prints a file "
            "to fill in"
        )
    return found


def _nearest(op_type: str) -> list[str]:
    """Types whose name, or an alias, differs from this by little more than its case; each once."""
    names = {name.lower(): s.type for s in specs() for name in (*s.aliases, s.type)}
    return list(dict.fromkeys(names[n] for n in difflib.get_close_matches(op_type.lower(), names, cutoff=0.75)))


def template_command(op_type: str) -> str:
    """The command that prints a description of this operator to fill in."""
    return shell(["fusion-replay", "operators", "--new", op_type])


def lookup(op_type: str) -> OperatorSpec | None:
    """As :func:`find`, None where it would raise: a recording never fails for an unknown operator."""
    ready()
    return _find(op_type)


def meant(typed: str) -> OperatorSpec:
    """As :func:`find`, of a name that somebody typed: in any case, where only one operator is called so.

    Raises:
        UnknownOperatorError: none is known.
    """
    ready()
    if _find(typed) is None:
        word = typed.lower()
        fits = [s for s in specs() if word in {name.lower() for name in (s.type, *s.aliases)}]
        if len(fits) == 1:
            return fits[0]
    return find(typed)


def canonical(op_type: str) -> str:
    """What names are compared by: an operator's own in lower case, whatever alias or case was given."""
    spec = lookup(op_type)
    return (op_type if spec is None else spec.type).lower()


def specs() -> Iterator[OperatorSpec]:
    """Every known operator, the user's first, each group by name."""
    ready()
    yield from user_specs()
    yield from (_builtin()[k] for k in sorted(_builtin()) if k not in REGISTERED)


def reference(
    op_type: str,
    params: Mapping[str, Any],
    inputs: Sequence[Any] | Mapping[str, Any],
    flavour: str = "exact",
    *,
    previous: Array | Sequence[Array | None] | None = None,
    values: Mapping[str, int | float] | None = None,
    outputs: Sequence[ArgSpec] | None = None,
) -> tuple[Array, ...]:
    """What the operator's outputs should be.

    Args:
        op_type: IRON's class name or an alias.
        params: its fields; unknown ones are ignored.
        inputs: in arg-spec order, or by argument name. Any shape with the right element count; numpy or torch, or a
            recorded step's ``inputs``.
        flavour: see the module's text; the nearest form that exists answers.
        previous: old contents of the output, for operators that write only part of it.
        values: runtime values of this dispatch, e.g. ``{"vector_size": 64}``.
        outputs: the recorded outputs' arg specs, for operators declared without any (``@operator``).

    Returns:
        One array per output, in the arg spec's shape and dtype (bf16 unless the spec says otherwise).

    Raises:
        UnknownOperatorError: no such operator.
        UsageError: parameters, input counts or element counts that don't fit; the message names the argument.
    """
    spec = find(op_type)
    given = _arrays(spec, params, inputs)
    return evaluate(spec, params, given, flavour, previous=previous, values=values, outputs=outputs)[0]


def _arrays(
    spec: OperatorSpec, params: Mapping[str, Any], inputs: Sequence[Any] | Mapping[str, Any]
) -> Sequence[Array] | Mapping[str, Array]:
    """Recorded tensors as arrays: by name where the recording has the operator's own names, else in their order."""
    if isinstance(inputs, OperandMap):
        names = [t.name for t in inputs.in_order()]
        own = sorted(s.name for s in spec.arg_specs(params) if s.reads)
        if sorted(names) != own or len(set(names)) < len(names):
            return [t.numpy() for t in inputs.in_order()]
    if isinstance(inputs, Mapping):
        return {name: _array(value) for name, value in inputs.items()}
    if hasattr(inputs, "shape"):
        return inputs  # one array, which is refused
    return [_array(value) for value in inputs]


def _array(value: Any) -> Any:
    return value.numpy() if isinstance(value, RecordedTensor) else value


__all__ = ["builtin", "canonical", "find", "lookup", "meant", "reference", "register", "specs", "template_command"]
