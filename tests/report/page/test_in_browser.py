# SPDX-License-Identifier: Apache-2.0
"""The report page in a real Chromium, clicked and typed at; any console error, page error or request fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusion_replay as fr
from cli.conftest import write_adds
from fusion_replay.diverge.attribution import attribute
from fusion_replay.report.page.diff_page import diff_page
from fusion_replay.report.page.replay_page import replay_page

pytestmark = pytest.mark.long

BF16 = ml_dtypes.bfloat16
HOSTILE = "</script><img src=x onerror=alert(1)>"
STEPS, WRONG = 12, (4, 7)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the page of twelve steps: two additions are off by some ULP, one step is of a hostile name."""
    folder = tmp_path_factory.mktemp("browser")
    rng = np.random.default_rng(5)
    with fr.record(folder / "x.h5") as rec:
        for i in range(STEPS - 1):
            op = "ElementwiseAdd" if i % 2 == 0 or i in WRONG else "ElementwiseMul"
            a, b = (rng.standard_normal(2048).astype(BF16) for _ in "ab")
            with rec.step(op, {"A": a, "B": b}, {"size": 2048}) as s:
                c = a + b if op == "ElementwiseAdd" else a * b
                if i in WRONG:
                    c[100:140] = (c[100:140].astype(np.float32) * 1.0625).astype(BF16)
                s.outputs["C"] = c
        with rec.step(HOSTILE, {"A": a}) as s:
            s.outputs["C"] = a
    with fr.open(folder / "x.h5") as snapshot:
        (folder / "x.html").write_text(replay_page(snapshot, fr.replay(snapshot)), encoding="utf-8")
    return (folder / "x.html").as_uri()


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Addresses of the pages of a diff, and of a replay with bisection and attribution."""
    folder = tmp_path_factory.mktemp("others")
    files = [write_adds(folder / "good.h5"), write_adds(folder / "bad.h5", wrong=2)]
    with fr.open(files[0]) as good, fr.open(files[1]) as bad:
        pages = {
            "diff": diff_page(good, bad, fr.diff(good, bad)),
            "bisect": replay_page(bad, fr.replay(bad), bisection=fr.bisect(bad), attribution=attribute(bad)),
        }
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return [(folder / f"{name}.html").as_uri() for name in pages]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install -e '.[browser]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here")
    with sync_api.sync_playwright() as started:
        made = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(params=[("light", 1280, 800), ("dark", 390, 844)], ids=["light-1280", "dark-390"])
def page(browser: Any, address: str, others: list[str], request: pytest.FixtureRequest) -> Iterator[Any]:
    scheme, width, height = request.param
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
    made = context.new_page()
    wrong: list[str] = []
    made.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    made.on("pageerror", lambda e: wrong.append(str(e)))
    made.on("dialog", lambda d: (wrong.append(d.message), d.dismiss()))
    made.on("request", lambda r: wrong.append(r.url) if r.url.partition("#")[0] not in (address, *others) else None)
    made.goto(address)
    yield made
    assert wrong == []
    context.close()


def fragment(page: Any) -> str:
    return page.evaluate("location.hash")


def heading(page: Any) -> str:
    return page.locator(".step-head h2").inner_text()


def test_the_answer_is_there_and_nothing_is_wider_than_the_screen(page: Any) -> None:
    assert page.locator("#sentence").inner_text().startswith("4:0 ElementwiseAdd")
    assert heading(page) == "4:0 ElementwiseAdd"
    page.wait_for_selector(".outputs canvas")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("img").count() == 0
    unnamed = "[...document.querySelectorAll('canvas')].filter((c) => !c.ariaLabel && !c.ariaHidden).length"
    assert page.evaluate(unnamed) == 0, "every picture has words"
    ink, paper = page.evaluate(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    assert ink != paper


def test_keys_walk_steps_and_mismatches(page: Any) -> None:
    seen = []
    for key in "nnpjjkg":
        page.keyboard.press(key)
        seen.append(heading(page).split()[0])
    assert seen == ["7:0", "4:0", "7:0", "8:0", "9:0", "8:0", "4:0"]
    page.keyboard.press("j")
    assert fragment(page) == "#step=5:0"
    page.go_back()
    assert heading(page).startswith("4:0")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


def test_the_list_filters_sorts_and_stays_in_the_link(page: Any, address: str) -> None:
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    found = page.locator("#found")
    assert found.inner_text() == f"{STEPS} of {STEPS} steps"
    page.keyboard.type("mul")
    assert found.inner_text().startswith(f"{sum(i % 2 and i not in WRONG for i in range(STEPS - 1))} of")
    page.locator("#search").fill("")
    page.get_by_label("Show").select_option("bad")
    assert found.inner_text().startswith("2 of")
    page.get_by_label("Sort by").select_option("max_abs")
    figures = [float(t) for t in page.locator("#list tbody tr:not(.pad) td:nth-child(6)").all_inner_texts()]
    assert figures == sorted(figures, reverse=True)
    assert len(figures) == 2
    link = fragment(page)
    page.goto("about:blank")
    page.goto(address + link)
    assert found.inner_text().startswith("2 of"), "the link opens what was looked at"
    assert page.get_by_label("Sort by").input_value() == "max_abs"
    page.get_by_label("Show").select_option("")
    page.locator("#search").fill("onerror")
    page.locator("#list tbody a").first.click()
    assert heading(page) == f"11:0 {HOSTILE}"
    assert page.locator("img").count() == 0, "a hostile name is text"


def test_the_slider_recounts(page: Any, address: str) -> None:
    told = page.locator(".slider output").first
    before = told.inner_text()
    failing = int(before.split(": ")[1].split()[0])
    assert 30 <= failing <= 40
    page.evaluate("document.activeElement.blur()")
    for _ in range(16):
        page.keyboard.press("]")
    assert "× 16: 0 of 2,048 fail: would match" in told.inner_text()
    link = fragment(page)
    assert "limit=16" in link
    page.goto("about:blank")
    page.goto(address + link)
    assert "× 16: 0 of" in page.locator(".slider output").first.inner_text()


def test_every_view_opens(page: Any) -> None:
    for n, tab in enumerate(page.locator("#tabs button").all(), 1):
        page.keyboard.press(str(n))
        assert tab.get_attribute("aria-selected") == "true"
        assert page.locator("#view").inner_text().strip()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab.inner_text()


def test_the_views_of_other_pages_open(page: Any, others: list[str]) -> None:
    for address in others:
        page.goto(address)
        for n, tab in enumerate(page.locator("#tabs button").all(), 1):
            page.keyboard.press(str(n))
            assert tab.get_attribute("aria-selected") == "true"
            assert "[object" not in page.locator("#view").inner_text()


def test_axe_finds_nothing(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe: pip install -e '.[browser]'")
    for n in range(1, page.locator("#tabs button").count() + 1):
        page.keyboard.press(str(n))
        found = axe.Axe().run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in found] == [], n
