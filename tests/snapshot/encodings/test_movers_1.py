# SPDX-License-Identifier: Apache-2.0
"""Version 1 of the movers gives for ever what it gave: by a table of digests, by plain loops, against the references.

The table was made when the version was frozen and is never made anew. Where a reference moves data in another way one
day, the last test says so: the next version of the movers is due, and this one stays as it is.
"""

from __future__ import annotations

import itertools
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_replay.errors import FusionReplayError, HostileFileError
from fusion_replay.model.arrays import numpy_dtype
from fusion_replay.model.runlist import DTYPE_BYTES, ArgSpec
from fusion_replay.operators import evaluate
from fusion_replay.refs import builtin
from fusion_replay.snapshot.encodings import derived, movers_1
from fusion_replay.snapshot.schema import digest_of

TABLE = Path(__file__).with_name("movers_1.json")


def noise(nbytes: int, seed: int) -> np.ndarray:
    """Bytes that any machine makes alike."""
    return ((np.arange(nbytes, dtype=np.uint64) * 2654435761 + 97 * seed + 13) >> 7).astype(np.uint8)


def strided(rng: random.Random, dtype: str) -> dict[str, Any]:
    channels, outer = rng.choice([1, 1, 2]), rng.randrange(1, 4)
    inner = channels * rng.randrange(1, 5)
    params: dict[str, Any] = {"dtype": dtype, "num_aie_channels": channels}
    for side in ("input", "output"):
        sizes, pitch = rng.choice([([outer, inner], inner + rng.randrange(4)), ([outer * inner], 0)])
        offset = rng.randrange(4)
        strides = [pitch, 1][-len(sizes) :]
        params |= {f"{side}_sizes": sizes, f"{side}_strides": strides, f"{side}_offset": offset}
        params[f"{side}_buffer_size"] = offset + outer * (inner + 4) + 8
    if rng.random() < 0.5:
        params["output_offset_parameter"] = "where"
    return params


def walked(rng: random.Random, dtype: str) -> dict[str, Any]:
    channels, outer = rng.choice([1, 1, 2]), rng.randrange(1, 4)
    inner = channels * rng.randrange(1, 5)
    walk = {"offset": rng.randrange(3), "sizes": [outer, inner], "strides": [inner, 1], "bounded": 0}
    params: dict[str, Any] = {"input_buffer_size": outer * inner + 8, "dtype": dtype, "num_channels": channels}
    params |= {"src": walk, "dst": {**walk, "strides": [inner + 3, 1]}, "output_buffer_size": outer * (inner + 3) + 8}
    if rng.random() < 0.3:
        params |= {"src": None, "dst": None, "output_buffer_size": None}
    return params


def case(seed: int) -> tuple[str, dict[str, Any], dict[str, int]]:
    """An operator, its parameters and runtime values."""
    rng = random.Random(seed)
    op = rng.choice(["Repeat", "Transpose", "MemCopy", "Copy", "StridedCopy", "AIERepeat", "strided_copy"])
    dtype = rng.choice(["bfloat16", "bf16", "float32", "int8", "<class 'ml_dtypes.bfloat16'>", "int64"])
    small = {name: rng.randrange(1, 6) for name in ("rows", "cols", "repeat", "seq", "M", "N", "num_batches", "size")}
    if "epeat" in op:
        return op, {**{k: small[k] for k in ("rows", "cols", "repeat", "seq")}, "dtype": dtype}, {}
    if op == "Transpose":
        return op, {k: small[k] for k in ("M", "N", "num_batches")}, {}
    if op == "MemCopy":
        return op, {"size": small["size"] * 7}, {}
    if op == "Copy":
        params = walked(rng, dtype)
        valid = {} if params["src"] is None else {"src_valid": 1, "dst_valid": 1}
        return op, params, {**valid, "in_offset": rng.randrange(2)} if rng.random() < 0.5 else {}
    params = strided(rng, dtype)
    return op, params, {rng.choice(["output_offset", "where"]): rng.randrange(5)} if rng.random() < 0.8 else {}


def specs_of(op: str, params: dict[str, Any]) -> tuple[ArgSpec, ...]:
    spec = builtin(op)
    assert spec is not None
    return spec.arg_specs(params)


def frozen(op: str, params: dict[str, Any], values: dict[str, int], specs: tuple[ArgSpec, ...], seed: int) -> bytes:
    source, old = noise(specs[0].nbytes, seed), noise(specs[1].nbytes, seed + 1)
    return movers_1.moved(op, params, specs, [source], [old], values)[1].tobytes()


def outcome(seed: int) -> str:
    op, params, values = case(seed)
    try:
        return digest_of(frozen(op, params, values, specs_of(op, params), seed)).hex()
    except HostileFileError:
        return "refused"


def test_what_it_gave_when_it_was_frozen() -> None:
    table = json.loads(TABLE.read_text())
    assert len(table) == 400
    assert len(set(table)) > 200
    assert [outcome(seed) for seed in range(len(table))] == table


