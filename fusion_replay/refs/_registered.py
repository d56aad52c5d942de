# SPDX-License-Identifier: Apache-2.0
"""The operators that users have registered; whoever asks here loads nothing."""

from __future__ import annotations

from fusion_replay.model import declared
from fusion_replay.operators.spec import OperatorSpec

REGISTERED: dict[str, OperatorSpec] = declared.table()


def user_specs() -> tuple[OperatorSpec, ...]:
    """The operators registered so far besides the built-in ones, by name; loads nothing."""
    return tuple(REGISTERED[k] for k in sorted(REGISTERED))


__all__ = ["REGISTERED", "user_specs"]
