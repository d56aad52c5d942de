# SPDX-License-Identifier: Apache-2.0
"""A callable whose steps can't be seen, recorded as one step: what went in by ``input_args``, what came out.

Fused dispatch runs the whole runlist as one full ELF, and the form before amd/IRON pull request 117 as one kernel.
Nothing inside can be judged, but two recordings of it can be compared. Weights and caches lie in the scratch arena,
which the device may have written since the host last looked (``iron/common/image/callable.py``, ``_sync_outputs``
brings the output arena alone): they are left out, and the sequence's caution says so.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy.typing as npt

from fusion_replay.errors import NotAttachableError
from fusion_replay.model.arrays import numpy_dtype
from fusion_replay.model.runlist import (
    DTYPE_BYTES,
    WHOLE_CALL,
    ArgSpec,
    BufferDescription,
    Direction,
    OperandUse,
    OperatorDescription,
    SequenceDescription,
    StepDescription,
)
from fusion_replay.sources.describe import describe_sequence
from fusion_replay.sources.iron.tensor import host_bytes
from fusion_replay.sources.iron.variant import origin_of
from fusion_replay.sources.iron.watching.patches import Patches, inside, nested
from fusion_replay.sources.protocol import StepObserver, StepResult

OPERATOR = "OperatorSequence"


class WholeCall:
    """A :class:`~fusion_replay.sources.protocol.StepSource` of one step per call.

    :meth:`attach` wraps the ``__call__`` of the callable's class, for this one object; who has wrapped it already
    leaves that out (``hooked=True``) and hands each call to :meth:`around`.

    Raises:
        NotAttachableError: no compiled sequence stands behind it, or its buffers can't be had by name.
        RunlistError: the runlist contradicts its operators or buffers.
    """

    def __init__(self, callable_: Any, *, hooked: bool = False) -> None:
        kind = type(callable_).__name__
        if not hasattr(getattr(callable_, "op", None), "subbuffer_layout") or not hasattr(callable_, "get_buffer"):
            raise NotAttachableError(
                f"{kind} cannot be recorded as a whole call; expected what get_callable() of a compiled sequence "
                "returns (with op and get_buffer); for anything else use rec.step(...)"
            )
        self._callable = weakref.ref(callable_)  # a program may drop it, arenas and all, while we record
        self._hooked = hooked
        self._patches = Patches()
        self._observer: StepObserver | None = None
        self._under_way: _LiveCall | None = None
        self.sequence = _as_one_step(describe_sequence(callable_.op, origin_of(callable_)))

    def attach(self, observer: StepObserver) -> None:
        self.detach()
        self._observer = observer
        if not self._hooked:
            owner = next(c for c in type(self._callable()).__mro__ if "__call__" in vars(c))
            self._patches.wrap(owner, "__call__", self._wrapped)

    def detach(self) -> None:
        self._observer = None
        self._patches.undo()

    def around(self, dispatch: Callable[[], Any]) -> Any:
        """Run ``dispatch``, the whole call, telling the observer; what it raises passes unchanged."""
        observer = self._observer
        if observer is None:
            return dispatch()
        callable_ = self._callable()
        step = _LiveCall(callable_, self.sequence)
        observer.invocation_started(self.sequence)
        observer.before(step)
        try:
            with inside():
                result = dispatch()
        except BaseException as error:
            observer.failed(step, error)
            raise
        observer.after(step, StepResult(elapsed_ns=_elapsed(callable_)))
        observer.invocation_finished()
        return result

    def started(self) -> bool:
        """Runs were started, which :meth:`waited` ends: one call. False where another is under way already."""
        if self._under_way is not None or self._observer is None:
            return False
        self._under_way = _LiveCall(self._callable(), self.sequence)
        self._observer.invocation_started(self.sequence)
        self._observer.before(self._under_way)
        return True

    def waited(self, wait: Callable[[], Any]) -> Any:
        """Run ``wait``, for what was started; what it raises passes unchanged."""
        step, self._under_way = self._under_way, None
        observer = self._observer
        try:
            with inside():
                result = wait()
        except BaseException as error:
            if step is not None and observer is not None:
                observer.failed(step, error)
            raise
        if step is not None and observer is not None:
            observer.after(step, StepResult())
            observer.invocation_finished()
        return result

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(this: Any, *args: Any, **kwargs: Any) -> Any:
            if this is not self._callable() or nested():
                return original(this, *args, **kwargs)
            return self.around(lambda: original(this, *args, **kwargs))

        return call


class _LiveCall:
    values: Mapping[str, int | float] = MappingProxyType({})  # per-call values went to the ELF's scratchpad, unseen
    places: Mapping[int, int] = MappingProxyType({})
    static: frozenset[str] = frozenset()

    def __init__(self, callable_: Any, sequence: SequenceDescription) -> None:
        self._callable = callable_
        self.description = sequence.steps[0]

    def read(self, position: int) -> npt.NDArray[Any]:
        use = self.description.operands[position]
        raw = host_bytes(self._callable.get_buffer(use.buffer))[: use.spec.nbytes]
        return raw.view(numpy_dtype(use.spec.dtype)).reshape(use.spec.shape)


def _as_one_step(whole: SequenceDescription) -> SequenceDescription:
    """``whole`` with its runlist as a single operator of its inputs and outputs."""
    sizes = {b.name: b.nbytes for b in whole.buffers}
    dtypes = {use.buffer: use.spec.dtype for step in whole.steps for use in step.operands if use.stop is None}
    roles: dict[str, Direction] = dict.fromkeys(whole.input_args, "in")
    for name in whole.output_args:
        roles[name] = "inout" if name in roles else "out"
    uses = []
    for name, direction in roles.items():
        dtype = dtypes.get(name, "bfloat16")
        if sizes[name] % DTYPE_BYTES[dtype]:
            dtype = "uint8"
        uses.append(OperandUse(ArgSpec(name, direction, (sizes[name] // DTYPE_BYTES[dtype],), dtype), name))
    kinds = Counter(whole.operators[s.operator].type for s in whole.steps)
    params = {"steps": len(whole.steps), "operators": dict(sorted(kinds.items()))}
    hidden = sorted(b.name for b in whole.buffers if b.external and b.name not in roles)
    caution = "recorded as whole calls: no step inside was seen"
    if hidden:
        names = ", ".join([*hidden[:3], *(["..."] if len(hidden) > 3 else [])])
        caution += f", nor what the program filled beside the inputs ({names})"
    return SequenceDescription(
        name=whole.name,
        operators=(OperatorDescription(OPERATOR, params),),
        buffers=tuple(_buffer(use) for use in uses),
        steps=(StepDescription(0, 0, tuple(uses)),),
        input_args=whole.input_args,
        output_args=whole.output_args,
        origin={**whole.origin, "dispatch": WHOLE_CALL, "caution": caution},
    )


def _buffer(use: OperandUse) -> BufferDescription:
    return BufferDescription(use.buffer, use.spec.nbytes, "output" if use.spec.writes else "input", use.spec.reads)


def _elapsed(callable_: Any) -> int | None:
    """IRON's own time of the run, ``last_elapsed`` in seconds, without the syncs around it."""
    seconds = getattr(callable_, "last_elapsed", None)
    return int(seconds * 1e9) if isinstance(seconds, float) and seconds > 0 else None


__all__ = ["OPERATOR", "WholeCall"]
