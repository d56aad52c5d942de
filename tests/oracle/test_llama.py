# SPDX-License-Identifier: Apache-2.0
"""A llama decode whose runlist maps heads wrongly and agrees step by step: the stretch, the cause, and the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.oracle.judge import OracleReplay, judge_against
from fusion_replay.oracle.tokens import TokenFigures, tokens_against
from fusion_replay.simulator.workloads import llama as workload
from fusion_replay.simulator.workloads.llama_config import weights
from fusion_replay.snapshot import open_snapshot
from llama_oracle import llama

pytestmark = pytest.mark.long

TOKENS, LAYER, GROUP = 3, 1, 4  # four query heads share a head of keys and values


def _wrong_heads(runlist: list[Any]) -> list[Any]:
    """Every head of layer 1 weighs the values of the next group."""
    at = [n for n, s in enumerate(runlist) if type(s[0]).__name__ == "Transpose"][16 * LAYER :]
    sources = [runlist[n][1] for n in at]
    found = list(runlist)
    for k, n in enumerate(at):
        found[n] = (runlist[n][0], sources[(k + GROUP) % len(at)], runlist[n][2])
    return found


def _run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, steps: Callable[[list[Any]], list[Any]]
) -> tuple[OracleReplay, TokenFigures, Any, Any]:
    """What the oracle says of the last token and of all logits; and both logits, by the device and by the model."""
    original = workload.plan

    def plan(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        return replace(made, runlist=steps(list(made.runlist)))

    monkeypatch.setattr(workload, "plan", plan)
    run = workload.WORKLOAD.build("npu2", (), {"tokens": TOKENS, "seed": 11})
    held = {
        w.tensor: run.callable.get_buffer(w.buffer).numpy().astype(np.float64).reshape(w.shape)
        for w in weights(run.config)
    }
    fed, seen = [run.config.first_token], []
    with fr.record(folder / "f.h5", run.callable):
        for i in range(TOKENS):
            run.prepare(i)
            run.callable()
            run.finish(i)
            seen.append(run.callable.get_buffer("logits").numpy().astype(np.float64).copy())
            fed.append(run.result()["tokens"][i])
    kept: dict[str, Any] = {}
    logits = llama(run.config, held, fed[:-1], kept)
    fr.oracle.write({k: v[-1:].astype(np.float32) for k, v in kept.items()}, folder / "o.safetensors")
    fr.oracle.write({"head": logits.astype(np.float32)}, folder / "l.safetensors")
    assert not fr.replay(folder / "f.h5").mismatches
    with open_snapshot(folder / "f.h5") as snapshot:
        report = judge_against(snapshot, folder / "o.safetensors")
        tokens = tokens_against(snapshot, folder / "l.safetensors", "head")
    return report, tokens, np.stack(seen), logits


def test_a_right_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, tokens, *_ = _run(tmp_path, monkeypatch, lambda s: s)
    assert report
    assert {b.buffer for b in report.boundaries} == {"attn_context", "x"}
    assert all(b.address.startswith(f"{TOKENS - 1}:") for b in report.boundaries)
    assert tokens.kl_max < 0.01
    assert tokens.top_k > 0.7


def test_heads_that_are_mapped_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, tokens, found, model = _run(tmp_path, monkeypatch, _wrong_heads)
    assert report.first is not None
    assert report.first.name == f"layers.{LAYER}.context"
    assert not report.first.wrong
    assert [c.text for c in report.first.causes if c.grade == "proved"]
    assert "attn_scores_values in" in report.first.causes[0].text
    assert "the parts' order is off by" in report.first.causes[0].text
    p = np.exp(model - model.max(1, keepdims=True))
    q = np.exp(found - found.max(1, keepdims=True))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    kl = (p * np.log(p / q)).sum(1)
    assert tokens.kl_mean == pytest.approx(kl.mean(), rel=1e-4)
    assert tokens.kl_max == pytest.approx(kl.max(), rel=1e-4)
    assert tokens.top1 == int((p.argmax(1) != q.argmax(1)).sum())
