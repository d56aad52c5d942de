# SPDX-License-Identifier: Apache-2.0
"""RMSNorm in its four forms and LayerNorm: rational and 60-digit arithmetic, element by element, and torch."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf16_oracle import array, bits_of, exactly, nearest, nearest_values, normal, tame_bits, to_torch, ulps, value
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import reference

EPS = Fraction(1, 100_000)
bf = nearest_values


def _root(x: Fraction) -> Fraction:
    root = exactly(mpmath.sqrt, x)
    assert isinstance(root, Fraction)
    return root


def _rms_row(flavour: str, row: list[Fraction], weight: list[Fraction] | None) -> list[int]:
    """One row by the form's own steps, each rounded where IRON rounds."""
    mean = sum(x * x for x in row) / len(row)
    mean_bf = bf(sum(bf(x * x) for x in row) / len(row))
    if flavour == "pr117":
        root = bf(bf(_root(mean_bf)) + EPS)
    elif flavour == "iron-2026-08":
        root = bf(_root(bf(mean_bf + EPS)))
    else:
        root = _root(mean + EPS)
    normed = [x / root for x in row]
    if weight is None:
        return [nearest(x) for x in normed]
    if flavour != "exact":
        normed = [bf(x) for x in normed]
    return [nearest(x * w) for x, w in zip(normed, weight, strict=True)]


@settings(max_examples=60)
@given(
    st.lists(st.lists(tame_bits.filter(bool), min_size=6, max_size=6), min_size=1, max_size=3),
    st.none() | st.lists(tame_bits, min_size=6, max_size=6),
)
def test_rms_norm_by_its_steps(rows: list[list[int]], weight: list[int] | None) -> None:
    params = {"size": 6 * len(rows), "tile_size": 6, "weighted": weight is not None, "epsilon": 1e-5}
    inputs = [array(rows, (len(rows), 6))] + ([array(weight)] if weight else [])
    for flavour in FLAVOURS:
        (c,) = reference("RMSNorm", params, inputs, flavour)
        want = [_rms_row(flavour, _values(r), _values(weight) if weight else None) for r in rows]
        assert c.shape == (len(rows), 6)
        # The true quotient of a rational by a root never lies on a tie, so float64's last bits cannot show.
        np.testing.assert_array_equal(bits_of(c) & 0x7FFF, np.array(want).reshape(-1) & 0x7FFF)


@settings(max_examples=30)
@given(
    st.lists(st.lists(tame_bits.filter(bool), min_size=6, max_size=6), min_size=1, max_size=3),
    st.lists(tame_bits, min_size=6, max_size=6),
)
def test_weighted_rms_norm_by_its_steps(rows: list[list[int]], weight: list[int]) -> None:
    for flavour in ("iron-2026-09", "exact"):
        params = {"rows": len(rows), "tile_size": 6}
        (c,) = reference("WeightedRMSNorm", params, [array(rows, (len(rows), 6)), array(weight)], flavour)
        want = [_rms_row(flavour, _values(r), _values(weight)) for r in rows]
        np.testing.assert_array_equal(bits_of(c) & 0x7FFF, np.array(want).reshape(-1) & 0x7FFF)


def _values(bits: list[int]) -> list[Fraction]:
    return [value(b) for b in bits]  # type: ignore[misc]


def test_eps_after_the_root_and_inside_it_differ_where_the_row_is_small() -> None:
    x = np.full((1, 4), 2.0**-9, np.float32)
    row = {f: float(reference("RMSNorm", {"size": 4, "tile_size": 4}, [x], f)[0][0, 0]) for f in FLAVOURS}
    assert row["pr117"] == pytest.approx(2**-9 / (2**-9 + 1e-5), rel=0.01)
    assert row["iron-2026-08"] == pytest.approx(2**-9 / (2**-18 + 1e-5) ** 0.5, rel=0.01)
    assert row["iron-2026-09"] == row["exact"] == pytest.approx(2**-9 / (2**-18 + 1e-5) ** 0.5, rel=0.004)


