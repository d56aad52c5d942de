# SPDX-License-Identifier: Apache-2.0
"""Fields of a document that somebody else may have written: each is what it should be, or a ValueError says which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_replay.model.serialise import unexpected

MAX_TEXT = 1 << 16  # characters


def mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise unexpected(where, "an object", value)
    return value


def sequence(data: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = data.get(key)
    if not isinstance(value, list):
        raise unexpected(f"{where}: {key}", "a list", value)
    return value


def text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise unexpected(f"{where}: {key}", "a text", value)
    return value


def texts(data: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    found = sequence(data, key, where)
    if not all(isinstance(v, str) for v in found):
        raise ValueError(f"{where}: {key}: expected a list of texts")
    return tuple(found)


def digests(value: Any, where: str) -> dict[str, str]:
    found = mapping(value, where)
    for name, digest in found.items():
        if not isinstance(digest, str) or len(digest) != 32 or set(digest) - set("0123456789abcdef"):
            raise ValueError(f"{where}: {name}: expected a digest of 32 hexadecimal digits, found {digest!r:.50}")
    return found
