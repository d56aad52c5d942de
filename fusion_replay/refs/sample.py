# SPDX-License-Identifier: Apache-2.0
"""Sample: the next token, drawn from a row of logits by temperature and top-k with a uniform number given beforehand.

One draw is four int32 words: the temperature's float32 bits, k, and the low and high words of a 53-bit integer n, the
uniform being n / 2**53. Temperature 0 takes the first index of the largest logit. Otherwise the candidates are all
logits from the k-th largest on (ties included, -0 and +0 equal), in index order; candidate v weighs
exp(v / T - max / T), both quotients and their difference in float32; and the token is the first candidate whose prefix
sum exceeds the uniform times the total. The sums are double-double (float64 and the error of each addition), so the
device's draw and this one are the same token (Xilinx/mlir-aie python/iron/kernels/sample.py).

Writes the token to ``token`` and, at element ``at``, to ``tokens``, whose other elements keep their contents. ``row``
is the element of ``draws`` at which this draw starts.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.tolerance import exact
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import Array, is_torch, wide
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import Call, OperatorSpec, Param
from fusion_replay.refs.arithmetic.exp64 import exp64

ROW_WORDS = 4
Doubles = npt.NDArray[np.float64]


def _args(p: SimpleNamespace) -> tuple[ArgSpec, ...]:
    if p.cores < 1 or p.vocab % p.cores:
        raise UsageError(f"Sample: vocab {p.vocab}: expected a multiple of cores, found {p.cores}")
    return (
        ArgSpec("logits", "in", (p.vocab,)),
        ArgSpec("draws", "in", (p.steps, ROW_WORDS), "int32"),
        ArgSpec("tokens", "inout", (p.steps,), "int32"),
        ArgSpec("token", "out", (1,), "int32"),
    )


def _sample(call: Call, logits: Array, draws: Array, tokens: Array) -> tuple[Array, Array]:
    xp, p = call.xp, call.params
    row, at = int(call.values.get("row", 0)), int(call.values.get("at", 0))
    if not 0 <= row <= (p.steps - 1) * ROW_WORDS:
        raise UsageError(f"Sample: runtime value row {row}: expected an element of draws, 0 to {p.steps * 4 - 4}")
    if not 0 <= at < p.steps:
        raise UsageError(f"Sample: runtime value at {at}: expected an element of tokens, 0 to {p.steps - 1}")
    words = _host(draws).reshape(-1)[row : row + ROW_WORDS].astype(np.int32).view(np.uint32)
    drawn = draw(_host(wide(logits)).reshape(-1), words, p.k_max)
    recorded = xp.asarray(tokens, copy=True)
    recorded[at] = drawn
    return recorded, xp.full_like(recorded[:1], drawn)


def _host(x: Array) -> npt.NDArray[Any]:
    return np.asarray(x.cpu().numpy() if is_torch(x) else x)


def draw(logits: npt.NDArray[Any], words: npt.NDArray[np.uint32], k_max: int) -> int:
    """The token for one row of logits (bf16 values) and one draw of four words.

    Raises:
        UsageError: logits, temperature or k that no device draw is defined for.
    """
    if np.isnan(logits).any() or (logits == np.inf).any():
        raise UsageError("Sample: argument logits: expected finite values or -Inf, found NaN or +Inf")
    temperature, k = words[:1].view(np.float32)[0], int(words[1])
    if temperature == 0:
        return int(np.argmax(logits))
    if not 0 < temperature < np.inf or not 1 <= k <= k_max:
        raise UsageError(
            f"Sample: argument draws: expected a finite temperature > 0 (or 0) and k from 1 to k_max {k_max}, "
            f"found temperature {temperature} and k {k}"
        )
    threshold = np.sort(logits)[-min(k, logits.size)]
    candidates = np.flatnonzero(logits >= threshold)
    with np.errstate(over="ignore"):
        quotients = logits[candidates].astype(np.float32) / temperature
        largest = np.float32(logits.max()) / temperature
    if not np.isfinite(largest):
        raise UsageError(
            f"Sample: argument logits: the largest, {logits.max()}, divided by {temperature} is not finite"
        )
    uniform = (int(words[2]) | int(words[3]) << 32) * 2.0**-53
    return int(candidates[_first_above(exp64((quotients - largest).astype(np.float64)), uniform)])


def _first_above(weights: Doubles, uniform: float) -> int:
    """First position whose prefix sum exceeds ``uniform`` times the whole, sums and product in double-double."""
    sums = np.add.accumulate(weights)  # one addition after the other, unlike np.sum
    before = np.concatenate(([0.0], sums[:-1]))
    gained = sums - before
    errors = np.add.accumulate((before - (sums - gained)) + (weights - gained))
    high, low = _normalised(sums, errors)
    product = np.float64(uniform) * high[-1]
    u_high, u_low = _halves(np.float64(uniform))
    h_high, h_low = _halves(high[-1])
    lost = ((u_high * h_high - product) + u_high * h_low + u_low * h_high) + u_low * h_low  # Dekker's TwoProduct
    goal, rest = _normalised(product, lost + np.float64(uniform) * low[-1])
    above = np.flatnonzero((high > goal) | ((high == goal) & (low > rest)))
    return int(above[0]) if above.size else weights.size - 1


def _normalised(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    """a + b as its float64 and what that leaves out, for |a| >= |b| (Dekker's Fast2Sum)."""
    total = a + b
    return total, b - (total - a)


def _halves(a: np.float64) -> tuple[np.float64, np.float64]:
    """a as a sum of two values of at most 26 significant bits (Veltkamp)."""
    scaled = np.float64(2.0**27 + 1.0) * a
    high = scaled - (scaled - a)
    return high, a - high


SPEC = OperatorSpec(
    type="Sample",
    summary="token = the next token, drawn by temperature and top-k; recorded in tokens",
    aliases=("sample",),
    params=(
        Param("vocab", int, help="logits"),
        Param("k_max", int, 64, help="largest k a draw may ask for"),
        Param("cores", int, 4, decides=False),
        Param("chunk", int, None, decides=False),
        Param("steps", int, 1, help="draws, and recorded tokens"),
    ),
    args=_args,
    flavours={"iron-2026-09": _sample, "exact": _sample},
    tolerance={"*": exact().from_source("amd/IRON iron/operators/sample.py: a token id, gated exactly")},
    raw=True,
    exact_bits=True,
    values=("row", "at"),
    source="amd/IRON iron/operators/sample.py (050561c6), Xilinx/mlir-aie python/iron/kernels/sample.py (22c92a48)",
    defects=(
        "IRON's reference raises for logits with NaN or +Inf; so does this one, and a replay lists the step as "
        "not compared.",
    ),
)
