# SPDX-License-Identifier: Apache-2.0
"""Sequences to record without IRON: llama, a MiniLM encoder, single operators, all on the software NPU.

``find(name)`` gives a :class:`Workload`; its :meth:`~Workload.build` gives a :class:`Run` with the simulated callable.
A workload's module is imported when it is asked for, and declares ``WORKLOAD``; ``op:NAME`` is made by
``workload(NAME)`` of :mod:`fusion_replay.simulator.workloads.op`.
"""

from __future__ import annotations

import importlib

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads.base import Run, Workload, WorkloadOption

_HOMES = {
    "llama": "fusion_replay.simulator.workloads.llama_prompt",
    "llama-decode": "fusion_replay.simulator.workloads.llama",
    "minilm": "fusion_replay.simulator.workloads.minilm",
}
_OPERATOR = "op:"


def names() -> tuple[str, ...]:
    """Every workload's name; ``op:NAME`` stands for one operator of the catalogue."""
    return (*_HOMES, "op:NAME")


def find(name: str) -> Workload:
    """The workload called ``name``.

    Raises:
        UsageError: there is none; the message lists the known ones.
        UnknownOperatorError: ``op:NAME`` with an operator that the software NPU does not have.
    """
    if name in _HOMES:
        workload: Workload = importlib.import_module(_HOMES[name]).WORKLOAD
        return workload
    if name.startswith(_OPERATOR) and name != _OPERATOR:
        single: Workload = importlib.import_module(f"{__name__}.op").workload(name.removeprefix(_OPERATOR))
        return single
    raise UsageError(f"workload {name!r} is unknown; known: {', '.join(names())}")


__all__ = ["Run", "Workload", "WorkloadOption", "find", "names"]
