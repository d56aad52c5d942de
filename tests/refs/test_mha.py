# SPDX-License-Identifier: Apache-2.0
"""MHA against rational means, a plain float64 attention with a full mask, and torch's."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import array, bits_of, nearest, normal, to_torch, ulps
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import mha, reference


def plain(q: np.ndarray, k: np.ndarray, v: np.ndarray, queries: int, keys: int) -> np.ndarray:
    """(H, S, d), (KV, S, d) twice -> float64 (H, S, d): whole matrices, the mask added, rows past ``queries`` zero."""
    q, k, v = (t.astype(np.float32).astype(np.float64) for t in (q, k, v))
    share, rows = q.shape[0] // k.shape[0], q.shape[1]
    out = np.zeros_like(q)
    for h in range(q.shape[0]):
        scores = np.einsum("id,jd->ij", q[h], k[h // share]) * (1 / math.sqrt(q.shape[2]))
        scores[np.triu_indices(rows, 1)] = -np.inf
        scores[:, keys:] = -np.inf
        weights = np.exp(scores - scores.max(axis=1)[:, None])
        out[h, :queries] = ((weights / weights.sum(axis=1)[:, None]) @ v[h // share])[:queries]
    return out


def _close(mine: np.ndarray, exact: np.ndarray) -> None:
    off = ulps(mine, array([nearest(float(x)) for x in exact.reshape(-1)], exact.shape))
    assert off.max() <= 1
    assert (off > 0).mean() <= 1e-3


@settings(deadline=None, max_examples=30)
@given(
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    length=st.integers(1, 20),
    pipelines=st.integers(1, 2),
    interleaved=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 8.0]),
    seed=st.integers(0, 99),
)
def test_agrees_with_a_plain_attention(
    heads: tuple[int, int], length: int, pipelines: int, interleaved: bool, scale: float, seed: int
) -> None:
    query, shared = heads
    params = {"num_heads": query, "num_KV_heads": shared, "seq_len": length, "d": 8, "B_q": 4}
    params |= {"num_pipelines": pipelines, "heads_interleaved": interleaved}
    rows = math.ceil(length / (4 * pipelines)) * 4 * pipelines
    rng = np.random.default_rng(seed)
    q, k, v = normal(rng, (query, rows, 8), scale), normal(rng, (shared, rows, 8)), normal(rng, (shared, rows, 8))
    given_ = [np.swapaxes(t, 0, 1) if interleaved else t for t in (q, k, v)]
    for flavour in FLAVOURS:
        (o,) = reference("MHA", params, given_, flavour)
        assert o.shape == given_[0].shape
        _close(np.swapaxes(o, 0, 1) if interleaved else o, plain(q, k, v, length, rows))


@pytest.mark.parametrize("rows", [5, 8])
def test_equal_scores_give_the_mean_of_what_came_before(rows: int) -> None:
    values = np.arange(8 * 4).reshape(1, 8, 4) - 7
    zero = array([0] * 32, (1, 8, 4))
    v = array([nearest(Fraction(int(x))) for x in values.reshape(-1)], (1, 8, 4))
    params = {"num_heads": 1, "seq_len": rows, "d": 4, "B_q": 8}
    (o,) = reference("MHA", params, [zero, zero, v])
    for i in range(8):
        want = [nearest(Fraction(int(values[0, : i + 1, c].sum()), i + 1)) if i < rows else 0 for c in range(4)]
        assert bits_of(o[0, i]).tolist() == want


def test_a_runtime_length_masks_keys_and_rows() -> None:
    rng = np.random.default_rng(5)
    q, k, v = (normal(rng, (2, 16, 8)) for _ in range(3))
    params = {"num_heads": 2, "seq_len": 16, "d": 8, "B_q": 8}
    (o,) = reference("MHA", params, [q, k, v], values={"s_q": 11, "s_kv": 6})
    _close(o, plain(q, k, v, 11, 6))
    for name in ("s_q", "s_kv"):
        with pytest.raises(UsageError, match=f"MHA: runtime value {name} 17: expected 1 to 16"):
            reference("MHA", params, [q, k, v], values={name: 17})


def test_bands_of_rows_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    inputs = [normal(rng, (1, 64, 16)) for _ in range(3)]
    params = {"num_heads": 1, "seq_len": 50, "d": 16}
    (whole,) = reference("MHA", params, inputs)
    monkeypatch.setattr(mha, "SCORES", 64 * 7)
    (banded,) = reference("MHA", params, inputs)
    np.testing.assert_array_equal(bits_of(banded), bits_of(whole))


@pytest.mark.torch
def test_torchs_attention_is_within_one_ulp_on_its_golden_inputs() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    # Uniform in [0, 4): with signed values a sum that cancels is off by many ULP, torch's weights being bf16.
    q, k, v = ((rng.random((2, 128, 64)) * 4).astype(np.float32).astype(normal(rng, 1).dtype) for _ in range(3))
    (o,) = reference("MHA", {"num_heads": 2, "seq_len": 128}, [q, k, v], "pr117")
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(to_torch(t).unsqueeze(0) for t in (q, k, v)), is_causal=True
    ).squeeze(0)
    off = ulps(o, theirs)
    assert off.max() <= 1
    assert (off > 0).mean() <= 0.1
    (same,) = reference("MHA", {"num_heads": 2, "seq_len": 128}, [to_torch(t) for t in (q, k, v)], "pr117")
    np.testing.assert_array_equal(bits_of(same), bits_of(o))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"num_heads": 3, "num_KV_heads": 2}, "num_heads 3: expected a multiple of num_KV_heads, found 2"),
        ({"num_heads": 2, "num_KV_heads": 4}, "num_heads 2: expected a multiple of num_KV_heads, found 4"),
        ({"num_heads": 1, "seq_len": 0}, "seq_len 0: expected 1 to seq_pad"),
        ({"num_heads": 1, "seq_len": 65, "seq_pad": 64}, "seq_len 65: expected 1 to seq_pad 64"),
        ({"num_heads": 1, "num_pipelines": -1}, "expected both at least 1"),
    ],
)
def test_heads_and_rows_that_do_not_fit(params: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=f"MHA: {words}|{words}"):
        reference("MHA", {"seq_len": 64} | params, [array([0] * 4096)] * 3)
