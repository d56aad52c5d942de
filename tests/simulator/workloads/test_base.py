# SPDX-License-Identifier: Apache-2.0
"""Options as data, and the registry that finds workloads by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads import Run, Workload, WorkloadOption, find, names


class _Counting(Run):
    invocations = 3

    def __init__(self) -> None:
        self.log: list[str] = []
        self.callable = lambda: self.log.append("call")

    def prepare(self, i: int) -> None:
        self.log.append(f"prepare {i}")

    def finish(self, i: int) -> None:
        self.log.append(f"finish {i}")

    def describe(self) -> str:
        return "counting"

    def result(self) -> dict[str, Any]:
        return {"log": self.log}


def _workload(*options: WorkloadOption) -> tuple[Workload, list[SimpleNamespace]]:
    seen: list[SimpleNamespace] = []

    def build(device: str, faults: Any, values: SimpleNamespace) -> Run:
        values.device, values.faults = device, faults
        seen.append(values)
        return _Counting()

    return Workload("sample", "for tests", options, build), seen


OPTIONS = (
    WorkloadOption("count", int, 2, "how many", minimum=1),
    WorkloadOption("mode", str, "slow", "which", choices=("slow", "fast")),
    WorkloadOption("wide", bool, False, "wider"),
    WorkloadOption("folder", str, None, "where"),
    WorkloadOption("param", str, None, "K=V", repeat=True),
)


def test_defaults_fill_what_was_not_given() -> None:
    workload, seen = _workload(*OPTIONS)
    workload.build("npu1", ["fault"], {"count": "7", "param": ["a=1", "b=2"]})
    assert vars(seen[0]) == {
        "count": 7,
        "mode": "slow",
        "wide": False,
        "folder": None,
        "param": ("a=1", "b=2"),
        "device": "npu1",
        "faults": ["fault"],
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 0}, ("count", "0", "at least 1")),
        ({"count": "many"}, ("count", "many", "int")),
        ({"count": True}, ("count", "True", "int")),
        ({"mode": "medium"}, ("mode", "medium", "slow, fast")),
        ({"wide": "yes"}, ("wide", "yes", "bool")),
        ({"depth": 3}, ("depth", "count", "mode", "wide")),
    ],
)
def test_bad_options_are_named_with_what_was_expected(given: dict[str, Any], words: tuple[str, ...]) -> None:
    workload, _ = _workload(*OPTIONS)
    with pytest.raises(UsageError) as caught:
        workload.build("npu2", (), given)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_unknown_device() -> None:
    workload, _ = _workload()
    with pytest.raises(UsageError, match=r"npu3.*npu1, npu2"):
        workload.build("npu3")


def test_execute_prepares_calls_and_finishes_in_order() -> None:
    assert _Counting().execute() == {
        "log": ["prepare 0", "call", "finish 0", "prepare 1", "call", "finish 1", "prepare 2", "call", "finish 2"]
    }


@pytest.mark.parametrize("name", ["llama-decode", "minilm"])
def test_workloads_are_found_by_their_name(name: str) -> None:
    assert find(name).name == name
    assert name in names()
    assert all(option.help for option in find(name).options)


@pytest.mark.parametrize("name", ["", "llama-", "op:", "../minilm"])
def test_unknown_workload_names_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match=r"llama-decode, minilm, op:NAME"):
        find(name)
