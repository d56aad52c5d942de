# SPDX-License-Identifier: Apache-2.0
"""One operator as data: parameters, arg specs, its reference in several flavours, tolerance, tiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from fusion_replay.compare.numerics.stages import Numerics
from fusion_replay.compare.tolerance import Tolerance, bf16_ulps
from fusion_replay.errors import MissingError, UnknownOperatorError, UsageError
from fusion_replay.model.bf16 import Array, round_bf16
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators.flavours import FLAVOURS, NEAREST, Flavour, FlavourFn
from fusion_replay.operators.tiling import Tiling

REQUIRED = object()
"""Default of a parameter without one."""


@dataclass(frozen=True, slots=True)
class Param:
    """A field of the operator: name, Python type (int, float, bool, str, or tuple for lists of integers) and default.

    ``decides`` is false for fields that shape the device design only (tile sizes, columns) and never the result.
    """

    name: str
    type: type
    default: Any = REQUIRED
    decides: bool = True
    help: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """What a flavour function may ask for besides its inputs.

    Attributes:
        params: the operator's parameters as attributes, defaults filled in.
        xp: the array API namespace of the inputs.
        previous: old contents of the outputs in arg-spec order, for partial writers (else None each).
        values: runtime values of this dispatch (``vector_size``, ``offset``), by name.
        rounder: what :meth:`round` does; replay leaves intermediate roundings out to find a flavour's own meaning.
    """

    params: SimpleNamespace
    xp: Any
    previous: tuple[Array | None, ...] = ()
    values: Mapping[str, int | float] = field(default_factory=dict)
    rounder: Callable[[Array], Array] = round_bf16

    def round(self, x: Array) -> Array:
        """float64 -> the nearest bf16 value, still float64: one rounding of IRON's form."""
        return self.rounder(x)


Runlist = tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...]
"""Steps as (operator type, parameters, one buffer name per argument)."""


@dataclass(frozen=True)
class OperatorSpec:
    """One operator of the catalogue.

    Attributes:
        type: IRON's class name, the key everywhere (``ElementwiseAdd``).
        args: parameters -> arg specs in runtime order.
        flavours: flavour name -> function; names that share a form share a function.
        raw: inputs reach the flavours as given (bf16 and int arrays) instead of float64: movement operators, which
            must keep every bit, and matmuls, which widen block by block.
        exact_bits: the device must reproduce the reference bit for bit (movement operators).
        partial: outputs keep old contents where nothing is written; the flavours read ``call.previous``.
        values: runtime values it understands ("vector_size"). A parameter ``vector_size_parameter`` names the symbol
            under which IRON passes that value; :func:`evaluate` takes either name.
        tolerance: device ("npu1", "npu2", or "*") -> limits of rule ``auto``; a function of the bound parameters where
            they decide it (a matmul's tile count), which must also answer for the defaults alone.
        shapeless: declared by one function without arg specs: outputs have the shapes of the recording.
        no_reference: flavours of the time when IRON's own operator had no ``reference()``.
        iron_fails: ``(parameters, flavour)`` -> what else kept IRON's own compare from passing this operator at that
            time, or None. The parameters carry the dispatch's runtime values as ``values``: :meth:`iron_failure`.
        defects: what IRON's own compare would have said of this operator where it is wrong, and what is right; one
            sentence each, for the documentation.
        devices: generations that IRON has a design for.
        float32: flavours whose results stay float32 although the operator stores bf16 (IRON's own do).
        tiling: parameters -> how the first output is spread over columns and tiles, None where they do not divide.
        numerics: the kernel's arithmetic, from which bounds and causes are computed; None: the tolerance alone decides.
        runlist: of a composite, parameters -> its steps as (operator type, parameters, buffer names); a composite is no
            runlist entry of IRON's.
        elementwise: an element of the result depends on the elements at its own place alone; its one size is ``size``.
        prepared: the argument whose tiles a prologue of IRON's (``prepare``) is applied to; None: it takes none.
        neutral: fields of IRON's that are no parameters here, and change nothing of one call's numbers.
        home: the module of IRON's operators that has the class, where it is not named as the first alias.
        source: where the definition was read.
    """

    type: str
    args: Callable[[SimpleNamespace], tuple[ArgSpec, ...]]
    params: tuple[Param, ...]
    flavours: Mapping[str, FlavourFn]
    tolerance: Mapping[str, Tolerance | Callable[[SimpleNamespace], Tolerance]]
    aliases: tuple[str, ...] = ()
    summary: str = ""
    source: str = ""
    raw: bool = False
    exact_bits: bool = False
    partial: bool = False
    shapeless: bool = False
    values: tuple[str, ...] = ()
    no_reference: tuple[Flavour, ...] = ()
    iron_fails: Callable[[SimpleNamespace, str], str | None] | None = None
    defects: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("npu1", "npu2")
    float32: tuple[str, ...] = ()
    runlist: Callable[[SimpleNamespace], Runlist] | None = None
    tiling: Callable[[SimpleNamespace], Tiling | None] | None = None
    elementwise: bool = False
    prepared: str | None = None
    neutral: tuple[str, ...] = ()
    home: str = ""
    numerics: Numerics | None = None

    def bind(self, params: Mapping[str, Any]) -> SimpleNamespace:
        """Parameters as attributes: known ones checked and defaulted, unknown ones ignored (IRON adds fields).

        Raises:
            UsageError: a required parameter is missing, or one has the wrong type.
        """
        bound: dict[str, Any] = {}
        for p in self.params:
            value = params.get(p.name, p.default)
            if value is REQUIRED:
                kind = "" if p.type is object else f" ({p.type.__name__})"
                raise UsageError(f"{self.type}: parameter {p.name!r}{kind} is required; given: {_names(params)}")
            bound[p.name] = value if value is None or value is p.default else _coerce(self.type, p, value)
        return SimpleNamespace(**bound)

    def arg_specs(self, params: Mapping[str, Any]) -> tuple[ArgSpec, ...]:
        """Arg specs in runtime order for these parameters.

        Raises:
            UsageError: parameters missing, of the wrong type, or giving a negative or absurd shape.
        """
        specs = self.args(self.bind(params))
        for s in specs:
            if any(n < 0 for n in s.shape) or s.size > 1 << 40:
                raise UsageError(
                    f"{self.type}: argument {s.name}: expected a shape of sizes >= 0 and at most 2**40 elements, found "
                    f"{s.shape}; check {_names(params)}"
                )
        return specs

    def flavour(self, name: str) -> tuple[str, FlavourFn]:
        """The function that answers flavour ``name`` and the name of the form it really is."""
        if name not in NEAREST:
            raise UsageError(f"flavour {name!r}: expected one of {', '.join(FLAVOURS)}")
        for candidate in NEAREST[name]:
            if candidate in self.flavours:
                return candidate, self.flavours[candidate]
        raise UnknownOperatorError(f"operator {self.type} has no reference in any flavour")

    def forms(self) -> list[tuple[str, list[str]]]:
        """(form that answers, flavour names it answers), in the order of the flavours; one entry per function."""
        found: dict[int, tuple[str, list[str]]] = {}
        for name in FLAVOURS:
            form, fn = self.flavour(name)
            found.setdefault(id(fn), (form, []))[1].append(name)
        return list(found.values())

    def tolerance_for(self, device: str | None, params: Mapping[str, Any] | None = None) -> Tolerance:
        """Limits of rule ``auto`` on this device; without ``params`` those of the parameters' defaults."""
        limit = self.tolerance.get(device or "*") or self.tolerance.get("*") or bf16_ulps(2)
        if isinstance(limit, Tolerance):
            return limit
        defaults = {p.name: None if p.default is REQUIRED else p.default for p in self.params}
        return limit(SimpleNamespace(**defaults) if params is None else self.bind(params))

    def tiling_of(self, params: Mapping[str, Any]) -> Tiling | None:
        """How the first output is spread over the array; None where nothing is declared, or it does not divide."""
        if self.tiling is None:
            return None
        try:
            return self.tiling(self.bind(params))
        except (ZeroDivisionError, TypeError):  # a file's parameters: no tile of 0, no count that is None
            return None

    def iron_failure(
        self, params: Mapping[str, Any], flavour: str, values: Mapping[str, int | float] | None = None
    ) -> str | None:
        """Why IRON's compare of ``flavour``'s time could not have passed this step, or None where it could."""
        if flavour in self.no_reference:
            time = "pull request 117" if flavour == "pr117" else flavour
            return f"IRON's {self.type} of {time} has no reference(): compare mode skips the step or raises"
        if self.iron_fails is None:
            return None
        bound = self.bind(params)
        bound.values = runtime_values(self, bound, values or {})
        return self.iron_fails(bound, flavour)


