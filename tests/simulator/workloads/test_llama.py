# SPDX-License-Identifier: Apache-2.0
"""The decode is right: logits and tokens against a float64 Llama written here, over the whole sequence at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads import find
from fusion_replay.simulator.workloads.llama import LlamaDecode
from fusion_replay.simulator.workloads.llama_config import CONFIGS, LlamaConfig, rope_angles, weights
from fusion_replay.simulator.workloads.llama_runlist import plan
from llama_oracle import Arrays, cosine, frequencies, llama, rms_norm


def build(device: str = "npu2", **options: Any) -> LlamaDecode:
    run = find("llama-decode").build(device, (), options)
    assert isinstance(run, LlamaDecode)
    return run


def buffers(run: LlamaDecode) -> Arrays:
    """The weights as the device holds them, float64, by their names in a checkpoint."""
    return {
        w.tensor: run.callable.get_buffer(w.buffer).numpy().astype(np.float64).reshape(w.shape)
        for w in weights(run.config)
    }


# --- tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_decode_agrees_with_a_float64_llama(device: str) -> None:
    run = build(device, tokens=6, seed=11)
    truth_weights = buffers(run)
    fed, seen = [run.config.first_token], []
    for i in range(run.invocations):
        run.prepare(i)
        run.callable()
        run.finish(i)
        seen.append(run.callable.get_buffer("logits").numpy().astype(np.float64).copy())
        fed.append(run.result()["tokens"][i])
    truth = llama(run.config, truth_weights, fed[:-1])
    for i, (logits, expected) in enumerate(zip(seen, truth, strict=True)):
        assert cosine(logits, expected) > 0.999, f"token {i}"
        # the chosen token is the float64 model's, or one that it ranks within the device's error of the best
        gap = expected.max() - expected[fed[i + 1]]
        assert gap <= 2 * np.abs(logits - expected).max(), f"token {i}"
    assert len(set(fed)) > 2, "a decode that repeats one token tests no positions"
    without_history = llama(run.config, truth_weights, fed[-2:-1])[0]
    assert cosine(seen[-1], without_history) < 0.99, "the caches must matter"


def test_positions_continue_where_they_are_told_to() -> None:
    """Decoding at position N equals the float64 attention over the N cached rows and the new one."""
    run = build(tokens=1, position=37, layers=1, seed=3)
    config, w = run.config, buffers(run)
    cache = {
        kind: run.callable.get_buffer(f"{kind}_cache_0").numpy().astype(np.float64).reshape(4, 256, 64)
        for kind in ("keys", "values")
    }
    assert (cache["keys"][:, :37] != 0).mean() > 0.99
    assert not cache["keys"][:, 37:].any()
    assert not cache["values"][:, 37:].any()
    assert not np.array_equal(cache["keys"][:, :37], cache["values"][:, :37])
    run.execute()
    x = w["model.embed_tokens.weight"][config.first_token]
    h = rms_norm(x, w["model.layers.0.input_layernorm.weight"])
    angle = np.exp(1j * 37 * np.array(frequencies(config)))

    def turned(name: str, heads: int) -> Any:
        y = (w[f"model.layers.0.self_attn.{name}.weight"] @ h).reshape(heads, 64)
        z = (y[:, :32] + 1j * y[:, 32:]) * angle
        return np.concatenate([z.real, z.imag], axis=1)

    q, k = turned("q_proj", 16), turned("k_proj", 4)
    v = (w["model.layers.0.self_attn.v_proj.weight"] @ h).reshape(4, 64)
    context = []
    for head in range(16):
        keys = np.vstack([cache["keys"][head // 4, :37], k[head // 4]])
        values = np.vstack([cache["values"][head // 4, :37], v[head // 4]])
        score = np.exp(keys @ q[head] / 8)
        context.append(score @ values / score.sum())
    found = run.callable.get_buffer("attn_context").numpy().astype(np.float64).reshape(16, 64)
    assert cosine(found.ravel(), np.array(context).ravel()) > 0.999
    after = run.callable.get_buffer("keys_cache_0").numpy().astype(np.float64).reshape(4, 256, 64)
    assert np.array_equal(after[:, :37], cache["keys"][:, :37])
    assert np.abs(after[:, 37] - k).max() < 0.05
    assert not after[:, 38:].any()


@pytest.mark.parametrize("position", [0, 1, 100, 2047])
def test_rope_angles(position: int) -> None:
    for config in CONFIGS.values():
        row = rope_angles(config, position).astype(np.float64)
        for pair, f in enumerate(frequencies(config)):
            assert row[2 * pair] == pytest.approx(math.cos(position * f), abs=2**-8)
            assert row[2 * pair + 1] == pytest.approx(math.sin(position * f), abs=2**-8)
    assert rope_angles(CONFIGS["tiny"], 5).dtype == ml_dtypes.bfloat16


def test_the_same_seed_gives_the_same_bytes() -> None:
    def after(seed: int) -> bytes:
        run = build(tokens=2, layers=1, seed=seed)
        run.execute()
        return bytes(run.callable.get_buffer("logits").numpy().tobytes())

    assert after(1) == after(1) != after(2)


def test_scale_factor_is_one_over_the_root_of_the_head_dimension() -> None:
    scale = build(tokens=1).callable.get_buffer("attn_scale_factor").numpy()
    assert scale.shape == (16 * 256,)
    assert (scale.astype(np.float64) == 0.125).all()


def test_reading_the_embedding_leaves_the_weights_on_the_device() -> None:
    run = build(tokens=1)
    run.prepare(0)
    assert run.callable.get_buffer("W_out_head").device == "npu"


def test_describe_and_result() -> None:
    run = build(tokens=3, position=9)
    assert "tiny" in run.describe()
    assert "3 tokens from position 9" in run.describe()
    assert f"{len(plan(run.config, 256, 8).runlist)} steps" in run.describe()
    result = run.execute()
    assert len(result["tokens"]) == 3
    assert all(0 <= t < run.config.vocab for t in result["tokens"])
    assert (result["position"], result["context"]) == (9, 256)


# --- weights from a checkpoint ----------------------------------------------------------------------------------


def checkpoint(folder: Path, config: LlamaConfig, **changes: Any) -> Arrays:
    """A small model.safetensors with this config's tensors, some bf16, some float32; ``None`` leaves one out."""
    numpy_format = pytest.importorskip("safetensors.numpy", reason="needs the minilm extra (make minilm)")
    rng = np.random.default_rng(8)
    tensors: Arrays = {}
    for n, w in enumerate(weights(config)):
        values = (rng.standard_normal(w.shape) * w.std + w.mean).astype(np.float32)
        tensors[w.tensor] = values if n % 2 else values.astype(ml_dtypes.bfloat16).astype(np.float32)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    numpy_format.save_file(tensors, folder / "model.safetensors")
    return tensors


