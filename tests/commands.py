# SPDX-License-Identifier: Apache-2.0
"""A whole command run in this process, and what came of it; the fixture is ``run``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Command = Callable[..., Result]
