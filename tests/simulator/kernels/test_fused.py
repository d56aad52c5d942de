# SPDX-License-Identifier: Apache-2.0
"""Fused kernels of the software NPU are their parts one after another; FlowKVDecode is its steps, one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.core import Core
from fusion_replay.simulator.dispatch import Dispatch
from fusion_replay.simulator.kernels import find_kernel

BF16 = ml_dtypes.bfloat16
DEVICES = ("npu1", "npu2")


def run(op: str, core: Core, inputs: list[np.ndarray], **params: Any) -> np.ndarray:
    return find_kernel(op).run(Dispatch(core, SimpleNamespace(**params), inputs))[0].reshape(-1)


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(BF16) for shape in shapes]


def same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16))


@pytest.mark.parametrize("mode", ["floor", "conv_even"])
@pytest.mark.parametrize("device", DEVICES)
def test_silu_mul(device: str, mode: str) -> None:
    a, b = drawn(1, (256,), (256,))
    core = Core(device, mode)
    gate = run("SiLU", core, [a], size=256)
    same(run("SiLUMul", core, [a, b], size=256), run("ElementwiseMul", core, [gate, b], size=256))
    assert core.rounding == mode


@pytest.mark.parametrize(("mode", "op"), [("add", "ElementwiseAdd"), ("mul", "ElementwiseMul"), ("gelu", "GELU")])
def test_pointwise(mode: str, op: str) -> None:
    a, b = drawn(2, (256,), (256,))
    core = Core("npu2", "floor")
    alone = run(op, core, [a] if mode == "gelu" else [a, b], size=256)
    same(run("Pointwise", core, [a, b], size=256, mode=mode), alone)
    with pytest.raises(UsageError, match="Pointwise: device=npu1: expected npu2"):
        find_kernel("Pointwise").check(SimpleNamespace(size=256, mode=mode), Core("npu1"))


@pytest.mark.parametrize("device", DEVICES)
def test_weighted_rms_norm(device: str) -> None:
    x, w = drawn(3, (4, 64), (64,))
    core = Core(device)
    want = run("RMSNorm", core, [x, w], size=256, tile_size=64, weighted=True)
    same(run("WeightedRMSNorm", core, [x, w], rows=4, tile_size=64), want)


@pytest.mark.parametrize("device", DEVICES)
def test_fused_qkv(device: str) -> None:
    q, k, v, x = drawn(4, (64, 64), (32, 64), (32, 64), (64,))
    core = Core(device, "floor")
    fused = run("FusedQKVProj", core, [np.concatenate([q, k, v]), x], embedding_dim=64, q_dim=64, k_dim=32, v_dim=32)
    same(fused, np.concatenate([run("GEMV", core, [w, x], M=len(w), K=64) for w in (q, k, v)]))


@pytest.mark.parametrize("tile", [1, 4])
@pytest.mark.parametrize("device", DEVICES)
def test_fused_dequant_gemv(device: str, tile: int) -> None:
    rng = np.random.default_rng(5)
    tiles, k = 32 // tile, 64
    nibbles = rng.integers(0, 256, (tiles, tile * k // 2)).astype(np.uint8)
    scales = rng.uniform(0.2, 1, (tiles, tile * 2)).astype(BF16).view(np.uint8)
    packed, (x,) = np.concatenate([nibbles, scales], axis=1).reshape(-1), drawn(6, (k,))
    core = Core(device, "floor")
    fused = run("FusedDequantGEMV", core, [packed, x], M=32, K=k, tile_size_input=tile)
    assert core.rounding == "conv_even"  # which the weights' own rounding needed
    weights = run("Dequant", core, [packed], size=32 * k, tile_size=tile * k, group_size=32)
    same(fused, run("GEMV", core, [weights.reshape(32, k), x], M=32, K=k, kernel_vector_size=32))


@pytest.mark.parametrize("device", DEVICES)
def test_swiglu_in_one_design(device: str) -> None:
    gate, up, down, x = drawn(7, (256, 64), (256, 64), (64, 256), (64,))
    core, columns, share = Core(device, "floor"), 4, 64
    both = np.stack([gate.reshape(columns, share, 64), up.reshape(columns, share, 64)], axis=1)
    cut = down.reshape(64, columns, share).swapaxes(0, 1)
    weights = np.concatenate([both.reshape(-1), cut.reshape(-1)])
    fused = run("SwiGLUFusedDecode", core, [weights, x], embedding_dim=64, hidden_dim=256)
    hidden = run("DualGEMVSiLUMul", core, [both, x], M=256, K=64, num_aie_columns=4).reshape(columns, share)
    same(fused, np.concatenate([run("GEMV", core, [w, h], M=64, K=share) for w, h in zip(cut, hidden, strict=True)]))


def bf(x: Any) -> np.float32:
    return np.float32(np.float32(x).astype(BF16))


@pytest.mark.parametrize("chunk", [2, 4])
def test_flowkv_step_by_step(chunk: int) -> None:
    positions, group, d = 8, 2, 64
    cache, queries = drawn(8, (1, positions, 2, d), (1, group + 1, d))
    core = Core("npu2", "conv_even")
    got = run(
        "FlowKVDecode", core, [cache, queries], num_heads=group, num_kv_heads=1, head_dim=d, seq_len=positions,
        chunk_size=chunk, num_cols=1,
    ).reshape(group, d)  # fmt: skip
    k, v = cache[0, :, 0].astype(np.float32), cache[0, :, 1].astype(np.float32)
    angles = queries[0, group].astype(np.float32)
    for h in range(group):
        q = queries[0, h].astype(np.float32)
        turned = np.empty(d, np.float32)
        for i in range(d // 2):
            cos, sin = angles[2 * i], angles[2 * i + 1]
            turned[i] = bf(bf(q[i] * cos) - bf(q[i + 32] * sin))
            turned[i + 32] = bf(bf(q[i + 32] * cos) + bf(q[i] * sin))
        largest, total, out = np.float32(-1e30), np.float32(0), np.zeros(d, np.float32)
        for at in range(0, positions, chunk):
            scores = []
            for p in range(at, at + chunk):
                lanes = turned[:32] * k[p, :32] + turned[32:] * k[p, 32:]
                while len(lanes) > 1:
                    lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
                scores.append(bf(lanes[0] * np.float32(0.125)))
            top = max(largest, *scores)
            shrink = bf(np.exp2(np.float64(bf((largest - top) * np.float32(1.4453125)))))
            total, out, largest = bf(shrink * total), out * shrink, top
            for p, score in zip(range(at, at + chunk), scores, strict=True):
                power = bf(np.exp2(np.float64(bf((score - top) * np.float32(1.4453125)))))
                total = bf(total + power)
                out = out + power * v[p]
        same(got[h], (out * (np.float32(1) / total)).astype(BF16))


def test_flowkv_is_near_attention() -> None:
    cache, queries = drawn(9, (2, 64, 2, 64), (2, 5, 64))
    queries[:, 4, 0::2], queries[:, 4, 1::2] = 1, 0  # position 0: nothing is turned
    out = run(
        "FlowKVDecode", Core("npu2"), [cache, queries], num_heads=8, num_kv_heads=2, head_dim=64, seq_len=64, num_cols=2
    ).reshape(2, 4, 64)
    q, k, v = queries[:, :4].astype(np.float64), cache[:, :, 0].astype(np.float64), cache[:, :, 1].astype(np.float64)
    weights = np.exp(q @ k.swapaxes(1, 2) / 8)
    want = weights / weights.sum(-1, keepdims=True) @ v
    assert 0 < np.abs(out.astype(np.float64) - want).max() < 0.05 * np.abs(want).max()
