# SPDX-License-Identifier: Apache-2.0
"""Faults in single steps of any operator: found, named right or not at all. ``scripts/step_injections.py`` does it for
as many as one likes; here a few."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    importlib.import_module("step_faults")  # before the script: its own kinds come with it
    yield importlib.import_module("step_injections")
    for name in ("step_injections", "step_faults", "step_faults_blind"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("recordings", [1, pytest.param(25, marks=pytest.mark.long)])
def test_no_proof_is_wrong_and_nothing_honest_is_reported(script: Any, tmp_path: Path, recordings: int) -> None:
    rng = np.random.default_rng(20261130 + recordings)
    kinds = sorted(script.KINDS, key=script.BLIND.__contains__)[:60]  # half of them of the known ones
    steps = [o for _ in range(recordings) for o in script.batch(rng, tmp_path, kinds)]
    assert not [o for o in steps if o.beyond and not o.kind]
    assert not [o for o in steps if o.beyond and o.grade == "proved" and o.named not in o.expected]
    struck = [o for o in steps if o.kind and o.changed and o.kind not in script.BLIND]
    assert sum(o.verdict in ("right", "rival") for o in struck if o.beyond) >= 0.8 * sum(o.beyond for o in struck) > 0
