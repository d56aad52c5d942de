# SPDX-License-Identifier: Apache-2.0
"""JSON Lines: one record per step, its arrays by digest and statistics; ``report/schema.json`` has the schema."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.target import output
from fusion_replay.report.jsonl import encode
from fusion_replay.report.step_view import describe

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor, Step


def export(request: Request) -> ExportReport:
    with output(request.target, request.if_exists) as out:
        arrays = write(out.part, request.each(request.steps))
    return request.report("jsonl", out.path, arrays)


def write(path: Path, steps: Iterable[Step]) -> int:
    """One line per step; the number of arrays they describe."""
    arrays = 0
    with open(path, "x", encoding="ascii") as file:
        for step in steps:
            line = record(step)
            arrays += len(line["arrays"])
            file.write(encode(line) + "\n")
    return arrays


def record(step: Step) -> dict[str, Any]:
    """The ``exported_step`` of a recorded step."""
    return {
        "type": "exported_step",
        "address": step.address,
        "invocation": step.invocation,
        "step": step.index,
        "sequence": step.sequence.name,
        "op": step.op.type,
        "params": dict(step.op.params),
        "values": step.values,
        "label": step.label,
        "status": step.status,
        "elapsed_ns": step.elapsed_ns,
        "state": step.state,
        "error": step.error,
        "arrays": [_array(side, tensor) for side, tensor in step.tensors()],
    }


def _array(side: str, tensor: RecordedTensor) -> dict[str, Any]:
    stats = asdict(describe(tensor.numpy())) if tensor.kept else None
    return {
        "side": side,
        "name": tensor.name,
        "buffer": tensor.buffer,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "nbytes": tensor.nbytes,
        "digest": tensor.digest,
        "kept": tensor.kept,
        "unchanged": tensor.unchanged,
        "stats": stats,
    }
