# SPDX-License-Identifier: Apache-2.0
"""Results as JSON data and back, by the fields and types of their dataclasses."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def json_data(value: Any) -> Any:
    """``value`` as JSON data: what has a ``to_dict`` by it, sequences as lists, paths as texts.

    JSON has no NaN and no infinities: they become "NaN", "Infinity" and "-Infinity". What it has no form for stays.
    Scalars of numpy are numbers and truth values.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (str, int)):
        return value
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [json_data(v) for v in value]
    if isinstance(value, Mapping):
        return {k: json_data(v) for k, v in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    return to_dict(value) if is_dataclass(value) else value


def to_dict(self: Any) -> dict[str, Any]:
    """JSON data: every field, in their order. Dataclasses take it as a method: ``to_dict = serialise.to_dict``."""
    return pick(self, *(f.name for f in fields(self)))


def pick(result: Any, *names: str) -> dict[str, Any]:
    """JSON data: these attributes, in this order."""
    return {n: json_data(getattr(result, n)) for n in names}


def from_dict(kind: type[T], data: Any, where: str) -> T:
    """Undo :func:`to_dict`; fields that are not there take their default, and what is no field is passed over.

    Args:
        where: begins the message of an error.

    Raises:
        ValueError: a field is missing, or not of its type.
    """
    if not isinstance(data, dict):
        raise unexpected(where, "an object", data)
    given = {}
    for name, (type_, needed) in _fields(typing.cast(Any, kind)).items():
        if needed or name in data:
            given[name] = _value(type_, data.get(name), f"{where}: {name}")
    return kind(**given)


def unexpected(where: str, expected: str, found: Any) -> ValueError:
    """The error that says what of ``where`` is not as it should be."""
    words = {"NoneType": "nothing", "dict": "an object", "str": "a text", "list": "a list"}
    return ValueError(f"{where}: expected {expected}, found {words.get(type(found).__name__, repr(found)[:50])}")


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it has no default."""
    hints = typing.get_type_hints(kind)
    return {f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(kind)}


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return from_dict(typing.cast(type[Any], kind), value, where)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (a for a in arguments if a is not types.NoneType)
        return None if value is None else _value(inner, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{where}: expected one of {', '.join(map(str, arguments))}, found {value!r:.50}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise unexpected(where, "an object", value)
        return {k: _value(arguments[1], v, f"{where}: {k}") for k, v in value.items()}
    return _scalar(kind, value, where)


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise unexpected(where, "a list", value)
    kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else arguments
    if len(kinds) != len(value):
        raise ValueError(f"{where}: expected {len(kinds)} entries, found {len(value)}")
    return tuple(_value(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float:
        value = _NOT_FINITE.get(value, value) if isinstance(value, str) else value
        value = float(value) if type(value) is int else value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise unexpected(where, _WORDS[kind], value)
    return value


__all__ = ["from_dict", "json_data", "pick", "to_dict", "unexpected"]
