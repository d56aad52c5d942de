# SPDX-License-Identifier: Apache-2.0
"""The same references on torch tensors, CPU and (where there is one) GPU: the bits of numpy's, for every flavour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fusion_replay import refs
from fusion_replay.compare.verdict import as_numpy
from fusion_replay.model.arrays import to_torch
from fusion_replay.model.bf16 import BFLOAT16
from fusion_replay.operators import FLAVOURS
from fusion_replay.simulator.workloads.draws import contents
from fusion_replay.simulator.workloads.op import DEFAULTS

pytestmark = pytest.mark.torch

LIBRARY_SUMS = 1e-3
"""Share of bf16 results that may differ, by one ULP: float64 sums and exp end in other last bits from library to
library, which shows where the value lies that close to a tie between two bf16 values."""

FINE = {"vector_size": 100, "input_offset": 0, "output_offset": 3}


EVERY = [(spec.type, flavour) for spec in refs.specs() for flavour in FLAVOURS]


def drawn(op: str) -> tuple[dict[str, Any], list[np.ndarray], list[np.ndarray] | None]:
    """Small parameters, seeded inputs, and old contents for a partial writer."""
    spec, params = refs.find(op), dict(DEFAULTS[op])
    args = spec.arg_specs(params)
    arrays = [
        np.ascontiguousarray(contents(op, params, arg, np.random.default_rng([3, i]))) for i, arg in enumerate(args)
    ]
    typed = [x.view(to_dtype(arg.dtype)).reshape(arg.shape) for x, arg in zip(arrays, args, strict=True)]
    old = [x for x, arg in zip(typed, args, strict=True) if arg.writes] if spec.partial else None
    return params, [x for x, arg in zip(typed, args, strict=True) if arg.reads], old


def to_dtype(name: str) -> np.dtype[Any]:
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def both(op: str, flavour: str, device: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    params, inputs, old = drawn(op)
    spec = refs.find(op)
    values = {k: v for k, v in FINE.items() if k in spec.values}
    ours = refs.reference(op, params, inputs, flavour, previous=old, values=values)
    theirs = refs.reference(
        op,
        params,
        [to_torch(x, device) for x in inputs],
        flavour,
        previous=None if old is None else [to_torch(x, device) for x in old],
        values=values,
    )
    assert all(str(t.device).startswith(device) for t in theirs)
    yield from zip(ours, map(as_numpy, theirs), strict=True)


def differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Steps between bf16 values (bits of any other type), element by element."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    width = {1: np.int8, 2: np.int16, 4: np.int32}[a.dtype.itemsize]
    x, y = (np.ascontiguousarray(v).view(width).astype(np.int64) for v in (a, b))
    return np.abs(x - y)


@pytest.mark.parametrize(("op", "flavour"), EVERY)
def test_torch_on_the_cpu_gives_numpys_bits(op: str, flavour: str) -> None:
    pytest.importorskip("torch")
    check(op, flavour, "cpu")


def test_torch_on_a_gpu_gives_numpys_bits() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("not run: torch finds no CUDA device here")
    for op, flavour in EVERY:
        check(op, flavour, "cuda")


def check(op: str, flavour: str, device: str) -> None:
    exact = refs.find(op).exact_bits
    for i, (ours, theirs) in enumerate(both(op, flavour, device)):
        off = differing(ours, theirs)
        print(f"{op} {flavour} on {device}, output {i}: {(off > 0).sum()} of {off.size} elements differ")
        assert off.max(initial=0) <= (0 if exact else 1)
        assert (off > 0).mean() <= (0 if exact else LIBRARY_SUMS)
