# SPDX-License-Identifier: Apache-2.0
"""Watches everything that IRON dispatches in this process, in whatever version, without a callable at hand.

Three places see all of it. Callables of sequences are the classes with ``get_buffer`` and ``__call__`` in
``iron/common/{fusion,sequence}.py`` and ``iron/common/image/callable.py``, and the software NPU's: each is attached
when it is called first.
Single operators end in ``run`` or ``load_and_run`` of a host runtime (Xilinx/mlir-aie
``python/utils/hostruntime/hostruntime.py``), where the arguments are in the order of the operator's arg spec. What
arrives there from inside a sequence is a step of it, and not looked at twice.

Classes are patched, never the object ``aie.utils.DefaultNPURuntime``: in some versions the mere look at it opens the
device.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from fusion_replay.errors import FusionReplayError, NotAttachableError
from fusion_replay.sources.iron.watching import separate
from fusion_replay.sources.iron.watching.after_import import AfterImport
from fusion_replay.sources.iron.watching.owner import Handles, Only
from fusion_replay.sources.iron.watching.patches import Patches, inside, nested
from fusion_replay.system.messages import say

if TYPE_CHECKING:
    from fusion_replay.sources.iron.operator_calls import OperatorCall, OperatorCalls
    from fusion_replay.sources.iron.source import IronSource
    from fusion_replay.sources.iron.whole_call import WholeCall
    from fusion_replay.sources.protocol import StepObserver, StepSource

_SOFTWARE = "fusion_replay.simulator.callable"
_CALLABLES = ("iron.common.fusion", "iron.common.sequence", "iron.common.image.callable", _SOFTWARE)
_SEQUENCES = ("iron.common.fusion", "iron.common.sequence", "iron.common.image.sequence")


class Host(Protocol):
    """Who records what is found; none of its methods raises into the program."""

    def observer(self) -> StepObserver:
        """A new observer of an operator, asked for when it is about to run."""

    def watch(self, source: StepSource) -> None:
        """Record this sequence from now on."""

    def unseen(self, kind: str, detail: str) -> None:
        """Something was dispatched that cannot be recorded."""

    def contain(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Our own failures in the body stop there."""


