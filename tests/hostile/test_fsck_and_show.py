# SPDX-License-Identifier: Apache-2.0
"""What `show` refuses, `fsck` never calls sound: texts of a sealed file changed anywhere, all digests right."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusion_replay.__main__ import main
from fusion_replay.snapshot.encodings.chunks import decompress
from fusion_replay.snapshot.write.weights import WeightsKeeper
from hostile.test_made_to_hurt import Forge
from snapshot_maker import record

KERNEL = {"sequence": 0, "operator": 0, "kernel": "k", "xclbin": None, "instructions": None, "absent": "no file"}
ODD: tuple[Any, ...] = (None, True, -1, 1.5, 2**70, "", "x" * 5000, "\ud800", [], [[]], {}, {"a": 1})


def text_of(forge: Forge, name: str) -> Any:
    entry = forge.directory["tables"][name]
    raw = bytes(forge.data[entry["offset"] : entry["offset"] + entry["size"]])
    return json.loads(raw if entry["mask"] & 2 else decompress(raw, entry["rows"] * entry["itemsize"], name))


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within, and each of its keys."""
    for key in list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from places(data[key])


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 11))])
def test_fsck_is_never_0_where_show_is_3(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "t.h5", 1, rows=256, columns=256, weights=WeightsKeeper(tmp_path / "w.h5"))
    sealed, rng = path.read_bytes(), random.Random(seed)
    codes: dict[tuple[int, int], int] = {}
    for _ in range(30):
        path.write_bytes(sealed)
        forge = Forge(path)
        forge.directory["tables"].setdefault("binaries", dict(forge.directory["tables"]["weights"]))
        name = rng.choice(["sequences", "details", "losses", "provenance", "binaries", "weights"])
        data = [dict(KERNEL)] if name == "binaries" else text_of(forge, name)
        forge.text("binaries", [KERNEL])
        holder, key = rng.choice([*places(data), ([data], 0)])
        if rng.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = rng.choice(ODD)
        forge.text(name, data)
        forge.seal()
        both = main(["fsck", str(path)]), main(["show", str(path)])
        capsys.readouterr()
        assert both[0] != 0 or both[1] != 3, (name, data)
        codes[both] = codes.get(both, 0) + 1
    assert {(0, 0), (3, 3)} <= codes.keys()
    print(codes)
