# SPDX-License-Identifier: Apache-2.0
"""Filters as they are written, ``412,10-20,3:412``, and what they mean.

Tested in tests/recording/test_retention.py.
"""

from __future__ import annotations

from fusion_replay.model.step_filter import Ranges, parse_ranges, parts

FILTERS = ("op", "step", "buffer", "invocation")
"""Options that choose steps: values of one are alternatives, all that are given must agree."""


def parse_invocations(text: str | None) -> Ranges:
    """
    Raises:
        UsageError: malformed.
    """
    return parse_ranges("invocation", parts(text), "0 or 0,3-5")


def within(ranges: Ranges, number: int) -> bool:
    return any(start <= number <= stop for start, stop in ranges)


__all__ = ["FILTERS", "parse_invocations", "within"]
