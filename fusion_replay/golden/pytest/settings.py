# SPDX-License-Identifier: Apache-2.0
"""What pytest's command line and ini file say of goldens, and the keys under which the plugin's modules share data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MARKER = "fr_npu"
RESULTS = "fusion_replay_results"
"""Attribute of the reports of our tests: what was found of every golden that the test checked."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line and the ini file say; an option wins over the key of its name."""

    dir: Path | None
    named: bool  # on the command line
    update: bool
    update_new: bool
    details: bool
    new_dir: Path | None
    require_npu: bool
    on: str | None
    exact: bool
    run_recipes: bool
    fetch_private: bool
    record_dir: Path | None

    @property
    def asked(self) -> bool:
        """Whether an option or a key asks for anything at all."""
        return any(getattr(self, name) for name in self.__slots__)


settings_key = pytest.StashKey[Settings]()
failed_key = pytest.StashKey[dict[str, str]]()
"""Of a run: path of a golden -> what its own test found wrong with it."""
results_key = pytest.StashKey[list[dict[str, Any]]]()


def read(config: pytest.Config) -> Settings:
    """An option wins over the ini file's key of its name.

    Raises:
        pytest.UsageError: something is set that cannot be.
    """

    def said(key: str) -> Any:
        given = config.getoption(f"fr_{key}")
        return given if given is not None else config.getini(f"fr_{key}")

    def folder(key: str) -> Path | None:
        given = config.getoption(f"fr_{key}")
        if given:
            return Path(os.path.abspath(config.invocation_params.dir / given))
        told = config.getini(f"fr_{key}")
        return (
            Path(os.path.abspath((config.inipath.parent if config.inipath else config.rootpath) / told))
            if told
            else None
        )

    update, update_new = bool(config.getoption("fr_update")), bool(config.getoption("fr_update_new_only"))
    if (update or update_new) and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        raise pytest.UsageError(
            "--fr-update: refused where CI is set; keep *.new (--fr-new-dir) and accept at the desk"
        )
    on = said("on") or None
    if on not in (None, "sim", "npu"):
        raise pytest.UsageError(f"fr_on = {on}: expected sim or npu")
    goldens, named = folder("dir"), bool(config.getoption("fr_dir"))
    if named and goldens is not None and not goldens.is_dir():
        if goldens.exists() or not (update or update_new):
            raise pytest.UsageError(
                f"--fr-dir {goldens}: expected a folder of goldens; `fusion-replay golden add` makes one"
            )
        goldens.mkdir(parents=True)
    if goldens == config.rootpath:
        raise pytest.UsageError(f"--fr-dir {goldens}: the root of the tests; give goldens a folder of their own")
    flags = {key: bool(said(key)) for key in ("details", "require_npu", "exact", "run_recipes")}
    return Settings(
        dir=goldens,
        named=named,
        update=update,
        update_new=update or update_new,
        new_dir=folder("new_dir"),
        on=on,
        fetch_private=bool(config.getoption("fr_fetch_private")),  # never the ini file's: it comes with the goldens
        record_dir=folder("record_dir"),
        **flags,
    )


__all__ = ["MARKER", "RESULTS", "Settings", "failed_key", "read", "results_key", "settings_key"]
