# SPDX-License-Identifier: Apache-2.0
"""Sample and Emit of the software NPU: draws against rational arithmetic, programs against Python integers."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16
CORE = Core("npu1")


def draw_row(temperature: float, k: int, uniform: int) -> list[int]:
    words = [*struct.unpack("<i", struct.pack("<f", temperature)), k]
    return [*words, *struct.unpack("<ii", struct.pack("<Q", uniform))]


def sample(logits: list[float], rows: list[list[int]], cores: int = 4, k_max: int = 64, **values: int) -> list[int]:
    p = SimpleNamespace(vocab=len(logits), k_max=k_max, cores=cores, steps=len(rows))
    tokens = np.full(len(rows), -1, np.int32)
    inputs = [np.array(logits, np.float32).astype(BF16), np.array(rows, np.int32), tokens]
    record, token = find_kernel("Sample").run(Dispatch(CORE, p, inputs, [tokens, np.zeros(1, np.int32)], values))
    assert record.dtype == token.dtype == np.int32
    assert tokens.tolist() == [-1] * len(rows)  # an input, not a place to write
    at = values.get("at", 0)
    assert record.tolist() == [int(token[0]) if i == at else -1 for i in range(len(rows))]
    return record.tolist()


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = [0.0] * 64
    logits[37] = logits[50] = 3.5
    assert sample(logits, [draw_row(0.0, 5, 12345)]) == [37]
    assert sample(logits, [draw_row(-0.0, 5, 12345)]) == [37]
    assert sample([-0.0, 0.0] * 32, [draw_row(0.0, 1, 0)]) == [0]  # -0 and +0 are equal


def test_even_odds_by_hand() -> None:
    """Four equal candidates: u = 0 draws the first, just under 1/2 the second, 1/2 the third, nearly 1 the last."""
    logits = [-10.0] * 16
    for i in (3, 5, 8, 14):
        logits[i] = 1.0
    for uniform, token in ((0, 3), ((1 << 52) - 1, 5), (1 << 52, 8), ((1 << 53) - 1, 14)):
        assert sample(logits, [draw_row(0.7, 4, uniform)]) == [token]
    assert sample(logits, [draw_row(0.7, 2, (1 << 53) - 1)]) == [14]  # ties at the k-th stay in


@pytest.mark.parametrize("cores", [1, 2, 4])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_draws_follow_the_weights(cores: int, temperature: float) -> None:
    """Logits and temperatures whose float32 quotients are exact, so the weights are those of the real numbers."""
    rng = np.random.default_rng(cores)
    logits = (rng.integers(-64, 64, 128) / 16).tolist()
    for k in (1, 7, 40):
        threshold = sorted(logits)[-k]
        candidates = [i for i, v in enumerate(logits) if v >= threshold]
        weights = [Fraction(math.exp((logits[i] - max(logits)) / temperature)) for i in candidates]
        for uniform in rng.integers(0, 1 << 53, 20).tolist():
            target = Fraction(uniform, 1 << 53) * sum(weights)
            sums = [sum(weights[: i + 1]) for i in range(len(weights))]
            token = next(c for c, total in zip(candidates, sums, strict=True) if total > target)
            assert sample(logits, [draw_row(temperature, k, uniform)], cores) == [token]


def test_rows_and_records_by_offset() -> None:
    logits = [float(i % 7) for i in range(64)]
    rows = [draw_row(0.0, 1, 0), draw_row(1.0, 64, (1 << 53) - 1), draw_row(0.0, 1, 0)]
    assert sample(logits, rows, row=4, at=2) == [-1, -1, 63]
    for values, what in (({"row": 9}, "row=9"), ({"at": 3}, "at=3"), ({"row": -1}, "row=-1")):
        with pytest.raises(UsageError, match=f"Sample: {what}: expected an element offset"):
            sample(logits, rows, **values)


def test_k_is_held_to_k_max_and_at_least_one() -> None:
    logits = [float(i) for i in range(64)]
    last = (1 << 53) - 1
    assert sample(logits, [draw_row(1e6, 64, 0)], k_max=4) == [60]
    assert sample(logits, [draw_row(1.0, 0, last)]) == [63]


def test_emit() -> None:
    rows = [
        (0, 0, 3, -5, 2),  # (7 * 3 - 5) << 2 = 64
        (1, 1, 1, 1, 0),  # 2**31 - 1 + 1 wraps
        (1, 0, -1, 0, 31),  # -(-4) << 31 = 0 mod 2**32
        (0, 0, 0, 0, 0),
        (0, 1, 1, 0, 0),
    ]
    planes = np.array([[7, -9], [-4, 2**31 - 1]], np.int32)
    p = SimpleNamespace(slots=3, carried=2)
    image, state = find_kernel("Emit").run(Dispatch(CORE, p, [np.array(rows, np.int32), planes], []))
    assert (image.dtype, image.tolist()) == (np.int32, [64, -(2**31), 0])
    assert (state.dtype, state.tolist()) == (np.int32, [0, -9])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((2, 0, 1, 0, 0), "program row 1: expected a plane 0 or 1 and an index below 1, found plane 2, index 0"),
        ((0, 1, 1, 0, 0), "found plane 0, index 1"),
        ((0, 0, 1, 0, 32), "expected a shift of 0 to 31, found 32"),
    ],
)
def test_emit_refuses_programs_that_leave_their_planes(row: tuple[int, ...], message: str) -> None:
    program = np.array([(0, 0, 0, 0, 0), row], np.int32)
    with pytest.raises(UsageError, match=message):
        find_kernel("Emit").run(
            Dispatch(CORE, SimpleNamespace(slots=1, carried=1), [program, np.zeros((2, 1), np.int32)], [])
        )
