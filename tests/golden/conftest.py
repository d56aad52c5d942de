# SPDX-License-Identifier: Apache-2.0
"""Recordings on the software NPU, and goldens of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.golden.add import add
from golden_maker import recipe, record_workload

Maker = Callable[..., Path]


@pytest.fixture
def goldens(tmp_path: Path) -> Path:
    return tmp_path / "goldens"


@pytest.fixture
def make(tmp_path: Path, goldens: Path) -> Maker:
    """``make("gelu", "op:GELU")``: the document of a golden of that workload, whole unless ``thin=True``."""

    def maker(name: str, workload: str, *faults: str, options: dict[str, Any] | None = None, **how: Any) -> Path:
        given = options or {}
        source = tmp_path / "recordings" / f"{name}.h5"
        source.parent.mkdir(exist_ok=True)
        record_workload(source, workload, *faults, **given)
        return add(source, goldens, recipe=recipe(workload, *faults, **given), **how)[0]

    return maker
