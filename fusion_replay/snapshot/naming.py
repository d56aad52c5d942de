# SPDX-License-Identifier: Apache-2.0
"""Contents by name: the first step that has each, and its argument there.

Tested in tests/snapshot/test_recover.py.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from fusion_replay.snapshot.schema import Index

SHOWN = 8


def named(index: Index, rows: Collection[int]) -> str:
    """``0:1 B, 3:412 cache and 5 more``, for rows of the contents table; those that no step has by their digests."""
    wanted = np.isin(index.operands["content"], np.fromiter(rows, np.int64, len(rows)))
    owner = np.repeat(np.arange(len(index.steps)), index.steps["n_operands"])
    names: dict[int, str] = {}
    for step, (position, _, row) in zip(owner[wanted].tolist(), index.operands[wanted].tolist(), strict=True):
        if row not in names:
            invocation, number = index.steps[["invocation", "step"]][step].tolist()
            sequence = index.sequences[int(index.invocations["sequence"][invocation])]
            names[row] = f"{invocation}:{number} {sequence.steps[number].operands[position].spec.name}"
    digests = {row: index.contents["digest"][row].decode("ascii", "replace") for row in rows if row not in names}
    said = [*names.values(), *digests.values()]
    return ", ".join(said[:SHOWN]) + (f" and {len(said) - SHOWN} more" if len(said) > SHOWN else "")


__all__ = ["named"]
