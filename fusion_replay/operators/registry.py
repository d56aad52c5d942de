# SPDX-License-Identifier: Apache-2.0
"""The operators that are known: the catalogue's, and what users have registered; found by any of their names."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator
from functools import cache

from fusion_replay import plugins
from fusion_replay.errors import UnknownOperatorError, UsageError
from fusion_replay.operators.spec import OperatorSpec

_USER: dict[str, OperatorSpec] = {}


@cache
def _builtin() -> dict[str, OperatorSpec]:
    from fusion_replay import refs

    return {spec.type: spec for spec in refs.all_specs()}


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
    _USER[spec.type] = spec
    return spec


def _find(op_type: str) -> OperatorSpec | None:
    if op_type in _USER:
        return _USER[op_type]
    if op_type in _builtin():
        return _builtin()[op_type]
    for spec in (*_USER.values(), *_builtin().values()):
        if op_type in spec.aliases or op_type == f"AIE{spec.type}":
            return _USER.get(spec.type, spec)
    return None


def user_specs() -> tuple[OperatorSpec, ...]:
    """The operators registered so far besides the built-in ones, by name; loads nothing."""
    return tuple(_USER[k] for k in sorted(_USER))


def find(op_type: str) -> OperatorSpec:
    """The operator of this type, by IRON's class name, CI's snake-case name or an old ``AIE...`` class name.

    Raises:
        UnknownOperatorError: none is known.
    """
    plugins.ready()
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
    return shlex.join(["fusion-replay", "operators", "--new", op_type])


def lookup(op_type: str) -> OperatorSpec | None:
    """As :func:`find`, None where it would raise: a recording never fails for an unknown operator."""
    plugins.ready()
    return _find(op_type)


def canonical(op_type: str) -> str:
    """What names are compared by: an operator's own in lower case, whatever alias or case was given."""
    spec = lookup(op_type)
    return (op_type if spec is None else spec.type).lower()


def specs() -> Iterator[OperatorSpec]:
    """Every known operator, the user's first, each group by name."""
    plugins.ready()
    yield from user_specs()
    yield from (_builtin()[k] for k in sorted(_builtin()) if k not in _USER)


__all__ = ["builtin", "find", "lookup", "register", "specs", "template_command", "user_specs"]
