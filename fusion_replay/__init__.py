# SPDX-License-Identifier: Apache-2.0
"""fusion-replay: record what an NPU computed, step by step; replay and judge it anywhere.

``import fusion_replay as fr`` loads nothing but this file: every public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fusion_replay.check import check
    from fusion_replay.compare import Verdict, assert_close, compare
    from fusion_replay.dispatch import RecordingDispatch
    from fusion_replay.diverge.attribution import Attribution, attribute
    from fusion_replay.diverge.bisect import Divergence, bisect
    from fusion_replay.diverge.diff import diff
    from fusion_replay.diverge.diff_report import DiffReport
    from fusion_replay.diverge.explain import diagnose, explain
    from fusion_replay.errors import FusionReplayError
    from fusion_replay.export import ExportReport, export
    from fusion_replay.model import ArgSpec
    from fusion_replay.operators import reference
    from fusion_replay.record import Recorder, record
    from fusion_replay.redispatch import RedispatchReport, redispatch
    from fusion_replay.replay import ReplayReport, replay
    from fusion_replay.snapshot import Snapshot
    from fusion_replay.snapshot import open_snapshot as open
    from fusion_replay.sources.simulator import simulate
    from fusion_replay.sources.simulator.kernels.user import kernel
    from fusion_replay.tolerance import Tolerance, bf16_ulps, exact, relative
    from fusion_replay.user_operators import operator

_HOMES = {
    "ArgSpec": "fusion_replay.model",
    "DiffReport": "fusion_replay.diverge.diff_report",
    "Attribution": "fusion_replay.diverge.attribution",
    "Divergence": "fusion_replay.diverge.bisect",
    "ExportReport": "fusion_replay.export",
    "FusionReplayError": "fusion_replay.errors",
    "Recorder": "fusion_replay.record",
    "RecordingDispatch": "fusion_replay.dispatch",
    "RedispatchReport": "fusion_replay.redispatch",
    "ReplayReport": "fusion_replay.replay",
    "Snapshot": "fusion_replay.snapshot",
    "Tolerance": "fusion_replay.tolerance",
    "Verdict": "fusion_replay.compare",
    "assert_close": "fusion_replay.compare",
    "attribute": "fusion_replay.diverge.attribution",
    "bisect": "fusion_replay.diverge.bisect",
    "bf16_ulps": "fusion_replay.tolerance",
    "check": "fusion_replay.check",
    "compare": "fusion_replay.compare",
    "diagnose": "fusion_replay.diverge.explain",
    "explain": "fusion_replay.diverge.explain",
    "diff": "fusion_replay.diverge.diff",
    "exact": "fusion_replay.tolerance",
    "export": "fusion_replay.export",
    "kernel": "fusion_replay.sources.simulator.kernels.user",
    "open": "fusion_replay.snapshot:open_snapshot",
    "operator": "fusion_replay.user_operators",
    "record": "fusion_replay.record",
    "redispatch": "fusion_replay.redispatch",
    "reference": "fusion_replay.operators",
    "relative": "fusion_replay.tolerance",
    "replay": "fusion_replay.replay",
    "simulate": "fusion_replay.sources.simulator",
}

__all__ = ["__version__", *sorted(_HOMES)]


class _Package(ModuleType):
    """Keeps ``fr.record`` the function: importing the submodule of that name must not put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fusion_replay' has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value = getattr(importlib.import_module(module), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
