# SPDX-License-Identifier: Apache-2.0
"""One HTML file from a page's data: its script, style and template filled in, all of a stranger's text as text.

Tested in tests/report/page/test_replay_page.py.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fusion_replay.model.text import one_line
from fusion_replay.report.text import count

if TYPE_CHECKING:
    from fusion_replay.report.page.chunks import Chunks

MARK = "<!doctype html>\n<!-- a report page of fusion-replay -->\n"
"""How every page begins: what begins otherwise is not ours to replace."""

SCRIPTS = (
    "state.js",
    "text.js",
    "arrays.js",
    "colours.js",
    "strip.js",
    "list.js",
    "charts.js",
    "maps.js",
    "step.js",
    "views.js",
    "keys.js",
    "main.js",
)
"""In the order in which they are joined to one."""

LINES = 4
"""Below the sentence, before the rest is folded."""

LONGEST = 600
"""Characters of one text that a page shows."""


def document(data: Mapping[str, Any], chunks: Chunks) -> str:
    """The page: what it says first as plain HTML, then its data, script and arrays.

    ``data`` has at least ``title``, ``headline`` (text, evidence, address, tone) and ``under``, a list of lines.
    """
    shown = safe(data)
    script = "\n".join(f"// --- {name}\n{_file(name)}" for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    style = _file("page.css")
    parts = {
        "csp": _policy(script, style),
        "title": html.escape(shown["title"]),
        "style": style,
        "tone": html.escape(shown["headline"]["tone"]),
        "sentence": html.escape(shown["headline"]["text"]),
        "evidence": html.escape(shown["headline"]["evidence"]),
        "under": _items(shown["under"][:LINES]),
        "more": _more(shown["under"][LINES:]),
        "data": embedded(shown),
        "script": script,
        "chunks": "".join(f'<script type="text/plain" id="a{i}">{t}</script>\n' for i, t in enumerate(chunks.texts)),
    }
    return MARK + _filled(_file("page.html"), parts)


def embedded(data: Any) -> str:
    """JSON that can stand inside a script element whatever is in it."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False, sort_keys=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def safe(data: Any) -> Any:
    """The same data, every text on one line, with nothing to obey in it and not longer than a person reads."""
    if isinstance(data, str):
        text = one_line(data)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    if isinstance(data, Mapping):
        return {str(k): safe(v) for k, v in data.items()}
    if isinstance(data, Sequence):
        return [safe(v) for v in data]
    return data


def _items(lines: Sequence[str]) -> str:
    return "".join(f"<li>{html.escape(line)}</li>" for line in lines)


def _more(lines: Sequence[str]) -> str:
    """What is below the first lines, folded."""
    if not lines:
        return ""
    return f"<details><summary>{count(len(lines), 'more line')}</summary><ul>{_items(lines)}</ul></details>"


def _policy(script: str, style: str) -> str:
    """No request, no frame, no form, and no other script or style than these two."""
    allowed = [f"'sha256-{_digest(text)}'" for text in (script, style)]
    return f"default-src 'none'; script-src {allowed[0]}; style-src {allowed[1]}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """``@{name}`` replaced, once each; what is put in is not looked at again."""
    pieces = template.split("@{")
    told = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}")
        told += [parts[name], rest]
    return "".join(told)


def _file(name: str) -> str:
    return files("fusion_replay.report.page").joinpath(name).read_text("utf-8")


__all__ = ["MARK", "document", "embedded", "safe"]