def test_the_eps_of_pull_request_117_counts_where_the_root_is_tiny() -> None:
    (c,) = reference("RMSNorm", {"size": 4, "tile_size": 4}, [np.full((1, 4), 2.0**-14, np.float32)], "pr117")
    assert c.astype(np.float64)[0, 0] == pytest.approx(2**-14 / (2**-14 + 1e-5), rel=0.008)  # 0.86, not 1


def test_epsilon_is_the_operators_own() -> None:
    (c,) = reference("RMSNorm", {"size": 4, "tile_size": 4, "epsilon": 3.0}, [np.ones((1, 4), np.float32)])
    assert c.astype(np.float32).tolist() == [[0.5] * 4]


@pytest.mark.torch
@pytest.mark.parametrize("flavour", ["pr117", "iron-2026-08"])
@pytest.mark.parametrize("as_torch", [False, True])
def test_rms_norm_is_torchs_bf16_chain(flavour: str, as_torch: bool) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    x, w = normal(rng, (64, 256), 0.7), normal(rng, 256)
    tx, tw = to_torch(x), to_torch(w)
    if flavour == "pr117":
        theirs = tx / (torch.sqrt(torch.mean(tx * tx, dim=-1, keepdim=True)) + 1e-5) * tw
    else:
        theirs = tx / torch.sqrt(torch.mean(tx**2, dim=-1, keepdim=True) + 1e-5) * tw
    params = {"size": x.size, "tile_size": 256, "weighted": True}
    (c,) = reference("RMSNorm", params, [tx, tw] if as_torch else [x, w], flavour)
    off = ulps(c, theirs)
    assert off.max() <= 1
    assert (off > 0).mean() <= 1e-3


@settings(max_examples=40)
@given(st.lists(tame_bits, min_size=8, max_size=8))
def test_layer_norm_by_its_formula(bits: list[int]) -> None:
    (c,) = reference("LayerNorm", {"size": 8, "tile_size": 4}, [array(bits)])
    want: list[int] = []
    for row in (_values(bits[:4]), _values(bits[4:])):
        mean = sum(row) / 4
        variance = sum((x - mean) ** 2 for x in row) / 4
        want += [nearest((x - mean) / _root(variance + EPS)) for x in row]
    off = ulps(c, array(want))
    # A float64 mean is off in its last bit, which shows only where x - mean cancels to nothing.
    tiny = np.abs(array(want).astype(np.float64)) < 1e-12
    assert off[~tiny].max(initial=0) == 0
    assert np.abs(c.astype(np.float64))[tiny].max(initial=0) < 1e-12


@pytest.mark.torch
def test_layer_norm_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    x = normal(np.random.default_rng(5), (32, 384), 3.0)
    (c,) = reference("LayerNorm", {"size": x.size, "tile_size": 384}, [x], "iron-2026-08")
    off = ulps(c, torch.nn.functional.layer_norm(to_torch(x), (384,)))
    assert off.max() <= 1
    assert (off > 0).mean() <= 1e-3


@pytest.mark.parametrize("op", ["RMSNorm", "LayerNorm"])
def test_a_row_with_a_nan_or_inf_spoils_itself_only(op: str) -> None:
    x = np.ones((3, 4), np.float32)
    x[:, 0] = 2
    x[0, 1], x[1, 2] = np.nan, np.inf
    c = reference(op, {"size": 12, "tile_size": 4}, [x])[0].astype(np.float32).reshape(3, 4)
    assert np.isnan(c[0]).all()
    assert np.isnan(c[1, 2])
    assert np.isfinite(c[2]).all()


@pytest.mark.parametrize("op", ["RMSNorm", "LayerNorm"])
@pytest.mark.parametrize(("size", "tile"), [(10, 4), (8, 0)])
def test_rows_must_fill_the_size(op: str, size: int, tile: int) -> None:
    with pytest.raises(UsageError, match=f"{op}: size {size}: expected whole rows of tile_size elements, found {tile}"):
        reference(op, {"size": size, "tile_size": tile}, [np.zeros(size, np.float32)])
