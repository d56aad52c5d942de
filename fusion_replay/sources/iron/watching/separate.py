# SPDX-License-Identifier: Apache-2.0
"""Turns fused dispatch, and ``auto`` that may become it, into one dispatch per step: ``record --separate``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from fusion_replay.sources.iron.watching.patches import Patches

_WHOLE = ("auto", "fused", None)
_WHOLE_POLICIES = ("AutoDispatch", "FusedDispatch")


def apply(module: ModuleType, patches: Patches) -> None:
    """Sequences that classes of ``module`` make from now on dispatch step by step, where they had a choice.

    ``OperatorSequence(dispatch=...)`` takes a name or a policy object (amd/IRON ``iron/common/sequence.py``). The
    class before it, ``FusedMLIROperator``, asks whether the device is an ``NPU2`` of its module's globals.
    """
    for cls in list(vars(module).values()):
        if not isinstance(cls, type) or cls.__module__ != module.__name__:
            continue
        init = cls.__dict__.get("__init__")
        if callable(init) and "dispatch" in inspect.signature(init).parameters and "runlist" in _parameters(init):
            patches.wrap(cls, "__init__", _around_init)
        elif cls.__name__ == "FusedMLIROperator" and isinstance(vars(module).get("NPU2"), type):
            patches.replace(module, "NPU2", type("NPU2", (), {"__doc__": "No device is an instance of this."}))


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _around_init(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def init(this: Any, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(this, *args, **kwargs)
        except TypeError:
            original(this, *args, **kwargs)  # raises as it would have
            return
        bound.apply_defaults()
        given = bound.arguments["dispatch"]
        whole = given in _WHOLE if isinstance(given, str | None) else type(given).__name__ in _WHOLE_POLICIES
        if whole and bound.arguments.get("arena") is None:  # only the full ELF can run in a shared arena
            bound.arguments["dispatch"] = "separate"
        original(*bound.args, **bound.kwargs)

    return init


__all__ = ["apply"]
