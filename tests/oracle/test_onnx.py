# SPDX-License-Identifier: Apache-2.0
"""Oracles from ONNX: every value through onnxruntime, and models that it can't run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_replay.errors import UsageError
from fusion_replay.oracle.file import open_oracle
from fusion_replay.oracle.onnx import from_onnx, read_inputs

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def _model(path: Path, domain: str = "") -> Path:
    helper: Any = onnx.helper
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"], domain=domain),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, [2, 3])],
        [value("y", onnx.TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor("w", onnx.TensorProto.FLOAT, [3, 2], [1.0, -2, 3, 4, -5, 6])],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_intermediate_values_are_kept(tmp_path: Path) -> None:
    x = np.array([[1, 2, 3], [-1, 0, 1]], np.float32)
    from_onnx(_model(tmp_path / "m.onnx"), {"x": x}, tmp_path / "o.safetensors")
    with open_oracle(tmp_path / "o.safetensors") as oracle:
        found = {t.name: oracle.read(t) for t in oracle.tensors}
    np.testing.assert_array_equal(found["product"], [[-8, 24], [-6, 8]])  # by hand
    np.testing.assert_array_equal(found["y"], [[0, 24], [0, 8]])
    np.testing.assert_array_equal(found["x"], x)


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    model, out, x = _model(tmp_path / "m.onnx"), tmp_path / "o.safetensors", {"x": np.ones((2, 3), np.float32)}
    (tmp_path / "text.onnx").write_text("no model")
    cases: list[tuple[Path, dict[str, Any], tuple[str, ...], str]] = [
        (tmp_path / "none.onnx", x, (), "expected an ONNX model there, found none"),
        (tmp_path / "text.onnx", x, (), "expected an ONNX model"),
        (model, {"z": x["x"]}, (), "expected inputs x, found z"),
        (model, x, ("nope*",), r"no value matches nope\*; it has product, y"),
        (model, {"x": np.ones((3, 2), np.float32)}, (), "onnxruntime can't run it"),
        (_model(tmp_path / "custom.onnx", "custom.ops"), x, (), "onnxruntime can't run it"),
    ]
    for path, inputs, values, said in cases:
        with pytest.raises(UsageError, match=said) as caught:
            from_onnx(path, inputs, out, values)
        assert "\n" not in str(caught.value)
    assert not out.exists()


def test_inputs_are_arrays_without_pickle(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", x=np.ones(2))
    assert set(read_inputs(tmp_path / "i.npz")) == {"x"}
    np.savez(tmp_path / "p.npz", x=np.array([{}], dtype=object))
    for name, said in (("none.npz", "found none"), ("p.npz", "expected arrays")):
        with pytest.raises(UsageError, match=said):
            read_inputs(tmp_path / name)
