# SPDX-License-Identifier: Apache-2.0
"""A callable whose steps can't be seen, recorded as one step: what went in, what came out, and what else can be read.

Fused dispatch runs the whole runlist as one full ELF, and the form before amd/IRON pull request 117 as one kernel.
Nothing inside can be judged, but two recordings of it can be compared, and one of it with one of its steps. Weights,
caches and intermediates lie in the scratch arena. Every argument goes to the device before a call
(``iron/common/image/callable.py``, ``_sync_inputs``), so that where a tensor knows who wrote which byte, a read brings
back what the call left there. Buffers that share bytes in the plan hold each other's contents and are left out, as is
all scratch of older tensors; the sequence's caution says so.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
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
    static_buffers,
)
from fusion_replay.sources.describe import describe_sequence
from fusion_replay.sources.iron.tensor import host_bytes, knows_who_wrote, overwrite
from fusion_replay.sources.iron.variant import origin_of
from fusion_replay.sources.iron.watching.patches import Patches, inside, nested
from fusion_replay.sources.protocol import StepObserver, StepResult
from fusion_replay.system.messages import say

OPERATOR = "OperatorSequence"


class WholeCall:
    """A :class:`~fusion_replay.sources.protocol.StepSource` of one step per call.

    :meth:`attach` wraps the ``__call__`` of the callable's class, for this one object; who has wrapped it already
    leaves that out (``hooked=True``) and hands each call to :meth:`around`.

    ``repeats``: how often each call is made, on the same contents of all buffers; the program is left with what the
    first of them gave it. A call of runs of its own, by ``start()`` and ``wait()``, is made once.

    Raises:
        NotAttachableError: no compiled sequence stands behind it, or its buffers can't be had by name.
        RunlistError: the runlist contradicts its operators or buffers.
    """

    def __init__(self, callable_: Any, *, hooked: bool = False, repeats: int = 1) -> None:
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
        self.sequence = _as_one_step(describe_sequence(callable_.op, origin_of(callable_)), callable_)
        self._repeats = repeats

    def attach(self, observer: StepObserver) -> None:
        self.detach()
        self._observer = observer
        if not self._hooked:
            owner = next(c for c in type(self._callable()).__mro__ if "__call__" in vars(c))
            self._patches.wrap(owner, "__call__", self._wrapped)

    def handed_calls(self) -> None:
        """From now on, before :meth:`attach`, somebody else wraps the callable's class: as ``hooked=True``."""
        self._hooked = True

    def detach(self) -> None:
        self._observer = None
        self._patches.undo()

    def around(self, dispatch: Callable[[], Any]) -> Any:
        """Run ``dispatch``, the whole call, telling the observer; what it raises passes unchanged."""
        observer = self._observer
        if observer is None:
            return dispatch()
        callable_ = self._callable()
        again = _Again.of(callable_, self.sequence) if self._repeats > 1 else None
        result = self._once(observer, callable_, dispatch)
        if again is not None:
            self._repeat(again, lambda: self._once(observer, callable_, dispatch))
        return result

    def _once(self, observer: StepObserver, callable_: Any, dispatch: Callable[[], Any]) -> Any:
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

    def _repeat(self, again: _Again, call: Callable[[], Any]) -> None:
        """The call's repeats, which are ours: one that fails is recorded as failed, told, and the last."""
        first = again.contents()
        try:
            for _ in range(self._repeats - 1):
                again.restore()
                call()
        except Exception as error:
            say(f"sequence {self.sequence.name}: a repeat of its call failed, it is not repeated further: {error}")
            self._repeats = 1
        finally:
            again.restore(first)

    def started(self) -> bool:
        """Runs were started, which :meth:`waited` ends: one call. False where another is under way already."""
        if self._under_way is not None or self._observer is None:
            return False
        if self._repeats > 1:
            say(f"sequence {self.sequence.name}: started by start(), so its calls can't be repeated (--repeat-calls)")
            self._repeats = 1
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
    places: Mapping[int, int] = MappingProxyType({})

    def __init__(self, callable_: Any, sequence: SequenceDescription) -> None:
        self._callable = callable_
        self.description = sequence.steps[0]
        self.static = static_buffers(sequence)

    @property
    def values(self) -> Mapping[str, int | float]:
        """Per-call values, where the callable keeps them; IRON's went to the ELF's scratchpad, unseen."""
        values = getattr(self._callable, "dispatch_values", None)
        return dict(values) if isinstance(values, Mapping) else MappingProxyType({})

    def read(self, position: int) -> npt.NDArray[Any]:
        use = self.description.operands[position]
        raw = host_bytes(self._callable.get_buffer(use.buffer))[: use.spec.nbytes]
        return raw.view(numpy_dtype(use.spec.dtype)).reshape(use.spec.shape)


