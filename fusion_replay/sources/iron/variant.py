# SPDX-License-Identifier: Apache-2.0
"""Which form of IRON a callable has, told by what it offers: IRON has no version number that moves.

======  ==========================  ==============================================================================
Label   When                        Evidence
======  ==========================  ==============================================================================
V0b     before pull request 117     ``_execution_plan``; the sequence has a private ``_calculate_buffer_layout``
V1      pull request 117, early     ``_execution_plan`` walked inline: no ``_iter_steps``
V1b     pull request 117, middle    ``_iter_steps``
V2      pull request 117, merged    policy objects (``_dispatch``) with ``set_up_artifacts``
V2h     the HRX fork                as V2, the plan holds loaded handles, the policy links no combined xclbin
V3      August 2026                 as V2, and ``plan_scratch``
V3'     a fork of August 2026       policies with ``compile``
V4      August 2026                 ``mode`` in place of policies, ``get_arg_spec()``
V5      late August 2026            declared operators (``buffers``) in an ``_execution_plan``
V6      September 2026              ``_steps``
======  ==========================  ==============================================================================

Files: amd/IRON ``iron/common/fusion.py`` (V0b), ``iron/common/sequence.py`` (V1 to V4),
``iron/common/image/callable.py`` (V5, V6); andrej/IRON ``iron/common/sequence.py`` (V3').
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from fusion_replay.sources.describe import describe_operator

_FLAVOURS = {"V3": "iron-2026-08", "V3'": "iron-2026-08", "V4": "iron-2026-08", "V5": "iron-2026-09"}


def origin_of(callable_: Any) -> dict[str, str]:
    """Form of IRON with its evidence, dispatch mode, device, and the flavour that its own references follow.

    ``caution`` is there where the recording is faithful and yet not what the program means to compute. A callable that
    knows better says all of it in a mapping named ``origin`` (the software NPU does).
    """
    own = getattr(callable_, "origin", None)
    if isinstance(own, Mapping):
        return {str(k): str(v) for k, v in own.items()}
    variant, evidence = variant_of(callable_)
    flavour = "iron-2026-09" if variant == "V6" else _FLAVOURS.get(variant, "pr117")
    compares = hasattr(callable_, "last_step_stats") or getattr(callable_, "compare", False) is True
    origin = {
        "variant": variant,
        "evidence": ", ".join(evidence),
        "flavour": flavour,
        "dispatch": "compare" if compares else "separate",
    }
    if device := current_device():
        origin["device"] = device
    if caution := _caution(callable_):
        origin["caution"] = caution
    return origin


def variant_of(callable_: Any) -> tuple[str, tuple[str, ...]]:
    """Label, and the attributes that say so."""
    sequence = callable_.op
    if hasattr(callable_, "_steps"):
        return "V6", ("_steps",)
    if hasattr(callable_, "new_run"):  # its fused callable
        return "V6", ("new_run",)
    if any(hasattr(entry[0], "buffers") for entry in sequence.runlist):
        return "V5", ("_execution_plan", "op.buffers")
    policy = getattr(callable_, "_dispatch", None) or getattr(sequence, "_dispatch", None)
    if policy is not None:
        return _of_policies(callable_, policy)
    if isinstance(getattr(sequence, "mode", None), str) or hasattr(sequence, "plan_scratch"):
        return "V4", ("_execution_plan", "mode without a policy")
    if hasattr(callable_, "_iter_steps"):
        return "V1b", ("_execution_plan", "_iter_steps", "no policy")
    if hasattr(sequence, "_calculate_buffer_layout"):
        return "V0b", ("_execution_plan", "_calculate_buffer_layout")
    return "V1", ("_execution_plan", "no _iter_steps")


def _of_policies(callable_: Any, policy: Any) -> tuple[str, tuple[str, ...]]:
    plan = getattr(callable_, "_execution_plan", None) or ()
    if plan and not callable(plan[0][0]):
        return "V2h", ("_execution_plan of loaded handles", "_dispatch")
    if hasattr(policy, "compile") and not hasattr(policy, "set_up_artifacts"):
        return "V3'", ("_execution_plan", "_dispatch with compile()")
    if hasattr(callable_.op, "plan_scratch"):
        return "V3", ("_execution_plan", "_dispatch", "plan_scratch")
    return "V2", ("_execution_plan", "_dispatch")


def _caution(callable_: Any) -> str | None:
    """Until dispatches took scalars, per-call values reached the fused ELF alone (iron/common/sequence.py, ``params``).

    The operators carry the sign: a parameter's symbol in a ``..._parameter`` field, before that a magic word
    (``mask_patch_value``, ``..._patch_marker``) that was patched in the ELF.
    """
    if hasattr(callable_, "dispatch_values"):
        return None
    asking = sorted({type(entry[0]).__name__ for entry in callable_.op.runlist if _asks(entry[0])})
    if not asking:
        return None
    return (
        f"not a correct decode: {' and '.join(asking)} expect a value per call, which this form of IRON passes in "
        "fused mode only; the separate dispatches ran with the offset and length they were compiled with"
    )


def _asks(operator: Any) -> bool:
    params = describe_operator(operator).params
    marked = params.get("kwargs")
    return bool(
        any(k.endswith("_parameter") and isinstance(v, str) for k, v in params.items())
        or params.get("mask_patch_value")
        or (isinstance(marked, Mapping) and _any_marker(marked))
    )


def _any_marker(names: Iterable[Any]) -> bool:
    return any(str(name).endswith("_patch_marker") for name in names)


def current_device() -> str | None:
    """The generation that mlir-aie is bound to; it is asked only where the program itself has loaded it."""
    ask = getattr(sys.modules.get("aie.utils"), "get_current_device", None)
    if not callable(ask):
        return None
    try:
        device = ask()
        words = f"{type(device).__name__} {getattr(device, 'name', '')}".lower()
    except Exception:
        return None
    return next((name for name in ("npu1", "npu2") if name in words), None)


__all__ = ["current_device", "origin_of", "variant_of"]
