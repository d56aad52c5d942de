# SPDX-License-Identifier: Apache-2.0
"""The fused sequence that a command line names: in Python code, or a workload's, made again from its recording.

Tested in tests/cli/test_fused.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from fusion_replay.errors import MissingError, UsageError


def find_sequence(where: str) -> Any:
    """``FILE.py:NAME``, ``MODULE:NAME``, or a recording of a fused workload.

    Raises:
        UsageError: none of these, or what is named is no sequence.
        MissingError: the code can't be imported.
    """
    code, colon, name = where.rpartition(":")
    if not colon or not name.isidentifier():
        return _of_workload(where)
    module = _module(code)
    found = getattr(module, name, None)
    if found is None:
        raise UsageError(f"--fused {where}: {code} has no {name}")
    if callable(found) and not hasattr(found, "runlist"):
        found = found()
    found = getattr(found, "op", found)  # what get_callable() returned
    if not hasattr(found, "runlist"):
        raise UsageError(f"--fused {where}: expected a sequence (with a runlist), found {type(found).__name__}")
    return found


def _module(code: str) -> Any:
    try:
        if not code.endswith(".py"):
            return importlib.import_module(code)
        spec = importlib.util.spec_from_file_location(Path(code).stem, code)
        if spec is None or spec.loader is None or not Path(code).is_file():
            raise UsageError(f"--fused {code}: no such file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    except UsageError:
        raise
    except Exception as error:
        raise MissingError(f"--fused {code}: can't be imported ({type(error).__name__}: {error})") from error


def _of_workload(where: str) -> Any:
    from fusion_replay.simulator.workloads import find
    from fusion_replay.snapshot import open_snapshot

    if not Path(where).exists():
        raise UsageError(f"--fused {where}: expected FILE.py:NAME, MODULE:NAME, or a recording of a fused workload")
    with open_snapshot(where) as snapshot:
        recipe = snapshot.provenance.get("recipe")
    if not isinstance(recipe, dict) or recipe.get("options", {}).get("dispatch") != "fused":
        raise UsageError(
            f"--fused {where}: it is a recording of no fused workload; name the program's sequence, FILE.py:NAME"
        )
    run = find(recipe["workload"]).build(recipe["device"], recipe["faults"], recipe["options"])
    return run.callable.op


__all__ = ["find_sequence"]
