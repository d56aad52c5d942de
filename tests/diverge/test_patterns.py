# SPDX-License-Identifier: Apache-2.0
"""Every pattern on outputs spoiled by hand: its name, its count, and nothing where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.compare.tolerance import relative
from fusion_replay.diverge.causes import NAMES, Case, Pattern, name
from fusion_replay.diverge.causes.case import Again, Version
from fusion_replay.operators.tiling import Tiling

TILING = Tiling((("batch", 4), ("column", 4), ("tile", 4), ("", 16)), "a design")
SIZE = TILING.size  # 1024
BF16 = ml_dtypes.bfloat16
Array = Any


def drawn(seed: int, size: int = SIZE) -> Array:
    return np.random.default_rng(seed).standard_normal(size).astype(BF16)


EXPECTED, PREVIOUS = drawn(1), drawn(2)


def best(actual: Array, tolerance: Any = None, **more: Any) -> Pattern:
    # Against a reference, an honest device adds half a ULP of its own.
    case = Case(np.asarray(actual, BF16), EXPECTED, TILING, tolerance, **{"previous": PREVIOUS, **more})
    found = name(case)
    assert found, "nothing was named"
    assert all(p.name in NAMES for p in found)
    assert found[0].of == case.count
    return found[0]


def zeros(x: Array) -> Array:
    return np.zeros_like(x)


def shifted(x: Array) -> Array:
    return np.concatenate([PREVIOUS[:64], x[:-64]])


def ahead(x: Array) -> Array:
    """The start of a block equals expected[i + 134] (Xilinx/mlir-aie pull request 3622, with 1024)."""
    out = x.copy()
    out[256:320] = x[390:454]
    return out


def columns(x: Array) -> Array:
    parts = x.reshape(4, 4, 64).copy()
    parts[:, [1, 2]] = parts[:, [2, 1]]
    return parts.reshape(-1)


def batches(x: Array) -> Array:
    return np.tile(x[:256], 4)


def tile(x: Array) -> Array:
    out = x.copy()
    out[32:48] = PREVIOUS[32:48]
    return out


def neighbour(x: Array) -> Array:
    out = x.copy()
    out[32:48] = x[48:64]
    return out


def halves(x: Array) -> Array:
    return np.concatenate([x[512:], x[:512]])


def transposed(x: Array) -> Array:
    return x.reshape(16, 64).T.reshape(-1)


def nan(x: Array) -> Array:
    out = x.copy()
    out[[3, 700]] = np.nan
    return out


def infinite(x: Array) -> Array:
    out = x.copy()
    out[5:40] = np.inf
    return out


def flip(x: Array) -> Array:
    out = x.copy()
    out.view(np.uint16)[77] ^= 1 << 14
    return out


def sign(x: Array) -> Array:
    out = x.copy()
    out[100:300] = -out[100:300]
    return out


def double(x: Array) -> Array:
    return (x.astype(np.float32) * 2).astype(BF16)


def offset(x: Array) -> Array:
    return (x.astype(np.float32) + 8).astype(BF16)


def clipped(x: Array) -> Array:
    return np.clip(x.astype(np.float32), -0.5, 0.5).astype(BF16)


SPOILED: dict[str, tuple[Callable[[Array], Array], int | None]] = {
    "zeros": (zeros, None),
    "never-written": (lambda x: PREVIOUS, None),
    "shifted": (shifted, None),
    "columns-swapped": (columns, 512),
    "batch-repeated": (batches, None),
    "dropped-tile": (tile, 16),
    "neighbour-data": (neighbour, 16),
    "halves-swapped": (halves, None),
    "transposed": (transposed, None),
    "nan": (nan, 2),
    "inf": (infinite, 35),
    "bit-flip": (flip, 1),
    "sign-flipped": (sign, 200),
    "scaled": (double, None),
    "offset": (offset, None),
    "saturated": (clipped, None),
}


@pytest.mark.parametrize("pattern", SPOILED)
def test_named_against_the_right_bits(pattern: str) -> None:
    spoil, count = SPOILED[pattern]
    found = best(spoil(EXPECTED))
    assert (found.name, found.count) == (pattern, count or found.of)
    assert found.confident


@pytest.mark.parametrize("pattern", SPOILED)
def test_named_against_a_reference(pattern: str) -> None:
    """The device has a rounding error of its own: 1 ULP on every other element."""
    spoil, _ = SPOILED[pattern]
    honest = EXPECTED.copy()
    honest.view(np.uint16)[::2] ^= 1
    found = best(spoil(honest), relative(0.02, 1e-3))
    assert found.name == pattern


def test_elements_from_further_on() -> None:
    found = best(ahead(EXPECTED))
    assert (found.name, found.count) == ("shifted", 64)
    assert "expected[i + 134]" in found.detail


def test_an_earlier_version_of_the_buffer_is_named() -> None:
    old = drawn(9)
    found = best(
        old, versions=(Version("what 0:3 GEMV wrote", lambda: drawn(8)), Version("what 0:1 wrote", lambda: old))
    )
    assert found.name == "stale-output"
    assert "0:1" in found.detail


def test_zeros_over_zeros_may_be_either() -> None:
    found = best(np.zeros_like(EXPECTED), previous=np.zeros_like(EXPECTED))
    assert (found.name, found.aliases) == ("zeros", ("never-written",))


def test_a_stale_input_is_found_by_asking_the_reference() -> None:
    old, new = drawn(3), EXPECTED
    again = Again(
        evaluate=lambda inputs, params, values: inputs.get(0, new),
        inputs={0: new},
        versions={0: (Version("what 0:5 GEMV wrote", lambda: old),)},
        names={0: "x"},
    )
    found = best(old, again=again)
    assert (found.name, found.detail) == ("stale-input", "input x is what 0:5 GEMV wrote")


def test_a_truncated_scalar_is_found_by_asking_the_reference() -> None:
    factor = 1.7

    def scaled(inputs: Any, params: Any, values: Any) -> Array:
        return (EXPECTED.astype(np.float64) / factor * params.get("scalar_factor", factor)).astype(BF16)

    kept = 1.5  # 1.7 with 10 of its 32 bits
    again = Again(evaluate=scaled, params={"scalar_factor": factor})
    found = best((EXPECTED.astype(np.float64) / factor * kept).astype(BF16), again=again)
    assert "truncated-scalar" in (found.name, *found.aliases)


def test_floor_instead_of_nearest() -> None:
    exact = np.random.default_rng(4).standard_normal(SIZE).astype(np.float32)
    floor = (exact.view(np.uint32) >> 16).astype(np.uint32)
    floor += (exact < 0) & (exact.view(np.uint32) & 0xFFFF != 0)
    down = floor.astype(np.uint16).view(BF16)
    case = Case(down, exact.astype(BF16), TILING)
    found = name(case)[0]
    assert found.name == "rounding"
    assert found.confident
    assert "100% of the elements that differ are lower" in found.detail


def test_floor_inside_a_kernel_whose_small_results_come_of_cancellation() -> None:
    """As a GELU's do: most elements are small and off by much either way, the large ones are a ULP lower."""
    rng = np.random.default_rng(6)
    exact = rng.uniform(2, 4, SIZE).astype(BF16)
    small = np.arange(SIZE) % 8 != 0
    exact[small] = (exact[small].astype(np.float32) * 2.0**-9).astype(BF16)
    off = np.where(small, rng.integers(5, 60, SIZE) * rng.choice([-1, 1], SIZE), -rng.integers(0, 2, SIZE))
    spoiled = (exact.view(np.uint16).astype(np.int64) + off).astype(np.uint16).view(BF16)  # all positive
    found = name(Case(spoiled, exact, TILING))[0]
    assert (found.name, found.confident) == ("rounding", True)
    assert "floor): 100% of the elements that differ are lower" in found.detail