class AllDispatches:
    """Installed by :meth:`attach`, gone without a trace after :meth:`detach`.

    Args:
        separate_dispatch: sequences that are made from now on with ``auto`` or ``fused`` dispatch get ``separate``.
        whole_calls: a sequence whose steps can't be seen is recorded too, each call as one step.
        repeat_calls: how often each such call is made.
        only: a single operator, or what its ``get_callable()`` returned: nothing else is looked at.
    """

    def __init__(
        self, *, separate_dispatch: bool = False, whole_calls: bool = False, repeat_calls: int = 1, only: Any = None
    ) -> None:
        self._only = None if only is None else Only(only)
        self._separate = separate_dispatch
        self._whole_calls, self._repeats = whole_calls, repeat_calls
        self._patches = Patches()
        self._finder = AfterImport(_is_watched, self._imported)
        self._host: Host | None = None
        self.iron_seen = False
        self._handles = Handles()
        self._operators: OperatorCalls | None = None
        self._sources: weakref.WeakValueDictionary[int, IronSource] = weakref.WeakValueDictionary()
        self._whole: dict[int, WholeCall] = {}
        self._refused: dict[int, str] = {}
        self._fused: dict[int, str] = {}  # sequences that can't be given separate dispatch, and why

    def attach(self, host: Host) -> None:
        self._host = host
        self._finder.install()

    def detach(self) -> None:
        self._finder.remove()
        self._patches.undo()
        self._host = None
        self.forget()

    def settle(self) -> None:
        """The program ends: sources tell what they know by now and have not told."""
        for source in list(self._sources.values()):
            source.settle()

    def forget(self) -> None:
        """Let go of every callable, so that the next call attaches it anew (a forked child records for itself)."""
        watched: list[StepSource] = [*self._sources.values(), *self._whole.values()]
        for source in watched:
            source.detach()
        self._sources.clear()
        self._whole.clear()
        self._refused.clear()
        self._operators = None

    def claim(self, callable_: Any, source: Any) -> bool:
        """From now on ``source`` records ``callable_``, and not this; False where it is recorded here already."""
        if id(callable_) in self._sources:
            return False
        if hasattr(source, "handed_calls"):  # a whole call: its class is wrapped here already
            source.handed_calls()
            self._whole[id(callable_)] = source
            return True
        with contextlib.suppress(TypeError):  # a user's own source may allow no weak reference
            self._sources[id(callable_)] = source
        return True

    # --- patching -----------------------------------------------------------------------------------------------

    def _imported(self, module: ModuleType) -> None:
        host, name = self._host, module.__name__
        if host is None:
            return
        with host.contain(f"watching {name}"):
            self.iron_seen |= name != _SOFTWARE
            own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == name]
            for cls in own:
                if name in _CALLABLES and callable(getattr(cls, "get_buffer", None)):
                    self._patches.wrap(cls, "__call__", self._around_sequence)
                    self._patches.wrap(cls, "start", self._around_start)
                    self._patches.wrap(cls, "wait", self._around_wait)
                elif name in _CALLABLES and callable(getattr(cls, "bind_feedback", None)):
                    self._patches.wrap(cls, "start", self._around_lone_run)
                elif _is_runtime(name):
                    self._patches.wrap(cls, "load", self._around_load)
                    self._patches.wrap(cls, "run", self._around_run)
                    self._patches.wrap(cls, "load_and_run", self._around_load_and_run)
                    self._patches.wrap(cls, "run_chain", self._around_chain)
            if self._separate and name in _SEQUENCES:
                separate.apply(module, self._patches, self._stays_fused)

    def _around_sequence(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            host = self._host
            if host is None or nested() or self._only is not None:
                return original(this, *args, **kwargs)
            with host.contain(f"attaching to {type(this).__name__}"):
                self._sequence_called(host, this)
            run = functools.partial(original, this, *args, **kwargs)
            if (whole := self._whole.get(id(this))) is not None:
                return whole.around(run)
            with inside():
                return run()

        return call

    def _around_start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """``start(*runs)`` of a fused callable, which ``wait(*runs)`` ends: one call."""

        def start(this: Any, *runs: Any) -> Any:
            host = self._host
            if host is None or nested() or self._only is not None:
                return original(this, *runs)
            with host.contain(f"attaching to {type(this).__name__}"):
                self._sequence_called(host, this)
                whole = self._whole.get(id(this))
                if whole is not None and not whole.started():
                    name = whole.sequence.name
                    host.unseen("sequence", f"sequence {name}: started while its last start was under way, seen as one")
            with inside():
                return original(this, *runs)

        return start

    def _around_wait(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def wait(this: Any, *runs: Any) -> Any:
            whole = self._whole.get(id(this)) if self._host is not None and not nested() else None
            run = functools.partial(original, this, *runs)
            if whole is not None:
                return whole.waited(run)
            with inside():
                return run()

        return wait

    def _around_lone_run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start(this: Any, *args: Any, **kwargs: Any) -> Any:
            if self._host is not None and not nested() and self._only is None:
                name = getattr(this, "name", "?")
                why = "a run of new_run() was started by itself; only what goes through the callable can be recorded"
                self._host.unseen("sequence", f"sequence {name}: {why}")
            return original(this, *args, **kwargs)

        return start

    def _around_chain(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run_chain(this: Any, *args: Any, **kwargs: Any) -> Any:
            if self._host is not None and not nested() and self._only is None:
                kind = type(this).__name__
                self._host.unseen("dispatch", f"{kind}.run_chain() submits kernels at once, which is not supported")
            with inside():
                return original(this, *args, **kwargs)

        return run_chain

    def _around_load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(this: Any, kernel: Any, *args: Any, **kwargs: Any) -> Any:
            handle = original(this, kernel, *args, **kwargs)
            if self._host is not None:
                with self._host.contain("looking at a loaded kernel"):
                    self._handles.loaded(handle, kernel, sys._getframe(1))
            return handle

        return load

    def _around_run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(this: Any, handle: Any, args: Any, *rest: Any, **kwargs: Any) -> Any:
            host = self._host
            if host is None or nested():
                return original(this, handle, args, *rest, **kwargs)
            args = list(args)
            call: OperatorCall | None = None
            with host.contain("looking at a dispatch"):
                operator = self._handles.operator_of(handle, this)
                scalars = kwargs.get("dispatch_scalars")
                call = self._operator_called(host, operator, args, scalars, handle, this)
            return _watched(call, functools.partial(original, this, handle, args, *rest, **kwargs))

        return run

    def _around_load_and_run(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_and_run(this: Any, kernel: Any, run_args: Any, *rest: Any, **kwargs: Any) -> Any:
            host = self._host
            if host is None or nested() or getattr(kernel, "trace_config", None):
                # A traced run swaps its last tensor for a longer one: the run inside has the right ones.
                return original(this, kernel, run_args, *rest, **kwargs)
            call: OperatorCall | None = None
            with host.contain("looking at a dispatch"):
                operator = self._handles.owner(kernel, sys._getframe(1))
                scalars = kwargs.get("dispatch_scalars")
                call = self._operator_called(host, operator, list(run_args), scalars, kernel, this)
            return _watched(call, functools.partial(original, this, kernel, run_args, *rest, **kwargs))

        return load_and_run

    # --- what was called ----------------------------------------------------------------------------------------

    def _stays_fused(self, sequence: Any, why: str, *, fused: bool) -> None:
        """A sequence that was to dispatch step by step does so, or else can't, and ``why``."""
        name = getattr(sequence, "name", type(sequence).__name__)
        if fused:
            self._fused[id(sequence)] = why
            with contextlib.suppress(TypeError):
                weakref.finalize(sequence, self._fused.pop, id(sequence), None)
        else:
            say(f"sequence {name}: {why}")

    def _sequence_called(self, host: Host, callable_: Any) -> None:
        key = id(callable_)
        if key in self._sources or key in self._whole:
            return
        if key in self._refused:
            host.unseen("sequence", self._refused[key])
            return
        from fusion_replay.sources.iron.source import IronSource

        try:
            source = IronSource(callable_)
        except FusionReplayError as error:
            if self._whole_calls and isinstance(error, NotAttachableError):
                self._watch_whole(host, callable_)
                return
            name = getattr(getattr(callable_, "op", None), "name", type(callable_).__name__)
            why = self._fused.get(id(getattr(callable_, "op", None)))
            self._refused[key] = f"sequence {name}: {error if why is None else why}"
            with contextlib.suppress(TypeError):
                weakref.finalize(callable_, self._refused.pop, key, None)
            host.unseen("sequence", self._refused[key])
            return
        host.watch(source)
        self._sources[key] = source  # the callable's own plan keeps it alive, no longer than the callable

    def _watch_whole(self, host: Host, callable_: Any) -> None:
        from fusion_replay.sources.iron.whole_call import WholeCall

        source = WholeCall(callable_, hooked=True, repeats=self._repeats)
        with contextlib.suppress(TypeError):
            weakref.finalize(callable_, self._whole.pop, id(callable_), None)
        host.watch(source)
        self._whole[id(callable_)] = source

    def _operator_called(
        self, host: Host, operator: Any, args: list[Any], scalars: Any, handle: Any, runtime: Any
    ) -> OperatorCall | None:
        if self._only is not None:
            if not self._only.means(operator, handle, runtime):
                return None
            operator = self._only.operator
        if operator is None:
            words = self._handles.words(handle)
            host.unseen("dispatch", f"kernel {words}: no operator is known for it, so its arguments have no names")
            return None
        if self._operators is None:
            from fusion_replay.sources.iron.operator_calls import OperatorCalls

            self._operators = OperatorCalls(host.observer)
        return self._operators.begin(operator, args, scalars or {}, handle)


def _watched(call: OperatorCall | None, dispatch: Callable[[], Any]) -> Any:
    """Run the dispatch, telling ``call`` how it ended; what it raises passes unchanged."""
    with inside():
        if call is None:
            return dispatch()
        try:
            result = dispatch()
        except BaseException as error:
            call.failed(error)
            raise
        call.finished(result)
        return result


def _is_watched(name: str) -> bool:
    return name in _CALLABLES or name in _SEQUENCES or _is_runtime(name)


def _is_runtime(name: str) -> bool:
    return name.startswith("aie.utils.hostruntime.") and name.endswith(".hostruntime")


__all__ = ["AllDispatches", "Host"]
