# SPDX-License-Identifier: Apache-2.0
"""Arrays that a page carries: compressed, counted against its budget, named by number.

Tested in tests/report/page/test_replay_page.py.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion_replay.compare.blocks import to_float32
from fusion_replay.model.bf16 import BFLOAT16

FORMS = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "i4": np.int32, "f4": np.float32}
"""Element types that the page's script reads, little-endian."""


class Chunks:
    """Numbers and texts of the arrays of one page.

    Args:
        budget: bytes of the page that they may take; what does not fit is refused as a whole.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.texts: list[str] = []
        self._known: dict[tuple[str, bytes], dict[str, Any]] = {}

    def take(self, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any] | None:
        """Name -> {number, form, elements} of these arrays; None where they do not fit together."""
        packed = {name: self._packed(array) for name, array in arrays.items()}
        size = sum(len(text) for _, _, text in packed.values())
        if self.used + size > self.budget:
            return None
        taken = {}
        for name, (key, n, text) in packed.items():
            if key not in self._known:
                self._known[key] = {"at": len(self.texts), "form": key[0], "n": n}
                self.texts.append(text)
                self.used += len(text)
            taken[name] = self._known[key]
        return taken

    def _packed(self, array: npt.NDArray[Any]) -> tuple[tuple[str, bytes], int, str]:
        flat = np.ascontiguousarray(array).reshape(-1)
        form = next(f for f, kind in FORMS.items() if flat.dtype == kind)
        raw = flat.astype(flat.dtype.newbyteorder("<")).tobytes()
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        squeezed = packer.compress(raw) + packer.flush()
        return (form, squeezed), flat.size, base64.b64encode(squeezed).decode("ascii")


def bits(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values as the unsigned numbers that their bits are; what is wider than 32 bits as float32's."""
    flat = np.ascontiguousarray(x).reshape(-1)
    if flat.dtype.kind in "iub" and flat.dtype.itemsize <= 4:
        return flat.astype(np.int32)
    if flat.dtype.itemsize in (1, 2, 4):
        return flat.view(f"u{flat.dtype.itemsize}")
    return flat.astype(np.float32).view(np.uint32)


def rounded(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32 with twelve bits of fraction: more than any picture shows, and half the size when packed."""
    out = np.empty(x.shape, np.float32)
    if x.dtype == BFLOAT16:
        to_float32(x, out)
        return out
    with np.errstate(over="ignore"):
        out[...] = x
    whole = out.view(np.uint32)
    number = np.isfinite(out)
    whole[number] &= np.uint32(0xFFFFF800)
    return out


__all__ = ["FORMS", "Chunks", "bits", "rounded"]
