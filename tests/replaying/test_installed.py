# SPDX-License-Identifier: Apache-2.0
"""``reference="installed"`` against doubles of the package iron in its two eras, and ``reference="stored"``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import MissingDependencyError, MissingError
from fusion_replay.model.runlist import OperatorDescription
from fusion_replay.replaying.installed import build, installed_reference, operator_class
from fusion_replay.simulator import operators as sim
from fusion_replay.sources.iron.own_reference import uses_torch

pytestmark = pytest.mark.usefixtures("registry")

BF16 = ml_dtypes.bfloat16
N = 64

NUMPY_ERA = """
from dataclasses import dataclass
import numpy as np
from ml_dtypes import bfloat16

@dataclass
class ElementwiseAdd:
    size: int
    num_aie_columns: int = 8
    dtype: type = bfloat16
    context: object = None

    def __post_init__(self):
        if self.context is None and {needs_device}:
            raise RuntimeError("no device")

    def reference(self, a, b):
        assert type(a) is np.ndarray and a.dtype == self.dtype and a.shape == (self.size,)
        a += {error}  # may write over what it was given
        return (a.astype(np.float32) + b.astype(np.float32)).astype(bfloat16)

class StridedCopy:
    def __init__(self, output_buffer_size, output_sizes=(), context=None):
        self.output_sizes = output_sizes

    def reference(self, x, y=None, *, output_offset=0):
        assert isinstance(self.output_sizes, tuple)
        y[output_offset : output_offset + x.size] = x
        return y

class Zap:
    def reference(self, x):
        return x, -x

class Mute:
    pass
"""

TORCH_ERA = """
import torch
from dataclasses import dataclass

@dataclass
class ElementwiseAdd:
    size: int
    num_aie_columns: int = 8
    context: object = None

    def reference(self, a, b):
        assert a.dtype == torch.bfloat16 and tuple(a.shape) == (self.size,)
        return a + b
"""


def install(root: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A package ``iron`` whose catalogue is this text."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "iron"]:
        del sys.modules[name]
    (root / "iron").mkdir()
    (root / "iron" / "__init__.py").write_text("")
    (root / "iron" / "operators.py").write_text(text)
    monkeypatch.syspath_prepend(str(root))
    importlib.invalidate_caches()


def numpy_era(error: float = 0, needs_device: bool = False) -> str:
    return NUMPY_ERA.replace("{error}", str(error)).replace("{needs_device}", str(needs_device))


def adds(path: Path, faults: tuple[str, ...] = (), **record: Any) -> Path:
    """Two additions on the software NPU; the second works in place on the first one's output."""
    add = sim.operator_class("ElementwiseAdd")(size=N, num_aie_columns=1, tile_size=N)
    runlist = [(add, "x", "y", "t"), (add, "t", "y", "t")]
    call = fr.simulate(runlist, "npu2", faults, input_args=["x", "y"], output_args=["t"])
    rng = np.random.default_rng(5)
    for name in "xy":
        call.get_buffer(name)[:] = rng.standard_normal(N).astype(BF16)
    with fr.record(path, call, **record):
        call()
    return path


def test_without_iron_the_message_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"https://github\.com/amd/IRON"):
        fr.replay(adds(tmp_path / "a.h5"), reference="installed")


@pytest.mark.parametrize("needs_device", [False, True])
def test_numpy_era(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs_device: bool) -> None:
    install(tmp_path, monkeypatch, numpy_era(needs_device=needs_device))
    report = fr.replay(adds(tmp_path / "a.h5"), reference="installed")
    assert report.passed, str(report)
    assert {s.flavour for s in report.steps} == {"installed"}
    assert "iron.operators" in sys.modules


def test_the_installed_reference_really_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, numpy_era(error=3))
    path = adds(tmp_path / "a.h5")
    assert not fr.replay(path, reference="installed").passed
    assert fr.replay(path).passed


@pytest.mark.torch
def test_torch_era(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    install(tmp_path, monkeypatch, TORCH_ERA)
    assert fr.replay(adds(tmp_path / "a.h5"), reference="installed").passed
    assert uses_torch(sys.modules["iron.operators"].ElementwiseAdd)


def test_a_partial_writer_gets_old_contents_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, numpy_era())
    op = OperatorDescription("StridedCopy", {"output_buffer_size": 4, "output_sizes": [2]}, "iron.operators")
    old = np.array([1, 2, 3, 4], BF16)
    values = {"output_offset": 1, "unknown": 9}
    (c,) = installed_reference(op, [np.array([8, 9], BF16)], [old], values)
    assert c.tolist() == [1, 8, 9, 4]
    assert old.tolist() == [1, 2, 3, 4]


