# SPDX-License-Identifier: Apache-2.0
"""What a snapshot holds as rows of a table: its steps, their operands, its losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fusion_replay.errors import UsageError
from fusion_replay.model.notebook import data_frame

if TYPE_CHECKING:
    import pandas as pd

    from fusion_replay.snapshot.read.reader import Snapshot


def to_dataframe(snapshot: Snapshot, of: str) -> pd.DataFrame:
    """As :meth:`Snapshot.to_dataframe`."""
    if of not in _ROWS:
        raise UsageError(f"to_dataframe of {of!r}: expected one of {', '.join(_ROWS)}")
    rows, index = _ROWS[of]
    return data_frame(rows(snapshot), index)


def _steps(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for step in snapshot:
        yield {
            "address": step.address,
            "invocation": step.invocation,
            "step": step.index,
            "op": step.op.type,
            "label": step.label,
            "status": step.status,
            "elapsed_ns": step.elapsed_ns,
            "nbytes": sum(use.spec.nbytes for use in step.description.operands),
            "state": step.state,
            "error": step.error,
            "withheld": step.withheld,
        }


def _operands(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    for step in snapshot:
        for side, tensor in step.tensors():
            yield {
                "address": step.address,
                "op": step.op.type,
                "side": side,
                "name": tensor.name,
                "position": tensor.position,
                "buffer": tensor.buffer,
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "nbytes": tensor.nbytes,
                "digest": tensor.digest,
                "kept": tensor.kept,
                "unchanged": tensor.unchanged,
            }


def _losses(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    return (loss.to_dict() for loss in snapshot.losses)


_ROWS: dict[str, tuple[Callable[[Snapshot], Iterator[dict[str, Any]]], str | None]] = {
    "steps": (_steps, "address"),
    "operands": (_operands, None),
    "losses": (_losses, None),
}

__all__ = ["to_dataframe"]
