# SPDX-License-Identifier: Apache-2.0
"""An operator's fields as JSON data: what they are, which were given, what is folded into it, what IRON judges it by.

Since autumn 2026 a field may hold anything: another operator (``finish``, ``prepare``: amd/IRON
``iron/common/declare/operator.py``, ``Link``), an access pattern (Xilinx/mlir-aie ``aie.helpers.taplib``), an
enumeration. All of them become data, and what can't be read is said.
Tested in tests/sources/iron/test_source.py and test_autumn.py.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fusion_replay.system.messages import in_words

UNREADABLE = "unreadable"
"""Key under which a field whose value could not be read says why."""

_NOT_PARAMETERS = frozenset({"context", "artifacts", "ov", "buffers", "name"})
_DEEP = 12  # a fold within a fold within ...; beyond it, and for an object within itself, the class alone
_MANY = 4096  # items of one collection


def parameters(op: Any) -> dict[str, Any]:
    """The operator's fields as JSON data: dataclass fields, else plain attributes; those of its overlay ``ov`` too."""
    return {name: data for _, name, data, _ in _fields(op, ())}


def given_fields(op: Any) -> tuple[str, ...]:
    """Names of the fields that have another value than the class gives them by itself.

    Left out is what the class declares as tuning (``auto()``), and what it computes from other fields.
    """
    return tuple(dict.fromkeys(name for owner, name, _, value in _fields(op, ()) if _is_given(owner, name, value)))


def gate_of(op: Any) -> dict[str, Any] | None:
    """What IRON judges the operator's output by (``gate()``, before that ``tolerance()``); None: it says nothing."""
    for name in ("gate", "tolerance"):
        ask = getattr(op, name, None)
        if callable(ask):
            try:
                data = jsonable(ask() if name == "gate" else op.resolved().tolerance())
            except Exception:  # asks the current device, which need not be known
                continue
            return data if isinstance(data, dict) else None
    return None


def unreadable(params: Mapping[str, Any]) -> list[str]:
    """Names of the fields that could not be read."""
    return [name for name, value in params.items() if isinstance(value, Mapping) and UNREADABLE in value]


def jsonable(value: Any, within: tuple[int, ...] = ()) -> Any:
    """``value`` as JSON data: collections as lists, dtypes by name, any other object as its class and public fields.

    No repr: an address in it would differ from run to run. ``class`` can be no field, so it says the type; an operator
    has ``type``, ``module``, ``params`` and ``given`` besides. ``within``: the objects that this one is part of.
    """
    if isinstance(value, enum.Enum) and not isinstance(value, (str, int)):
        return {"class": type(value).__name__, "name": value.name, "value": jsonable(value.value, within)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (type, np.dtype)):
        try:
            return np.dtype(value).name  # a dtype field holds the scalar type itself
        except TypeError:
            return value.__name__ if isinstance(value, type) else str(value)
    if id(value) in within or len(within) >= _DEEP:
        return {"class": type(value).__name__}
    inner = (*within, id(value))
    if isinstance(value, (set, frozenset)):
        return sorted((jsonable(v, inner) for v in _few(value)), key=str)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [jsonable(v, inner) for v in _few(value)]
    if isinstance(value, Mapping):
        return {str(k): jsonable(v, inner) for k, v in _few(value.items())}
    if is_operator(value):
        return {
            "class": type(value).__name__,
            "type": type(value).__name__,
            "module": type(value).__module__,
            "params": {name: data for _, name, data, _ in _fields(value, within)},
            "given": list(given_fields(value)),
        }
    return {"class": type(value).__name__, **{name: data for name, data, _ in _read(value, _public(value), inner)}}


def is_operator(value: Any) -> bool:
    """Whether this is an operator itself, as a fold holds one."""
    return not isinstance(value, type) and callable(getattr(value, "reference", None))


# --- reading --------------------------------------------------------------------------------------------------------


def _fields(op: Any, within: tuple[int, ...]) -> Iterator[tuple[Any, str, Any, Any]]:
    """(owner, name, data, value) of each field; the value is None where it could not be read."""
    for owner in (getattr(op, "ov", None), op):
        if owner is None:
            continue
        if dataclasses.is_dataclass(owner):
            names = [f.name for f in dataclasses.fields(owner) if f.name not in _NOT_PARAMETERS]
        else:
            attributes = getattr(owner, "__dict__", {})
            names = [n for n, v in attributes.items() if n[:1] != "_" and n not in _NOT_PARAMETERS and _is_plain(v)]
        for name, data, value in _read(owner, names, (*within, id(op))):
            yield owner, name, data, value


def _read(owner: Any, names: Iterable[str], within: tuple[int, ...]) -> Iterator[tuple[str, Any, Any]]:
    for name in names:
        try:
            value = getattr(owner, name)
            yield name, jsonable(value, within), value
        except AttributeError:
            continue
        except Exception as error:
            yield name, {"class": "?", UNREADABLE: in_words(error)}, None


def _public(value: Any) -> list[str]:
    """Names of an object's fields: what is public, and what a property of the same name shows (``_sizes``: sizes)."""
    if dataclasses.is_dataclass(value):
        return [f.name for f in dataclasses.fields(value)]
    if hasattr(value, "_fields"):  # a named tuple
        return list(value._fields)
    slots = [s for kind in type(value).__mro__ for s in _words(getattr(kind, "__slots__", ()))]
    names = dict.fromkeys([*getattr(value, "__dict__", {}), *slots])
    shown = {n[1:] for n in names if n[:1] == "_" and isinstance(getattr(type(value), n[1:], None), property)}
    return [n for n in dict.fromkeys(n.removeprefix("_") for n in names) if n in names or n in shown]


def _words(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _few(values: Iterable[Any]) -> Iterator[Any]:
    for _, value in zip(range(_MANY), values, strict=False):
        yield value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str, np.generic))


# --- defaults -------------------------------------------------------------------------------------------------------


def _is_given(owner: Any, name: str, value: Any) -> bool:
    """Whether the class alone would not have this value."""
    kind = type(owner)
    if name in (getattr(kind, "_auto_fields", None) or ()):  # amd/IRON iron/common/declare/field.py, auto()
        return False
    if derive := (getattr(kind, "_derived_params", None) or {}).get(name):
        try:
            return not _same(derive(owner), value)
        except Exception:
            return True
    if dataclasses.is_dataclass(owner):
        field = next(f for f in dataclasses.fields(owner) if f.name == name)
        if field.default is not dataclasses.MISSING:
            return not _same(field.default, value)
        if field.default_factory is not dataclasses.MISSING:
            return not _same(field.default_factory(), value)
        return True
    try:
        parameter = inspect.signature(kind).parameters.get(name)
    except (TypeError, ValueError):
        return True
    return parameter is not None and not _same(parameter.default, value)  # else the constructor made it of others


def _same(a: Any, b: Any) -> bool:
    try:
        return a is b or bool(a == b)
    except Exception:  # arrays, and objects that compare by raising
        return False


__all__ = ["UNREADABLE", "gate_of", "given_fields", "is_operator", "jsonable", "parameters", "unreadable"]
