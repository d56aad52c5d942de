# SPDX-License-Identifier: Apache-2.0
"""The encoder against a float32 BERT written here (erf GELU, LayerNorm with the model's epsilon, no padding)."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_replay.errors import MissingDependencyError, UsageError
from fusion_replay.simulator.workloads import find
from fusion_replay.simulator.workloads.minilm import MiniLM
from fusion_replay.simulator.workloads.minilm_model import PACKAGE, locate, padded

tokenizers = pytest.importorskip("tokenizers", reason="needs the minilm extra (make minilm)")
safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="needs the minilm extra (make minilm)")


TEXT = "The compiler emitted a kernel whose rounding mode leaked into the next one, and nobody noticed for a month."


def build(device: str = "npu2", **options: Any) -> MiniLM:
    run = find("minilm").build(device, (), options)
    assert isinstance(run, MiniLM)
    return run


# --- the oracle -------------------------------------------------------------------------------------------------

_erf = np.frompyfunc(math.erf, 1, 1)


def bert(folder: Path, text: str) -> Any:
    """The sentence embedding, float32 throughout, on the text's real tokens alone."""
    w = safetensors_numpy.load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    ids = tokenizer.encode(text).ids
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]

    def dense(x: Any, name: str) -> Any:
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * w[name + ".weight"] + w[name + ".bias"]

    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + w["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        p = f"encoder.layer.{i}."
        q, k, v = (
            dense(x, f"{p}attention.self.{part}").reshape(len(ids), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / np.float32(math.sqrt(q.shape[-1]))
        share = np.exp(scores - scores.max(-1, keepdims=True))
        context = (share / share.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), -1)
        x = norm(x + dense(context, p + "attention.output.dense"), p + "attention.output.LayerNorm")
        wide = dense(x, p + "intermediate.dense")
        wide = (wide * (1 + _erf(wide / math.sqrt(2)).astype(np.float32)) / 2).astype(np.float32)
        x = norm(x + dense(wide, p + "output.dense"), p + "output.LayerNorm")
    assert x.dtype == np.float32
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def cosine(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# --- a small model of our own -----------------------------------------------------------------------------------

SMALL = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 100,
    "vocab_size": 12,
    "layer_norm_eps": 1e-12,
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with a one-layer BERT of seeded float32 weights and a tokenizer of twelve words."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three", "four", "five", "six", "seven", "eight"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)  # as the real file does: the workload must not let it cut
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    save_tensors(tmp_path, small_tensors())
    return tmp_path


def small_tensors() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(5)
    h, wide = 128, 256

    def normal(*shape: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray[Any, Any]:
        return (mean + std * rng.standard_normal(shape)).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": normal(12, h),
        "embeddings.position_embeddings.weight": normal(100, h),
        "embeddings.token_type_embeddings.weight": normal(2, h, std=0.1),
        "embeddings.position_ids": np.arange(100)[None],  # ignored, as in the real file
    }
    p = "encoder.layer.0."
    for name in ("embeddings.LayerNorm", p + "attention.output.LayerNorm", p + "output.LayerNorm"):
        tensors |= {name + ".weight": normal(h, mean=1, std=0.2), name + ".bias": normal(h, std=0.2)}
    dense = {f"{p}attention.self.{part}": (h, h) for part in ("query", "key", "value")}
    dense |= {p + "attention.output.dense": (h, h), p + "intermediate.dense": (wide, h), p + "output.dense": (h, wide)}
    for name, (outputs, inputs) in dense.items():
        tensors |= {
            name + ".weight": normal(outputs, inputs, std=inputs**-0.5),
            name + ".bias": normal(outputs, std=0.3),
        }
    return tensors


def save_tensors(folder: Path, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    safetensors_numpy.save_file(tensors, folder / "model.safetensors")


# --- results ----------------------------------------------------------------------------------------------------

COSINES = {("npu2", False): 0.999, ("npu2", True): 0.998, ("npu1", False): 0.999}


@pytest.mark.parametrize(("device", "bfp16"), COSINES)
@pytest.mark.parametrize(
    ("words", "length"), [("one two three", 64), ("four " * 61 + "five", 64), ("six seven " * 40, 128)]
)
def test_small_model_agrees_with_float32(small: Path, device: str, bfp16: bool, words: str, length: int) -> None:
    run = build(device, text=words, weights=str(small), bfp16=bfp16)
    result = run.execute()
    assert result["tokens"] == len(words.split()) + 2
    assert f"padded to {length}" in run.describe()
    assert padded(result["tokens"]) == length
    assert cosine(result["embedding"], bert(small, words)) >= COSINES[device, bfp16]
    assert np.linalg.norm(result["embedding"]) == pytest.approx(1)


def test_word_order_matters(small: Path) -> None:
    """Guards the guards: embeddings of other texts are further away than the tolerances above."""
    reference = bert(small, "one two three four")
    for other in ("four three two one", "one two three", "one two three five"):
        result = build(text=other, weights=str(small), bfp16=False).execute()
        assert cosine(result["embedding"], reference) < 0.99


@pytest.mark.parametrize(
    ("device", "bfp16"),
    [("npu2", True), *(pytest.param(*case, marks=pytest.mark.long) for case in (("npu2", False), ("npu1", False)))],
)
@pytest.mark.minilm
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="needs the MiniLM weights (make minilm)")
def test_real_weights_agree_with_float32(device: str, bfp16: bool) -> None:
    result = build(device, text=TEXT, bfp16=bfp16).execute()
    assert cosine(result["embedding"], bert(locate(None), TEXT)) >= COSINES[device, bfp16]
    assert PACKAGE not in sys.modules, "the package is only a folder to us"


@pytest.mark.minilm
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="needs the MiniLM weights (make minilm)")
def test_real_weights_know_what_is_alike() -> None:
    def embed(text: str) -> list[float]:
        return list(build(text=text).execute()["embedding"])

    cat, kitten, tax = (embed(t) for t in ("A cat sleeps.", "The kitten is asleep.", "Tax returns are due in May."))
    assert cosine(cat, kitten) > 0.6
    assert cosine(cat, tax) < 0.2


@pytest.mark.minilm
@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="needs the MiniLM weights (make minilm)")
def test_a_text_longer_than_the_window_is_counted() -> None:
    with pytest.raises(UsageError, match=r"text of 1021 characters: 513 tokens, but the model's window has 512"):
        build(text=" ".join("a" * 511))  # with [CLS] and [SEP]


