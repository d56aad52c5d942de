# SPDX-License-Identifier: Apache-2.0
"""Sample against a draw in rational and 60-digit arithmetic; its exponential against the same; what it cannot draw."""

from __future__ import annotations

import struct
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bf16_oracle import array, bits_of, exactly, normal, to_torch, value
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference
from fusion_replay.refs.arithmetic import exp64

logit_bits = st.integers(0x3C00, 0x4180) | st.integers(0xBC00, 0xC180) | st.sampled_from([0, 0x8000, 0x4100, 0xFF80])


def _draw_words(temperature: float, k: int, uniform: int) -> np.ndarray:
    (bits,) = struct.unpack("<i", struct.pack("<f", temperature))
    low, high = struct.unpack("<ii", struct.pack("<Q", uniform))
    return np.array([[bits, k, low, high]], np.int32)


def _token(bits: list[int], temperature: float, k: int, uniform: int) -> tuple[int, Fraction]:
    """The drawn token, and how far the draw was from the next candidate (share of the whole)."""
    logits = [value(b) for b in bits]
    threshold = sorted(logits)[-min(k, len(logits))]
    chosen = [i for i, x in enumerate(logits) if x >= threshold]
    largest = np.float32(float(max(logits))) / np.float32(temperature)
    weights = []
    for i in chosen:
        x = np.float32(np.float32(float(logits[i])) / np.float32(temperature)) - largest
        weights.append(Fraction(0) if np.isinf(x) else Fraction(exactly(mpmath.exp, Fraction(float(x)))))
    goal = Fraction(uniform, 1 << 53)
    shares = np.cumsum(weights) / sum(weights)
    return next(i for i, s in zip(chosen, shares, strict=True) if s > goal), min(abs(s - goal) for s in shares)


@given(
    bits=st.lists(logit_bits, min_size=4, max_size=24).filter(lambda b: any(x != 0xFF80 for x in b)),
    temperature=st.sampled_from([0.7, 1.0, 0.1, 2.5]),
    k=st.integers(1, 24),
    uniform=st.integers(0, (1 << 53) - 1) | st.sampled_from([0, (1 << 53) - 1]),
)
def test_draws_the_first_candidate_past_the_goal(bits: list[int], temperature: float, k: int, uniform: int) -> None:
    want, margin = _token(bits, temperature, k, uniform)
    assume(margin > Fraction(1, 10**12) or uniform == 0)
    params = {"vocab": len(bits), "cores": 1}
    for flavour in FLAVOURS:
        tokens, token = reference(
            "Sample", params, [array(bits), _draw_words(temperature, k, uniform), np.array([-1], np.int32)], flavour
        )
        assert (tokens.tolist(), token.tolist()) == ([want], [want])
        assert tokens.dtype == token.dtype == np.int32


@pytest.mark.parametrize("temperature", [0.0, -0.0])
def test_temperature_zero_takes_the_first_largest(temperature: float) -> None:
    x = array([0xBF80, 0x8000, 0x0000, 0xFF80])  # -0 and 0 are equal: the first of them
    inputs = [x, _draw_words(temperature, 0, 7), np.array([5], np.int32)]
    assert reference("Sample", {"vocab": 4}, inputs)[1].tolist() == [1]


def test_ties_at_the_threshold_all_take_part() -> None:
    x = array([0x3F80, 0x4000, 0x3F80, 0x3F80])  # 1 2 1 1 with k = 2: the ones tie for second place
    weights = [1, float(np.e), 1, 1]  # relative, at temperature 1
    last = int((sum(weights[:3]) / sum(weights) + 1e-9) * 2**53)
    tokens = np.array([-1], np.int32)
    assert reference("Sample", {"vocab": 4}, [x, _draw_words(1, 2, last), tokens])[1].tolist() == [3]
    assert reference("Sample", {"vocab": 4}, [x, _draw_words(1, 2, 0), tokens])[1].tolist() == [0]


def test_the_temperature_divides() -> None:
    """Logits 0 and 1 at temperature 0.5: weights exp(-2) and 1, so the first has 0.119 of the whole."""
    x, tokens = array([0x0000, 0x3F80]), np.array([-1], np.int32)
    for share, token in ((0.11, 0), (0.13, 1)):
        words = _draw_words(0.5, 2, int(share * 2**53))
        assert reference("Sample", {"vocab": 2, "cores": 1}, [x, words, tokens])[1].tolist() == [token]


