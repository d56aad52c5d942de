# SPDX-License-Identifier: Apache-2.0
"""The doubles have what IRON's classes of today have, or it is said why not; what is new there is noticed."""

from __future__ import annotations

import pytest

from iron_doubles.surface import DOUBLES, REAL, WITHOUT, doubled, news, without


@pytest.mark.parametrize("kind", REAL)
def test_every_attribute_is_in_a_double_or_has_a_reason_not_to_be(kind: str) -> None:
    real = set(REAL[kind].split())
    assert real - doubled(kind) - without(kind) == set()
    assert without(kind) <= real - doubled(kind), "a reason for what is not there, or is in a double by now"
    assert set(WITHOUT) <= set(DOUBLES) == set(REAL)


def test_an_attribute_of_the_real_form_that_no_double_has_is_noticed() -> None:
    names = REAL["StepCallable"].split()
    methods = [n for n in names if n.startswith(("get_", "__"))]
    same = "class StepCallable:\n    FALLBACK_TOLERANCE: object = None\n" + "".join(
        f"    def {name}(self):\n        self.op = 1\n" for name in methods
    )
    assert news({"image/callable.py": same}) == {}
    added = same.replace("self.op = 1", "self.op, self._plans = 1, []\n        self._graph: object = None") + (
        "    def submit(self):\n        pass\n\n\nclass Other:\n    x = 1\n"
    )
    assert news({"image/callable.py": added}) == {"StepCallable": {"_plans", "_graph", "submit"}}
