# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a golden, or with a folder of them, before anything is computed."""

from __future__ import annotations

from fusion_replay.errors import SnapshotError
from fusion_replay.golden.check_report import Problem
from fusion_replay.golden.document import Golden
from fusion_replay.golden.store import Folder, name_of
from fusion_replay.golden.tolerances import unused


def document_problems(golden: Golden, name: str) -> list[Problem]:
    """What is wrong with a golden before anything is computed."""
    found = []
    if golden.name != name:
        text = f"it calls itself {golden.name!r}; rename the file or correct the name"
        found.append(Problem("name", name, text))
    if not golden.steps:
        found.append(Problem("not_compared", name, "it has no step; restore its lines, or add it again"))
    if golden.mismatches and not golden.accepted_mismatch:
        text = (
            f"holds a mismatch that nobody accepted: {golden.mismatches[0]}; accept it with its reason, or correct it"
        )
        found.append(Problem("mismatch", name, text))
    for tolerance in unused(golden.tolerances, golden.steps):
        text = f"a tolerance for {tolerance.target}, of which it has no step; correct or remove the tolerance"
        found.append(Problem("unused_tolerance", name, text))
    return found


def folder_problems(listing: Folder) -> list[Problem]:
    """What is wrong with the folder: no golden, two of one name, recordings that none of them names."""
    found = _twins(listing) + _strays(listing)
    if not listing.goldens:
        text = "no golden here; `fusion-replay golden add F` makes one of a recording"
        found.append(Problem("not_compared", str(listing.path), text))
    return found


def _twins(listing: Folder) -> list[Problem]:
    return [
        Problem("twins", name, f"two goldens of one name: {', '.join(map(str, paths))}; rename one")
        for name, paths in listing.twins().items()
    ]


def _strays(listing: Folder) -> list[Problem]:
    """Recordings that no golden names."""
    used = set()
    for path in listing.goldens:
        used.add(path.with_name(f"{name_of(path)}.h5"))  # of a golden that can't be read, too
        try:
            golden = Golden.read(path)
        except SnapshotError:
            continue
        if golden.contents is not None:
            used.add(path.with_name(golden.contents.file))
    return [
        Problem("unused", str(path), f"no golden names it; `fusion-replay golden add {path}`, or remove it")
        for path in listing.contents
        if path not in used
    ]


__all__ = ["document_problems", "folder_problems"]