def test_repetition_alone_shows_what_is_not_deterministic() -> None:
    found = best(neighbour(EXPECTED), repeats=(EXPECTED,))
    assert found.name == "nondeterministic"


def test_only_the_edges_of_tiles() -> None:
    actual = EXPECTED.copy()
    actual[15::16] = drawn(5)[15::16]
    found = best(actual, previous=None)
    assert (found.name, found.confident) == ("block-edges", False)


def test_noise_has_no_name() -> None:
    """Random values everywhere: nothing is claimed with confidence."""
    for seed in range(10, 30):
        assert not any(p.confident for p in name(Case(drawn(seed), EXPECTED, TILING, None, PREVIOUS)))


def test_nothing_is_said_of_what_is_within_the_limits() -> None:
    honest = EXPECTED.copy()
    honest.view(np.uint16)[:] ^= 1
    assert name(Case(honest, EXPECTED, TILING, relative(0.02, 1e-3), PREVIOUS)) == ()


def test_integers_have_patterns_too() -> None:
    expected = np.arange(64, dtype=np.int32)
    case = Case(np.roll(expected, 1), expected, Tiling((("", 64),)))
    assert name(case)[0].name in ("shifted", "tiles-permuted")
    assert name(Case(np.zeros_like(expected), expected, Tiling((("", 64),))))[0].name == "zeros"
