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
    from fusion_replay.compare.metrics import metric
    from fusion_replay.compare.tolerance import Tolerance, bf16_ulps, exact, relative
    from fusion_replay.compare.verdict import Verdict, assert_close, compare
    from fusion_replay.diverge.attribution import Attribution, attribute
    from fusion_replay.diverge.bisect import Divergence, bisect
    from fusion_replay.diverge.bisect_fused import bisect_fused
    from fusion_replay.diverge.diff import diff
    from fusion_replay.diverge.diff_report import DiffReport
    from fusion_replay.diverge.explain import diagnose, explain
    from fusion_replay.diverge.fused_divergence import FusedDivergence
    from fusion_replay.diverge.fusion_diff import diff_fused
    from fusion_replay.diverge.fusion_report import FusionReport
    from fusion_replay.errors import FusionReplayError
    from fusion_replay.export import ExportReport, export
    from fusion_replay.model.runlist import ArgSpec
    from fusion_replay.oracle.hooks import oracle
    from fusion_replay.record import record
    from fusion_replay.recording.check import check
    from fusion_replay.recording.dispatch_policy import RecordingDispatch
    from fusion_replay.recording.recorder import Recorder
    from fusion_replay.refs import operator, reference
    from fusion_replay.replay import replay
    from fusion_replay.replaying.redispatch.redispatch_report import RedispatchReport
    from fusion_replay.replaying.redispatch.run import redispatch
    from fusion_replay.replaying.replay_report import ReplayReport
    from fusion_replay.simulator import simulate
    from fusion_replay.simulator.kernels.user import kernel
    from fusion_replay.snapshot import Snapshot
    from fusion_replay.snapshot import open_snapshot as open

_HOMES = {
    "ArgSpec": "fusion_replay.model.runlist",
    "DiffReport": "fusion_replay.diverge.diff_report",
    "Attribution": "fusion_replay.diverge.attribution",
    "Divergence": "fusion_replay.diverge.bisect",
    "FusedDivergence": "fusion_replay.diverge.fused_divergence",
    "FusionReport": "fusion_replay.diverge.fusion_report",
    "ExportReport": "fusion_replay.export",
    "FusionReplayError": "fusion_replay.errors",
    "Recorder": "fusion_replay.recording.recorder",
    "RecordingDispatch": "fusion_replay.recording.dispatch_policy",
    "RedispatchReport": "fusion_replay.replaying.redispatch.redispatch_report",
    "ReplayReport": "fusion_replay.replaying.replay_report",
    "Snapshot": "fusion_replay.snapshot",
    "Tolerance": "fusion_replay.compare.tolerance",
    "Verdict": "fusion_replay.compare.verdict",
    "assert_close": "fusion_replay.compare.verdict",
    "attribute": "fusion_replay.diverge.attribution",
    "bisect": "fusion_replay.diverge.bisect",
    "bisect_fused": "fusion_replay.diverge.bisect_fused",
    "bf16_ulps": "fusion_replay.compare.tolerance",
    "check": "fusion_replay.recording.check",
    "compare": "fusion_replay.compare.verdict",
    "diagnose": "fusion_replay.diverge.explain",
    "explain": "fusion_replay.diverge.explain",
    "diff": "fusion_replay.diverge.diff",
    "diff_fused": "fusion_replay.diverge.fusion_diff",
    "exact": "fusion_replay.compare.tolerance",
    "export": "fusion_replay.export",
    "kernel": "fusion_replay.simulator.kernels.user",
    "metric": "fusion_replay.compare.metrics",
    "open": "fusion_replay.snapshot:open_snapshot",
    "operator": "fusion_replay.refs",
    "oracle": "fusion_replay.oracle.hooks",
    "record": "fusion_replay.record",
    "redispatch": "fusion_replay.replaying.redispatch.run",
    "reference": "fusion_replay.refs",
    "relative": "fusion_replay.compare.tolerance",
    "replay": "fusion_replay.replay",
    "simulate": "fusion_replay.simulator",
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
