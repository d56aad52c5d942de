# SPDX-License-Identifier: Apache-2.0
"""What becomes of a sequence's dispatch mode under ``--separate``, in every form that IRON has had of it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from fusion_replay.sources.iron.watching import separate
from fusion_replay.sources.iron.watching.patches import Patches


def untold(sequence: Any, why: str, *, fused: bool) -> None:
    pass


class AutoDispatch:
    pass


class FusedDispatch:
    pass


class CompareDispatch:
    pass


def module(*classes: type, **more: Any) -> ModuleType:
    made = ModuleType("iron.common.sequence")
    for cls in classes:
        cls.__module__ = made.__name__
        setattr(made, cls.__name__, cls)
    vars(made).update(more)
    return made


def sequence() -> type:
    class OperatorSequence:
        def __init__(
            self, name: str, runlist: list[Any], buffer_sizes: Any = None, dispatch: Any = "auto", arena: Any = None
        ) -> None:
            if dispatch == "nonsense":
                raise TypeError("dispatch 'nonsense'")
            self.name, self.dispatch, self.arena = name, dispatch, arena

    return OperatorSequence


@pytest.mark.parametrize("given", ["auto", "fused", None, AutoDispatch(), FusedDispatch()])
def test_whole_dispatch_becomes_separate(given: Any) -> None:
    cls, patches = sequence(), Patches()
    separate.apply(module(cls), patches, untold)
    assert cls("s", [], dispatch=given).dispatch == "separate"
    assert cls("s", [], None, given).dispatch == "separate", "by position, too"
    assert cls("s", []).dispatch == "separate"
    patches.undo()
    assert cls("s", [], dispatch=given).dispatch is given


@pytest.mark.parametrize("given", ["separate", "compare", "reference", CompareDispatch()])
def test_what_shows_its_steps_stays(given: Any) -> None:
    cls = sequence()
    separate.apply(module(cls), Patches(), untold)
    assert cls("s", [], dispatch=given).dispatch is given


def test_a_shared_arena_needs_the_whole() -> None:
    cls = sequence()
    separate.apply(module(cls), Patches(), untold)
    assert cls("s", [], dispatch="fused", arena=object()).dispatch == "fused"


def test_errors_are_the_constructors_own() -> None:
    cls = sequence()
    separate.apply(module(cls), Patches(), untold)
    with pytest.raises(TypeError, match="nonsense"):
        cls("s", [], dispatch="nonsense")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'runlist'"):
        cls("s")


def test_the_class_before_pull_request_117_asks_for_the_device() -> None:
    class NPU2:
        pass

    class FusedMLIROperator:
        def __init__(self, name: str, runlist: list[Any], *args: Any, **kwargs: Any) -> None:
            pass

    device, patches = NPU2(), Patches()
    made = module(FusedMLIROperator, NPU2=NPU2)
    separate.apply(made, patches, untold)
    assert not isinstance(device, made.NPU2), "so it takes the chained xclbins"
    patches.undo()
    assert made.NPU2 is NPU2
