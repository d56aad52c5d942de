# SPDX-License-Identifier: Apache-2.0
"""What an operator is, as data: parameters, arg specs, reference in several flavours, tolerance; and the registry.

Each file of :mod:`fusion_replay.refs` declares one :class:`OperatorSpec` named ``SPEC``; a user's operator is one
decorated function (:mod:`fusion_replay.user_operators`). :func:`reference` evaluates any of them on numpy arrays or
torch tensors.

A *flavour* says whose rounding a reference follows:

``pr117``        amd/IRON pull request 117 (July 2026), torch bf16 operation by operation
``iron-2026-08`` August 2026
``iron-2026-09`` the newest numpy form (September 2026)
``exact``        the true value, rounded to bf16 once
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal

import array_api_compat as aac
import numpy as np

from fusion_replay import plugins
from fusion_replay.bf16 import BFLOAT16, Array, is_torch, narrow, round_bf16, wide
from fusion_replay.errors import MissingError, UnknownOperatorError, UsageError
from fusion_replay.model import ArgSpec
from fusion_replay.tiling import Tiling
from fusion_replay.tolerance import Tolerance, bf16_ulps

Flavour = Literal["pr117", "iron-2026-08", "iron-2026-09", "exact"]
FLAVOURS: tuple[Flavour, ...] = ("pr117", "iron-2026-08", "iron-2026-09", "exact")

# Where an operator has no form of its own for a flavour, the nearest one serves, in this order.
_NEAREST: dict[str, tuple[str, ...]] = {
    "pr117": ("pr117", "iron-2026-08", "iron-2026-09", "exact"),
    "iron-2026-08": ("iron-2026-08", "pr117", "iron-2026-09", "exact"),
    "iron-2026-09": ("iron-2026-09", "iron-2026-08", "exact", "pr117"),
    "exact": ("exact", "iron-2026-09", "iron-2026-08", "pr117"),
}

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


FlavourFn = Callable[..., Any]
"""``(call, *inputs) -> array or tuple``. float64 results are rounded to the arg spec's dtype once at the end, so a
flavour rounds explicitly only *before* its last operation; results in a storage dtype pass through bit for bit."""


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
        iron_fails: ``(parameters, flavour)`` -> why IRON's own compare could not have passed this operator in that
            era, or None. The parameters carry the dispatch's runtime values as ``values``: :meth:`iron_failure`.
        defects: what IRON's own compare would have said of this operator where it is wrong, and what is right; one
            sentence each, for the documentation.
        devices: generations that IRON has a design for.
        float32: flavours whose results stay float32 although the operator stores bf16 (IRON's own do).
        tiling: parameters -> how the first output is spread over columns and tiles, None where they do not divide.
        runlist: of a composite, parameters -> its steps as (operator type, parameters, buffer names); a composite is no
            runlist entry of IRON's.
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
    iron_fails: Callable[[SimpleNamespace, str], str | None] | None = None
    defects: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("npu1", "npu2")
    float32: tuple[str, ...] = ()
    runlist: Callable[[SimpleNamespace], Runlist] | None = None
    tiling: Callable[[SimpleNamespace], Tiling | None] | None = None

    def bind(self, params: Mapping[str, Any]) -> SimpleNamespace:
        """Parameters as attributes: known ones checked and defaulted, unknown ones ignored (IRON adds fields).

        Raises:
            UsageError: a required parameter is missing, or one has the wrong type.
        """
        bound: dict[str, Any] = {}
        for p in self.params:
            value = params.get(p.name, p.default)
            if value is REQUIRED:
                raise UsageError(
                    f"{self.type}: parameter {p.name!r} ({p.type.__name__}) is required; given: {_names(params)}"
                )
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
        if name not in _NEAREST:
            raise UsageError(f"flavour {name!r}: expected one of {', '.join(FLAVOURS)}")
        for candidate in _NEAREST[name]:
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
        """Why IRON's compare of ``flavour``'s era could not have passed this step, or None where it could."""
        if self.iron_fails is None:
            return None
        bound = self.bind(params)
        bound.values = runtime_values(self, bound, values or {})
        return self.iron_fails(bound, flavour)


# --- registry ---------------------------------------------------------------------------------------------------

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
        raise UnknownOperatorError(
            f"operator {op_type!r} is unknown; known: {', '.join(s.type for s in specs())}. "
            f"Describe it with @fusion_replay.operator({op_type!r}): `{template_command(op_type)}` prints a file to "
            "fill in"
        )
    return found


def template_command(op_type: str) -> str:
    """The command that prints a description of this operator to fill in."""
    return shlex.join(["fusion-replay", "operators", "--new", op_type])


def lookup(op_type: str) -> OperatorSpec | None:
    """As :func:`find`, None where it would raise: a recording never fails for an unknown operator."""
    plugins.ready()
    return _find(op_type)


def specs() -> Iterator[OperatorSpec]:
    """Every known operator, the user's first, each group by name."""
    plugins.ready()
    yield from user_specs()
    yield from (_builtin()[k] for k in sorted(_builtin()) if k not in _USER)


