# SPDX-License-Identifier: Apache-2.0
"""How a recording is made, as data: everything that :func:`fusion_replay.record` takes but what is kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from fusion_replay.errors import UsageError

IfExists = Literal["error", "replace", "number"]
OnError = Literal["warn", "raise"]


@dataclass(frozen=True, slots=True)
class How:
    """The arguments of :func:`~fusion_replay.record` of these names; see there.

    Raises:
        UsageError: an unknown policy, or both ``weights_in`` and ``no_weights``.
    """

    if_exists: IfExists = "error"
    on_error: OnError = "warn"
    with_reference: bool = False
    verify_static: bool = False
    binaries: bool = True
    slow_after: float = 10.0
    step_timeout: float | None = None
    whole_calls: bool = False
    weights_in: str | os.PathLike[str] | None = None
    no_weights: bool = False

    def __post_init__(self) -> None:
        if self.if_exists not in ("error", "replace", "number"):
            raise UsageError(f"if_exists={self.if_exists!r}: expected 'error', 'replace' or 'number'")
        if self.on_error not in ("warn", "raise"):
            raise UsageError(f"on_error={self.on_error!r}: expected 'warn' or 'raise'")
        if self.weights_in is not None and self.no_weights:
            given = os.fspath(self.weights_in)
            raise UsageError(f"weights_in={given!r}: goes with no_weights=False; leave out one of them")


__all__ = ["How", "IfExists", "OnError"]
