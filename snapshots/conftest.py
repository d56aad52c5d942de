# SPDX-License-Identifier: Apache-2.0
"""Which goldens take seconds: those with contents, and one of every kind of the others."""

from __future__ import annotations

import pytest

QUICK = (
    "npu1-gemm-M384-K1536-N1792-c4-bcol-m32-k48-n64",
    "npu2-gemm-M64-K512-N256-c4-bcol-m16-k64-n64-parts4",
    "npu2-gemv-M8192-K2048-c8-ti4-to1024",
    "npu1-swiglu_decode-emb1024-hidden3584",
    "npu2-llama_3.2_1b-prompt13-tokens1",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    found = set()
    for item in items:
        name, is_golden, _ = item.path.name.partition(".golden.json")
        if is_golden and name in QUICK:
            found.add(name)
        elif is_golden and not item.path.with_name(f"{name}.h5").exists():
            item.add_marker("long")
    whole_folder = any(item.nodeid == "snapshots::folder" for item in items)
    if whole_folder and (missing := set(QUICK) - found):
        raise pytest.UsageError(f"snapshots/conftest.py: no golden is called {', '.join(sorted(missing))}")
