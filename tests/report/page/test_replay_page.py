# SPDX-License-Identifier: Apache-2.0
"""The page of a replay: nothing that a stranger wrote is markup in it, and its data say what the recording holds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from fusion_replay.errors import NothingComparedError
from fusion_replay.report.page.document import embedded, safe
from fusion_replay.report.page.grid import grid
from fusion_replay.report.page.replay_page import replay_page

BF16 = ml_dtypes.bfloat16
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "--><!--<script>",
    "\x1b[31m\x07\u2028]]>",
    "\u202ename\u2066",
    '" onload="alert(1)',
    "@{script}",
    "x" * 4000,
)
A = (np.arange(2048) % 251 - 100).astype(BF16)
WRONG = np.where(np.arange(2048) == 700, np.float32(np.nan), (A + A).astype(np.float32)).astype(BF16)


class Parsed(HTMLParser):
    """What a reader of HTML finds: tags with attributes, and the texts of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem == "style":
            self.styles.append(data)

    @property
    def data(self) -> dict[str, Any]:
        (at,) = (i for i, a in enumerate(a for t, a in self.tags if t == "script") if a.get("id") == "data")
        return json.loads(self.scripts[at])

    def array(self, told: dict[str, Any]) -> np.ndarray:
        (at,) = (i for i, a in enumerate(a for t, a in self.tags if t == "script") if a.get("id") == f"a{told['at']}")
        raw = zlib.decompress(base64.b64decode(self.scripts[at]), -15)
        return np.frombuffer(raw, {"u1": "u1", "u2": "<u2", "u4": "<u4", "i4": "<i4", "f4": "<f4"}[told["form"]])


def _record(path: Path, names: tuple[str, ...]) -> Path:
    with fr.record(path) as rec:
        with rec.step("ElementwiseAdd", {"A": A, "B": A}, {"size": A.size, "note": names[0]}) as s:
            s.outputs["C"] = WRONG
        with rec.step("ElementwiseAdd", {"A": A, "B": A}, {"size": A.size}) as s:
            s.outputs["C"] = A + A
        for name in names:
            with rec.step(name, {f"in {name}": A[:4]}, {name: name}) as s:
                s.outputs[f"out {name}"] = A[:4]
    return path


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("page")
    tame = tuple(f"name{i}" for i in range(len(HOSTILE)))
    with fr.open(_record(folder / "x.h5", HOSTILE)) as hostile, fr.open(_record(folder / "y.h5", tame)) as harmless:
        yield {"hostile": hostile, "tame": harmless}


@pytest.fixture(scope="module")
def pages(snapshots: dict[str, Any]) -> dict[str, str]:
    return {name: replay_page(s, fr.replay(s)) for name, s in snapshots.items()}


def test_a_strangers_names_are_text(pages: dict[str, str]) -> None:
    hostile, tame = Parsed(pages["hostile"]), Parsed(pages["tame"])
    lists = ("li", "ul", "details", "summary")
    shapes = [[(t, sorted(a)) for t, a in p.tags if t not in lists] for p in (hostile, tame)]
    assert shapes[0] == shapes[1], "the same elements with the same attributes, whatever the names are"
    assert hostile.scripts[1] == tame.scripts[1], "the page's own script"
    assert not re.search("[\x00-\x09\x0b-\x1f\u2028\u2029\u202a-\u202e\u2066-\u2069]", pages["hostile"])
    texts = [str(e) for s in hostile.data["sequences"] for e in s["entries"]]
    assert any("<img src=x onerror=alert(1)>" in t for t in texts), "and it is there, as text"
    assert max(map(len, re.findall("x+", pages["hostile"]))) <= 600


