# SPDX-License-Identifier: Apache-2.0
"""Finds where the steps of a callable can be hooked by what it offers, or says why they cannot.

Every form since amd/IRON pull request 117 keeps its prepared steps in a list: ``_execution_plan`` of
``(kernel, tensors)`` (``iron/common/sequence.py``), later ``_steps`` of ``(operator, kernel, names, tensors)``
(``iron/common/image/callable.py``). Each entry's kernel is replaced by a proxy. The HRX fork's plan holds handles that
its runtime takes all at once (``run_chain``); its ``_run_step`` dispatches one of them, and is used instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from fusion_replay.errors import NotAttachableError
from fusion_replay.sources.iron.tensor import is_readable

PLANS = {"_steps": 1, "_execution_plan": 0}
"""Where a callable keeps its prepared steps, newest form first, and the kernel's place in an entry."""

Dispatch = Callable[[int, Any, Sequence[Any], dict[str, Any]], Any]
"""Runs a step: its number, the real kernel, tensors, scalars."""


class Hook(Protocol):
    steps: int

    def install(self, dispatch: Dispatch) -> None: ...

    def remove(self) -> None: ...


class PlanHook:
    """Proxies in place of the kernels of the prepared steps. A list that is rebuilt keeps them in its new entries."""

    def __init__(self, callable_: Any, name: str) -> None:
        self._callable, self._name = callable_, name
        self._originals: dict[int, tuple[Any, Any]] = {}  # id of our entry -> (our entry, the entry it replaced)
        self.steps = len(self._plan)

    @property
    def _plan(self) -> list[Any]:
        plan: list[Any] = getattr(self._callable, self._name)
        return plan

    def install(self, dispatch: Dispatch) -> None:
        place, plan = PLANS[self._name], self._plan
        for index, entry in enumerate(plan):
            proxy = KernelProxy(entry[place], self, dispatch, index)
            ours = (*entry[:place], proxy, *entry[place + 1 :])
            self._originals[id(ours)] = (ours, entry)
            plan[index] = ours

    def remove(self) -> None:
        place, plan = PLANS[self._name], self._plan
        for index, entry in enumerate(plan):
            if id(entry) in self._originals:
                plan[index] = self._originals[id(entry)][1]
            elif type(entry[place]) is KernelProxy and _get(entry[place], "_hook") is self:
                plan[index] = (*entry[:place], _get(entry[place], "_kernel"), *entry[place + 1 :])
        self._originals.clear()


class KernelProxy:
    """Stands for a kernel object in a prepared step: same class to ``isinstance``, same attributes, both ways."""

    __slots__ = ("_dispatch", "_hook", "_kernel", "_step")

    def __init__(self, kernel: Any, hook: PlanHook, dispatch: Dispatch, step: int) -> None:
        object.__setattr__(self, "_kernel", kernel)
        object.__setattr__(self, "_hook", hook)
        object.__setattr__(self, "_dispatch", dispatch)
        object.__setattr__(self, "_step", step)

    def __call__(self, *tensors: Any, **scalars: Any) -> Any:
        return _get(self, "_dispatch")(_get(self, "_step"), _get(self, "_kernel"), tensors, scalars)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_kernel"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_kernel"), name, value)

    def __repr__(self) -> str:
        return repr(_get(self, "_kernel"))


def _get(proxy: KernelProxy, slot: str) -> Any:
    return object.__getattribute__(proxy, slot)


