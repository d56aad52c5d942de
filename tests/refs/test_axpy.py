# SPDX-License-Identifier: Apache-2.0
"""AXPY to the bit in its three forms: rational arithmetic for finite values, IEEE's rules and torch for the rest."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bf16_oracle import any_bits, array, bits_of, nearest, to_torch, value
from fusion_replay.refs import reference

triples = st.lists(st.tuples(any_bits, any_bits), min_size=1, max_size=30)
scalars = st.sampled_from([3.0, 1.003, 10.0, 0.01, -2.5, 0.0, 1e-38]) | st.floats(-1e3, 1e3, allow_subnormal=False)


def _in_float32(scalar: float, a: int, b: int) -> int:
    """numpy's own float32 arithmetic, as IRON's newest form has it."""
    s, x, y = (np.float32(float(value(bits))) for bits in (nearest(scalar), a, b))
    with np.errstate(all="ignore"):
        return nearest(float(s * x + y))


def _want(scalar: float, a: int, b: int, *, twice: bool) -> int:
    s, x, y = value(nearest(scalar)), value(a), value(b)
    finite = isinstance(s, Fraction) and isinstance(x, Fraction)
    product = s * x if finite else float(s) * float(x)
    if twice:
        product = value(nearest(product))  # may overflow to Inf, which meets an Inf of the other sign as NaN
    if isinstance(product, Fraction) and isinstance(y, Fraction):
        return nearest(product + y)
    return nearest(float(product) + float(y))


@pytest.mark.parametrize("flavour", ["pr117", "iron-2026-08", "iron-2026-09", "exact"])
@given(drawn=triples, scalar=scalars)
@example(drawn=[(0x7ECD, 0x7F80)], scalar=-2.5)
def test_rounds_where_its_form_rounds(flavour: str, drawn: list[tuple[int, int]], scalar: float) -> None:
    a, b = zip(*drawn, strict=True)
    (c,) = reference("AXPY", {"size": len(drawn), "scalar_factor": scalar}, [array(a), array(b)], flavour)
    want = [_want(scalar, x, y, twice=flavour in ("pr117", "iron-2026-08")) for x, y in drawn]
    if flavour == "iron-2026-09":
        want = [_in_float32(scalar, x, y) for x, y in drawn]
    for got, expected in zip(bits_of(c).tolist(), want, strict=True):
        assert got == expected or (got & 0x7FFF, expected & 0x7FFF) == (0, 0)


def test_the_two_forms_differ_where_the_product_is_no_bf16_value() -> None:
    # 3 * 1.0078125 = 3.0234375 lies between two bf16 values: rounded first (to 3.03125 or 3.015625), or added whole.
    a, b = array([0x3F81]), array([nearest(Fraction(-3))])
    once = reference("AXPY", {"size": 1}, [a, b])[0].astype(float)
    twice = reference("AXPY", {"size": 1}, [a, b], "pr117")[0].astype(float)
    assert once[0] == 0.0234375
    assert twice[0] in (0.015625, 0.03125)


def test_float32_rounds_a_sum_next_to_a_tie_twice() -> None:
    # 3 * 5701632 = 17104896 is half-way between two bf16 values; float32 loses the 1 that decides.
    a, b = array([0x4AAE]), array([0x3F80])
    (exact,), (newest,) = (reference("AXPY", {"size": 1}, [a, b], f) for f in ("exact", "iron-2026-09"))
    assert (exact.astype(float)[0], newest.astype(float)[0]) == (17170432, 17039360)


def test_the_scalar_is_bf16() -> None:
    (c,) = reference("AXPY", {"size": 1, "scalar_factor": 1.003}, [array([0x3F80]), array([0])])
    assert c.astype(float)[0] == 1.0  # 1.003 is nearer to 1 than to 1.0078125


@pytest.mark.torch
def test_torch_is_the_form_of_july_and_august() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    a, b = (array(rng.integers(0, 1 << 16, 20_000)) for _ in range(2))
    for scalar in (3.0, 0.01, 1.003):
        s = torch.tensor(scalar, dtype=torch.bfloat16)
        theirs = s * to_torch(a) + to_torch(b)
        (mine,) = reference("AXPY", {"size": a.size, "scalar_factor": scalar}, [a, b], "pr117")
        np.testing.assert_array_equal(bits_of(mine), bits_of(theirs))
