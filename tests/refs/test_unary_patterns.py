# SPDX-License-Identifier: Apache-2.0
"""Unary operators in ``exact``: right to the bit on all 65,536 bf16 patterns, against arbitrary precision.

ReLU needs no arithmetic: test_elementwise.py has it on every pattern.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from bf16_oracle import INF, NAN, NEGATIVE, array, bits_of, to_torch
from fusion_replay.refs import reference

PATTERNS = np.arange(1 << 16)
ALPHA = 0.01


def _silu(x: mpmath.mpf) -> mpmath.mpf:
    return x / (1 + mpmath.exp(-x))


def _gelu(x: mpmath.mpf) -> mpmath.mpf:
    return x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)))


def _sigmoid(x: mpmath.mpf) -> mpmath.mpf:
    return 1 / (1 + mpmath.exp(-x))


def _leaky_relu(x: mpmath.mpf) -> mpmath.mpf:
    return x if x > 0 else mpmath.mpf(ALPHA) * x


# Operator: the true function, and what it gives for -Inf and +Inf (as torch).
CASES: dict[str, tuple[Callable[[mpmath.mpf], mpmath.mpf], int, int]] = {
    "LeakyReLU": (_leaky_relu, NEGATIVE | INF, INF),
    "SiLU": (_silu, NAN, INF),
    "GELU": (_gelu, NAN, INF),
    "Sigmoid": (_sigmoid, 0, 0x3F80),
    "Tanh": (mpmath.tanh, 0xBF80, 0x3F80),
}


def _magnitude(pattern: int, halves: int = 0) -> mpmath.mpf:
    """What a positive pattern stands for plus ``halves`` half steps to its neighbour; Inf counts as 2**128."""
    exponent, fraction = pattern >> 7, pattern & 0x7F
    implicit = 0x80 if exponent else 0
    return mpmath.ldexp(2 * (implicit + fraction) + halves, max(exponent, 1) - 127 - 7 - 1)


with mpmath.workprec(20):
    MAGNITUDES = [_magnitude(b) for b in range(INF)]
    MIDPOINTS = [_magnitude(b, 1) for b in range(INF)]  # between a pattern and the next one


def _is_nearest(truth: mpmath.mpf, got: int) -> bool:
    """Whether pattern ``got`` is ``truth`` rounded to nearest, ties to even."""
    if truth != 0 and got != 0 and (truth < 0) != bool(got & NEGATIVE):
        return False
    magnitude, kept = abs(truth), got & 0x7FFF
    even = kept % 2 == 0
    if kept > 0 and (magnitude < MIDPOINTS[kept - 1] or (magnitude == MIDPOINTS[kept - 1] and not even)):
        return False
    return kept == INF or magnitude < MIDPOINTS[kept] or (magnitude == MIDPOINTS[kept] and even)


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("op", CASES)
def test_every_pattern_is_the_true_value_rounded_once(op: str, share: int) -> None:
    """In short one pattern of four, of every exponent and both signs, drawn once and for all."""
    fn, at_minus_inf, at_inf = CASES[op]
    params = {"size": PATTERNS.size} | ({"alpha": ALPHA} if op == "LeakyReLU" else {})
    (c,) = reference(op, params, [array(PATTERNS)])
    got = bits_of(c)
    assert got[[NEGATIVE | INF, INF]].tolist() == [at_minus_inf, at_inf]
    assert (got[(PATTERNS & 0x7FFF) > INF] == NAN).all()
    wrong = []
    chosen = np.random.default_rng(share).permuted(PATTERNS.reshape(512, 128), axis=1)[:, : 128 // share]
    for pattern in chosen[(chosen & 0x7FFF) < INF].tolist():
        magnitude = MAGNITUDES[pattern & 0x7FFF]
        if magnitude > 200 and op != "LeakyReLU":  # exp(-200) is 2**-288: no bit of it is left
            right = int(got[pattern]) & 0x7FFF == _far(op, pattern) & 0x7FFF
        else:
            # The square of a subnormal decides a tie 2**-134 away.
            with mpmath.workprec(320 if magnitude < 2.0**-60 or magnitude > 64 else 90):
                truth = fn(-magnitude if pattern & NEGATIVE else magnitude)
                right = _is_nearest(truth, int(got[pattern]))
        if not right:
            wrong.append((hex(pattern), hex(int(got[pattern]))))
    assert not wrong, f"{len(wrong)} wrong, first {wrong[:5]}"


def _far(op: str, pattern: int) -> int:
    if op == "Tanh":
        return 0x3F80
    if op == "Sigmoid":
        return 0 if pattern & NEGATIVE else 0x3F80
    return 0 if pattern & NEGATIVE else pattern


@pytest.mark.torch
@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "LeakyReLU", "ReLU"])
def test_irons_forms_are_torchs_to_the_bit(op: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = {
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "LeakyReLU": lambda t: torch.nn.functional.leaky_relu(t, 0.01),
        "ReLU": torch.relu,
    }[op](to_torch(array(PATTERNS)))
    for flavour in ("pr117", "iron-2026-08", "iron-2026-09"):
        (mine,) = reference(op, {"size": PATTERNS.size}, [array(PATTERNS)], flavour)
        off = bits_of(mine) != bits_of(theirs)
        # In float32 the exponential of a sigmoid overflows there, and the result is 0 instead of under 1e-36.
        off &= ~((mine.astype(np.float64) < 1e-36) & (bits_of(theirs) == 0))
        assert PATTERNS[off].tolist() == []
