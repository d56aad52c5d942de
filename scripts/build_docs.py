#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the documentation as a site: `make docs`. Pages are docs/, the README, the API from its docstrings, and the
executed tutorial. A link that leads nowhere ends it.

Usage: build_docs.py [FOLDER]   (build/site by default)
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import fusion_replay as fr

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
TUTORIAL = "docs/tutorial.py"


def main(site: Path) -> int:
    pages = site.with_name(f"{site.name}-pages")
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir(parents=True)
    for source, name in places().items():
        if source.endswith(".md"):
            (pages / name).write_text(moved((ROOT / source).read_text("utf-8"), source), encoding="utf-8")
    (pages / "api.md").write_text(api(), encoding="utf-8")
    executed(pages)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--config-file", str(config(pages))]
    return subprocess.run([*command, "--site-dir", str(site.absolute())], check=False).returncode


def places() -> dict[str, str]:
    """Files of the repository, and the page that each becomes."""
    found = {f"docs/{p.name}": p.name for p in sorted((ROOT / "docs").glob("*.md"))}
    return {**PAGES, **found, TUTORIAL: "tutorial.md"}


def moved(text: str, source: str) -> str:
    """The page with its links to other pages; those to files that are no page become the file's name."""
    known = places()

    def link(found: re.Match[str]) -> str:
        told, target, anchor = found[1], found[2], found[3] or ""
        if re.match(r"[a-z]+:", target) or not target:
            return found[0]
        path = ((ROOT / source).parent / target).resolve()
        if not path.exists():
            raise SystemExit(f"{source}: links to {target}, which is not there")
        name = path.relative_to(ROOT).as_posix()
        return f"[{told}]({known[name]}{anchor})" if name in known else f"{told} (`{name}`)"

    return re.sub(r"\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)", link, text)


def api() -> str:
    """Every public name, by mkdocstrings' own mark: it reads signatures and docstrings."""
    marks = [f"::: {home(name)}\n    options:\n      heading_level: 2\n" for name in fr.__all__ if name[0] != "_"]
    return "# Python API\n\n`import fusion_replay as fr`; every name below is `fr.NAME`.\n\n" + "\n".join(marks)


def home(name: str) -> str:
    """Where a public name is written down: a function, a class, or an object that stands in its module by that name."""
    thing = getattr(fr, name)
    return f"{thing.__module__}.{getattr(thing, '__qualname__', name)}"


def executed(pages: Path) -> None:
    """The tutorial with what it prints, tables and pictures."""
    notebook = pages / "tutorial.ipynb"
    for words in (
        ["jupytext", "--quiet", "--to", "ipynb", "--output", str(notebook), str(ROOT / TUTORIAL)],
        ["nbconvert", "--execute", "--to", "markdown", "--log-level", "ERROR", str(notebook)],
    ):
        subprocess.run([sys.executable, "-m", *words], check=True)
    for left in (notebook, pages / "tutorial.h5", pages / "scale.h5"):
        left.unlink(missing_ok=True)


def config(pages: Path) -> Path:
    target = pages.with_name(f"{pages.name}.yml")
    text = (ROOT / "docs" / "mkdocs.yml").read_text("utf-8")
    target.write_text(text.replace("@PAGES@", str(pages.absolute())), encoding="utf-8")
    return target


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"))
