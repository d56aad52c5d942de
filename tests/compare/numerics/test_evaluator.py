# SPDX-License-Identifier: Apache-2.0
"""Stages executed on small arrays, each end worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fusion_replay.compare.numerics.evaluator import bound, predicted
from fusion_replay.compare.numerics.stages import (
    ABSOLUTE,
    BF16,
    FLOAT32,
    RELATIVE,
    ULPS,
    Constant,
    Model,
    Numerics,
    Stage,
)
from fusion_replay.errors import UsageError
from fusion_replay.model.bf16 import BFLOAT16

P = SimpleNamespace()
FLOOR, EVEN = Model("npu1", "floor"), Model("npu1", "conv_even")


def bf(*values: float) -> np.ndarray:
    return np.array(values, np.float32).astype(BFLOAT16)


def numerics(*stages: Stage, **options: object) -> Numerics:
    return Numerics(lambda _params, _device: stages, "a test", **options)  # type: ignore[arg-type]


ADD = numerics(Stage("z", "add", ("x", "y"), BF16))


def ends(
    n: Numerics, *inputs: np.ndarray, models: tuple[Model, ...] = (FLOOR, EVEN), level: str = "W"
) -> list[tuple[float, float]]:
    found = bound(n, P, inputs, {}, models, level)
    return [(float(a), float(b)) for a, b in zip(found.lo, found.hi, strict=True)]


def test_one_mode_is_one_value_and_two_are_their_hull() -> None:
    """1 + 2**-8 lies between 1 and 1.0078125, a tie; 1 + 3 * 2**-9 is nearer to the upper one."""
    x, y = bf(1, 1, 1), bf(2.0**-8, 3 * 2.0**-9, 2.0**-7)
    assert ends(ADD, x, y, models=(FLOOR,)) == [(1, 1), (1, 1), (1.0078125, 1.0078125)]
    assert ends(ADD, x, y, models=(EVEN,)) == [(1, 1), (1.0078125, 1.0078125), (1.0078125, 1.0078125)]
    assert ends(ADD, x, y) == [(1, 1), (1, 1.0078125), (1.0078125, 1.0078125)]


def test_nan_is_due_where_it_must_come_out() -> None:
    (found,) = ends(ADD, bf(np.nan), bf(1))
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Constant(-1, 1, ULPS, "here", "assumed"), (0.99609375, 1.0078125)),
        (Constant(-0.25, 0.5, RELATIVE, "here", "assumed"), (0.75, 1.5)),
        (Constant(-0.25, 0.5, ABSOLUTE, "here", "assumed"), (0.75, 1.5)),
    ],
)
def test_error_constants_widen_the_bound_and_not_the_model(error: Constant, expected: tuple[float, float]) -> None:
    one = numerics(Stage("z", "mul", ("x", 1.0), BF16, error=error))
    assert ends(one, bf(1)) == [expected]
    assert ends(one, bf(1), models=(EVEN,), level="M") == [(1, 1)]


def test_relative_errors_of_negative_values_and_a_range() -> None:
    error = Constant(-0.25, 0.5, RELATIVE, "here", "assumed")
    assert ends(numerics(Stage("z", "mul", ("x", 1.0), BF16, error=error)), bf(-1)) == [(-1.5, -0.75)]
    kept = Stage("z", "mul", ("x", 1.0), BF16, error=error, within=(-1.0, 1.0))
    assert ends(numerics(kept), bf(-1, 1)) == [(-1, -0.75), (0.75, 1)]


def test_a_model_executes_what_stands_in_place_of_the_function() -> None:
    table = numerics(Stage("z", "tanh", ("x",), FLOAT32, by="tanh_segments"))
    assert ends(table, bf(0.25), models=(EVEN,), level="M")[0][0] != ends(table, bf(0.25), models=(EVEN,))[0][0]


def test_a_sum_of_any_order_and_one_of_a_given_order() -> None:
    rows = numerics(
        Stage("total", "sum", ("x",), how=8),
        arrange=lambda _p, _v, inputs: {"x": inputs[0].reshape(1, -1)},
    )
    values = bf(*np.random.default_rng(0).standard_normal(64))
    exact = float(values.astype(np.float64).sum())
    ((lo, hi),) = ends(rows, values)
    reach = float(np.abs(values.astype(np.float64)).sum())
    assert lo <= exact <= hi
    assert hi - lo <= 2 * (64 / 8 + 9 + 2) * 2.0**-24 * reach
    lossy = numerics(
        Stage("total", "lossy_sum", ("x",), how=2),
        arrange=lambda _p, _v, inputs: {"x": inputs[0].reshape(1, -1)},
    )
    # Lanes: 256 + 1 and 1 + 1; 257 is a tie and 258 the even one's neighbour: 256; then 256 + 2.
    assert ends(lossy, bf(256, 1, 1, 1), models=(EVEN,)) == [(258, 258)]
    assert ends(lossy, bf(256, 1, 2, 1), models=(FLOOR,)) == [(260, 260)]


def test_a_table_runs_over_every_value_of_an_interval() -> None:
    """x * x turns at 0: the lowest of [-1, 1] is neither end."""
    square = (Stage("y", "mul", ("x", "x"), BF16),)
    wide = Stage("c", "mul", ("x", 1.0), BF16, error=Constant(-1.0, 1.0, ABSOLUTE, "here", "assumed"))
    assert ends(numerics(wide, Stage("y", "through", ("c",), BF16, how=square)), bf(0), models=(EVEN,)) == [(0, 1)]


def test_a_unary_kernel_is_a_table_of_all_values() -> None:
    stages = (Stage("half", "mul", ("x", 0.5)), Stage("y", "add", ("half", 1.0), BF16))
    every = np.arange(1 << 16, dtype=np.uint16).view(BFLOAT16)
    by_table, plain = (bound(numerics(*stages, unary=u), P, [every], {}, [FLOOR, EVEN]) for u in (True, False))
    assert np.array_equal(by_table.lo, plain.lo, equal_nan=True)
    assert np.array_equal(by_table.hi, plain.hi, equal_nan=True)


def test_bands_of_rows_change_nothing() -> None:
    r = np.random.default_rng(1)
    x, y = (bf(*r.standard_normal(100_000)) for _ in range(2))
    whole = bound(ADD, P, [x, y], {}, [FLOOR, EVEN])
    parts = [bound(ADD, P, [x[i : i + 1000], y[i : i + 1000]], {}, [FLOOR, EVEN]) for i in range(0, 100_000, 1000)]
    assert (whole.lo == np.concatenate([p.lo for p in parts])).all()
    assert (whole.hi == np.concatenate([p.hi for p in parts])).all()


def test_predicted_values_are_bfloat16_and_inside() -> None:
    half = numerics(Stage("y", "mul", ("x", 0.3), BF16))
    x = bf(*np.random.default_rng(2).standard_normal(100))
    found = predicted(half, P, [x], {}, EVEN)
    assert (found == bound(half, P, [x], {}, [EVEN], "M").lo).all()


def test_other_types_are_refused() -> None:
    with pytest.raises(UsageError, match="inputs of float32: the kernel's arithmetic is known for bfloat16"):
        bound(ADD, P, [np.ones(2, np.float32)] * 2, {}, [FLOOR])
