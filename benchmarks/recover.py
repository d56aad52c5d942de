# SPDX-License-Identifier: Apache-2.0
"""Sealing what a killed recorder left, every tensor checked before and after: ``python -m benchmarks.recover``."""

from __future__ import annotations

from benchmarks.seal import main

if __name__ == "__main__":
    main(killed=True)
