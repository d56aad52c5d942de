# SPDX-License-Identifier: Apache-2.0
"""Workloads recorded on the software NPU, and the recipes that say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion_replay.golden.recipes import record_run
from fusion_replay.simulator.workloads import find


def record_workload(path: Path, name: str, *faults: str, device: str = "npu2", **options: Any) -> Path:
    record_run(find(name).build(device, faults, options), path)
    return path


def recipe(name: str, *faults: str, device: str = "npu2", **options: Any) -> dict[str, Any]:
    return {"workload": name, "device": device, "faults": list(faults), "options": options}
