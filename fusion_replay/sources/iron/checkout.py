# SPDX-License-Identifier: Apache-2.0
"""Which form of IRON is installed, read off its source without importing it: an import may open the device.

The names that decide are those of :mod:`.iron_variant`, which looks at live callables; here they are definitions,
parameters and attributes in three files. What each form allows is a table, for ``doctor``.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Checkout:
    """An installed IRON.

    Attributes:
        form: label as in docs/iron.md ("V3"); "unknown" where none of the files is like any known one.
        evidence: file and names that say so.
        allows: what recording can do with it, in words.
        recordable: whether its steps can be seen at all.
    """

    form: str
    evidence: str
    allows: str
    recordable: bool


_SEPARATE = "steps with dispatch='separate' on every NPU"
_COMPARE = "IRON's own figures with dispatch='compare'"
_FIXED = "per-call values (cache offset, softmax length) reach fused dispatch only"
_POLICY = "fr.RecordingDispatch"

_ALLOWS = {
    "V0a": "whole calls only (--whole-calls): one kernel runs the runlist; update to pull request 117 or later",
    "V0b": f"steps on NPU1, which it runs as chained xclbins (NPU2 runs fused); {_FIXED}",
    "V1": f"{_SEPARATE}; {_COMPARE}; {_FIXED}",
    "V1b": f"{_SEPARATE}; {_COMPARE}; {_FIXED}",
    "V2": f"{_SEPARATE}; {_COMPARE}; {_POLICY}; {_FIXED}",
    "V2h": f"{_SEPARATE}, run one by one while recorded; {_COMPARE}; {_POLICY}; {_FIXED}",
    "V3": f"{_SEPARATE}; {_COMPARE}; {_POLICY}; {_FIXED}",
    "V3'": f"{_SEPARATE}; {_COMPARE}; {_POLICY}; {_FIXED}",
    "V4": f"{_SEPARATE}; {_COMPARE}; {_FIXED}",
    "V5": f"{_SEPARATE}; {_COMPARE}; per-call values",
    "V6": f"{_SEPARATE}; {_COMPARE} (max_abs only); per-call values",
}


def examine(package: Path) -> Checkout:
    """The form of the package at ``package`` (the folder ``iron`` that holds ``common``)."""
    common = package / "common"
    for file, tell in (
        ("image/callable.py", _of_image),
        ("sequence.py", _of_sequence),
        ("fusion.py", _of_fusion),
    ):
        names = _names(common / file)
        if names and (found := tell(names)):
            form, evidence = found
            seen = f"common/{file}: {', '.join(evidence)}"
            return Checkout(form, seen, _ALLOWS[form], form != "V0a")
    return Checkout("unknown", f"none of the known forms in {common.name}/", "try: fr.record(path, callable)", False)


Found = tuple[str, tuple[str, ...]] | None


def _of_image(names: set[str]) -> Found:
    if {"StepCallable", "_steps"} <= names:
        return "V6", ("StepCallable", "_steps")
    if "_execution_plan" in names:
        return "V5", ("_execution_plan",)
    return None


def _of_sequence(names: set[str]) -> Found:
    if "OperatorSequence" not in names:
        return None
    if "SequenceDispatch" in names:
        if "set_up_artifacts" not in names:
            return "V3'", ("SequenceDispatch", "no set_up_artifacts")
        if "run_chain" in names:
            return "V2h", ("SequenceDispatch", "run_chain")
        if "plan_scratch" in names:
            return "V3", ("SequenceDispatch", "plan_scratch")
        return "V2", ("SequenceDispatch",)
    if "_MODES" in names:
        return "V4", ("_MODES",)
    if "_iter_steps" in names:
        return "V1b", ("_iter_steps", "no SequenceDispatch")
    return "V1", ("OperatorSequence", "no _iter_steps")


def _of_fusion(names: set[str]) -> Found:
    if "FusedMLIROperator" not in names:
        return None
    if "_execution_plan" in names:
        return "V0b", ("FusedMLIROperator", "_execution_plan")
    return "V0a", ("FusedMLIROperator", "no _execution_plan")


def _names(path: Path) -> set[str]:
    """Every class, function, parameter, variable and attribute that the file names; empty where there is none."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.arg(arg=name) | ast.Attribute(attr=name) | ast.Name(id=name):
                found.add(name)
    return found


__all__ = ["Checkout", "examine"]
