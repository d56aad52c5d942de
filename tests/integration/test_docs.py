# SPDX-License-Identifier: Apache-2.0
"""The tutorial runs as a notebook and shows what it promises; the site is built, and no link of it is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import fusion_replay as fr

ROOT = Path(__file__).resolve().parents[2]


def environment(module: str) -> dict[str, str]:
    """With the templates and kernels that were installed beside ``module``, wherever that is."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        pytest.skip(f"no {module} here: pip install -e '.[dev,docs]'")
    beside = Path(spec.origin).parents[4] / "share" / "jupyter"
    return {**os.environ, "JUPYTER_PATH": os.fspath(beside)}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of the executed tutorial: what each cell of code gave, by kind."""
    env, folder = environment("nbconvert"), tmp_path_factory.mktemp("tutorial")
    for words in (
        ["jupytext", "--quiet", "--to", "ipynb", "--output", "t.ipynb", str(ROOT / "docs" / "tutorial.py")],
        ["nbconvert", "--execute", "--to", "notebook", "--output", "done.ipynb", "t.ipynb"],
    ):
        done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    notebook = json.loads((folder / "done.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def shown(cells: list[dict[str, Any]], kind: str) -> list[str]:
    outputs = [o for cell in cells for o in cell["outputs"]]
    found = [o["data"][kind] for o in outputs if kind in o.get("data", {})]
    return ["".join(text) if isinstance(text, list) else text for text in found]


@pytest.mark.long
def test_the_tutorial_shows_verdicts_tables_and_plots(cells: list[dict[str, Any]]) -> None:
    tables = shown(cells, "text/html")
    assert tables[0].startswith("<div><b>1 of 9 steps mismatches, first 1:1 ElementwiseMul h, a -&gt; m")
    assert any("<th>sqnr</th>" in t and "1:1" in t for t in tables), "the DataFrame"
    assert any("1:1 ElementwiseMul h, a -&gt; m</b>" in t for t in tables), "the step"
    assert tables[-1].startswith("<div><b>1 of 1 step matches")
    assert len(shown(cells, "image/png")) == 1
    printed = "".join("".join(o.get("text", ())) for cell in cells for o in cell["outputs"])
    assert "shifted, proved: every element stands 128 further on" in printed
    assert "\nmatch (auto: 1 bf16 ulp)" in printed, "the shift, seen in the arrays"
    assert not any(o["output_type"] == "error" for cell in cells for o in cell["outputs"])


@pytest.mark.long
def test_the_site_is_built_and_no_link_is_broken(tmp_path: Path) -> None:
    env = environment("nbconvert")
    for module in ("mkdocs", "mkdocstrings", "jupytext"):
        environment(module)
    words = [sys.executable, str(ROOT / "scripts" / "build_docs.py"), str(tmp_path / "site")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    for name in fr.__all__:
        if name != "__version__":
            thing = getattr(fr, name)
            assert f'id="{thing.__module__}.{getattr(thing, "__qualname__", name)}"' in reference, name
    assert "tutorial_files" in (tmp_path / "site" / "tutorial.html").read_text(encoding="utf-8")
