# SPDX-License-Identifier: Apache-2.0
"""Sealed files with evil contents and right digests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fusion_replay.snapshot.encodings.chunks import Encoder
from fusion_replay.snapshot.read.sealed import read_sealed
from fusion_replay.snapshot.schema import USER_BLOCK, UserBlock, digest_of


class Forge:
    """Takes a sealed file apart and seals what the test made of it, all digests right."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb", buffering=0) as file:
            self.block, self.index = read_sealed(file, path)
        self.data = bytearray(path.read_bytes())
        at = self.block.directory_offset
        self.directory: dict[str, Any] = json.loads(self.data[at : at + self.block.directory_size])

    def put(self, blob: bytes) -> int:
        self.data += blob
        return len(self.data) - len(blob)

    def table(self, name: str, rows: np.ndarray) -> None:
        raw = rows.view(np.uint8).reshape(-1)
        size = rows.dtype.itemsize if len(rows) > 1 else 1
        chunk, mask = Encoder().encode(raw, raw.size, size)
        self.entry(name, chunk, rows=len(rows), mask=mask)

    def text(self, name: str, data: Any) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.entry(name, raw, rows=1, itemsize=len(raw), mask=3)

    def entry(self, name: str, blob: bytes, **fields: Any) -> None:
        fields |= {"offset": self.put(blob), "size": len(blob), "digest": digest_of(blob).hex()}
        self.directory["tables"].setdefault(name, {}).update(fields)

    def seal(self, directory: bytes | None = None, **block: Any) -> Path:
        text = json.dumps(self.directory).encode() if directory is None else directory
        at = self.put(text)
        body = bytes(self.data[USER_BLOCK:])
        fields = {
            "length": len(self.data),
            "digest": digest_of(body),
            "directory_offset": at,
            "directory_size": len(text),
            "directory_digest": digest_of(text),
        }
        self.path.write_bytes(UserBlock(**{**fields, **block}).pack() + body)
        return self.path
