# SPDX-License-Identifier: Apache-2.0
"""Replay: evaluate the reference of every recorded step and say where the device differs."""

from fusion_replay.replay.outcome import FinalOutput, NoiseFloor, OutputReport, Skip, StepReport
from fusion_replay.replay.results import ReplayReport
from fusion_replay.replay.run import MODES, replay
from fusion_replay.replay.trial import check

__all__ = [
    "MODES",
    "FinalOutput",
    "NoiseFloor",
    "OutputReport",
    "ReplayReport",
    "Skip",
    "StepReport",
    "check",
    "replay",
]