class _Again:
    """What a call needs to be made once more: the contents of every buffer that it writes."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = tensors
        self._before = self.contents()

    @classmethod
    def of(cls, callable_: Any, sequence: SequenceDescription) -> _Again | None:
        """None, and why is told, where a buffer can't be given its contents back."""
        uses = [use for use in sequence.steps[0].operands if use.spec.writes]
        tensors = {use.buffer: callable_.get_buffer(use.buffer) for use in uses}
        if not all(map(knows_who_wrote, tensors.values())):
            say(f"sequence {sequence.name}: its tensors can't be given their contents back, so no call is repeated")
            return None
        return cls(tensors)

    def contents(self) -> dict[str, npt.NDArray[np.uint8]]:
        return {name: host_bytes(tensor).copy() for name, tensor in self._tensors.items()}

    def restore(self, contents: Mapping[str, npt.NDArray[np.uint8]] | None = None) -> None:
        for name, data in (self._before if contents is None else contents).items():
            overwrite(self._tensors[name], data)


def _as_one_step(whole: SequenceDescription, callable_: Any) -> SequenceDescription:
    """``whole`` with its runlist as a single operator: of its inputs and outputs, then of all else that can be read."""
    sizes = {b.name: b.nbytes for b in whole.buffers}
    dtypes = {use.buffer: use.spec.dtype for step in whole.steps for use in step.operands if use.stop is None}
    roles: dict[str, Direction] = dict.fromkeys(whole.input_args, "in")
    written = {u.buffer for s in whole.steps for u in s.operands if u.spec.writes}
    for name in whole.output_args:
        roles[name] = "inout" if name in roles else "out"
    layout = _layout(callable_.op)
    overlaid = overlapping(layout)
    for buffer in whole.buffers:
        if buffer.name in overlaid or not _reads(callable_, buffer.name):
            continue
        if buffer.name not in roles:
            after: Direction = "inout" if buffer.external else "out"
            roles[buffer.name] = after if buffer.name in written else "in"
        elif roles[buffer.name] == "in" and buffer.name in written:
            roles[buffer.name] = "inout"
    uses = []
    for name, direction in roles.items():
        dtype = dtypes.get(name, "bfloat16")
        if sizes[name] % DTYPE_BYTES[dtype]:
            dtype = "uint8"
        uses.append(OperandUse(ArgSpec(name, direction, (sizes[name] // DTYPE_BYTES[dtype],), dtype), name))
    kinds = Counter(whole.operators[s.operator].type for s in whole.steps)
    params = {"steps": len(whole.steps), "operators": dict(sorted(kinds.items())), "layout": layout}
    of = {b.name: b.role for b in whole.buffers}
    hidden = sorted(b.name for b in whole.buffers if b.external and b.name not in roles)
    caution = "recorded as whole calls: no step inside was seen"
    if hidden:
        names = ", ".join([*hidden[:3], *(["..."] if len(hidden) > 3 else [])])
        caution += f", nor what the program filled beside the inputs ({names})"
    if lost := sorted(overlaid & of.keys() - roles.keys()):
        caution += f"; {len(lost)} buffers share their bytes in the plan and hold each other's contents"
    return SequenceDescription(
        name=whole.name,
        operators=(OperatorDescription(OPERATOR, params),),
        buffers=tuple(_buffer(use, of[use.buffer]) for use in uses),
        steps=(StepDescription(0, 0, tuple(uses)),),
        input_args=whole.input_args,
        output_args=whole.output_args,
        origin={**whole.origin, "dispatch": WHOLE_CALL, "caution": caution},
    )


def _layout(sequence: Any) -> dict[str, list[Any]]:
    """Where each base buffer lies: its argument of the image, offset and length in bytes."""
    return {str(n): [str(kind), int(at), int(size)] for n, (kind, at, size) in sequence.subbuffer_layout.items()}


def overlapping(layout: Mapping[str, Sequence[Any]]) -> frozenset[str]:
    """Buffers that share bytes with another one."""
    found: set[str] = set()
    ends: dict[str, tuple[int, str]] = {}
    for name, (kind, start, size) in sorted(layout.items(), key=lambda item: (item[1][0], item[1][1])):
        end, other = ends.get(kind, (0, ""))
        if start < end:
            found |= {name, other}
        if start + size > end:
            ends[kind] = start + size, name
    return frozenset(found)


def _reads(callable_: Any, name: str) -> bool:
    try:
        return knows_who_wrote(callable_.get_buffer(name))
    except Exception:  # whatever a stranger's get_buffer() says of a buffer that it never handed out
        return False


def _buffer(use: OperandUse, role: Literal["input", "output", "scratch"]) -> BufferDescription:
    return BufferDescription(use.buffer, use.spec.nbytes, role, use.spec.reads)


def _elapsed(callable_: Any) -> int | None:
    """IRON's own time of the run, ``last_elapsed`` in seconds, without the syncs around it."""
    seconds = getattr(callable_, "last_elapsed", None)
    return int(seconds * 1e9) if isinstance(seconds, float) and seconds > 0 else None


__all__ = ["OPERATOR", "WholeCall", "overlapping"]
