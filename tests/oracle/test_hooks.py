# SPDX-License-Identifier: Apache-2.0
"""``fr.oracle(module, inputs, path)``: every kind of module keeps its inputs and outputs, and is left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import UsageError
from fusion_replay.oracle.file import open_oracle

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


class Inner(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Changes its input in place, and returns a tuple with more than tensors in it."""

    def forward(self, x: Any, *, scale: float = 2.0) -> Any:
        x.mul_(scale)
        return x, {"half": x / 2}, None, "text"


class Model(torch.nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        first, more, *_ = self.inner(x.clone())
        self.linear(more["half"])
        return self.linear(first)


def _read(path: Path) -> dict[str, Any]:
    with open_oracle(path) as oracle:
        return {t.name: oracle.read(t) for t in oracle.tensors}


def test_tuples_changes_in_place_and_second_calls(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Model().eval(), torch.arange(3.0)[None]
    report = fr.oracle(model, x, tmp_path / "o.safetensors")
    found = _read(report.path)
    assert set(found) == {
        "model:in", "inner:in", "inner[0]", "inner[1]", "linear:in", "linear", "linear:in@1", "linear@1", "model",
    }  # fmt: skip
    np.testing.assert_array_equal(found["inner:in"], [[0, 1, 2]])  # as it was handed in
    np.testing.assert_array_equal(found["inner[0]"], [[0, 2, 4]])
    np.testing.assert_array_equal(found["inner[1]"], [[0, 1, 2]])
    weight, bias = model.linear.weight.detach().numpy(), model.linear.bias.detach().numpy()
    np.testing.assert_allclose(found["linear@1"], np.array([[0, 2, 4]]) @ weight.T + bias, rtol=1e-6)
    fr.oracle(model, x, tmp_path / "again.safetensors")  # a hook left behind would give every tensor twice
    assert set(_read(tmp_path / "again.safetensors")) == set(found)


def test_globs_and_keyword_inputs(tmp_path: Path) -> None:
    report = fr.oracle(Model().eval(), {"x": torch.ones(1, 3)}, tmp_path / "o.safetensors", modules="lin*")
    assert set(_read(report.path)) == {"linear:in", "linear", "linear:in@1", "linear@1"}
    with pytest.raises(UsageError, match=r"no module matches nope\.\*; the model has inner"):
        fr.oracle(Model().eval(), torch.ones(1, 3), tmp_path / "p.safetensors", modules=["nope.*"])


def test_what_can_not_be_an_oracle(tmp_path: Path) -> None:
    path = tmp_path / "o.safetensors"
    with pytest.raises(UsageError, match=r"expected a torch\.nn\.Module, found function"):
        fr.oracle(lambda x: x, torch.ones(1), path)
    with pytest.raises(UsageError, match=r"0 drops values while the model is in training mode; call \.eval\(\) first"):
        fr.oracle(torch.nn.Sequential(torch.nn.Dropout(0.5)), torch.ones(1), path)
    model = Model().eval()
    with pytest.raises(UsageError, match="the model raised RuntimeError"):
        fr.oracle(model, torch.ones(1, 4), path)
    assert not list(tmp_path.iterdir())
