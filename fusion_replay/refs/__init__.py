# SPDX-License-Identifier: Apache-2.0
"""The catalogue: one file per operator, and the look-up of any operator by its names, users' own included.

A module of this package that defines ``SPEC`` is an operator; nothing else to register. The names below are imported
when they are first used: the command line asks for ``plugins`` long before anybody asks for an operator.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_replay.refs import _plugins as plugins
    from fusion_replay.refs._catalogue import (
        builtin,
        canonical,
        find,
        lookup,
        meant,
        reference,
        register,
        specs,
        template_command,
    )
    from fusion_replay.refs._folds import Fold
    from fusion_replay.refs._identity import Coverage, coverage, folds_of, spec_of
    from fusion_replay.refs._registered import user_specs
    from fusion_replay.refs._user import operator

_HOMES = {
    "Coverage": "_identity",
    "Fold": "_folds",
    "builtin": "_catalogue",
    "canonical": "_catalogue",
    "coverage": "_identity",
    "find": "_catalogue",
    "folds_of": "_identity",
    "lookup": "_catalogue",
    "meant": "_catalogue",
    "operator": "_user",
    "plugins": "_plugins",
    "reference": "_catalogue",
    "register": "_catalogue",
    "spec_of": "_identity",
    "specs": "_catalogue",
    "template_command": "_catalogue",
    "user_specs": "_registered",
}

__all__ = [
    "Coverage",
    "Fold",
    "builtin",
    "canonical",
    "coverage",
    "find",
    "folds_of",
    "lookup",
    "meant",
    "operator",
    "plugins",
    "reference",
    "register",
    "spec_of",
    "specs",
    "template_command",
    "user_specs",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{home}")
    value = module if name == "plugins" else getattr(module, name)
    globals()[name] = value
    return value
