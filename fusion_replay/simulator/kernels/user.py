# SPDX-License-Identifier: Apache-2.0
"""``@fusion_replay.kernel``: what the software NPU computes for a user's operator, in one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.model import declared
from fusion_replay.simulator.core import BFLOAT16, Core, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel
from fusion_replay.simulator.kernels.builtin import builtin_kernels

_USER: dict[str, Kernel] = declared.table()


def kernel(type: str, *, replace: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the software NPU's kernel of an operator by one function.

    Positional arguments are the inputs in runtime order: bfloat16 arrives as float32, the width of the core's
    accumulators, anything else as it is. Keyword-only arguments are parameters and runtime values of the operator, by
    name, and two that are given where the function asks for them: ``core`` (``core.round_bf16(x)`` rounds an
    intermediate result as the register says, ``core.rounding = "conv_even"`` sets it, ``core.generation`` is "npu1" or
    "npu2") and ``previous`` (the outputs' old contents, a tuple).

    The result is one array or a tuple of them in runtime order. Where the operator's output is bfloat16 a float result
    is stored by the core's rounding register. Write the kernel apart from the reference, or their agreement says
    nothing. The function itself is returned unchanged.

    Raises:
        UsageError: the type has a kernel already and ``replace`` is false, or the function takes ``*`` or ``**``.
    """
    if not replace and (type in _USER or type in builtin_kernels()):
        whose = _USER[type].source if type in _USER else "the software NPU itself"
        raise UsageError(f"kernel {type!r}: there is one already, by {whose}; choose another type or replace=True")

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(function).parameters.values()
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            raise UsageError(f"kernel {type!r}: {function.__qualname__} must name its arguments: no *, no **")
        wanted = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]

        def compute(d: Dispatch) -> list[Array]:
            core, p = d.core, d.params
            if len(d.inputs) != len(positional):
                found = f"{function.__qualname__} takes {len(positional)}"
                raise UsageError(f"kernel {type!r}: the operator has {len(d.inputs)} inputs, {found}")
            known: dict[str, Any] = {**vars(p), **d.values, "core": core, "previous": tuple(d.previous)}
            given = {name: _chosen(type, name, default, known) for name, default in wanted.items()}
            result = function(*[widen(x) if x.dtype == BFLOAT16 else x for x in d.inputs], **given)
            results = result if isinstance(result, (tuple, list)) else (result,)
            return [_stored(core, r, old) for r, old in _paired(type, results, d.previous)]

        source = f"{function.__module__}.{function.__qualname__}"
        _USER[type] = Kernel(type, compute, _no_rules, source=source)
        return function

    return declare


def user_kernel(op_type: str) -> Kernel | None:
    """The kernel that a user declared for this operator type, if any."""
    return _USER.get(op_type)


def user_kernels() -> Mapping[str, Kernel]:
    """All that users declared, by operator type."""
    return _USER


def _no_rules(params: Params, core: Core) -> None:
    """A user's design has rules of its own."""


def _chosen(type: str, name: str, default: Any, known: Mapping[str, Any]) -> Any:
    if name in known:
        return known[name]
    if default is inspect.Parameter.empty:
        raise UsageError(f"kernel {type!r}: argument {name!r} is no parameter or runtime value of the operator")
    return default


def _paired(type: str, results: Sequence[Any], previous: Sequence[Array]) -> list[tuple[Array, Array]]:
    if len(results) != len(previous):
        raise UsageError(f"kernel {type!r}: it gave {len(results)} results for {len(previous)} outputs")
    return list(zip(map(np.asarray, results), previous, strict=True))


def _stored(core: Core, result: Array, old: Array) -> Array:
    """``result`` in the output's dtype, which its old contents have."""
    if result.size != old.size:
        raise UsageError(f"a kernel gave {result.size} elements {result.shape} for an output of {old.size} {old.shape}")
    if old.dtype == BFLOAT16 and result.dtype != BFLOAT16:
        return core.store_bf16(result)
    return result.astype(old.dtype, copy=False)


__all__ = ["kernel", "user_kernel", "user_kernels"]
