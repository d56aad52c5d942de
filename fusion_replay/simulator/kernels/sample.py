# SPDX-License-Identifier: Apache-2.0
"""Sample: temperature and top-k sampling of the next token, exact by design.

amd/IRON ``iron/operators/sample.py``, by the rules of Xilinx/mlir-aie ``python/iron/kernels/sample.py``: every core
keeps the best k logits of its slice with all ties at the last of them, one core joins the slices, weighs the
candidates by ``exp(v / T - max / T)`` (float32 quotients and difference, float64 exponential) and takes the first one
whose cumulated weight exceeds ``u`` times the sum. The device cumulates in pairs of float64 with its own exponential;
here the sums are exact integers over the host's, and the two could part only where ``u`` falls within one part in
2**50 of a boundary.
"""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core, widen
from fusion_replay.simulator.dispatch import Array, Dispatch, Params
from fusion_replay.simulator.kernels._base import Kernel, always, field, require, require_multiple

_DRAW_WORDS = 4  # temperature's bits, k, then the 53-bit uniform number's low and high word
_UNIT = 1074  # every float64 is an integer over 2**1074
_CHUNK_LIMIT = 8192

Indices = npt.NDArray[np.int64]


def _sample(d: Dispatch) -> list[Array]:
    p = d.params
    logits, draws, tokens = (x.reshape(-1) for x in d.inputs)
    at, row = int(d.values.get("at", 0)), int(d.values.get("row", 0))
    require(0 <= at < tokens.size, "Sample", "at", f"an element offset below {tokens.size}", at)
    inside = 0 <= row <= draws.size - _DRAW_WORDS
    require(inside, "Sample", "row", f"an element offset from 0 to {draws.size - _DRAW_WORDS}", row)
    token = _drawn(logits, draws[row : row + _DRAW_WORDS], field(p, "cores", 4), field(p, "k_max", 64))
    record = tokens.copy()
    record[at] = token
    return [record, np.array([token], np.int32)]


def _drawn(logits: Array, draw: Array, cores: int, k_max: int) -> int:
    words = draw.astype(np.int32).view(np.uint32)
    temperature = words[:1].view(np.float32)[0]
    order = _order(logits)
    best = int(np.argmax(order))  # the first of equals
    if temperature == 0:
        return best
    if not temperature > 0:
        raise UsageError(f"Sample: temperature={temperature}: expected 0 or a positive number")
    candidates = _candidates(order, cores, min(max(int(draw[1]), 1), k_max))
    scaled = widen(logits[candidates]) / temperature - widen(logits[best : best + 1]) / temperature
    uniform = int(words[2]) | int(words[3]) << 32
    sums = list(accumulate(_as_integer(math.exp(x)) for x in scaled.tolist()))
    target = uniform * sums[-1]
    chosen = next((i for i, s in enumerate(sums) if s << 53 > target), len(sums) - 1)
    return int(candidates[chosen])


def _order(logits: Array) -> npt.NDArray[np.int32]:
    """Integers that compare as the bfloat16 values do; -0 and +0 are equal."""
    bits = logits.view(np.uint16).astype(np.int32)
    magnitude = bits & 0x7FFF
    return np.where(bits >= 0x8000, -magnitude, magnitude).astype(np.int32)


def _candidates(order: npt.NDArray[np.int32], cores: int, k: int) -> Indices:
    """Indices of everything at or above the k-th largest, in order; each core first thins out its own slice."""
    share = len(order) // cores
    kept = [start + _at_or_above(order[start : start + share], k) for start in range(0, len(order), share)]
    joined = np.concatenate(kept)
    return joined[_at_or_above(order[joined], k)]


def _at_or_above(order: npt.NDArray[np.int32], k: int) -> Indices:
    threshold = np.sort(order)[-min(k, len(order))]
    return np.flatnonzero(order >= threshold)


def _as_integer(weight: float) -> int:
    numerator, denominator = weight.as_integer_ratio() if math.isfinite(weight) else (0, 1)
    return numerator * ((1 << _UNIT) // denominator)


def _rules(p: Params, core: Core) -> None:
    op, cores, k_max = "Sample", field(p, "cores", 4), field(p, "k_max", 64)
    require(1 <= cores <= core.columns, op, "cores", f"1 to {core.columns}, a column each on {core.generation}", cores)
    require_multiple(op, "vocab", p.vocab, cores, "cores")
    share = p.vocab // cores
    require(1 <= k_max <= share, op, "k_max", f"1 to {share}, the logits of a core", k_max)
    require(share % 2 == 0, op, "vocab", f"an even number of logits for each of {cores} cores", p.vocab)
    require(field(p, "steps", 1) >= 1, op, "steps", "at least 1", field(p, "steps", 1))
    chunk = field(p, "chunk", 2)
    require_multiple(op, "vocab", share, chunk, "chunk, per core")
    require(chunk % 2 == 0 and chunk <= _CHUNK_LIMIT, op, "chunk", f"an even number up to {_CHUNK_LIMIT}", chunk)


_NOTE = always("draws by the reference's own rule: exact under every rounding state")

KERNELS = (Kernel("Sample", _sample, _rules, _NOTE, "Xilinx/mlir-aie python/iron/kernels/sample.py"),)