ONE_LAYER = "tiny"


def one_layer() -> LlamaConfig:
    from dataclasses import replace

    return replace(CONFIGS[ONE_LAYER], layers=1)


def test_weights_of_a_checkpoint_reach_their_buffers(tmp_path: Path) -> None:
    tensors = checkpoint(tmp_path, one_layer())
    run = build(tokens=2, layers=1, weights=str(tmp_path))
    for name, values in buffers(run).items():
        nearest = np.abs(values - tensors[name]) <= np.abs(tensors[name]) * 2.0**-8
        assert nearest.all(), name
    run.execute()
    logits = run.callable.get_buffer("logits").numpy().astype(np.float64)
    fed = [run.config.first_token, run.result()["tokens"][0]]
    assert cosine(logits, llama(run.config, buffers(run), fed)[-1]) > 0.999


def test_missing_and_misshapen_tensors_are_all_named(tmp_path: Path) -> None:
    checkpoint(
        tmp_path,
        one_layer(),
        **{
            "model.norm.weight": None,
            "model.layers.0.mlp.up_proj.weight": np.zeros((256, 512), np.float32),
            "model.layers.0.self_attn.k_proj.weight": None,
            "model.layers.0.input_layernorm.weight": np.zeros(256, np.int32),
        },
    )
    with pytest.raises(UsageError) as caught:
        build(layers=1, weights=str(tmp_path))
    for part in (
        "4 of 11",
        "model.norm.weight is missing",
        "k_proj.weight is missing",
        "up_proj.weight has shape (256, 512), expected (512, 256)",
        "input_layernorm.weight holds I32",
    ):
        assert part in str(caught.value)


def test_an_untied_output_head_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, one_layer(), **{"lm_head.weight": np.zeros((512, 256), np.float32)})
    with pytest.raises(UsageError, match=r"lm_head\.weight.*tied"):
        build(layers=1, weights=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": "llama-4"}, ("config", "tiny, ", "llama-3.2-1b")),
        ({"tokens": 0}, ("tokens", "at least 1")),
        ({"layers": 3}, ("layers 3", "at most 2")),
        ({"position": 255, "tokens": 2}, ("257", "found 256")),
        ({"context": 1000}, ("context 1000", "multiple of 64")),
        ({"weights": "/nowhere"}, ("/nowhere", "model.safetensors")),
    ],
)
def test_bad_options(options: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        build(**options)
    assert all(word in str(caught.value) for word in words)
