# SPDX-License-Identifier: Apache-2.0
"""docs/operators.md says what the catalogue says, and every operator of it says where it was read."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fusion_replay.model.runlist import OperatorDescription
from fusion_replay.operators import FLAVOURS, OperatorSpec
from fusion_replay.refs import coverage
from fusion_replay.refs import specs as all_specs
from fusion_replay.simulator.workloads.op import DEFAULTS

ROOT = Path(__file__).parents[2]
SPECS = {spec.type: spec for spec in all_specs()}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operators_doc", ROOT / "scripts" / "operators_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_catalogue(script: ModuleType) -> None:
    assert (ROOT / "docs" / "operators.md").read_text() == script.page(), "stale: run scripts/operators_doc.py"


def test_every_operator_of_irons_newest_catalogue_is_here() -> None:
    # amd/IRON iron/operators/__init__.py (073bacfb), and those that were in it before.
    newest = """AXPY Clamp DepthwiseConv1d Dequant ElementwiseAdd ElementwiseMul Emit GELU GEMM GEMV GQAContext
        LayerNorm LeakyReLU MHA ReLU RMSNorm Repeat RoPE Sample Sigmoid SiLU Softmax Copy Tanh Transpose"""
    before = "StridedCopy MemCopy DualGEMVSiLUMul SwiGLUDecode SwiGLUPrefill WeightedRMSNorm"
    # 50e35ad9 of the same file, March 2026, and a fork's.
    fused = "SiLUMul FusedDequantGEMV FusedQKVProj SwiGLUFusedDecode FlowKVDecode Pointwise"
    assert set(SPECS) == {*newest.split(), *before.split(), *fused.split()}


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_every_operator_answers_every_flavour_and_names_its_sources(spec: OperatorSpec) -> None:
    assert "exact" in spec.flavours
    assert all(callable(spec.flavour(name)[1]) for name in FLAVOURS)
    assert spec.source.startswith("amd/IRON iron/operators/")
    assert spec.summary
    for device in spec.devices:
        assert spec.tolerance_for(device).source


@pytest.mark.parametrize("op", SPECS)
def test_the_matrix_says_what_the_reference_was_made_for(script: ModuleType, op: str) -> None:
    rows = [line.split(" | ") for line in script.page().splitlines() if line.startswith(f"| {op} | ")]
    (row,) = [cells for cells in rows if "iron.operators.flm" not in cells[1]]
    module, fields = row[1].strip("`"), re.findall("`(.*?)`", row[2])
    params = DEFAULTS[op]
    described = OperatorDescription(op, params, module, given=tuple(fields))
    assert coverage(described).spec is SPECS[op]
    assert coverage(replace(described, module=f"{module}.op")).spec is SPECS[op]
    assert coverage(replace(described, module="iron.operators.flm.gemm.op")).spec is None
    unknown = replace(described, params={**params, "new_field": 1}, given=(*fields, "new_field"))
    assert coverage(unknown).why.endswith("its field new_field=1 is not known")
    silu = {"type": "SiLU", "module": "iron.operators.silu", "params": {"size": 8}, "given": ["size"]}
    folded = replace(described, params={**params, "finish": [{"op": silu, "at": 0}]}, given=(*fields, "finish"))
    assert (coverage(folded).spec is not None) == ("`finish`" in row[4])


def test_the_page_names_parameters_limits_and_defects(script: ModuleType) -> None:
    page = script.page()
    for spec in SPECS.values():
        section = page.partition(f"\n## {spec.type}\n")[2].partition("\n## ")[0]
        assert all(f"| `{p.name}` |" in section for p in spec.params)
        assert all(defect in section for defect in spec.defects)
        assert all(str(spec.tolerance_for(device)) in section for device in spec.devices)
    assert "- Clamp: what the core's min and max make of NaN" in page.partition("## Not established")[2]
