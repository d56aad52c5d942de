# SPDX-License-Identifier: Apache-2.0
"""Tables of what users' code declares, operators and kernels, kept together so that a failed load can be undone.

Tested in tests/refs/test_plugins.py, with the code that loads such declarations.
"""

from __future__ import annotations

from typing import Any

TABLES: list[dict[str, Any]] = []


def table() -> dict[str, Any]:
    """A new table for declarations; each of its entries says its origin in ``source``."""
    TABLES.append({})
    return TABLES[-1]


__all__ = ["TABLES", "table"]
