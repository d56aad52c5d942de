# SPDX-License-Identifier: Apache-2.0
"""A snapshot of ours with the chosen steps alone: same addresses and runlists, so ``replay`` names the same steps."""

from __future__ import annotations

from fusion_replay.export.result import ExportReport, Request
from fusion_replay.export.target import free_name
from fusion_replay.snapshot.seal.subset import subset, write_subset


def export(request: Request) -> ExportReport:
    """Chunks are copied as they are stored; the steps left behind are counted in the new file's losses."""
    part = subset(request.snapshot, request.steps)
    path = write_subset(part, free_name(request.target, request.if_exists), request.if_exists)
    return request.report("h5", path, len(part.index.contents))
