# SPDX-License-Identifier: Apache-2.0
"""``check()``: one call between a new operator and a verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.compare.verdict import as_numpy
from fusion_replay.errors import NotAttachableError, UsageError
from fusion_replay.replay import replay
from fusion_replay.replaying.replay_report import ReplayReport

if TYPE_CHECKING:
    from fusion_replay.simulator.operators import SimulatedOperator


def check(
    operator_or_callable: Any,
    inputs: Mapping[str, Any] | Sequence[Any],
    *,
    device: str = "npu2",
    values: Mapping[str, int | float] | None = None,
    rule: str = "auto",
    reference: str = "auto",
) -> ReplayReport:
    """Run once, record into a temporary file, replay it; raise with the table unless every step matches.

    Args:
        operator_or_callable: the callable of a sequence (IRON's or the software NPU's), or an operator of the software
            NPU (:mod:`fusion_replay.simulator.operators`), which then runs there; or an operator of IRON, or
            the callable of one, which runs on the NPU that mlir-aie finds.
        inputs: contents to fill in before the run, by buffer name (a callable) or argument name (an operator; an
            output's name gives its old contents); or a sequence in the order of the inputs.
        device: of the software NPU, for an operator.
        values: runtime values, by symbol.
        rule, reference: as :func:`replay`.

    Returns:
        The report, all of whose steps match.

    Raises:
        MismatchError: a step mismatches.
        MissingError: a step could not be judged, or none was compared; no mlir-aie for an operator of IRON.
        UsageError: inputs that fit no buffer.
        NotAttachableError: neither a callable that runs step by step nor such an operator.
    """
    from fusion_replay.record import record

    watched, run = _prepared(operator_or_callable, inputs, device, values or {})
    with tempfile.TemporaryDirectory(prefix="fusion-replay-") as folder:
        path = Path(folder) / "check.h5"
        with record(path, watched, on_error="raise"):
            run()
        report = replay(path, reference=reference, rule=rule)
    report.check()
    return report


def _prepared(
    target: Any, inputs: Mapping[str, Any] | Sequence[Any], device: str, values: Mapping[str, int | float]
) -> tuple[Any, Callable[[], Any]]:
    """What to watch, and what to call."""
    operator = None
    _no_framework_model(target)
    if not hasattr(target, "get_buffer"):
        from fusion_replay.sources import is_operator_call
        from fusion_replay.sources.iron.run_single import prepare

        if is_operator_call(target):
            return target, prepare(target, inputs, values)
        operator, target = target, _callable_of(target, device)
    given = _by_name(target, inputs)
    if operator is not None:
        _fits(operator, given)
    _fill(target, given)
    if values:
        target.write_values(values)
    return target, target


def _no_framework_model(target: Any) -> None:
    """
    Raises:
        NotAttachableError: a model of a framework: it dispatches nothing to an NPU, and its steps have no names here.
    """
    what = ""
    if any(cls.__module__.partition(".")[0] == "torch" for cls in type(target).__mro__):
        what = f"{type(target).__name__} is a module of torch"
    elif type(target).__module__.partition(".")[0] in ("onnx", "onnxruntime") or str(target).endswith(".onnx"):
        what = f"{target if isinstance(target, (str, Path)) else type(target).__name__} is an ONNX model"
    if what:
        raise NotAttachableError(
            f"check: {what}, which runs on no NPU; expected an operator or the callable of a sequence. To judge arrays "
            "of your own: fr.record(path) and rec.step(OPERATOR, inputs, params), then fr.replay(path); to judge one "
            "output against the model's: fr.compare(actual, expected)"
        )


def _callable_of(operator: Any, device: str) -> Any:
    from fusion_replay.simulator import simulate
    from fusion_replay.simulator.operators import SimulatedOperator

    if not isinstance(operator, SimulatedOperator):
        raise NotAttachableError(
            f"check: {type(operator).__name__} is no callable with get_buffer() and no operator of the software NPU; "
            "put it in an OperatorSequence(dispatch='separate') and give its get_callable()"
        )
    specs = operator.arg_specs()
    reads, writes = [s.name for s in specs if s.reads], [s.name for s in specs if s.writes]
    runlist = [(operator, *(s.name for s in specs))]
    return simulate(runlist, device=device, name="check", input_args=reads, output_args=writes)


def _by_name(target: Any, inputs: Mapping[str, Any] | Sequence[Any]) -> Mapping[str, Any]:
    if isinstance(inputs, Mapping):
        return inputs
    names = list(target.op.input_args)
    if len(names) != len(inputs):
        raise UsageError(f"check: expected {len(names)} inputs ({', '.join(names)}), found {len(inputs)}")
    return dict(zip(names, inputs, strict=True))


def _fits(operator: SimulatedOperator, inputs: Mapping[str, Any]) -> None:
    """Whole arguments of one operator: what a part of one, or another dtype, would give is no answer about it."""
    for spec in operator.arg_specs():
        if spec.name not in inputs:
            continue
        content = as_numpy(inputs[spec.name])
        if content.nbytes != spec.nbytes:
            raise UsageError(
                f"check: input {spec.name} of {operator.spec.type} takes {spec.dtype} {spec.shape}, {spec.nbytes} "
                f"bytes; found {content.dtype} {content.shape}, {content.nbytes} bytes"
            )


def _fill(target: Any, inputs: Mapping[str, Any]) -> None:
    """Write the contents through the tensors' own recorded writes."""
    for name, value in inputs.items():
        buffer, content = target.get_buffer(name), as_numpy(value)
        room = buffer.numpy()
        if content.nbytes > room.nbytes or content.nbytes % room.dtype.itemsize:
            raise UsageError(f"check: input {name} has {content.nbytes} bytes, its buffer has {room.nbytes}")
        # IRON's buffers are bf16 whatever the operator takes: the bytes are what counts.
        flat = np.ascontiguousarray(content).reshape(-1).view(room.dtype)
        buffer[: flat.size] = flat