def test_position_values_choose_the_draw_and_the_record() -> None:
    rng = np.random.default_rng(1)
    x = normal(rng, 32)
    draws = np.concatenate([_draw_words(1.0, 8, int(rng.integers(1 << 53))) for _ in range(3)])
    tokens = np.array([10, 11, 12], np.int32)
    params = {"vocab": 32, "steps": 3}
    (alone, token) = reference("Sample", params, [x, draws, tokens], values={"row": 8, "at": 1})
    want = reference("Sample", {"vocab": 32}, [x, draws[2:], tokens[:1]])[1].tolist()
    assert token.tolist() == want
    assert alone.tolist() == [10, want[0], 12]
    assert tokens.tolist() == [10, 11, 12]


@pytest.mark.torch
def test_torch_tensors_give_the_same_token() -> None:
    torch = pytest.importorskip("torch")
    x, draws, tokens = normal(np.random.default_rng(2), 64), _draw_words(0.7, 20, 1 << 52), np.array([-1], np.int32)
    mine = reference("Sample", {"vocab": 64}, [x, draws, tokens])
    theirs = reference("Sample", {"vocab": 64}, [to_torch(x), torch.from_numpy(draws), torch.from_numpy(tokens)])
    assert [t.tolist() for t in theirs] == [m.tolist() for m in mine]
    assert theirs[0].dtype == torch.int32
    assert bits_of(x).size == 64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logits": [0x7FC0, 0, 0, 0]}, "argument logits: expected finite values or -Inf, found NaN or"),
        ({"logits": [0x7F80, 0, 0, 0]}, "argument logits: expected finite values"),
        ({"temperature": -1.0}, "argument draws: expected a finite temperature > 0"),
        ({"temperature": float("nan")}, "argument draws: expected a finite temperature > 0"),
        ({"k": 0}, "k from 1 to k_max 64, found temperature 1.0 and k 0"),
        ({"k": 65}, "and k 65"),
        ({"row": 1}, "runtime value row 1: expected an element of draws, 0 to 0"),
        ({"at": 1}, "runtime value at 1: expected an element of tokens, 0 to 0"),
        ({"cores": 3}, "vocab 4: expected a multiple of cores, found 3"),
        ({"logits": [0x7F00, 0, 0, 0], "temperature": 1e-3}, "divided by .* is not finite"),
    ],
)
def test_draws_that_cannot_be(changes: dict[str, object], words: str) -> None:
    given_ = {"logits": [0, 0, 0, 0], "temperature": 1.0, "k": 1, "row": 0, "at": 0, "cores": 4} | changes
    inputs = [array(given_["logits"]), _draw_words(given_["temperature"], given_["k"], 0), np.array([0], np.int32)]
    with pytest.raises(UsageError, match=f"Sample: .*{words}"):
        reference(
            "Sample",
            {"vocab": 4, "cores": given_["cores"]},
            inputs,
            values={"row": given_["row"], "at": given_["at"]},
        )


def test_the_exponential_is_within_six_tenths_of_a_ulp() -> None:
    rng = np.random.default_rng(4)
    x = np.concatenate([-rng.exponential(20, 2000), [-0.0, -1e-300, -700.0, -708.4, -720.0, -745.1], -rng.random(200)])
    for given_, got in zip(x, exp64.exp64(x), strict=True):
        true = exactly(mpmath.exp, Fraction(float(given_)))
        ulp = Fraction(max(np.spacing(float(got)), 5e-324))
        assert abs(Fraction(float(got)) - true) <= Fraction(6, 10) * ulp
    assert exp64.exp64(np.array([-746.0, -2000.0, -np.inf])).tolist() == [0.0, 0.0, 0.0]


def test_the_table_is_the_devices() -> None:
    tails, bits = exp64.table()
    # Words of aie_kernels/sample/exp64_table.h: entries 1, 3, 33 and 127.
    known = {
        1: (0x3C9B3B4F1A88BF6E, 0x3FEFF63DA9FB3335),
        3: (0xBC905E7A108766D1, 0x3FEFE315E86E7F85),
        33: (0x3C864201E2AC744C, 0x3FEF0170FC4CD831),
        127: (0x3C5305C14160CC89, 0x3FEFF3C22B8F71F1),
    }
    for i, (tail, word) in known.items():
        assert int(tails[i : i + 1].view(np.uint64)[0]) == tail
        assert int(bits[i]) == word
