# SPDX-License-Identifier: Apache-2.0
"""JSON Lines: one typed record per line, the same bytes for the same result; ``schema.json`` describes each type."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from fusion_replay.model.serialise import json_data


def encode(record: dict[str, Any]) -> str:
    """One line: keys in the record's own order, ASCII, NaN and infinities as strings.

    Raises:
        TypeError: something in it is no JSON data.
    """
    text = json.dumps(json_data(record), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    # In a string, where else: a log of GitHub Actions would take it for a command.
    return text.replace("##[", "\\u0023#[")


@cache
def schema() -> dict[str, Any]:
    """The published JSON schema (draft 2020-12) of every record that ``--json`` prints."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text("utf-8"))
    return found
