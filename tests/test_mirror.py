# SPDX-License-Identifier: Apache-2.0
"""Every module has a test file of its name, or it is said where it is tested.

``fusion_replay/ROOM/x.py`` is tested in ``tests/ROOM/test_x.py`` (leading underscores dropped), or where the module's
own first text says so ("Tested in tests/..."), or where the table below does.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from test_layers import MODULES, PACKAGE, ROOT, SOURCES, graph_of, imports

TESTS = Path(__file__).parent

# A test file in tests/, and the modules of the room that it tests although it has not their name.
TABLE: dict[str, dict[str, str]] = {
    "": {
        "replaying/test_replay": "errors replay",
    },
    "cli": {
        "cli/test_bad_input": "record",
        "cli/test_golden": "golden_files",
        "golden/test_team": "golden_team",
        "cli/test_next": "fsck operators",
        "cli/test_reference_choices": "imports",
        "cli/test_user_operators": "template",
        "cli/test_weights": "bisect",
        "diverge/test_attribution": "attribution",
        "integration/test_commands": "progress",
        "integration/test_matrix_goldens": "record_matrix",
        "integration/test_readme": "demo",
    },
    "compare": {"compare/test_deviation": "blocks", "compare/test_verdict": "rules"},
    "diverge": {
        "diverge/test_bisect": "array_chains hybrid",
        "diverge/test_consistency": "operands",
        "diverge/test_diff": "changes diff_report diff_text difference effects pairwise",
        "diverge/test_explain": "explanation limits rounding",
        "diverge/test_changed_sides": "environment",
        "diverge/test_causes": (
            "causes.arithmetic causes.case causes.contents causes.formulas causes.kernel causes.parts causes.places "
            "causes.search causes.spans causes.values causes.variants causes.integers causes.products causes.rows"
        ),
    },
    "oracle": {
        "oracle/test_layout": "layouts",
        "oracle/test_mapping": "find map_file match places",
        "oracle/test_judge": "causes changes exact stretch",
    },
    "export": {
        "export/test_formats": "api arrays jsonl npz plain result safetensors snapshot target",
        "export/test_issue": "redact",
    },
    "golden": {
        "golden/pytest/test_plugin": (
            "github pytest.device pytest.fixture pytest.items pytest.record pytest.settings pytest.tally pytest.update"
        ),
        "cli/test_golden": "junit",
        "golden/test_check": "check_report moves problems",
        "golden/test_document": "fields tolerances",
        "golden/test_fetching": "store",
        "golden/test_golden_matrix": "matrix",
        "golden/test_recipes": "add",
        "golden/test_team": "merge",
        "golden/test_review_and_lint": "lint pending project review",
    },
    "model": {
        "export/test_formats": "safetensors_head",
        "recording/test_retention": "withheld",
        "snapshot/test_roundtrip": "runlist",
    },
    "operators": {"operators/test_operators": "evaluation spec"},
    "recording": {"integration/test_record_program": "site.sitecustomize"},
    "refs": {
        "refs/test_activation": "arithmetic.activation gelu silu",
        "refs/test_elementwise": "elementwise_add elementwise_mul relu",
        "refs/test_fused": ("flowkv_decode fused_dequant_gemv fused_qkv_proj pointwise silu_mul swiglu_fused_decode"),
        "refs/test_matmul": "_dtypes _epilogue arithmetic.products arithmetic.sums gemm gemv",
        "refs/test_movement": "_walk repeat strided_copy transpose",
        "refs/test_norm": "layer_norm rms_norm weighted_rms_norm",
        "refs/test_sample": "arithmetic.exp64",
        "refs/test_swiglu": "swiglu_decode swiglu_prefill",
        "refs/test_unary": "leaky_relu mem_copy",
        "refs/test_unary_patterns": "sigmoid tanh",
        "refs/test_user": "_catalogue _registered",
    },
    "replaying": {
        "model/test_notebook": "frames",
        "replaying/redispatch/test_parts": (
            "redispatch.attempt_log redispatch.binaries redispatch.memory redispatch.outcome redispatch.repetition"
        ),
        "replaying/redispatch/test_redispatch": "redispatch.redispatch_report redispatch.run redispatch.targets",
        "replaying/test_replay": "judge outcome replay_report replayer table",
    },
    "report": {
        "cli/test_oracle": "oracle",
        "diverge/test_attribution": "attribution",
        "diverge/test_bisect": "divergence",
        "snapshot/test_notes": "step_view",
    },
    "simulator": {
        "replaying/redispatch/test_redispatch": "alone",
        "simulator/kernels/test_activation": "kernels.lut",
        "simulator/kernels/test_attention": "kernels.gqa kernels.mha",
        "simulator/kernels/test_conv_dual": "kernels.conv kernels.dual_gemv",
        "simulator/kernels/test_elementwise": "kernels._base",
        "simulator/kernels/test_fused": "kernels.flowkv kernels.pointwise",
        "simulator/kernels/test_gemm": "kernels.bfp16",
        "simulator/kernels/test_sample_emit": "kernels.emit kernels.sample",
        "simulator/test_callable": "device errors kernel operators",
        "simulator/test_faults": "faults.catalogue faults.kind faults.outputs faults.runtime",
        "simulator/test_tensor": "memory",
        "simulator/workloads/test_llama": "workloads.llama_config",
        "simulator/workloads/test_llama_prompt": "workloads.llama_prefill",
        "simulator/workloads/test_matrix": "workloads.matrix_sequences",
        "simulator/workloads/test_minilm": "workloads.minilm_model workloads.minilm_runlist",
        "simulator/workloads/test_op": "workloads.draws",
    },
    "snapshot": {
        "model/test_notebook": "frames",
        "snapshot/seal/test_subset": "binaries",
    },
    "sources": {
        "integration/test_record_program": "iron.run_single",
        "replaying/redispatch/test_parts": "protocol xrt",
        "replaying/test_installed": "iron.own_reference",
        "sources/iron/test_binaries": "device_files",
        "sources/iron/test_source": "describe iron.variant",
        "sources/iron/test_variants": "iron.compare_mode iron.hook_point",
        "sources/iron/watching/test_all_dispatches": "iron.operator_calls iron.watching.owner",
        "sources/iron/watching/test_separate": "iron.watching.patches",
    },
}

WHERE = {
    f"{PACKAGE}.{room}.{name}".replace("..", "."): f"{test}.py"
    for room, tests in TABLE.items()
    for test, names in tests.items()
    for name in names.split()
}


DYNAMIC = {f"{PACKAGE}.refs": f"{PACKAGE}.refs"}
"""Packages that import modules by names that they find: of which package."""


def mirror(module: str) -> Path:
    path = MODULES[module].relative_to(ROOT)
    return TESTS / path.parent / f"test_{path.stem.lstrip('_')}.py"


def said(module: str) -> list[str]:
    """Test files that the module's own docstring names."""
    text = ast.get_docstring(ast.parse(SOURCES[module])) or ""
    return re.findall(r"\btests/(\S+\.py)\b", text)


