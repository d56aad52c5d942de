# SPDX-License-Identifier: Apache-2.0
"""The output holds nothing, or something that was recorded there before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fusion_replay.diverge.causes.case import DESCRIBES, Case, Hypothesis
from fusion_replay.diverge.causes.spans import Span

_ALL = 0.999


def hypotheses(case: Case) -> Iterator[Hypothesis]:
    zero = np.zeros_like(case.a)
    yield Hypothesis("zeros", "every element is zero", Span(zero, zero), rank=1, fact=True)
    here = case.wrong & (case.a == 0)
    if not here.all() and np.count_nonzero(here) >= _ALL * case.count:  # some zeros are any formula's
        yield Hypothesis("zeros", "these elements are zero", Span(zero, zero), known=here, rank=DESCRIBES, fact=True)
    if case.previous is not None:
        kept = "keeps what was in its buffer before the step"
        span = Span.of(case.previous)
        yield Hypothesis("never-written", kept, span, rank=1 if _varies(span) else 2)
    for version in case.versions:
        yield Hypothesis("stale-output", f"holds {version.what}", Span.of(version.read()), rank=2)


def _varies(span: Span) -> bool:
    return bool(span.lo.size and (span.lo != span.lo[0]).any())
