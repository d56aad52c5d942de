# SPDX-License-Identifier: Apache-2.0
"""What a project says of its goldens in ``pyproject.toml``, ``[tool.fusion-replay]``."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion_replay.errors import UsageError
from fusion_replay.refs import plugins

DEFAULT_FOLDER = "goldens"


@dataclass(frozen=True, slots=True)
class Project:
    """Every field is the key of its name with ``golden-`` before it (``golden-contents``).

    Attributes:
        root: the folder of ``pyproject.toml``, which relative paths start from.
        dir: where goldens live, for verbs that are given no folder.
        contents: folder or URL (https; file) of contents that do not lie beside their golden.
        max_bytes: of one golden's contents: what lint allows beside a golden, and what is fetched at most.
        max_total_bytes: of all that lies in the folder.
    """

    root: Path
    dir: str = DEFAULT_FOLDER
    contents: str | None = None
    max_bytes: int = 20_000_000
    max_total_bytes: int = 200_000_000

    @property
    def folder(self) -> Path:
        """``dir`` as a path, short where it lies below the working directory."""
        path = self.root / self.dir
        try:
            return path.relative_to(Path.cwd())
        except ValueError:
            return path

    @classmethod
    def find(cls, start: str | os.PathLike[str] = ".") -> Project:
        """The project of the nearest ``pyproject.toml`` at or above ``start``; all defaults where there is none.

        Raises:
            UsageError: no valid TOML, an unknown ``golden-`` key, or a value of the wrong type.
        """
        here = Path(start).absolute()
        file = next((p for d in (here, *here.parents) if (p := d / "pyproject.toml").is_file()), None)
        if file is None:
            return cls(Path.cwd())
        try:
            table: Any = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get(plugins.TABLE, {})
        except (OSError, ValueError) as error:
            raise UsageError(f"{file}: can't be read: {error}") from error
        given = {k: v for k, v in table.items() if k.startswith("golden-")}
        for key, value in given.items():
            if key not in (*_TEXTS, *_SIZES):
                known = ", ".join((*_TEXTS, *_SIZES))
                raise UsageError(f"{file}: [tool.{plugins.TABLE}] {key}: unknown; known: {known}")
            if key in _TEXTS and not isinstance(value, str):
                raise UsageError(f"{file}: [tool.{plugins.TABLE}] {key}={value!r}: expected a text")
            if key in _SIZES and (isinstance(value, bool) or not isinstance(value, int) or value <= 0):
                raise UsageError(f"{file}: [tool.{plugins.TABLE}] {key}={value!r}: expected a number of bytes")
        return cls(file.parent, **{k.removeprefix("golden-").replace("-", "_"): v for k, v in given.items()})


_TEXTS = ("golden-dir", "golden-contents")
_SIZES = ("golden-max-bytes", "golden-max-total-bytes")

__all__ = ["DEFAULT_FOLDER", "Project"]