class HandleHook:
    """``_run_step`` and ``_run`` of one callable whose plan holds handles.

    Its ``_run`` hands the whole plan to the runtime as one chain, in which no step can be seen; while it is watched it
    runs step by step through its own ``_run_step``, as it does in compare mode.
    """

    def __init__(self, callable_: Any) -> None:
        self._callable = callable_
        self._ours: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self.steps = len(callable_._execution_plan)

    def install(self, dispatch: Dispatch) -> None:
        one = self._callable._run_step

        def run_step(index: int, handle: Any, tensors: Sequence[Any], step: Any) -> Any:
            return dispatch(index, lambda *_, **__: one(index, handle, tensors, step), tensors, {})

        self._replace("_run_step", run_step)
        code = getattr(getattr(type(self._callable), "_run", None), "__code__", None)
        if code is not None and "_run_step" not in code.co_names:
            self._replace("_run", partial(_step_by_step, self._callable))

    def remove(self) -> None:
        mine = vars(self._callable)
        for name, ours in self._ours.items():
            if mine.get(name) is not ours:
                continue  # another wrapper is around ours by now, which only passes calls through
            if name in self._before:
                mine[name] = self._before[name]
            else:
                del mine[name]
        self._ours, self._before = {}, {}

    def _replace(self, name: str, ours: Any) -> None:
        mine = vars(self._callable)
        if name in mine:
            self._before[name] = mine[name]
        self._ours[name] = mine[name] = ours


def _step_by_step(callable_: Any) -> None:
    for index, ((handle, tensors), step) in enumerate(
        zip(callable_._execution_plan, callable_._iter_steps(), strict=True)
    ):
        callable_._run_step(index, handle, tensors, step)


def find_hook(callable_: Any) -> Hook:
    """The way to watch its steps.

    Raises:
        NotAttachableError: there is none; the message says what the object is and what to do.
    """
    kind = type(callable_).__name__
    _check_callable(callable_, kind)
    name = next((name for name in PLANS if isinstance(getattr(callable_, name, None), list)), None)
    if name is None:
        raise NotAttachableError(_whole_runlist(callable_, kind))
    entries = getattr(callable_, name)
    blind = next((t for entry in entries for t in entry[-1] if not is_readable(t)), None)
    if blind is not None:
        raise NotAttachableError(
            f"{kind}: its {type(blind).__name__} has no numpy(), the only read that leaves a buffer as it is; "
            "use IRON from pull request 117 on"
        )
    kernels = [entry[PLANS[name]] for entry in entries]
    if all(callable(k) for k in kernels):
        return PlanHook(callable_, name)
    if all(k is not None for k in kernels) and hasattr(callable_, "_run_step"):
        return HandleHook(callable_)
    raise NotAttachableError(
        f"{kind} evaluates references and dispatches nothing; build the sequence with dispatch='separate'"
    )


def _check_callable(callable_: Any, kind: str) -> None:
    if hasattr(callable_, "runlist") and hasattr(callable_, "get_callable"):
        raise NotAttachableError(
            f"{kind} {getattr(callable_, 'name', '')!r} is a sequence, not its callable; "
            "record what its get_callable() returns"
        )
    if hasattr(callable_, "get_arg_spec") or not hasattr(getattr(callable_, "op", None), "runlist"):
        raise NotAttachableError(
            f"{kind} cannot be recorded step by step; expected the callable of an IRON OperatorSequence "
            "(get_callable(), dispatch='separate'), found no runlist; for anything else use rec.step(...)"
        )
    if not hasattr(callable_.op, "subbuffer_layout"):
        raise NotAttachableError(
            f"{kind}: sequence {getattr(callable_.op, 'name', '')!r} was never compiled; "
            "call compile() on it and record what get_callable() returns"
        )


def _whole_runlist(callable_: Any, kind: str) -> str:
    """Why a callable without prepared steps cannot be watched, with the way out that its IRON has."""
    seen = f"{kind} runs its whole runlist without separate dispatches"
    sequence = callable_.op
    if hasattr(callable_, "patch_rtp") or hasattr(sequence, "_calculate_buffer_layout"):
        # amd/IRON iron/common/fusion.py: the class itself picks full ELF (NPU2) or xclbin, the caller has no say
        return (
            f"{seen} (one dispatch of the whole, from before amd/IRON pull request 117), so no step can be seen; "
            "update IRON to pull request 117 or later and build an OperatorSequence with dispatch='separate'"
        )
    mode = getattr(sequence, "mode", None)
    known = f"mode {mode!r}" if isinstance(mode, str) else "fused or reference mode"
    return (
        f"{seen} ({known}), so no step can be seen; build the sequence with dispatch='separate', "
        "or run the program by: fusion-replay record --separate python APP.py"
    )


__all__ = ["HandleHook", "Hook", "KernelProxy", "PlanHook", "find_hook"]