def runtime_values(
    spec: OperatorSpec, params: SimpleNamespace, values: Mapping[str, int | float], *, required: bool = False
) -> dict[str, int | float]:
    """The operator's runtime values by its own names, looked up under IRON's symbol where a parameter names one.

    Raises:
        MissingError: ``required``, a parameter names a symbol, and neither a value nor a compiled one (``rtp_...``) is
            there: without a mask length or offset the reference would be of another dispatch.
    """
    found = {}
    for name in spec.values:
        symbol = getattr(params, f"{name}_parameter", None)
        for key in (name, symbol):
            if key is not None and key in values:
                found[name] = values[key]
        if required and symbol is not None and name not in found and getattr(params, f"rtp_{name}", None) is None:
            raise MissingError(
                f"{spec.type}: runtime value {name} (symbol {symbol!r}) is needed, found {_names(values)}; "
                f"give it with values={{{name!r}: ...}}"
            )
    return found


# --- parts ----------------------------------------------------------------------------------------------------------


def _coerce(op: str, p: Param, value: Any) -> Any:
    """A recorded JSON value as the parameter's type; integral floats and numpy scalars are accepted as integers."""
    if p.type is object:
        return value
    if isinstance(value, Mapping) and "class" in value and "value" in value:  # a member of an enumeration
        value = value["value"]
    if p.type is tuple and isinstance(value, (list, tuple)) and all(_is_integral(v) for v in value):
        return tuple(int(v) for v in value)
    if p.type is bool and isinstance(value, (bool, np.bool_, int)):
        return bool(value)
    if p.type is int and _is_integral(value):
        return int(value)
    if p.type is float and not isinstance(value, bool) and isinstance(value, (int, float, np.number)):
        return float(value)
    if p.type is str and isinstance(value, str):
        return value
    raise UsageError(f"{op}: parameter {p.name}={value!r}: expected {p.type.__name__}, found {type(value).__name__}")


def _is_integral(value: Any) -> bool:
    if isinstance(value, (float, np.floating)):
        return bool(value.is_integer())
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _names(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in params.items() if v is not REQUIRED) or "nothing"


__all__ = ["REQUIRED", "Call", "OperatorSpec", "Param", "Runlist", "runtime_values"]
