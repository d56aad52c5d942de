# SPDX-License-Identifier: Apache-2.0
"""Whether tests can use an NPU here, found without opening it."""

from __future__ import annotations

import glob
from importlib import util


def why_no_npu() -> str:
    """Empty where an NPU can be used. pyxrt is looked up, not imported: it may open the device."""
    try:
        found = util.find_spec("pyxrt") is not None
    except ValueError:  # a module of that name without a spec
        found = True
    if not found:
        return "no pyxrt"
    return "" if glob.glob("/dev/accel/accel*") else "no /dev/accel/accel*"


__all__ = ["why_no_npu"]
