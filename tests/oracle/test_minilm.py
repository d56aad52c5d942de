# SPDX-License-Identifier: Apache-2.0
"""MiniLM on real weights against the original model in torch: the map, the three answers, runlists that are wrong."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

import fusion_replay as fr
import runlist_errors as errors
from fusion_replay.errors import MissingDependencyError
from fusion_replay.oracle.judge import OracleReplay, judge_against
from fusion_replay.simulator.workloads import minilm_model
from fusion_replay.snapshot import open_snapshot

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytestmark = [pytest.mark.torch, pytest.mark.minilm, pytest.mark.long]

KINDS = 13
WIDER = {16}
"""Errors so large that the tensor behind them has no place: the stretch begins and ends at its neighbours."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        minilm_model.locate(None)
    except MissingDependencyError as why:
        pytest.skip(str(why))
    return tmp_path_factory.mktemp("minilm")


@cache
def _oracle(folder: Path, epsilon: float) -> Path:
    import minilm_torch

    where = minilm_model.locate(None)
    model = minilm_torch.load(where, minilm_model.read_config(where), epsilon)
    ids = minilm_model.tokenize(where, errors.TEXT, 512)
    assert len(ids) == errors.TOKENS
    report = fr.oracle(model, torch.tensor([ids]), folder / f"{epsilon}.safetensors")
    return report.path


def _judged(folder: Path, error: Any = None, device: str = "npu1", faults: tuple[str, ...] = ()) -> OracleReplay:
    path = errors.record(folder / "f.h5", error, device, faults)
    with open_snapshot(path) as snapshot:
        return judge_against(snapshot, _oracle(folder, 1e-12 if error is None else error.epsilon))


def _places() -> dict[str, tuple[str, int]]:
    """Where each tensor is, by the runlist: buffer, and step of its layer's 61."""
    after = {
        "attention.self.query": ("queries", 10),
        "attention.self.key": ("keys", 13),
        "attention.self.value": ("values", 16),
        "attention.self": ("context", 46),
        "attention.output.dense": ("attn_output", 49),
        "attention.output.LayerNorm:in": ("hidden", 50),
        "attention.output.LayerNorm": ("hidden", 55),
        "intermediate.dense": ("ffn_hidden", 58),
        "intermediate.intermediate_act_fn": ("ffn_hidden", 59),
        "output.dense": ("ffn_output", 62),
        "output.LayerNorm:in": ("hidden", 63),
        "output.LayerNorm": ("hidden", 68),
    }
    layers = {f"encoder.layer.{i}.{k}": (b, s + 61 * i) for i in range(6) for k, (b, s) in after.items()}
    host = {"word_embeddings": ("words", 0), "position_embeddings": ("positions", 0)}
    return {
        **{f"embeddings.{k}": v for k, v in host.items()},
        "embeddings.token_type_embeddings": ("row_bias", 1),
        "embeddings.LayerNorm:in": ("hidden", 2),
        "embeddings.LayerNorm": ("hidden", 7),
        **layers,
        "pooling": ("embedding", 374),
    }


@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_a_clean_run(folder: Path, device: str) -> None:
    report = _judged(folder, device=device)
    assert report
    found = {b.name: (b.buffer, int(b.address.removeprefix("0:"))) for b in report.boundaries}
    assert found == _places()
    assert not report.unmapped
    assert all(b.figures.nrmse < (0.03 if device == "npu1" else 0.2) for b in report.boundaries)
    assert all(b.control is None or b.control <= b.limit for b in report.boundaries)


@pytest.mark.parametrize("device", ["npu1", "npu2"])
def test_a_kernel_fault(folder: Path, device: str) -> None:
    report = _judged(folder, device=device, faults=("0:182:shift:64",))
    assert report.first is not None
    assert report.first.wrong
    assert report.first.wrong[0].startswith("0:182 GEMM")
    assert report.first.name == "encoder.layer.2.output.dense"
    assert not report.first.causes


@pytest.mark.parametrize("seed", range(3 * KINDS))
def test_runlist_errors(folder: Path, seed: int) -> None:
    error = errors.draw(seed)
    report = _judged(folder, error, "npu2" if seed % 2 else "npu1")
    assert report.first is not None, "an error that was not found"
    assert not report.first.wrong, "every step matches its reference"
    assert (report.first.name in error.at) == (seed not in WIDER)
    assert seed not in WIDER or report.first.causes
    texts = [c.text for c in report.first.causes if c.grade == "proved"]
    assert all(any(word in text for word in error.cause) for text in texts), "proved, and wrong"
