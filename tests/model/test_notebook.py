# SPDX-License-Identifier: Apache-2.0
"""What objects show in a notebook: the verdict first, all figures in a table, plots of the values, nothing obeyed."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from operator import methodcaller
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import MissingDependencyError, UsageError

BF16 = ml_dtypes.bfloat16
HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m\u202e<img src=x onerror=y>$x$"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """1:0 is wrong, 2:0 nobody knows, whose names are made to hurt."""
    rng = np.random.default_rng(5)
    target = tmp_path / "x.h5"
    with fr.record(target) as rec:
        for i in range(2):
            a, b = (rng.standard_normal((8, 8)).astype(np.float32).astype(BF16) for _ in "ab")
            with rec.step("ElementwiseAdd", {"A": a, "B": b}, {"size": 64}) as step:
                step.outputs["C"] = a + b if i == 0 else a + b + np.asarray(1, BF16)
        with rec.step("Nobody", {HOSTILE: a}) as step:
            step.outputs["C"] = a
    return target


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes += len(attrs)


def test_html_is_small_says_the_verdict_first_and_obeys_nothing(path: Path) -> None:
    report = fr.replay(path)
    with fr.open(path) as snap:
        shown = [snap, snap["2:0"], report, fr.diff(path, path), snap["1:0"]]
        texts = [methodcaller("_repr_html_")(s) for s in shown]  # IPython's name, no private one of ours
    for text in texts:
        page = Tags(text)
        assert page.found <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td"}
        assert page.attributes == 0
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert len(text) < 10_000
    assert texts[2].startswith("<div><b>1 of 2 steps mismatches, first 1:0 ElementwiseAdd")
    assert "&lt;script&gt;" in texts[1]


def test_repr_is_a_line(path: Path) -> None:
    with fr.open(path) as snap:
        shown = [snap, snap["1:0"], snap["2:0"].inputs[0], snap["1:0"].inputs["A"]]
    report = fr.replay(path)
    for one in (*shown, report, report.steps[0], fr.diff(path, path), fr.bisect(path), fr.attribute(path)):
        assert "\n" not in repr(one)
        assert len(repr(one)) < 700, repr(one)
    assert repr(report).startswith("<ReplayReport 1 of 2 steps mismatches, first 1:0")


def test_tables_have_a_row_each_and_all_figures(path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    report = fr.replay(path)
    table = report.to_dataframe()
    assert list(table.index) == ["0:0", "1:0", "2:0"]
    assert [bool(ok) for ok in table["ok"][:2]] == [True, False]
    assert "Nobody" in table.loc["2:0", "skipped"] or table.loc["2:0", "op"] == "Nobody"
    stats = report.steps[1].stats
    for name in ("max_abs", "ulp_max", "rel_l2", "cosine", "pcc", "nrmse", "sqnr", "n_failing"):
        assert table.loc["1:0", name] == getattr(stats, name)
    with fr.open(path) as snap:
        steps, operands, losses = (snap.to_dataframe(of) for of in ("steps", "operands", "losses"))
        with pytest.raises(UsageError, match="expected one of steps, operands, losses"):
            snap.to_dataframe("buffers")
    assert list(steps.index) == ["0:0", "1:0", "2:0"]
    assert len(operands) == 3 + 3 + 2
    assert len(losses) == 0
    assert isinstance(losses, pandas.DataFrame)
    assert len(fr.diff(path, path).to_dataframe()) == 0


def test_tensors_are_arrays(path: Path) -> None:
    with fr.open(path) as snap:
        tensor = snap["1:0"].inputs["A"]
        array = np.asarray(tensor)
        assert array.dtype == BF16
        assert (array.view(np.uint16) == tensor.numpy().view(np.uint16)).all()
        assert np.asarray(tensor, np.float32).dtype == np.float32
        assert np.array(tensor).flags.writeable


@pytest.mark.torch
def test_tensors_are_tensors(path: Path) -> None:
    import torch

    with fr.open(path) as snap:
        tensor = snap["1:0"].inputs["A"]
        for taken in (torch.as_tensor(tensor), torch.asarray(tensor), torch.from_dlpack(tensor)):
            assert taken.dtype == torch.bfloat16
            assert (taken.float().numpy() == tensor.numpy().astype(np.float32)).all()


def test_a_reference_takes_what_the_step_gives(path: Path) -> None:
    with fr.open(path) as snap:
        step = snap["0:0"]
        (expected,) = fr.reference(step.op.type, step.op.params, step.inputs)
        a, b = (t.numpy().astype(np.float64) for t in step.inputs.in_order())
        assert (expected.reshape(8, 8) == (a + b).astype(np.float32).astype(BF16)).all()
        (again,) = fr.reference("ElementwiseAdd", {"size": 64}, [step.inputs["A"], step.inputs["B"]])
        assert (again == expected).all()


def test_plots(path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    with fr.open(path) as snap:
        heat = snap["1:0"].inputs["A"].plot()
        assert np.asarray(heat.images[0].get_array()).shape == (8, 8)
        assert len(snap["1:0"].plot()) == 3
        snap["2:0"].plot()[0].figure.canvas.draw()  # names that would be formulas
    on = fr.replay(path).plot()
    drawn = {line.get_label(): line.get_ydata() for line in on.lines}
    assert {label: len(y) for label, y in drawn.items()} == {"match (1)": 1, "mismatch (1)": 1}
    assert fr.replay(path).plot(on) is on


def test_a_large_heat_map_shows_the_worst_of_what_it_hides() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    from fusion_replay.model.notebook import PIXELS, axes, draw

    values = np.zeros((3000, 700))
    values[2999, 699], values[7, 3], values[1500, 300] = -9, 5, np.nan
    shown = np.ma.getdata(draw(values, "worst", axes()).images[0].get_array())
    assert max(shown.shape) <= PIXELS
    assert shown[np.isfinite(shown)].min() == -9
    assert shown[np.isfinite(shown)].max() == 5
    assert np.isnan(shown).sum() == 1


@pytest.mark.parametrize(("module", "extra"), [("pandas", "tables"), ("matplotlib", "plot")])
def test_what_is_missing_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, module: str, extra: str) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    report = fr.replay(path)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'fusion-replay\[{extra}\]'"):
        report.to_dataframe() if module == "pandas" else report.plot()
