# SPDX-License-Identifier: Apache-2.0
"""Turns fused dispatch, and ``auto`` that may become it, into one dispatch per step: ``record --separate``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Protocol

from fusion_replay.sources.iron.watching.patches import Patches

_FUSED_ALONE = {
    "arena": "it shares an arena, as the versions of a graph do, which only a fused image can run in: --separate can't "
    "have its steps, --whole-calls records it as it is",
    "feedback_args": "it feeds values that the device computes back into its next run (feedback_args), which only a "
    "fused image does: --separate can't have its steps, --whole-calls records it as it is",
}
"""Arguments of amd/IRON ``iron/common/image/sequence.py`` that separate dispatch refuses, and a program needs."""
_WHOLE = ("auto", "fused", None)
_WHOLE_POLICIES = ("AutoDispatch", "FusedDispatch")


class Tell(Protocol):
    """Takes a sequence, and what it lost by separate dispatch, or why it stays ``fused``."""

    def __call__(self, sequence: Any, why: str, *, fused: bool) -> None: ...


def apply(module: ModuleType, patches: Patches, tell: Tell) -> None:
    """Sequences that classes of ``module`` make from now on dispatch step by step, where they had a choice.

    ``OperatorSequence(dispatch=...)`` takes a name or a policy object (amd/IRON ``iron/common/sequence.py``). The
    class before it, ``FusedMLIROperator``, asks whether the device is an ``NPU2`` of its module's globals.
    """
    for cls in list(vars(module).values()):
        if not isinstance(cls, type) or cls.__module__ != module.__name__:
            continue
        init = cls.__dict__.get("__init__")
        if callable(init) and "dispatch" in inspect.signature(init).parameters and "runlist" in _parameters(init):
            patches.wrap(cls, "__init__", partial(_around_init, tell=tell))
        elif cls.__name__ == "FusedMLIROperator" and isinstance(vars(module).get("NPU2"), type):
            patches.replace(module, "NPU2", type("NPU2", (), {"__doc__": "No device is an instance of this."}))


def _parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def _around_init(original: Callable[..., Any], tell: Tell) -> Callable[..., Any]:
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
        if not whole:
            original(*bound.args, **bound.kwargs)
            return
        why = next((text for name, text in _FUSED_ALONE.items() if bound.arguments.get(name)), None)
        coresident = bound.arguments.get("coresident")
        if why is None:
            bound.arguments["dispatch"] = "separate"
            if coresident:
                bound.arguments["coresident"] = signature.parameters["coresident"].default
        original(*bound.args, **bound.kwargs)
        if why is not None:
            tell(this, why, fused=True)
        elif coresident:
            tell(this, "its coresident groups are left out, separate dispatch packs no designs together", fused=False)

    return init


__all__ = ["apply"]