def test_no_script_but_its_own_and_no_request(pages: dict[str, str]) -> None:
    page = Parsed(pages["tame"])
    (policy,) = (a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for rule, text in (("script-src", page.scripts[1]), ("style-src", page.styles[0])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert [t for t, a in page.tags if {"src", "style"} & set(a) or any(k.startswith("on") for k in a)] == []
    assert not {t for t, _ in page.tags} & {"link", "iframe", "img", "object", "base"}


def test_states_figures_and_arrays_are_the_recordings(pages: dict[str, str]) -> None:
    page = Parsed(pages["tame"])
    data = page.data
    assert data["states"] == [["M", 1], [".", 1], ["-", len(HOSTILE)]]
    assert data["headline"]["address"] == data["worst"][0][0] == "0:0"
    assert data["figures"]["failing"] == [1, 0]
    assert data["figures"]["distance"] == ["Inf", 0]
    assert data["marks"] == [[0, ["NaN"]]]
    (output,) = data["panels"]["0:0"]["outputs"]
    assert (output["elements"], output["failing"]) == (2048, 1)
    assert page.array(output["maps"]["actual"])[:2048].view(BF16).tobytes() == WRONG.tobytes()
    assert page.array(output["maps"]["expected"])[:2048].view(BF16).tobytes() == (A + A).tobytes()
    assert np.flatnonzero(~np.isfinite(page.array(output["maps"]["distance"])[:2048])).tolist() == [700]
    assert output["slider"]["counts"] == [1] * len(output["slider"]["factors"]), "no factor accepts a NaN"
    assert output["first"][0][0] == "700"
    assert output["first"][0][1:3] == ["nan", f"0x{int(WRONG[700:701].view(np.uint16)[0]):04x}"]


def test_a_long_run_has_all_its_states(tmp_path: Path) -> None:
    with fr.record(tmp_path / "x.h5", level="digest") as rec:
        for _ in range(700):
            with rec.step("ElementwiseAdd", {"A": A[:4], "B": A[:4]}, {"size": 4}) as s:
                s.outputs["C"] = A[:4]
    with fr.open(tmp_path / "x.h5") as snapshot, pytest.raises(NothingComparedError) as raised:
        fr.replay(snapshot)
    with fr.open(tmp_path / "x.h5") as snapshot:
        data = Parsed(replay_page(snapshot, raised.value.report)).data
    assert data["states"] == [["-", 700]]
    assert data["headline"]["text"].endswith("the contents of A were not kept.")


def test_a_reader_of_what_is_no_number_is_told_so(tmp_path: Path) -> None:
    with fr.record(tmp_path / "x.h5") as rec, rec.invocation("call"):
        with rec.step("ElementwiseAdd", {"A": A, "B": A}, {"size": A.size}) as s:
            s.outputs["C"] = WRONG
        with rec.step("ElementwiseMul", {"C": WRONG, "B": A}, {"size": A.size}) as s:
            s.outputs["D"] = WRONG * A
    with fr.open(tmp_path / "x.h5") as snapshot:
        data = Parsed(replay_page(snapshot, fr.replay(snapshot))).data
    (reader,) = data["panels"]["0:0"]["readers"]
    assert (reader["address"], reader["handed"]) == ("0:1", "Inf"), "as the page's script spells it"
    sources = {i["name"]: [s["from"] for s in i["sources"]] for i in data["panels"]["0:1"]["inputs"]}
    assert sources == {"C": ["0:0"], "B": ["outside"]}
    assert data["panels"]["0:0"]["flow"]["nodes"] == [["0:0", 0], ["0:1", 1]]


def test_the_budget_holds_and_what_it_left_out_is_said(snapshots: dict[str, Any]) -> None:
    snapshot = snapshots["tame"]
    report = fr.replay(snapshot)
    for budget in (0, 200, 3000):
        page = Parsed(replay_page(snapshot, report, budget=budget))
        arrays = [t for (_, a), t in zip(((t, a) for t, a in page.tags if t == "script"), page.scripts, strict=True)
                  if a.get("type") == "text/plain"]  # fmt: skip
        assert sum(map(len, arrays)) <= budget
        said = " ".join(page.data["inside"])
        missing = sum(o["maps"] is None for p in page.data["panels"].values() for o in p.get("outputs", ()))
        assert (f"maps of {missing} output" in said) == bool(missing)
    none = Parsed(replay_page(snapshot, report, budget=0)).data
    assert none["panels"]["0:0"]["outputs"][0]["failing"] == 1, "figures stay"
    assert "maps of 2 outputs; a larger --html-budget has them" in " ".join(none["inside"])


def test_the_same_page_for_the_same_recording(snapshots: dict[str, Any], pages: dict[str, str]) -> None:
    assert replay_page(snapshots["hostile"], fr.replay(snapshots["hostile"])) == pages["hostile"]


def test_json_inside_a_script() -> None:
    told = {"a": ["</script>", "<!--", "&amp;", "\u2028", "é"]}
    assert not set("<>&\u2028é") & set(embedded(told))
    assert json.loads(embedded(told)) == told
    with pytest.raises(ValueError, match="JSON"):
        embedded([float("nan")])
    assert len(safe("x" * 4000)) == 600
    assert "\n" not in safe({"a": ["b\nc"]})["a"][0]


def test_a_picture_shows_the_worst_of_what_it_hides() -> None:
    rng = np.random.default_rng(1)
    worst = rng.random((50, 70))
    worst[13, 17] = np.nan
    made = grid((50, 70), worst.reshape(-1), 300)
    assert 150 < made.rows * made.columns < 330, "about"
    assert not made.whole
    for cell in range(made.rows * made.columns):
        r, c = divmod(cell, made.columns)
        block = worst[r * made.height : (r + 1) * made.height, c * made.width : (c + 1) * made.width]
        shown = worst.reshape(-1)[made.index[cell]]
        assert np.isnan(shown) if np.isnan(block).any() else shown == block.max()
    whole = grid((5, 3), np.zeros(15), 300)
    assert whole.whole
    assert whole.index.tolist() == list(range(15))


def test_states_of_a_long_run_are_all_there(tmp_path: Path) -> None:
    """Texts of a page are cut where nobody would read on; states are no text."""
    with fr.record(tmp_path / "long.h5") as rec:
        for i in range(700):
            with rec.step("Unheard", {"A": A[:4]}) as s:
                s.outputs["B"] = A[: 4 if i else 8]
    with fr.open(tmp_path / "long.h5") as snapshot, pytest.raises(NothingComparedError) as caught:
        fr.replay(snapshot)
    with fr.open(tmp_path / "long.h5") as snapshot:
        page = Parsed(replay_page(snapshot, caught.value.report))
    assert page.data["states"] == [["-", 700]]
    assert sum(n for _, _, n in page.data["runs"]) == 700
    assert page.data["headline"]["text"].startswith("Nothing was compared: 700 steps")
