# SPDX-License-Identifier: Apache-2.0
"""What ``operators --new NAME`` prints: a Python file that declares an operator."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusion_replay.model.text import shell

if TYPE_CHECKING:
    from fusion_replay.snapshot import RecordedStep, RecordedTensor

_RUNNABLE = '''\
"""Operator {text} for fusion-replay.

    python {name}.py
    fusion-replay replay {name}.h5 --import {name}.py

The first records {name}.h5 and judges it, the second judges it again, anywhere.
"""

import ml_dtypes
import numpy as np

import fusion_replay as fr


@fr.operator({op}, tolerance=fr.bf16_ulps(2))
def {name}(A, B, *, eps=1e-5):
    """What {text} computes, in float64. Inputs are positional, parameters keyword-only."""
    return A / (np.abs(B) + eps)


def run(a, b, eps):
    """The device: put the call of your kernel here."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    return (a / (np.abs(b) + np.float32(eps))).astype(ml_dtypes.bfloat16)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 64, 32)).astype(ml_dtypes.bfloat16)
    with fr.record("{name}.h5", if_exists="replace") as rec:
        with rec.step({op}, inputs={{"A": a, "B": b}}, params={{"eps": 1e-5}}) as step:
            step.outputs["C"] = run(a, b, eps=1e-5)
    report = fr.replay("{name}.h5")
    print(report)
    report.check()
'''

_RECORDED = '''\
"""Operator {text} for fusion-replay, as step {address} recorded it:

{lines}

    {command}
"""

import numpy as np

import fusion_replay as fr


@fr.operator({op}, tolerance=fr.bf16_ulps(2))
def {name}({signature}):
    """What {text} computes, in float64: one array, or a mapping by output name."""
    raise NotImplementedError("write here what it computes")
'''


def runnable(op: str) -> str:
    """A whole example: the operator, a device to replace, a recording, its replay. It runs as it is."""
    return _quiet(_RUNNABLE.format(op=json.dumps(op), text=_plain(op), name=_snake(op)))


def of_recorded_step(step: RecordedStep, recording: str) -> str:
    """The operator with the arguments and parameters of a recorded step; what it computes is left to write."""
    inputs = [*step.inputs.values()]
    lines = [_line("in ", t) for t in inputs] + [_line("out", t) for t in step.outputs.values()]
    made = _RECORDED.format(
        op=json.dumps(step.op.type),
        text=_plain(step.op.type),
        address=step.address,
        lines="\n".join(lines),
        command=_plain(shell(["fusion-replay", "replay", recording, "--import", f"{_snake(step.op.type)}.py"])),
        name=_snake(step.op.type),
        signature=_signature([t.name for t in inputs], step.op.params),
    )
    return _quiet(made)


def _line(side: str, tensor: RecordedTensor) -> str:
    return f"    {side}  {_plain(tensor.name)}: {tensor.dtype} {tensor.shape}"


def _plain(text: str) -> str:
    """Text that cannot end the docstring it stands in: a snapshot may come from anywhere."""
    return ascii(text)[1:-1].replace('"', "'")


def _quiet(source: str) -> str:
    """It may be printed into a log of GitHub Actions; only a string or docstring holds what is a command there."""
    return source.replace("##[", "\\x23#[")


def _signature(inputs: list[str], params: Mapping[str, Any]) -> str:
    """Parameters get their recorded values as defaults; those that Python can't name stay out (they are ignored)."""
    arguments = [name if _is_name(name) else _snake(name) for name in inputs]
    named = [f"{k}={v!r}" for k, v in params.items() if _is_name(k) and k not in arguments]
    return ", ".join([*arguments, *(["*", *named] if named else [])])


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _snake(text: str) -> str:
    """``MyOp`` -> ``my_op``: a name for a function and its file."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|\W+", "_", text).strip("_").lower()
    return snake if _is_name(snake) else f"op_{snake}"