def test_strided_copies_by_plain_loops() -> None:
    """Channel by channel, element by element, as the descriptors walk."""
    compared = 0
    for seed in range(600):
        op, p, values = case(seed)
        if "trided" not in op.lower() or values or "output_offset_parameter" in p:
            continue
        specs, width = specs_of(op, p), DTYPE_BYTES[specs_of(op, p)[0].dtype]
        source = [bytes(e) for e in noise(specs[0].nbytes, seed).reshape(-1, width)]
        new = [bytes(e) for e in noise(specs[1].nbytes, seed + 1).reshape(-1, width)]
        for channel in range(p["num_aie_channels"]):
            places = []
            for side in ("input", "output"):
                sizes, strides, share = p[f"{side}_sizes"], p[f"{side}_strides"], 0
                share = sizes[-1] // p["num_aie_channels"]
                start = p[f"{side}_offset"] + channel * share * strides[-1]
                ranges = [range(n) for n in (*sizes[:-1], share)]
                places.append(
                    [start + sum(i * s for i, s in zip(at, strides, strict=True)) for at in itertools.product(*ranges)]
                )
            for a, b in zip(*places, strict=True):
                new[b] = source[a]
        try:
            assert frozen(op, p, values, specs, seed) == b"".join(new), p
            compared += 1
        except HostileFileError:
            continue
    assert compared > 5


def test_repeat_and_transpose_by_plain_loops() -> None:
    for rows, cols, times in itertools.product((1, 3), (2, 5), (1, 4)):
        data = np.arange(rows * cols, dtype="<u2").view(np.uint8)
        a, c = ArgSpec("A", "in", (rows, cols)), ArgSpec("C", "out", (rows * times, cols))
        made = movers_1.moved("Repeat", {"rows": rows, "cols": cols, "repeat": times}, (a, c), [data], [None], {})
        want = [r * cols + i for r in range(rows) for _ in range(times) for i in range(cols)]
        assert made[1].view("<u2").tolist() == want
        flat = ArgSpec("A", "in", (rows * cols,)), ArgSpec("C", "out", (rows * cols,))
        made = movers_1.moved("Transpose", {"M": rows, "N": cols}, flat, [data], [None], {})
        assert made[1].view("<u2").tolist() == [r * cols + i for i in range(cols) for r in range(rows)]


@pytest.mark.parametrize(
    ("op", "params"),
    [
        ("GEMM", {}),
        ("Repeat", {"rows": 1, "cols": 4, "repeat": 2**40}),
        ("Repeat", {"rows": -1, "cols": -4, "repeat": 1}),
        ("Repeat", {"rows": True, "cols": 4, "repeat": 1}),
        ("Repeat", {"rows": 1.5, "cols": 4, "repeat": 1}),
        ("Repeat", {"rows": float("nan"), "cols": 4, "repeat": 1}),
        ("Repeat", {"rows": float("inf"), "cols": 4, "repeat": 1}),
        ("Repeat", {"rows": 1, "cols": 4, "repeat": 1, "dtype": "complex64"}),
        ("MemCopy", {}),
        ("Transpose", {"M": 2, "N": [2]}),
        ("Copy", {"input_buffer_size": 4, "src": 7}),
        ("Copy", {"input_buffer_size": 4, "src": {"sizes": [2**40] * 64, "strides": [0] * 64}}),
        ("Copy", {"input_buffer_size": 4, "src": {"sizes": [1] * 100_000, "strides": [1] * 100_000}}),
        ("Copy", {"input_buffer_size": 4, "src": {"sizes": [4], "strides": [1], "offset": 1}}),
        ("Copy", {"input_buffer_size": 4, "dst": {"sizes": [2, 2], "strides": [0, 1]}}),
    ],
)
def test_parameters_made_to_hurt(op: str, params: dict[str, Any]) -> None:
    specs = ArgSpec("A", "in", (4,)), ArgSpec("C", "out", (4,))
    with pytest.raises(HostileFileError) as caught:
        movers_1.moved(op, params, specs, [noise(8, 0)], [noise(8, 1)], {})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_long_walk_to_one_place_takes_no_memory() -> None:
    """As long as its input, which is large: the output is what it has to fit."""
    count = 1 << 27
    params = {"input_buffer_size": count, "output_buffer_size": 8, "dtype": "int8"}
    params |= {"input_sizes": [count], "input_strides": [1], "output_sizes": [count], "output_strides": [0]}
    params |= {"input_offset": 0, "output_offset": 0}
    specs = ArgSpec("A", "in", (count,), "int8"), ArgSpec("C", "out", (8,), "int8")
    inputs, old = [np.zeros(count, np.uint8)], [np.zeros(8, np.uint8)]
    tracemalloc.start()
    with pytest.raises(HostileFileError, match="longer than the buffer"):
        movers_1.moved("StridedCopy", params, specs, inputs, old, {})
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("version", derived.VERSIONS)
def test_every_version_has_its_table(version: int) -> None:
    assert (Path(__file__).parent / f"movers_{version}.json").exists()


def test_the_newest_version_moves_as_the_references_do() -> None:
    compared = {"same": 0, "refused": 0}
    mover = derived.VERSIONS[derived.NEWEST]
    for seed in range(1500):
        op, params, values = case(seed)
        spec, specs = builtin(op), specs_of(op, params)
        assert spec is not None
        arrays = [noise(s.nbytes, seed + i).view(numpy_dtype(s.dtype)) for i, s in enumerate(specs)]
        try:
            (want,), _ = evaluate(spec, params, arrays[:1], "exact", previous=[arrays[1]], values=values)
        except FusionReplayError:
            with pytest.raises(HostileFileError):
                frozen(op, params, values, specs, seed)
            compared["refused"] += 1
            continue
        given = [a.view(np.uint8) for a in arrays]
        made = mover.moved(op, params, specs, given[:1], given[1:], values)[1].tobytes()
        assert made == np.ascontiguousarray(want).tobytes(), (op, params, values)
        compared["same"] += 1
    assert compared["same"] > 800
    assert compared["refused"] > 50
