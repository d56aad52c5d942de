# SPDX-License-Identifier: Apache-2.0
"""IRON-shaped operator classes: ``from fusion_replay.simulator.operators import GEMV``.

One dataclass per catalogued operator, by IRON's class name, with IRON's field names, ``get_arg_spec()`` and
``reference()`` (amd/IRON iron/operators, iron/common/base.py). The classes are made from the catalogue's data; what
the device computes is in :mod:`..kernels` and shares no code with the references.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

from fusion_replay import refs as catalogue
from fusion_replay.errors import RunlistError, UnknownOperatorError, UsageError
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import OperatorSpec

Array = npt.NDArray[Any]

_SHORT = {  # amd/IRON iron/common/base.py spells operator names with these
    "num_aie_columns": "c",
    "num_channels": "ch",
    "tile_size": "t",
    "size": "sz",
    "scalar_factor": "sf",
    "rows": "r",
    "cols": "n",
}


@dataclass(frozen=True)
class RuntimeArgSpec:
    """One runtime argument as IRON spells it (``AIERuntimeArgSpec``): direction, shape in elements, dtype *type*."""

    direction: str
    shape: tuple[int, ...]
    dtype: Any = ml_dtypes.bfloat16
    name: str | None = None  # of a user's operator only: IRON's form has none

    @property
    def reads(self) -> bool:
        return self.direction != "out"

    @property
    def writes(self) -> bool:
        return self.direction != "in"

    def nbytes(self) -> int:
        return math.prod(self.shape) * int(np.dtype(self.dtype).itemsize)


class SimulatedOperator:
    """Base of every operator class: the fields come from the dataclass below it.

    Raises:
        UsageError: a required field is missing or has the wrong type (on construction).
    """

    spec: ClassVar[OperatorSpec]
    own_args: tuple[ArgSpec, ...] = ()  # those of :func:`custom`, for an operator that was declared without any

    def __post_init__(self) -> None:
        self.arg_specs()  # a wrong field is reported where it was written, not steps later

    @property
    def params(self) -> SimpleNamespace:
        """The fields with their defaults filled in."""
        return self.spec.bind(parameters_of(self))

    def arg_specs(self) -> tuple[ArgSpec, ...]:
        """Arg specs with their names, which IRON's own form leaves out."""
        return self.own_args or self.spec.arg_specs(parameters_of(self))

    def get_arg_spec(self) -> list[RuntimeArgSpec]:
        """One entry per runtime argument, in runlist order."""
        named = bool(self.own_args)
        return [
            RuntimeArgSpec(s.direction, s.shape, dtype_named(s.dtype), s.name if named else None)
            for s in self.arg_specs()
        ]

    def reference(self, *inputs: Array, previous: Array | Sequence[Array] | None = None, **values: int | float) -> Any:
        """The newest IRON form's answer for these inputs: one array, or a tuple for several outputs.

        ``previous`` holds the outputs' old contents where the operator writes only part of them (one array, or a
        sequence for several outputs); without it they are zeros, as in amd/IRON
        iron/operators/strided_copy/reference.py.
        """
        if previous is None and self.spec.partial:
            previous = [np.zeros(s.shape, dtype_named(s.dtype)) for s in self.arg_specs() if s.writes]
        results = catalogue.reference(
            self.spec.type, parameters_of(self), inputs, "iron-2026-09", previous=previous, values=values
        )
        return results[0] if len(results) == 1 else results

    @property
    def bound_symbols(self) -> dict[str, str]:
        """Role -> symbol of the runtime values for which IRON has no field: there a graph binds them."""
        fields = {p.name for p in self.spec.params}
        named = {r: getattr(self, f"{r}_parameter", None) for r in self.spec.values if f"{r}_parameter" not in fields}
        return {role: symbol for role, symbol in named.items() if isinstance(symbol, str)}

    @property
    def name(self) -> str:
        """IRON's spelling of class and fields; a label, never a key: it changes whenever IRON adds a field."""
        parts = [f"{_SHORT.get(k, k)}{_spelled(v)}" for k, v in parameters_of(self).items() if v is not None]
        return "_".join([type(self).__name__, *parts])


def parameters_of(op: object) -> dict[str, Any]:
    """The fields of an operator dataclass by name, without ``context``.

    Raises:
        RunlistError: not a dataclass instance.
    """
    if not dataclasses.is_dataclass(op) or isinstance(op, type):
        raise RunlistError(f"{op!r} is no operator: expected an instance of a class such as simulator.operators.GEMV")
    return {f.name: getattr(op, f.name) for f in dataclasses.fields(op) if f.name != "context"}


def dtype_named(name: str) -> Any:
    """The scalar type of an arg spec's dtype name: ``ml_dtypes.bfloat16``, ``numpy.uint8``, ..."""
    return ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name).type


def operator_class(op_type: str) -> type[SimulatedOperator]:
    """The operator class of this type, by IRON's class name or an alias; always the same class object.

    Raises:
        UnknownOperatorError: the catalogue has no such operator.
    """
    spec = catalogue.find(op_type)
    made = _CLASSES.get(spec.type)
    if made is None or made.spec is not spec:  # a user's operator may have been declared again
        made = _CLASSES[spec.type] = _make_class(spec)
    return made


def custom(op_type: str, args: Sequence[ArgSpec] = (), **params: Any) -> SimulatedOperator:
    """An operator object of a user's type (``@fusion_replay.operator``), for :func:`~fusion_replay.simulate`.

    Args:
        op_type: the type as it was declared.
        args: its arg specs in runtime order, where the declaration has none.
        params: its parameters.

    Raises:
        UnknownOperatorError: no operator of this type is declared.
        UsageError: parameters that it does not take, or no arg specs in either place.
    """
    made = operator_class(op_type)
    symbols = {f"{role}_parameter" for role in made.spec.values}
    unknown = [name for name in params if name not in symbols | {p.name for p in made.spec.params}]
    if unknown:
        takes = ", ".join(p.name for p in made.spec.params) or "none"
        raise UsageError(f"{op_type}: parameter {', '.join(unknown)}: expected {takes}")
    if made.spec.shapeless and not any(a.writes for a in args):
        raise UsageError(
            f"{op_type} was declared without shapes: give args=[ArgSpec(name, 'in' or 'out', shape), ...] in runtime "
            "order here, or args=... to @fusion_replay.operator"
        )
    op = made(**params)
    op.own_args = tuple(args)
    return op


_CLASSES: dict[str, type[SimulatedOperator]] = {}


def _make_class(spec: OperatorSpec) -> type[SimulatedOperator]:
    # Every field has a default, so that IRON's positional order can be kept whichever of them are required;
    # OperatorSpec.bind reports the required ones that are missing.
    fields: list[Any] = [(p.name, Any, field(default=p.default)) for p in spec.params]
    # Operators of September 2026 have no field for the symbol of a runtime value: a graph binds it. Here it is a field.
    symbols = [f"{role}_parameter" for role in spec.values if all(p.name != f"{role}_parameter" for p in spec.params)]
    fields += [(name, Any, field(default=None, repr=False)) for name in symbols]
    fields.append(("context", Any, field(default=None, repr=False)))
    made = dataclasses.make_dataclass(
        spec.type, fields, bases=(SimulatedOperator,), eq=False, namespace={"spec": spec, "__doc__": spec.summary}
    )
    made.__module__ = __name__
    return made


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return "x".join(map(str, value))
    return str(value)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return operator_class(name)
    except UnknownOperatorError as unknown:
        raise AttributeError(f"module {__name__!r}: {unknown}") from None
