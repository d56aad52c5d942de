# SPDX-License-Identifier: Apache-2.0
"""Doubles of the forms that IRON's dispatch code has had, one module each or a small family.

They have the attributes that their version has and no others, keep host and device memory apart, start device memory
poisoned, and lose or corrupt data where the real ones would. Each module cites the public file that it follows and
says where it differs. Import them through :data:`VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from iron_doubles import machine, operators, v0, v1, v2, v2h, v3, v3p, v4, v5, v6


def _write_old(callable_: Any, name: str, values: np.ndarray) -> None:
    tensor = callable_.get_buffer(name)
    tensor.data.reshape(-1).view(np.uint8)[: values.nbytes] = values.reshape(-1).view(np.uint8)
    tensor._sync_to_device()


def _write_torch(callable_: Any, name: str, values: np.ndarray) -> None:
    """As applications of the time did: the mark is left for the next dispatch, or ``__call__``, to push."""
    callable_.get_buffer(name).torch_view().reshape(-1).view(np.uint8)[: values.nbytes] = _bytes(values)


def _write_numpy(callable_: Any, name: str, values: np.ndarray) -> None:
    callable_.get_buffer(name).numpy_view().reshape(-1).view(np.uint8)[: values.nbytes] = _bytes(values)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _view_old(callable_: Any, name: str) -> np.ndarray:
    return callable_.get_buffer(name)._data  # type: ignore[no-any-return]


def _view_host(callable_: Any, name: str) -> np.ndarray:
    return callable_.get_buffer(name).data  # type: ignore[no-any-return]


def _view_numpy(callable_: Any, name: str) -> np.ndarray:
    return callable_.get_buffer(name).numpy()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Variant:
    """How a program of the time uses this form.

    ``write`` puts values into a buffer, ``result`` reads an output after a call; both as its applications do.
    ``policies``: the module with the policy classes, where there are any.
    """

    label: str
    sequence: Any
    callable: Any
    compare: Any
    ops: Any
    flavour: str
    kernel: Any
    write: Callable[[Any, str, np.ndarray], None]
    result: Callable[[Any, str], np.ndarray]
    policies: Any = None
    values: bool = False

    def __str__(self) -> str:
        return self.label

    def build(self, runlist: Any, inputs: Any, outputs: Any, sizes: Any = None, dispatch: Any = None) -> Any:
        """The runtime callable of a freshly compiled sequence."""
        given = {} if dispatch is None else {"dispatch": dispatch}
        return self.sequence("double", runlist, inputs, outputs, buffer_sizes=sizes, **given).compile().get_callable()


_SPEC, _NPU = operators.SPEC, machine.NPUKernel

VARIANTS = (
    Variant(
        "V0b",
        v0.FusedMLIROperator,
        v0.FusedXclbinCallable,
        None,
        _SPEC,
        "pr117",
        _NPU,
        _write_old,
        _view_old,
    ),
    Variant(
        "V1",
        v1.OperatorSequence,
        v1.SequenceXclbinCallable,
        v1.SequenceCompareCallable,
        _SPEC,
        "pr117",
        _NPU,
        _write_torch,
        _view_old,
    ),
    Variant(
        "V1b",
        v1.OperatorSequenceV1b,
        v1.SequenceXclbinCallableV1b,
        v1.SequenceCompareCallableV1b,
        _SPEC,
        "pr117",
        _NPU,
        _write_torch,
        _view_old,
    ),
    *(
        Variant(
            label,
            home.OperatorSequence,
            home.SequenceXclbinCallable,
            home.SequenceCompareCallable,
            _SPEC,
            flavour,
            _NPU,
            _write_torch,
            _view_host,
            policies=None if label == "V4" else home,
        )
        for label, home, flavour in (
            ("V2", v2, "pr117"),
            ("V2h", v2h, "pr117"),
            ("V3", v3, "iron-2026-08"),
            ("V3'", v3p, "iron-2026-08"),
            ("V4", v4, "iron-2026-08"),
        )
    ),
    Variant(
        "V5",
        v5.OperatorSequence,
        v5.SequenceXclbinCallable,
        v5.SequenceCompareCallable,
        operators.DECLARED,
        "iron-2026-09",
        machine.DispatchKernel,
        _write_numpy,
        _view_host,
        values=True,
    ),
    Variant(
        "V6",
        v6.OperatorSequence,
        v6.StepCallable,
        v6.StepCallable,
        operators.CALLED,
        "iron-2026-09",
        machine.DispatchKernel,
        _write_numpy,
        _view_numpy,
        values=True,
    ),
)

HOOKS: dict[str, str] = {
    "runlist": "V0b V1 V1b V2 V2h V3 V3' V4 V5 V6",
    "get_buffer": "V0b V1 V1b V2 V2h V3 V3' V4 V5 V6",
    "callable.op": "V0b V1 V1b V2 V2h V3 V3' V4 V5 V6",
    "get_arg_spec": "V0b V1 V1b V2 V2h V3 V3' V4",
    "op.buffers": "V5 V6",
    "reference": "V0b V1 V1b V2 V2h V3 V3' V4 V5",
    "call_reference": "V6",
    "policy": "V2 V2h V3 V3'",
    "policy.set_up_artifacts": "V2 V2h V3",
    "policy.compile": "V3'",
    "_iter_steps": "V1b V2 V2h V3 V3' V4 V5",
    "_run_step": "V2 V2h V3 V3' V4 V5",
    "_execution_plan": "V0b V1 V1b V2 V2h V3 V3' V4 V5",
    "_steps": "V6",
    "last_step_stats": "V1 V1b V2 V2h V3 V3' V4 V5",
    "kernel()": "V0b V1 V1b V2 V2h V3 V3' V4 V5 V6",
    "kernel.dispatch_params": "V5 V6",
    "dispatch_values": "V5 V6",
    "load_and_run": "V0b V1 V1b V2 V2h V3 V3' V4 V5 V6",
}
"""Which form offers what to hook, read in amd/IRON ``iron/common/fusion.py`` (V0b), ``iron/common/sequence.py`` (V1 to
V4, V3' in andrej/IRON), ``iron/common/image/callable.py`` (V5, V6) and Xilinx/mlir-aie ``python/utils/npukernel.py``.
"""
