# SPDX-License-Identifier: Apache-2.0
"""Recorded steps in other formats: snapshots of a part, plain HDF5, NumPy, safetensors, JSON Lines."""

from fusion_replay.export.api import FORMATS, export
from fusion_replay.export.result import ExportReport

__all__ = ["FORMATS", "ExportReport", "export"]