@cache
def graph() -> dict[str, set[str]]:
    return graph_of(SOURCES)


@cache
def reached(path: Path) -> frozenset[str]:
    """Modules of the package that run when this test file does, as far as imports tell; by a verb or ``fr`` all may."""
    source = path.read_text("utf-8")
    if re.search(rf"\bfr\.|\brun\(|\bcommand\(|\"{PACKAGE}\"|{PACKAGE}\.__main__|{PACKAGE}\.golden\.pytest", source):
        return frozenset(MODULES)
    tree, todo, seen = ast.parse(source), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.module.startswith(PACKAGE):
            helper = TESTS / f"{node.module.replace('.', '/')}.py"
            seen |= reached(helper) if helper.is_file() else set()
    todo += [m for m in imports(tree) if m in MODULES]
    while todo:
        module = todo.pop()
        if module in DYNAMIC:
            todo += [m for m in MODULES if m.startswith(f"{DYNAMIC[module]}.")]
        if module not in seen:
            seen.add(module)
            todo += [m for m in graph()[module] if m in MODULES]
    return frozenset(seen)


def nowhere(module: str) -> str:
    """What is wrong with where the module is tested; "" where nothing is."""
    if mirror(module).exists():
        return f"{module}: has {mirror(module).name}; take it off the table" if module in WHERE else ""
    named = said(module)
    if module in WHERE:
        if named:
            return f"{module}: says it itself; take it off the table"
        named = [WHERE[module]]
    if not named:
        return f"{module}: expected {mirror(module).relative_to(TESTS.parent)}, or a line in tests/test_mirror.py"
    for name in named:
        if not (TESTS / name).is_file():
            return f"{module}: tests/{name} is no test file"
        if module not in reached(TESTS / name):
            return f"{module}: tests/{name} does not run it"
    return ""


@pytest.mark.parametrize("module", sorted(m for m in MODULES if MODULES[m].stem not in ("__init__", "__main__")))
def test_it_is_known_where_a_module_is_tested(module: str) -> None:
    assert nowhere(module) == ""


def test_the_table_names_modules_that_there_are() -> None:
    assert sorted(set(WHERE) - set(MODULES)) == []


def test_what_is_found_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"{PACKAGE}.compare.rules"
    monkeypatch.delitem(WHERE, module)
    assert nowhere(module).startswith(f"{module}: expected tests/compare/test_rules.py, or a line")
    monkeypatch.setitem(WHERE, module, "compare/test_nothing.py")
    assert nowhere(module) == f"{module}: tests/compare/test_nothing.py is no test file"
    monkeypatch.setitem(WHERE, module, "model/test_bf16.py")
    assert nowhere(module) == f"{module}: tests/model/test_bf16.py does not run it"
    monkeypatch.setitem(WHERE, f"{PACKAGE}.compare.verdict", "compare/test_verdict.py")
    assert nowhere(f"{PACKAGE}.compare.verdict").endswith("take it off the table")
