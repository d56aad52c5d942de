# SPDX-License-Identifier: Apache-2.0
"""The parameter sets that IRON's CI runs on hardware, each as a sequence to record on the software NPU.

Source: the test report of amd/IRON pull request 117 (https://github.com/amd/IRON/pull/117): 94 sets on Krackan
("npu2"), 71 on Phoenix ("npu1"), and four runs of its Llama application. What the report's names mean in operators and
their fields is in :mod:`.matrix_sequences`. The report names four operators as tested without listing their parameters;
one set each stands in for them, marked as ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads import find
from fusion_replay.simulator.workloads.base import DEVICES, Run
from fusion_replay.simulator.workloads.draws import SEED
from fusion_replay.simulator.workloads.matrix_sequences import MatrixSequence, sequence_of

_CHANNELLED = {"input_length": 2048, "num_aie_columns": 4, "num_channels": 1, "tile_size": 512}
_UNLISTED: Mapping[str, Mapping[str, Any]] = {
    "relu": _CHANNELLED,
    "sigmoid": _CHANNELLED,
    "silu": {"input_length": 2048, "num_aie_columns": 4, "tile_size": 512},
    "tanh": _CHANNELLED,
}

_APPLICATION_DEVICE = "npu2"
"""The application's operators ask for eight columns (amd/IRON ``iron/applications/llama_3.2_1b/llama_npu.py``)."""
_APPLICATION_OPTIONS = {"prompt_tokens": "prompt", "generated_tokens": "tokens"}
"""The report's names for options of workload ``llama``, whose small configuration stands in for the 1B model."""

_SHORT = {
    "prompt_tokens": "prompt",
    "generated_tokens": "tokens",
    "input_length": "",
    "num_aie_columns": "c",
    "aie_columns": "c",
    "num_cores": "cores",
    "num_channels": "ch",
    "channels": "ch",
    "tile_size": "t",
    "tile_size_input": "ti",
    "tile_size_output": "to",
    "group_size": "g",
    "scalar_factor": "by",
    "weighted": "weighted",
    "b_col_maj": "bcol",
    "c_col_maj": "ccol",
    "partition_N": "parts",
    "angle_rows": "angles",
    "embedding_dim": "emb",
    "hidden_dim": "hidden",
    "num_pipelines": "pipes",
}
_UNSAID = {"trace_size", "method_type", "bypass", "prio_accuracy", "num_kv_heads"}
"""Parameters that are 0 or false in every set: names leave them out."""


@dataclass(frozen=True)
class MatrixCase:
    """One parameter set on one device.

    Attributes:
        device: "npu1" or "npu2".
        operator: CI's snake-case name.
        parameters: as the report spells them.
        kind: "operator" or "application" of the report, or "ours".
    """

    device: str
    operator: str
    parameters: Mapping[str, Any] = field(hash=False)
    kind: Literal["operator", "application", "ours"] = "operator"

    @cached_property
    def name(self) -> str:
        """Unique, and good as a file name: ``npu2-axpy-2048-c8-t256-by3``."""
        words = [self.device, self.operator]
        for key, value in self.parameters.items():
            short = _SHORT.get(key, key)
            if isinstance(value, bool):
                words += [short] if value else []
            elif not (key in _UNSAID or (key == "partition_N" and value == 1)):
                words.append(f"{short}{value:g}" if isinstance(value, float) else f"{short}{value}")
        return "-".join(words)

    @cached_property
    def plan(self) -> MatrixSequence:
        """Runlist and inputs; applications have none of their own.

        Raises:
            UsageError: the software NPU's device has no such design.
        """
        return sequence_of(self.operator, self.parameters, self.device, self.name)

    def build(self, faults: Sequence[Any] = ()) -> Run:
        """Ready to run on a fresh software NPU."""
        if self.kind != "application":
            return _CaseRun(self, faults)
        options = {_APPLICATION_OPTIONS[k]: v for k, v in self.parameters.items()}
        return find("llama").build(self.device, faults, options)


class _CaseRun(Run):
    """One invocation on seeded inputs; operators of one step get the same ones as ``op:NAME``."""

    invocations = 1

    def __init__(self, case: MatrixCase, faults: Sequence[Any] = ()) -> None:
        self._case = case
        self.callable = case.plan.sequence.simulate(case.device, faults)

    def prepare(self, i: int) -> None:
        for position, (name, draw) in enumerate(self._case.plan.inputs.items()):
            values = draw(np.random.default_rng([SEED, i, position]))
            buffer = self.callable.get_buffer(name)
            with buffer.mutate() as held:
                held.reshape(-1).view(np.uint8)[: values.nbytes] = values.reshape(-1).view(np.uint8)
            buffer.to("npu")

    def finish(self, i: int) -> None:
        pass

    def describe(self) -> str:
        steps = len(self._case.plan.sequence.runlist)
        return f"{self._case.name}: {steps} {'step' if steps == 1 else 'steps'}"

    def result(self) -> dict[str, Any]:
        return {}


@cache
def data() -> dict[str, Any]:
    """The report's parameter sets as they were copied."""
    text = resources.files("fusion_replay.simulator.workloads").joinpath("data/iron_ci_matrix.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def cases(device: str | None = None, only: str | None = None) -> tuple[MatrixCase, ...]:
    """The parameter sets, the report's own first on each device.

    Args:
        device: only those of "npu1" or "npu2".
        only: a case's name, an operator's snake-case name, or the beginning of a name.

    Raises:
        UsageError: an unknown device, or nothing goes by that name.
    """
    if device is not None and device not in DEVICES:
        raise UsageError(f"device {device!r}: expected one of {', '.join(DEVICES)}")
    found = [c for c in _all() if device in (None, c.device)]
    if only is not None:
        named = [c for c in found if only in (c.name, c.operator)] or [c for c in found if c.name.startswith(only)]
        if not named:
            known = ", ".join(dict.fromkeys(c.operator for c in found))
            raise UsageError(f"matrix case {only!r} is unknown; give a name such as {found[0].name}, or one of {known}")
        found = named
    return tuple(found)


@cache
def _all() -> tuple[MatrixCase, ...]:
    listed = [MatrixCase(d, c["operator"], c["parameters"]) for d in DEVICES for c in data()["cases"][d]]
    applications = [
        MatrixCase(_APPLICATION_DEVICE, name, parameters, "application")
        for name, runs in data()["applications"].items()
        for parameters in runs
    ]
    ours = [MatrixCase(d, operator, fields, "ours") for d in DEVICES for operator, fields in _UNLISTED.items()]
    return tuple(sorted((*listed, *applications, *ours), key=lambda c: c.device))


__all__ = ["MatrixCase", "cases", "data"]