def test_an_operator_that_only_iron_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, numpy_era())
    x = np.array([1, 2], BF16)
    with fr.record(tmp_path / "z.h5") as rec, rec.step("Zap", inputs={"x": x}) as step:
        step.outputs.update(same=x, negated=-x)
    assert fr.replay(tmp_path / "z.h5", reference="installed").passed


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (OperatorDescription("Nope"), "the installed IRON has no operator Nope"),
        (OperatorDescription("Mute"), "has no operator Mute with a reference"),
        (OperatorDescription("Own", {}, "stranger.ops"), "import stranger.ops with --import"),
        (
            OperatorDescription("ElementwiseAdd", {"size": "<Walk>"}),
            "field size was recorded as an object of class Walk",
        ),
    ],
)
def test_operators_it_cannot_answer_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: OperatorDescription, words: str
) -> None:
    install(tmp_path, monkeypatch, numpy_era())
    with pytest.raises(MissingError, match=words):
        installed_reference(op, [])


def test_no_module_is_imported_on_a_files_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, numpy_era())
    (tmp_path / "my_ops.py").write_text("class Own:\n    def reference(self, x):\n        return x\n")
    op = OperatorDescription("Own", {}, "my_ops")
    with pytest.raises(MissingError, match="no operator Own"):
        operator_class(op)
    assert "my_ops" not in sys.modules
    importlib.import_module("my_ops")  # as --import does
    assert operator_class(op).__name__ == "Own"


def test_dtypes_and_lists_come_back_as_iron_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, numpy_era(needs_device=True))
    op = OperatorDescription("ElementwiseAdd", {"size": 3, "dtype": "bfloat16", "later_field": [1, 2]})
    built = build(operator_class(op), op)
    assert (built.size, built.num_aie_columns, built.dtype, built.later_field) == (3, 8, BF16, (1, 2))


# --- stored ---------------------------------------------------------------------------------------------------------


def test_stored_references_judge_without_any(tmp_path: Path) -> None:
    report = fr.replay(adds(tmp_path / "a.h5", with_reference=True), reference="stored")
    assert report.passed
    assert [s.flavour for s in report.steps] == ["stored", "stored"]
    bad = fr.replay(adds(tmp_path / "b.h5", ("0:1:zeros",), with_reference=True), reference="stored")
    assert bad.first_mismatch is not None
    assert bad.first_mismatch.address == "0:1"


def test_stored_references_are_those_of_the_inputs_before_the_step(tmp_path: Path) -> None:
    with fr.open(adds(tmp_path / "a.h5", with_reference=True)) as snap:
        for step in snap.steps():
            a, b = (t.numpy().astype(np.float64) for t in (step.inputs[0], step.inputs[1]))
            kept = step.outputs[0].reference
            assert kept is not None
            np.testing.assert_array_equal(kept.numpy(), (a + b).astype(BF16))


def test_a_recording_without_them_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="with_reference=True"):
        fr.replay(adds(tmp_path / "a.h5"), reference="stored")


def test_recording_them_changes_nothing_else(tmp_path: Path) -> None:
    with fr.open(adds(tmp_path / "a.h5")) as plain, fr.open(adds(tmp_path / "b.h5", with_reference=True)) as more:
        for a, b in zip(plain.steps(), more.steps(), strict=True):
            assert [t.digest for t in a.inputs.values()] == [t.digest for t in b.inputs.values()]
            assert [t.digest for t in a.outputs.values()] == [t.digest for t in b.outputs.values()]
            assert a.outputs[0].reference is None


def test_a_reference_that_fails_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(sim.SimulatedOperator, "reference", refuse)
    path = adds(tmp_path / "a.h5", with_reference=True)
    assert "not today" in capsys.readouterr().err
    with fr.open(path) as snap:
        assert [(loss.kind, loss.count) for loss in snap.losses] == [("reference", 2)]
        assert [s.status for s in snap.steps()] == ["complete", "complete"]
    assert fr.replay(path).passed


# --- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_references_on_torch_give_the_same_report(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    path = adds(tmp_path / "a.h5", ("0:1:bitflip",))
    assert fr.replay(path, array="torch").digest == fr.replay(path).digest


@pytest.mark.torch
def test_cuda_is_asked_for_before_anything_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(MissingDependencyError, match="no CUDA device"):
        fr.replay(tmp_path / "gone.h5", array="cuda")