# --- evaluation -------------------------------------------------------------------------------------------------


def reference(
    op_type: str,
    params: Mapping[str, Any],
    inputs: Sequence[Array] | Mapping[str, Array],
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
        inputs: in arg-spec order, or by argument name. Any shape with the right element count; numpy or torch.
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
    return evaluate(find(op_type), params, inputs, flavour, previous=previous, values=values, outputs=outputs)[0]


def evaluate(
    spec: OperatorSpec,
    params: Mapping[str, Any],
    inputs: Sequence[Array] | Mapping[str, Array],
    flavour: str,
    *,
    previous: Array | Sequence[Array | None] | None = None,
    values: Mapping[str, int | float] | None = None,
    outputs: Sequence[ArgSpec] | None = None,
    rounder: Callable[[Array], Array] = round_bf16,
) -> tuple[tuple[Array, ...], str]:
    """As :func:`reference`, and the name of the form that answered; ``rounder`` does the intermediate roundings."""
    used, fn = spec.flavour(flavour)
    bound = spec.bind(params)
    declared = spec.arg_specs(params)
    in_specs = [s for s in declared if s.reads]
    out_specs = list(outputs or ()) if spec.shapeless else [s for s in declared if s.writes]
    arrays = _inputs_in_order(spec, in_specs, inputs)
    if not spec.shapeless:
        arrays = [_shaped(spec, s, a) for s, a in zip(in_specs, arrays, strict=True)]
    xp = aac.array_namespace(*arrays) if arrays else np
    old = _previous(spec, out_specs, previous)
    call = Call(bound, xp, old, runtime_values(spec, bound, values or {}, required=True), rounder)
    with np.errstate(all="ignore"):  # overflow, NaN and division by zero are results here, judged by the rules
        result = fn(call, *(arrays if spec.raw else [wide(a) for a in arrays]))
    results = _in_order(spec, out_specs, result)
    if not out_specs:
        return tuple(narrow(r) if _is_float64(r) else r for r in results), used
    if len(results) != len(out_specs):
        raise UsageError(f"{spec.type}: the reference gave {len(results)} results for {len(out_specs)} outputs")
    keep = used in spec.float32
    return tuple(_finish(spec, s, r, keep_float32=keep) for s, r in zip(out_specs, results, strict=True)), used


def _in_order(spec: OperatorSpec, out_specs: Sequence[ArgSpec], result: Any) -> tuple[Array, ...]:
    """What a flavour gave, as a tuple: one array, several in order, or a mapping by output name."""
    if not isinstance(result, Mapping):
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)
    names = [s.name for s in out_specs] or list(result)
    if sorted(names) != sorted(result):
        raise UsageError(f"{spec.type}: the reference gave {', '.join(result)}, the outputs are {', '.join(names)}")
    return tuple(result[n] for n in names)


