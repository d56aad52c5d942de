# SPDX-License-Identifier: Apache-2.0
"""A reference on given contents, numpy arrays or torch tensors: inputs checked and ordered, results rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import array_api_compat as aac
import numpy as np

from fusion_replay.errors import MissingError, UsageError
from fusion_replay.model.bf16 import Array, is_torch, narrow, round_bf16, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators.spec import Call, OperatorSpec, runtime_values


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
    """What the operator's outputs should be, and the name of the flavour that answered.

    Args:
        spec: the operator.
        params: its fields; unknown ones are ignored.
        inputs: in arg-spec order, or by argument name. Any shape with the right element count; numpy or torch.
        flavour: see the module's text; the nearest form that exists answers.
        previous: old contents of the output, for operators that write only part of it.
        values: runtime values of this dispatch, e.g. ``{"vector_size": 64}``.
        outputs: the recorded outputs' arg specs, for operators declared without any (``@operator``).
        rounder: does the intermediate roundings.

    Returns:
        One array per output, in the arg spec's shape and dtype (bf16 unless the spec says otherwise).

    Raises:
        UsageError: parameters, input counts or element counts that don't fit; the message names the argument.
    """
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
    for each in results:
        kind = _dtype_name(each) if hasattr(each, "dtype") else type(each).__name__
        if not hasattr(each, "dtype") or kind.startswith("complex"):
            raise UsageError(f"{spec.type}: the reference gave {kind}; expected arrays of real numbers")
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
    shape = getattr(inputs, "shape", None)
    if shape is not None:
        raise UsageError(
            f"{spec.type}: expected its inputs ({', '.join(names)}) as a list or by name, found one array "
            f"{tuple(shape)}; put it into a list"
        )
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
    return _name_of(x.dtype)


@lru_cache(64)  # numpy spells it out anew each time
def _name_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _is_float64(x: Array) -> bool:
    return _dtype_name(x) == "float64"


__all__ = ["evaluate"]
