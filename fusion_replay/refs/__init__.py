# SPDX-License-Identifier: Apache-2.0
"""One file per operator. A module of this package that defines ``SPEC`` is an operator; nothing else to register."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from fusion_replay.operators import OperatorSpec


def all_specs() -> Iterator[OperatorSpec]:
    """The ``SPEC`` of every module here whose name has no leading underscore."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            yield importlib.import_module(f"{__name__}.{module.name}").SPEC
