# SPDX-License-Identifier: Apache-2.0
"""``@fusion_replay.operator``: a user's operator is one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from fusion_replay.compare.tolerance import Tolerance, bf16_ulps
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import REQUIRED, Call, OperatorSpec, Param
from fusion_replay.refs._catalogue import register


def operator(
    type: str,
    *,
    tolerance: Tolerance | Mapping[str, Tolerance] | None = None,
    args: Callable[[SimpleNamespace], Sequence[ArgSpec]] | None = None,
    values: Sequence[str] = (),
    aliases: Sequence[str] = (),
    exact_bits: bool = False,
    replace: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare an operator by one function: positional arguments are inputs, keyword-only arguments are parameters.

    Inputs arrive as float64 arrays in the recorded shape (numpy, or torch where the caller brought torch); integers
    as they are with ``exact_bits``. The result is rounded to the recorded output's dtype once: one array, a tuple of
    several in runtime order, or a mapping by output name. A keyword-only argument called ``previous`` receives the old
    contents of the output (a tuple of them for several): the operator then writes only part of it. The function
    itself is returned unchanged, and answers every flavour.

    Args:
        type: the operator's type, as recordings name it.
        tolerance: limits of rule ``auto``, 2 bf16 ULPs by default; one for each device with
            ``{"npu1": ..., "*": ...}``.
        args: parameters -> arg specs (``fusion_replay.ArgSpec``) in runtime order, inputs named as the function's
            arguments. Needed to run the operator on the software NPU; without it shapes are those of the recording.
        values: names among the keyword-only arguments that are runtime values of a dispatch, not parameters.
        aliases: other names by which recordings may call it.
        exact_bits: the operator moves bits: inputs arrive as stored, the device must reproduce the result exactly.
        replace: take the place of an operator that has this name, built-in ones included.

    Raises:
        UsageError: the name is taken or none, limits that are none, a function that takes ``*args`` or ``**kwargs``,
            or has a default for an input.
    """
    if not isinstance(type, str) or not type:
        raise UsageError(
            '@fusion_replay.operator: expected the operator\'s type, as in @fusion_replay.operator("Scale")'
        )
    limits = tolerance if isinstance(tolerance, Mapping) else {"*": bf16_ulps(2) if tolerance is None else tolerance}
    for limit in limits.values():
        if not isinstance(limit, Tolerance):
            raise UsageError(
                f"operator {type!r}: tolerance={limit!r}: expected a Tolerance, such as fusion_replay.bf16_ulps(2) or "
                "fusion_replay.Tolerance(rtol=0.01)"
            )

    def declare(fn: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(fn).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise UsageError(f"operator {type!r}: {fn.__qualname__} must name its inputs and parameters: no *, no **")
        optional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.default is not p.empty]
        if optional:
            raise UsageError(
                f"operator {type!r}: {optional[0]} has a default, which no input has; if it is a parameter, put a * "
                f"before it: def {fn.__name__}(..., *, {optional[0]}=...)"
            )
        inputs = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in (*values, "previous")]
        partial = any(p.name == "previous" and p.kind is p.KEYWORD_ONLY for p in parameters)
        unknown = [v for v in values if v not in {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}]
        if unknown:
            raise UsageError(f"operator {type!r}: values {', '.join(unknown)} are no keyword-only arguments of it")

        def flavour(call: Call, *arrays: Array) -> Any:
            given = {p.name: getattr(call.params, p.name) for p in keywords}
            given |= {name: call.values[name] for name in values if name in call.values}
            if partial:
                old = tuple(x if exact_bits or x is None else wide(x) for x in call.previous)
                given["previous"] = old[0] if len(old) == 1 else old
            return fn(*arrays, **given)

        def arg_specs(params: SimpleNamespace) -> tuple[ArgSpec, ...]:
            if args is None:
                return tuple(ArgSpec(n, "in", ()) for n in inputs)
            declared = tuple(args(params))
            reads = [s.name for s in declared if s.reads]
            if reads != inputs:
                raise UsageError(
                    f"{type}: args gives the inputs {', '.join(reads) or 'none'}, the function takes "
                    f"{', '.join(inputs) or 'none'}; name them alike, in the same order"
                )
            return declared

        register(
            OperatorSpec(
                type=type,
                args=arg_specs,
                params=tuple(Param(p.name, object, REQUIRED if p.default is p.empty else p.default) for p in keywords),
                flavours={"exact": flavour},
                tolerance=limits,
                aliases=tuple(aliases),
                summary=(inspect.getdoc(fn) or "").partition("\n")[0],
                source=f"{fn.__module__}.{fn.__qualname__}",
                raw=exact_bits,
                exact_bits=exact_bits,
                partial=partial,
                shapeless=args is None,
                values=tuple(values),
            ),
            replace=replace,
        )
        return fn

    return declare


__all__ = ["operator"]
