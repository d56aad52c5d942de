# SPDX-License-Identifier: Apache-2.0
"""Installing this package into the environment that IRON asks for moves no version that is there."""

from __future__ import annotations

from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

IRON_HAS = {
    "numpy": "1.26.0",  # Xilinx/mlir-aie python/requirements.txt: >=1.19.5, <=1.26
    "ml-dtypes": "0.4.0",  # the same file, without a version; the newest that goes with numpy 1.26 on all Pythons
    "rich": "13.7.0",  # likewise
}
"""What an environment after amd/IRON ``requirements.txt`` has and we need too, with a version it may have."""
IRONS_OWN = {"mlir-aie", "llvm-aie", "torch", "pytest", "pytest-xdist", "black", "reuse", "iron", "pyxrt"}


def core() -> list[Requirement]:
    found = [Requirement(text) for text in requires("fusion-replay") or []]
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]


def name(requirement: Requirement) -> str:
    return requirement.name.lower().replace("_", "-")


def test_only_lower_bounds() -> None:
    assert len(core()) > 5
    for requirement in core():
        assert [s.operator for s in requirement.specifier] == [">="], f"{requirement} could move a version down"
        assert requirement.url is None


def test_what_iron_pins_is_not_asked_for() -> None:
    assert not {name(r) for r in core()} & IRONS_OWN


@pytest.mark.parametrize("package", IRON_HAS)
def test_what_is_there_is_enough(package: str) -> None:
    (requirement,) = [r for r in core() if name(r) == package]
    assert requirement.specifier.contains(IRON_HAS[package]), f"{requirement} would replace {IRON_HAS[package]}"
