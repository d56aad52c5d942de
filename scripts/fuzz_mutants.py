# SPDX-License-Identifier: Apache-2.0
"""Mutants of our files whose outer checksums are right, so that the change reaches the parsers inside."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from fusion_replay.snapshot.encodings.chunks import Encoder
from fusion_replay.snapshot.journal.frames import FRAME_HEADER, HEADER, ScanResult, scan
from fusion_replay.snapshot.read.sealed import read_sealed
from fusion_replay.snapshot.schema import LATER_TEXTS, TABLES, TEXTS, USER_BLOCK, UserBlock, digest_of

LURE = "n\x1b[31m\n::error::x\nPASSED ##[error] \u202e"
NUMBERS = (0, 1, 2, -1, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**30)
TEXT_VALUES = (
    "",
    ".",
    "..",
    "a" * 300,
    "a" * 5000,
    "/etc/passwd",
    "../x",
    "\0",
    "\ud800",
    LURE,
    "float128",
    "9" * 5000,
)
RAW = "\ue000"  # stands in a text for JSON that json.dumps would not write


@dataclass
class Mutant:
    """What was made of a file.

    Attributes:
        what: in words, for whoever repeats it.
        before: every frame of a journal, or byte, before this one is as it was.
        forged: a frame or table says something else, in due form; else bytes are only missing, doubled or damaged.
        sound: nothing was changed.
    """

    what: list[str] = field(default_factory=list)
    before: int = 0
    forged: bool = True
    sound: bool = False


# --- JSON -----------------------------------------------------------------------------------------------------------


def json_of(rng: random.Random, data: Any) -> tuple[bytes, str]:
    """``data`` with one to three nodes changed, as JSON or nearly so."""
    told = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data, what = _change(rng, data)
        told.append(what)
    text = json.dumps(data, ensure_ascii=rng.random() < 0.5)
    for name, spelled in _SPELLINGS.items():
        text = text.replace(json.dumps(RAW + name), spelled).replace(f'"{RAW}{name}"', spelled)
    return text.encode("utf-8", "surrogatepass"), "; ".join(told)


_SPELLINGS = {
    "inf": "Infinity",
    "nan": "NaN",
    "long": "9" * 5000,
    "deep": "[" * 2000 + "]" * 2000,
    "deeper": "[" * 200_000 + "]" * 200_000,
    "exp": "1e999",
    "twice": '{"a":1,"a":2}',
}


def _change(rng: random.Random, data: Any) -> tuple[Any, str]:
    way = [data]
    keys: list[Any] = []
    while isinstance(way[-1], (dict, list)) and way[-1] and (rng.random() < 0.9 or len(way) == 1):
        here = way[-1]
        key = rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        keys.append(key)
        way.append(here[key])
    where = "/".join(map(str, keys))[:80]
    if not keys:
        return _value(rng, data), "the whole"
    holder, key = way[-2], keys[-1]
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
        return data, f"{where} removed"
    if kind == 1 and isinstance(holder, list):
        holder.insert(key, holder[rng.randrange(len(holder))])
        return data, f"{where} inserted"
    if kind == 1:
        holder[rng.choice(TEXT_VALUES[:6])] = holder.pop(key)
        return data, f"{where} renamed"
    holder[key] = _value(rng, holder[key])
    return data, f"{where} = {holder[key]!r:.40}"


def _value(rng: random.Random, old: Any) -> Any:
    if isinstance(old, bool) or rng.random() < 0.4:
        return rng.choice((None, True, False, [], {}, [[]], {"a": {}}, 0.5, -1, "", *(RAW + s for s in _SPELLINGS)))
    if isinstance(old, (int, float)):
        return rng.choice((*NUMBERS, old + 1, old - 1, -old, old * 2, float(old) + 0.5))
    if isinstance(old, str):
        return rng.choice((*TEXT_VALUES, old + "x", old[:-1], old.upper()))
    return rng.choice(([old], {}, [], "x", 3))


# --- sealed files -----------------------------------------------------------------------------------------------------


def sealed(rng: random.Random, path: Path) -> Mutant:
    """Change tables, texts, the directory, stored chunks or the user block of a sealed file, and seal it again."""
    done = Mutant()
    forge = _Forge(path)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.choices(("table", "text", "directory", "bytes", "block"), (8, 5, 2, 2, 1))[0]
        done.what.append(getattr(forge, kind)(rng))
        done.forged = done.forged or kind != "bytes"
    forge.seal()
    return done


class _Forge:
    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb", buffering=0) as file:
            self.user, self.index = read_sealed(file, path)
        self.data = bytearray(path.read_bytes())
        at = self.user.directory_offset
        self.entries: Any = json.loads(self.data[at : at + self.user.directory_size])
        self.raw_directory: bytes | None = None
        self.fields: dict[str, Any] = {}
        self.tables = {name: getattr(self.index, name).copy() for name in TABLES}

    def table(self, rng: random.Random) -> str:
        filled = [n for n, rows in self.tables.items() if len(rows)]
        if not filled:
            return "no rows left"
        name = rng.choice(filled)
        rows = self.tables[name]
        kind = rng.randrange(8)
        if kind == 0:
            rows = rows[: rng.randrange(len(rows))]
            what = f"{name}: cut to {len(rows)} rows"
        elif kind == 1:
            rows = np.concatenate([rows, rows[rng.randrange(len(rows)) :]])
            what = f"{name}: rows doubled"
        elif kind == 2 and len(rows) > 1:
            i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
            rows[[i, j]] = rows[[j, i]]
            what = f"{name}: rows {i} and {j} swapped"
        else:
            row, column = rng.randrange(len(rows)), rng.choice(rows.dtype.names)
            kind_of = rows.dtype[column].kind
            value: Any
            if kind_of == "S":
                value = rng.choice((b"", b"0" * 32, b"int8", b"float128", b"float32", rng.choice(rows[column])))
            else:
                limits = np.iinfo(rows.dtype[column])
                value = rng.choice(
                    (*NUMBERS, int(rng.choice(rows[column])), int(rows[row][column]) + rng.choice((-1, 1)))
                )
                value = min(max(value, limits.min), limits.max)
            rows[column][row] = value
            what = f"{name}[{row}].{column} = {value!r}"
        self.tables[name] = rows
        flat = np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
        chunk, mask = (
            Encoder().encode(flat, flat.size, rows.dtype.itemsize if len(rows) > 1 else 1) if len(rows) else (b"", 3)
        )
        self._entry(name, bytes(chunk), rows=len(rows), mask=mask)
        return what

    def text(self, rng: random.Random) -> str:
        name = rng.choice([n for n in (*TEXTS, *LATER_TEXTS) if n in self.entries["tables"]])
        entry = self.entries["tables"][name]
        stored = bytes(self.data[entry["offset"] : entry["offset"] + entry["size"]])
        if entry["mask"] & 2 == 0:
            import zstandard

            stored = zstandard.ZstdDecompressor().decompress(stored, max_output_size=1 << 24)
        try:
            raw, what = json_of(rng, json.loads(stored))
        except (ValueError, RecursionError):  # spoilt by the change before
            return f"{name}: left"
        self._entry(name, raw, rows=1, itemsize=len(raw), mask=3)
        return f"{name}: {what}"

    def directory(self, rng: random.Random) -> str:
        self.raw_directory, what = json_of(rng, json.loads(json.dumps(self.entries)))
        return f"directory: {what}"

    def bytes(self, rng: random.Random) -> str:
        at = rng.randrange(USER_BLOCK, self.user.directory_offset)
        self.data[at] ^= 1 << rng.randrange(8)
        return f"a bit of byte {at}"

    def block(self, rng: random.Random) -> str:
        key = rng.choice(
            ("major", "minor", "length", "directory_offset", "directory_size", "directory_digest", "digest")
        )
        if key.endswith("digest"):
            self.fields[key] = bytes(16)
        else:
            self.fields[key] = rng.choice([n for n in NUMBERS if 0 <= n < (65536 if len(key) == 5 else 2**64)])
            if key == "directory_size":
                self.fields[key] = min(self.fields[key], 2**32)
        return f"user block: {key} = {self.fields[key]!r}"

    def _entry(self, name: str, blob: bytes, **fields: Any) -> None:
        self.data += blob
        fields |= {"offset": len(self.data) - len(blob), "size": len(blob), "digest": digest_of(blob).hex()}
        self.entries["tables"][name].update(fields)

    def seal(self) -> None:
        text = json.dumps(self.entries).encode() if self.raw_directory is None else self.raw_directory
        at = len(self.data)
        self.data += text
        body = bytes(self.data[USER_BLOCK:])
        right = {
            "length": len(self.data),
            "digest": digest_of(body),
            "directory_offset": at,
            "directory_size": len(text),
            "directory_digest": digest_of(text),
        }
        self.path.write_bytes(UserBlock(**{**right, **self.fields}).pack() + body)


# --- journals -------------------------------------------------------------------------------------------------------


def journal(rng: random.Random, path: Path) -> Mutant:
    """Frames removed, doubled, swapped, cut off, damaged (checksums as they were) or forged (checksums right)."""
    raw = path.read_bytes()
    with open(path, "rb") as file:
        found = list(scan(file, ScanResult()))
    frames = [(f.kind, raw[f.offset : f.offset + f.length]) for f in found]
    starts = [f.offset - FRAME_HEADER for f in found]
    at = rng.randrange(len(frames))
    kind = rng.choices(
        ("removed", "doubled", "swapped", "cut", "bit", "forged bit", "forged field", "forged JSON"),
        (2, 1, 1, 2, 4, 4, 3, 4),
    )[0]
    done = Mutant(
        [f"frame {at} (kind {frames[at][0]}, offset {starts[at]}) {kind}"], starts[at], kind.startswith("forged")
    )
    if kind == "cut":
        cut = rng.randrange(starts[at], starts[at] + FRAME_HEADER + len(frames[at][1]))
        path.write_bytes(raw[:cut])
        return done
    if kind == "bit":
        spoilt = bytearray(raw)
        where = rng.randrange(starts[at], starts[at] + FRAME_HEADER + len(frames[at][1]))
        spoilt[where] ^= 1 << rng.randrange(8)
        path.write_bytes(spoilt)
        return done
    if kind == "removed":
        del frames[at]
    elif kind == "doubled":
        frames.insert(rng.randrange(at, len(frames)) + 1, frames[at])
    elif kind == "swapped":
        other = rng.randrange(len(frames))
        frames[at], frames[other] = frames[other], frames[at]
        done.before = min(starts[at], starts[other])
        done.forged = True  # what was begun later may have ended before
    else:
        frames[at] = (frames[at][0], _forged(rng, frames[at][1], kind))
    path.write_bytes(b"".join(_frame(k, payload) for k, payload in frames))
    return done


def _forged(rng: random.Random, payload: bytes, kind: str) -> bytes:
    if kind == "forged JSON":
        for start in range(min(64, len(payload))):
            if payload[start : start + 1] in b"[{":
                try:
                    data = json.loads(payload[start:])
                except ValueError:
                    continue
                return payload[:start] + json_of(rng, data)[0]
    changed = bytearray(payload or b"\0")
    if kind == "forged bit":
        changed[rng.randrange(min(len(changed), 120))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    size = rng.choice((1, 2, 4, 8))
    where = rng.randrange(0, max(1, min(len(changed), 96)), size)
    changed[where : where + size] = rng.choice(NUMBERS[:14]).to_bytes(9, "little", signed=True)[:size]
    return bytes(changed)


def _frame(kind: int, payload: bytes) -> bytes:
    head = HEADER.pack(b"FRF\x1a", kind, len(payload), xxhash.xxh3_64_intdigest(payload))
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little") + payload


# --- goldens --------------------------------------------------------------------------------------------------------


def golden(rng: random.Random, path: Path) -> Mutant:
    """The document changed, or its contents, with the size and SHA-256 that it names made right again."""
    contents = path.with_name(path.name.removesuffix(".golden.json") + ".h5")
    if contents.exists() and rng.random() < 0.4:
        done = sealed(rng, contents)
        data = json.loads(path.read_text())
        raw = contents.read_bytes()
        data["contents"] |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        path.write_text(json.dumps(data))
        return done
    raw, what = json_of(rng, json.loads(path.read_text()))
    path.write_bytes(raw)
    return Mutant([what])


MUTATE: dict[str, Callable[[random.Random, Path], Mutant]] = {"sealed": sealed, "journal": journal, "golden": golden}
