# SPDX-License-Identifier: Apache-2.0
"""KL, top-1, top-k and the first wrong token against plain Python, and logits that don't fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import MissingError, UsageError
from fusion_replay.oracle.tokens import figures_of, tokens_against
from fusion_replay.snapshot import open_snapshot

RNG = np.random.default_rng(0)
MODEL = RNG.standard_normal((4, 9)) * 3
FOUND = (MODEL + RNG.standard_normal((4, 9)) * 0.02).astype(np.float32)
FOUND[2, MODEL[2].argmin()] = 20  # token 2 goes wrong


def _kl(model: Any, found: Any) -> float:
    def log_p(row: Any) -> list[float]:
        whole = math.log(math.fsum(math.exp(float(v)) for v in row))
        return [float(v) - whole for v in row]

    return math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p(model), log_p(found), strict=True))


def test_figures_are_those_of_plain_python() -> None:
    f = figures_of(FOUND.astype(np.float64), MODEL)
    each = [_kl(m, x) for m, x in zip(MODEL, FOUND, strict=True)]
    assert f.kl_mean == pytest.approx(sum(each) / 4)
    assert f.kl_max == pytest.approx(max(each))
    assert f.kl_max_at == each.index(max(each)) == 2
    assert f.kl_p90 == pytest.approx(np.percentile(each, 90))
    assert (f.tokens, f.vocabulary, f.top1) == (4, 9, 1)
    assert f.first is not None
    assert (f.first.token, f.first.model, f.first.found) == (2, int(MODEL[2].argmax()), int(MODEL[2].argmin()))
    assert f.first.margin == pytest.approx(MODEL[2].max() - MODEL[2].min())
    tops = [len({*np.argsort(-m)[:5]} & {*np.argsort(-x)[:5]}) / 5 for m, x in zip(MODEL, FOUND, strict=True)]
    assert f.top_k == pytest.approx(sum(tops) / 4)


def test_equal_logits_ties_and_nan() -> None:
    same = figures_of(MODEL, MODEL)
    assert (same.kl_mean, same.kl_max, same.top1, same.top_k, same.first) == (0, 0, 0, 1, None)
    assert figures_of(np.zeros((1, 9)), MODEL[:1]).top_k == 1  # all as likely: none is less so than the fifth
    broken = FOUND.astype(np.float64)
    broken[1, 3] = np.nan
    f = figures_of(broken, MODEL)
    assert math.isnan(f.kl_mean)
    assert f.kl_max_at == 1
    assert f.first is not None
    assert f.first.token == 1


def _record(path: Path, rows: Any) -> Path:
    with fr.record(path) as rec:
        for row in rows:
            with rec.invocation("decode"):
                with rec.step("Mine", {"A": np.ones(4, np.float32)}) as step:
                    step.outputs["hidden"] = np.zeros(4, np.float32)
                with rec.step("Head", {"B": np.ones(4, np.float32)}) as step:
                    step.outputs["logits"] = row
    return path


def test_an_invocation_is_a_token(tmp_path: Path) -> None:
    fr.oracle.write({"head": MODEL[None], "cube": np.ones((2, 3, 4))}, tmp_path / "o.safetensors")
    with open_snapshot(_record(tmp_path / "f.h5", FOUND)) as snapshot:
        found = tokens_against(snapshot, tmp_path / "o.safetensors", "head=logits")
        assert found == figures_of(FOUND.astype(np.float64), MODEL)
        for logits, said in (
            ("head=nope", "no complete invocation writes nope"),
            ("head", "has 2 output buffers; say which one"),
            ("cube=logits", r"expected logits as \(tokens, vocabulary\)"),
            ("none=logits", "no tensor 'none'"),
        ):
            with pytest.raises((UsageError, MissingError), match=said):
                tokens_against(snapshot, tmp_path / "o.safetensors", logits)
    with (
        open_snapshot(_record(tmp_path / "g.h5", FOUND[:3])) as snapshot,
        pytest.raises(UsageError, match="3 invocations with 9 logits each; the oracle has 4 tokens of 9"),
    ):
        tokens_against(snapshot, tmp_path / "o.safetensors", "head=logits")


def test_one_invocation_of_all_tokens(tmp_path: Path) -> None:
    fr.oracle.write({"head": MODEL}, tmp_path / "o.safetensors")
    padded = np.vstack([FOUND, np.zeros((4, 9), np.float32)])
    with open_snapshot(_record(tmp_path / "f.h5", [padded])) as snapshot:
        found = tokens_against(snapshot, tmp_path / "o.safetensors", "head=logits")
    assert found == figures_of(FOUND.astype(np.float64), MODEL)
