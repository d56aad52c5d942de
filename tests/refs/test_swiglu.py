# SPDX-License-Identifier: Apache-2.0
"""The SwiGLU composites: each step by hand, and as the chain of operators that a device runs; GEMM in parts of N."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest

from bf16_oracle import array, bits_of, exactly, nearest, nearest_values, normal
from fusion_replay.errors import UsageError
from fusion_replay.operators import FLAVOURS
from fusion_replay.refs import find, reference


def _silu(x: Fraction) -> Fraction:
    return Fraction(exactly(lambda v: v / (1 + mpmath.exp(-v)), x))


def _block(x: list[Fraction], gate: np.ndarray, up: np.ndarray, down: np.ndarray, *, rounded: bool) -> list[int]:
    """One token; gate and up (H, E), down (E, H) as fractions."""
    once = nearest_values if rounded else (lambda v: v)
    hidden = []
    for g, u in zip(gate, up, strict=True):
        left, right = once(sum(g * x, Fraction(0))), once(sum(u * x, Fraction(0)))
        hidden.append(once(once(_silu(left)) * right))
    return [nearest(sum(row * np.array(hidden), Fraction(0))) for row in down]


def _drawn(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Quarters from -2 to 2 as fractions and as bf16."""
    values = rng.integers(-8, 9, shape)
    fractions = np.array([Fraction(int(v), 4) for v in values.reshape(-1)], object).reshape(shape)
    return fractions, array([nearest(f) for f in fractions.reshape(-1)], shape)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_decode_by_hand(flavour: str) -> None:
    rng = np.random.default_rng(1)
    (x, x16), (gate, g16), (up, u16) = _drawn(rng, 4), _drawn(rng, 6, 4), _drawn(rng, 6, 4)
    down, d16 = _drawn(rng, 4, 6)
    params = {"embedding_dim": 4, "hidden_dim": 6}
    (y,) = reference("SwiGLUDecode", params, [x16, g16, u16, d16], flavour)
    assert bits_of(y).tolist() == _block(x, gate, up, down, rounded=flavour != "exact")


@pytest.mark.parametrize("b_col_maj", [False, True])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_prefill_by_hand(flavour: str, b_col_maj: bool) -> None:
    rng = np.random.default_rng(2)
    (x, x16), (gate, g16), (up, u16) = _drawn(rng, 3, 4), _drawn(rng, 4, 6), _drawn(rng, 4, 6)
    down, d16 = _drawn(rng, 6, 4)
    weights = [w.T if b_col_maj else w for w in (g16, u16, d16)]
    params = {"seq_len": 3, "embedding_dim": 4, "hidden_dim": 6, "b_col_maj": b_col_maj}
    (y,) = reference("SwiGLUPrefill", params, [x16, *weights], flavour)
    want = [_block(row, gate.T, up.T, down.T, rounded=flavour != "exact") for row in x]
    assert bits_of(y).reshape(3, 4).tolist() == want


@pytest.mark.parametrize(
    ("op", "params"),
    [
        ("SwiGLUDecode", {"embedding_dim": 32, "hidden_dim": 64}),
        ("SwiGLUPrefill", {"seq_len": 8, "embedding_dim": 32, "hidden_dim": 64}),
        ("SwiGLUPrefill", {"seq_len": 8, "embedding_dim": 32, "hidden_dim": 64, "b_col_maj": True}),
    ],
)
def test_the_steps_give_what_the_composite_gives(op: str, params: dict[str, int]) -> None:
    spec, rng = find(op), np.random.default_rng(3)
    inputs = {a.name: normal(rng, a.shape, 0.3) for a in spec.arg_specs(params) if a.reads}
    assert spec.runlist is not None
    for flavour in ("pr117", "iron-2026-09"):
        buffers = dict(inputs)
        for step, step_params, names in spec.runlist(spec.bind(params)):
            (buffers[names[-1]],) = reference(step, step_params, [buffers[n] for n in names[:-1]], flavour)
        (whole,) = reference(op, params, inputs, flavour)
        np.testing.assert_array_equal(bits_of(whole), bits_of(buffers["output"]))
        assert set(buffers) - set(inputs) == {"left", "right", "left_swished", "intermediate", "output"}


def test_prio_accuracy_reaches_the_products() -> None:
    spec = find("SwiGLUPrefill")
    params = {"seq_len": 8, "embedding_dim": 32, "hidden_dim": 64, "prio_accuracy": True}
    products = [p for step, p, _ in spec.runlist(spec.bind(params)) if step == "GEMM"]  # type: ignore[misc]
    assert [(p["prio_accuracy"], p["emulate_bf16_mmul_with_bfp16"]) for p in products] == [(True, False)] * 3
    assert [(p["M"], p["K"], p["N"]) for p in products] == [(8, 32, 64), (8, 32, 64), (8, 64, 32)]


def test_gemm_in_parts_of_n_is_the_whole_product() -> None:
    rng = np.random.default_rng(4)
    params = {"M": 8, "K": 16, "N": 96, "tile_n": 16, "num_aie_columns": 2, "partition_N": 4, "b_col_maj": True}
    a, b = normal(rng, (8, 16)), normal(rng, (96, 16))
    spec = find("GEMM")
    steps = spec.runlist(spec.bind(params))  # type: ignore[misc]
    assert [names for _, _, names in steps] == [("A", f"B_{i}", f"C_{i}") for i in range(4)]
    (whole,) = reference("GEMM", {**params, "partition_N": 1}, [a, b])
    for i, (op, part, _) in enumerate(steps):
        assert (op, part["N"]) == ("GEMM", 32)  # 24 columns, padded to 2 tiles of 16
        padded = np.zeros((32, 16), b.dtype)
        padded[:24] = b[24 * i : 24 * i + 24]
        (c,) = reference(op, part, [a, padded])
        np.testing.assert_array_equal(bits_of(c[:, :24]), bits_of(whole[:, 24 * i : 24 * i + 24]))
        assert not bits_of(c[:, 24:]).any()


def test_parts_that_do_not_divide() -> None:
    spec = find("GEMM")
    with pytest.raises(UsageError, match="GEMM: N 100: expected a multiple of partition_N, found 3"):
        spec.runlist(spec.bind({"M": 8, "K": 8, "N": 100, "partition_N": 3}))  # type: ignore[misc]
    (only,) = spec.runlist(spec.bind({"M": 8, "K": 8, "N": 100}))  # type: ignore[misc]
    assert (only[1]["N"], only[2]) == (100, ("A", "B", "C"))
