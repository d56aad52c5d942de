# SPDX-License-Identifier: Apache-2.0
"""``--reference stored``, ``--reference installed``, ``--array``, ``record --with-reference`` as typed."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def sigmoid(run, tmp_path: Path) -> Path:
    target = tmp_path / "sigmoid.h5"
    words = ("--workload", "op:Sigmoid", "--sim", "npu2", "--param", "size=4096", "--with-reference", "-o", target)
    assert run("record", *words).status == 0
    return target


def test_stored_references_are_judged_against(run, sigmoid: Path) -> None:
    result = run("replay", sigmoid, "--reference", "stored")
    assert result.status == 0
    assert "reference stored" in result.out


def test_a_recording_without_them(run, good: Path) -> None:
    result = run("replay", good, "--reference", "stored")
    assert result.status == 4
    assert "no reference was stored with it" in result.err


def test_installed_says_what_to_install(run, good: Path) -> None:
    result = run("replay", good, "--reference", "installed")
    assert result.status == 4
    assert "https://github.com/amd/IRON" in result.err


@pytest.mark.parametrize(("option", "value"), [("--reference", "newest"), ("--array", "jax")])
def test_unknown_choices_are_usage_errors(run, good: Path, option: str, value: str) -> None:
    result = run("replay", good, option, value)
    assert result.status == 2
    assert f"'{value}': expected one of" in result.err


@pytest.mark.torch
def test_torch_computes_the_same_report(run, sigmoid: Path) -> None:
    pytest.importorskip("torch")
    plain, torch = (run("replay", sigmoid, "--json", "--array", array) for array in ("numpy", "torch"))
    assert plain.status == torch.status == 0
    assert plain.out == torch.out


def test_the_matrix_takes_no_such_option(run, tmp_path: Path) -> None:
    assert run("record", "--matrix", "--with-reference", "-o", tmp_path).status == 2
