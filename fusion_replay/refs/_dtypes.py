# SPDX-License-Identifier: Apache-2.0
"""The element type that an operator's ``dtype`` field names, however IRON or a recording spelled it."""

from __future__ import annotations

from typing import Any

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import DTYPE_BYTES

_SHORT = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "ui8": "uint8",
}


def dtype_name(op: str, value: Any) -> str:
    """``"bf16"``, ``"bfloat16"``, ``ml_dtypes.bfloat16`` or its ``str()`` -> ``"bfloat16"``.

    Raises:
        UsageError: no element type that a snapshot can hold.
    """
    text = str(getattr(value, "__name__", None) or value)
    name = text.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
    name = _SHORT.get(name, name)
    if name not in DTYPE_BYTES:
        raise UsageError(f"{op}: dtype {value!r}: expected one of {', '.join(DTYPE_BYTES)}")
    return name