def _inputs_in_order(
    spec: OperatorSpec, in_specs: Sequence[ArgSpec], inputs: Sequence[Array] | Mapping[str, Array]
) -> list[Array]:
    names = [s.name for s in in_specs]
    if isinstance(inputs, Mapping):
        missing = [n for n in names if n not in inputs]
        extra = [n for n in inputs if n not in names]
        if missing or extra:
            raise UsageError(
                f"{spec.type}: expected inputs {', '.join(names)}"
                + (f"; missing {', '.join(missing)}" if missing else "")
                + (f"; unknown {', '.join(extra)}" if extra else "")
            )
        return [_as_array(inputs[n]) for n in names]
    if len(inputs) != len(names):
        raise UsageError(f"{spec.type}: expected {len(names)} inputs ({', '.join(names)}), found {len(inputs)}")
    return [_as_array(x) for x in inputs]


def _as_array(x: Any) -> Array:
    return x if is_torch(x) else np.asarray(x)


def _shaped(spec: OperatorSpec, arg: ArgSpec, array: Array) -> Array:
    found = _dtype_name(array)
    if found != arg.dtype and not (found in _FLOATS and arg.dtype in _FLOATS):
        raise UsageError(f"{spec.type}: argument {arg.name} needs {arg.dtype} elements, found {found}")
    size = math.prod(array.shape)
    if size != arg.size:
        raise UsageError(
            f"{spec.type}: argument {arg.name} needs {arg.size} elements {arg.shape}, found {size} {tuple(array.shape)}"
        )
    return array.reshape(arg.shape)


def _previous(
    spec: OperatorSpec, out_specs: Sequence[ArgSpec], previous: Array | Sequence[Array | None] | None
) -> tuple[Array | None, ...]:
    if previous is None:
        given: Sequence[Array | None] = [None] * len(out_specs)
    elif isinstance(previous, (list, tuple)):
        given = previous
    else:
        given = [previous]
    anything = spec.shapeless and not out_specs  # asked without a recording: the shapes are whatever was given
    if anything and not given:
        given = [None]
    if len(given) != len(out_specs) and not anything:
        raise UsageError(f"{spec.type}: expected previous contents of {len(out_specs)} outputs, found {len(given)}")
    if spec.partial and any(g is None for g in given):
        raise MissingError(f"{spec.type} writes only part of its output: give the old contents with previous=array")
    if anything:
        return tuple(given)
    return tuple(None if g is None else _shaped(spec, s, g) for s, g in zip(out_specs, given, strict=True))


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


def _finish(spec: OperatorSpec, arg: ArgSpec, result: Array, *, keep_float32: bool = False) -> Array:
    """Rounded to the arg spec's dtype once where the flavour left another float type, in the spec's shape."""
    stays = keep_float32 and _dtype_name(result) == "float32"
    if _dtype_name(result) in _WIDER and arg.dtype == "bfloat16" and not stays:
        result = narrow(wide(result))
    elif _is_float64(result) and arg.dtype not in ("bfloat16", "float64"):
        xp = aac.array_namespace(result)
        whole = arg.dtype not in ("float16", "float32")
        result = xp.astype(xp.round(result) if whole else result, getattr(xp, arg.dtype))
    if math.prod(result.shape) != arg.size:
        raise UsageError(f"{spec.type}: the reference gave {tuple(result.shape)} for output {arg.name} {arg.shape}")
    result = result.reshape(arg.shape)
    return result.contiguous() if is_torch(result) else np.ascontiguousarray(result).reshape(arg.shape)


_FLOATS = ("bfloat16", "float16", "float32", "float64")  # any may stand for another: its values are what counts
_WIDER = ("float16", "float32", "float64")  # movement operators hand back what came in; bf16 and integers stay as is


def _dtype_name(x: Array) -> str:
    return str(x.dtype).removeprefix("torch.")


def _is_float64(x: Array) -> bool:
    return _dtype_name(x) == "float64"


def _coerce(op: str, p: Param, value: Any) -> Any:
    """A recorded JSON value as the parameter's type; integral floats and numpy scalars are accepted as integers."""
    if p.type is object:
        return value
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
    return ", ".join(f"{k}={v!r}" for k, v in params.items()) or "nothing"


__all__ = [
    "BFLOAT16",
    "FLAVOURS",
    "REQUIRED",
    "Call",
    "OperatorSpec",
    "Param",
    "evaluate",
    "find",
    "is_torch",
    "lookup",
    "reference",
    "register",
    "runtime_values",
    "specs",
    "template_command",
    "user_specs",
]
