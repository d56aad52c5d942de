# SPDX-License-Identifier: Apache-2.0
"""Prompt and tokens after it are right: against the float64 Llama, over the whole sequence at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import UsageError
from fusion_replay.simulator.workloads import find
from fusion_replay.simulator.workloads.llama_config import weights
from fusion_replay.simulator.workloads.llama_prompt import LlamaPrompt
from llama_oracle import cosine, llama


def build(device: str = "npu2", **options: Any) -> LlamaPrompt:
    run = find("llama").build(device, (), options)
    assert isinstance(run, LlamaPrompt)
    return run


def recorded(path: Path, run: LlamaPrompt) -> dict[str, Any]:
    with fr.record(path) as recorder:
        for callable_ in run.callables:
            recorder.attach(callable_)
        return run.execute()


@pytest.mark.parametrize(("device", "prompt"), [("npu1", 13), pytest.param("npu2", 40, marks=pytest.mark.long)])
def test_tokens_agree_with_a_float64_llama(device: str, prompt: int, tmp_path: Path) -> None:
    run = build(device, prompt=prompt, tokens=4, seed=5)
    decode = run.callables[-1]
    held = {
        w.tensor: decode.get_buffer(w.buffer).numpy().astype(np.float64).reshape(w.shape) for w in weights(run.config)
    }
    result = recorded(tmp_path / "llama.h5", run)
    fed = [*result["prompt"], *result["tokens"]]
    truth = llama(run.config, held, fed[:-1])
    with fr.open(tmp_path / "llama.h5") as snap:
        decoded = [s.outputs[0].numpy().astype(np.float64) for s in snap.steps(buffer="logits", op="GEMV")]
        parts = [s.outputs[0].numpy()[prompt - 1] for s in snap.steps(buffer="logits", op="GEMM")]
    seen = [np.concatenate(parts).astype(np.float64)[: run.config.vocab], *decoded]
    assert len(seen) == len(result["tokens"]) == 4
    for i, (logits, token) in enumerate(zip(seen, result["tokens"], strict=True)):
        expected = truth[prompt - 1 + i]
        assert cosine(logits, expected) > 0.999, f"token {i}"
        gap = expected.max() - expected[token]  # the float64 model's choice, or one within the device's error of it
        assert gap <= 2 * np.abs(logits - expected).max(), f"token {i}"


def test_the_application_dispatches_what_iron_does(tmp_path: Path) -> None:
    """15 operators and a product per head in each layer, then a norm and the head in four parts; no runlist."""
    run = build(tokens=1, layers=1)
    recorded(tmp_path / "llama.h5", run)
    with fr.open(tmp_path / "llama.h5") as snap:
        steps = list(snap.steps())
        assert all(len(s.steps) == 1 for s in snap.sequences)
    heads = run.config.heads
    assert len(steps) == run.dispatches == 15 + heads + 1 + 4
    assert Counter(s.op.type for s in steps) == {
        "GEMM": 3 + heads + 3 + 4,
        "RMSNorm": 3,
        "RoPE": 2,
        "ElementwiseMul": 2,
        "ElementwiseAdd": 2,
        "SiLU": 1,
    }
    first = [s.op.type for s in steps[:6]]
    assert first == ["RMSNorm", "GEMM", "RoPE", "GEMM", "RoPE", "GEMM"]
    assert {s.op.params["M"] for s in steps if s.op.type == "GEMM"} == {256}, "13 tokens in whole tiles"


def test_more_tokens_come_from_the_runlist(tmp_path: Path) -> None:
    run = build(tokens=3, layers=1)
    recorded(tmp_path / "llama.h5", run)
    with fr.open(tmp_path / "llama.h5") as snap:
        decoding = [i for i in snap.invocations if len(snap.sequences[i.sequence].steps) > 1]
        assert len(decoding) == 2
        assert len(list(snap.steps())) == run.dispatches
        offsets = [s.values["cache_offset"] for s in snap.steps(buffer="keys_cache_0", op="StridedCopy")]
    assert offsets == [13 * 64, 14 * 64], "behind the prompt"


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match=r"prompt of 2040 and 9 tokens: expected at most 2048"):
        build(prompt=2040, tokens=9)
    with pytest.raises(UsageError, match=r"layers 3: expected at most 2"):
        build(layers=3)


def test_faults_strike_where_they_are_told_to(tmp_path: Path) -> None:
    """In the recording's own addresses, the prompt's kernel calls being invocations of one step."""

    def mismatches(*faults: str) -> set[str]:
        run = find("llama").build("npu2", faults, {"tokens": 3, "layers": 1})
        with fr.record(tmp_path / "x.h5", if_exists="replace") as recorder:
            for callable_ in run.callables:
                recorder.attach(callable_)
            run.execute()
        return {s.address for s in fr.replay(tmp_path / "x.h5").mismatches}

    first = 15 + 16 + 1 + 4
    assert mismatches(f"{first + 1}:2:zeros") == {f"{first + 1}:2"}
    silu = mismatches("SiLU:nan")
    assert len(silu) == 3, "once in the prompt, once per decoded token"
    assert len([a for a in silu if a.endswith(":0")]) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("Dequant:zeros", "no Dequant runs here"),
        ("3:0:zeros", "an invocation of the decode: from 67 to 67"),
        ("68:0:zeros", "an invocation of the decode: from 67 to 67"),
    ],
)
def test_faults_that_fit_nothing(fault: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find("llama").build("npu2", (fault,), {})
    with pytest.raises(UsageError, match="matches no step: no GEMV runs here"):
        find("llama").build("npu2", ("GEMV:zeros",), {"tokens": 1})
