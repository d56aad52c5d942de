# SPDX-License-Identifier: Apache-2.0
"""What must not leave with a bug report: paths, user and host names, the command line, the environment.

Provenance goes by an allowlist. In every other text absolute paths and names are replaced, each by a token of its own,
so that what was different stays different. Words of the dropped command line and environment are replaced in free
texts (errors, losses), not in the names of buffers and operators, which a word such as ``decode`` may be part of.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fusion_replay.snapshot.describe import sequence_from_json, sequence_to_json
from fusion_replay.snapshot.schema import Index

PROVENANCE = (
    "fusion_replay",
    "python",
    "platform",
    "packages",
    "iron",
    "xrt",
    "driver",
    "devices",
    "exported_from",
)
"""Keys that stay: versions, and what device it was."""

PUBLIC_MODULES = ("iron.", "aie.", "fusion_replay.")

# From a separator that starts something: not the slash of "and/or". Windows paths have a drive.
_PATH = re.compile(r"(?<![\w.<])(?:~[\w.-]*|[A-Za-z]:)?[/\\](?:[\w.@+=~-]+[/\\]+)*[\w.@+=~-]+")
_HOME = re.compile(r"[/\\](?:home|Users)[/\\]([\w.-]+)")
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_RELEASE = re.compile(r"(?<!\d)(\d+\.\d+(?:\.\d+)?)\S*")
_COMMON = {"root", "user", "home", "localhost", "runner", "npu", "test"}
_TOKENS = {
    "path": "paths",
    "name": "user or host names",
    "mail": "mail addresses",
    "dropped": "words of the command line and environment in errors and losses",
}


@dataclass
class Redactor:
    """Replaces, and counts what it replaced. One for a whole bundle, so that equal texts get equal tokens."""

    names: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    replaced: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, index: Index) -> Redactor:
        """For a recording: the names in its paths and of this machine, the words of its command and environment."""
        texts = list(_strings([index.provenance, index.details, [loss.detail for loss in index.losses]]))
        names = {m[1] for text in texts for m in _HOME.finditer(text)} | _this_machine()
        dropped = [value for key, value in index.provenance.items() if key not in PROVENANCE]
        words = {word for text in _strings(dropped) for word in (text, *text.split())}
        return cls(_longest_first(names - _COMMON, 3), _longest_first(words, 4))

    def name(self, text: str) -> str:
        """``text`` without paths, user and host names, mail addresses."""
        text = _MAIL.sub(lambda m: self._token("mail", m[0]), text)
        text = _PATH.sub(lambda m: self._token("path", m[0]), text)
        return self._without(self.names, "name", text)

    def text(self, text: str) -> str:
        """As :meth:`name`, and without words of the command line and the environment."""
        return self.name(self._without(self.words, "dropped", text))

    def _without(self, words: Iterable[str], kind: str, text: str) -> str:
        for word in words:
            if word in text:  # cheap, and nearly never so
                text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda m: self._token(kind, m[0]), text)
        return text

    def count(self, kind: str) -> int:
        return self.counts[kind]

    def _token(self, kind: str, what: str) -> str:
        if what not in self.replaced:
            self.counts[kind] += 1
            self.replaced[what] = f"<{kind}-{self.counts[kind]}>"
        return self.replaced[what]

    # --- whole recordings ---------------------------------------------------------------------------------------

    def index(self, index: Index) -> list[str]:
        """Redact the texts of ``index`` in place; what was dropped, in words."""
        dropped = sorted(key for key in index.provenance if key not in PROVENANCE)
        index.provenance = {key: _map(value, self.name) for key, value in index.provenance.items() if key in PROVENANCE}
        if "platform" in index.provenance:
            index.provenance["platform"] = _RELEASE.sub(r"\1", str(index.provenance["platform"]))
        index.sequences = tuple(self._sequence(sequence_to_json(sequence)) for sequence in index.sequences)
        index.details = [dict(_map(detail, self.text)) for detail in index.details]
        index.losses = tuple(replace(loss, detail=self.text(loss.detail)) for loss in index.losses)
        said = [f"provenance: {', '.join(dropped)}"] if dropped else []
        for kind, what in _TOKENS.items():
            if found := self.count(kind):
                said.append(f"{what}: {found}, replaced by <{kind}-N>")
        return said

    def _sequence(self, data: dict[str, Any]) -> Any:
        redacted = _map(data, self.name)
        for operator in redacted["operators"]:
            if not operator["module"].startswith(PUBLIC_MODULES):
                operator["module"] = ""
        return sequence_from_json(redacted, "redacted")


def _this_machine() -> set[str]:
    found: set[str] = set()
    for ask in (getpass.getuser, socket.gethostname):
        try:
            found.add(ask())
        except (OSError, KeyError):
            continue
    return found


def _longest_first(words: Iterable[str], least: int) -> tuple[str, ...]:
    """Those of at least so many letters: shorter ones are everywhere."""
    return tuple(sorted((w for w in words if len(w) >= least), key=lambda w: (-len(w), w)))


def _strings(data: Any) -> Iterable[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from (str(key), *_strings(value))
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _strings(value)


def _map(data: Any, change: Any) -> Any:
    if isinstance(data, str):
        return change(data)
    if isinstance(data, Mapping):
        return {change(str(key)): _map(value, change) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_map(value, change) for value in data]
    return data


__all__ = ["PROVENANCE", "Redactor"]