# --- bad input --------------------------------------------------------------------------------------------------


def test_a_window_that_is_no_multiple_of_the_padding(small: Path) -> None:
    words = "one " * 98
    result = build(text=words, weights=str(small), bfp16=False).execute()
    assert cosine(result["embedding"], bert(small, words)) >= 0.999
    with pytest.raises(UsageError, match="101 tokens, but the model's window has 100"):
        build(text="one " * 99, weights=str(small))


def test_absent_weights_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="make minilm") as caught:
        build()
    assert caught.value.exit_code == 4
    assert "--weights DIR" in str(caught.value)


def test_missing_and_misshapen_tensors_are_all_named(small: Path) -> None:
    tensors = small_tensors()
    del tensors["encoder.layer.0.attention.self.key.bias"], tensors["embeddings.LayerNorm.weight"]
    tensors["encoder.layer.0.output.dense.weight"] = np.zeros((256, 128), np.float32)
    tensors["embeddings.word_embeddings.weight"] = np.zeros((12, 64), np.float32)
    save_tensors(small, tensors)
    with pytest.raises(UsageError) as caught:
        build(weights=str(small), text="one")
    for part in (
        "4 of ",
        "self.key.bias is missing",
        "embeddings.LayerNorm.weight is missing",
        "output.dense.weight has shape (256, 128), expected (128, 256)",
        "word_embeddings.weight has shape (12, 64), expected (12, 128)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 100}, "multiples of 128"),
        ({"hidden_size": "wide"}, "hidden_size='wide'"),
        ({"num_attention_heads": 8}, "multiple of 32 elements, found 16"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_hidden_layers": 1 << 40}, "num_hidden_layers"),
        ({"model_type": "llama"}, '"model_type": "bert"'),
        ({"hidden_act": "relu"}, '"hidden_act": "gelu"'),
        ({"pad_token_id": 12}, "pad_token_id among the 12 tokens, found 12"),
        ({"vocab_size": 5}, "token 11, but the model knows 5"),
    ],
)
def test_configurations_that_cannot_run(small: Path, change: dict[str, Any], words: str) -> None:
    (small / "config.json").write_text(json.dumps({**SMALL, **change}))
    with pytest.raises(UsageError) as caught:
        build(weights=str(small), text="eight")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", None, "config.json"),
        ("config.json", "{", "expected JSON"),
        ("config.json", "[" * 100_000, "expected JSON"),
        ("config.json", "[]", "model_type"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("tokenizer.json", "{}", "not a readable tokenizer"),
        ("model.safetensors", None, "model.safetensors"),
        ("model.safetensors", "tensors", "not a readable safetensors file"),
    ],
)
def test_files_missing_or_unreadable(small: Path, name: str, content: str | None, words: str) -> None:
    if content is None:
        (small / name).unlink()
    else:
        (small / name).write_text(content)
    with pytest.raises(UsageError, match=words):
        build(weights=str(small), text="one")


def test_a_text_that_is_no_unicode(small: Path) -> None:
    with pytest.raises(UsageError, match="expected Unicode text"):
        build(weights=str(small), text="caf\udce9")


def test_weights_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder"):
        build(weights=str(tmp_path / "nothing"))
