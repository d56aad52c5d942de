# SPDX-License-Identifier: Apache-2.0
"""The protocol between a source of steps and its observer.

A source describes its sequence as data and tells an observer about every step: ``before`` with the inputs readable,
then ``after`` with the outputs readable, or ``failed``. It knows no file format; the observer knows no device.
The observer's methods never raise into the run they watch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fusion_replay.model.runlist import SequenceDescription, StepDescription


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the runtime itself said of a step: its time in nanoseconds and its final state, where it says so."""

    elapsed_ns: int | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class KernelPaths:
    """Where the device files behind one operator of a sequence lie, as far as its kernel says.

    ``absent`` says why one of them is None. ``places``: for each argument how many bytes before its contents the
    tensor begins that the kernel is given (buffers placed in an arena since September 2026); empty: none.
    """

    operator: int
    kernel: str
    xclbin: Path | None
    instructions: Path | None
    absent: str | None = None
    places: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What one argument of a kernel is given: ``nbytes`` from byte ``offset`` of memory number ``memory``."""

    memory: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class DispatchResult:
    """How one dispatch ended: the runtime's word for it, time around it in nanoseconds, memory afterwards.

    ``memory`` is empty unless it completed. ``hung``: it had not come back when its time was up.
    """

    state: str
    elapsed_ns: int
    memory: tuple[npt.NDArray[np.uint8], ...]
    completed: bool
    hung: bool = False


class LiveStep(Protocol):
    """One step of the running invocation."""

    @property
    def description(self) -> StepDescription:
        """As this call runs it: an operand that a per-call value moves is where it lies now (:attr:`places`)."""

    @property
    def places(self) -> Mapping[int, int]:
        """First bytes, in their buffers, of the operands that a per-call value moves, by position; else empty."""

    @property
    def values(self) -> Mapping[str, int | float]:
        """Runtime values of this dispatch (per-call scalars), by the name under which they were passed."""

    @property
    def static(self) -> frozenset[str]:
        """Names of buffers that may be taken for unchanged once their contents are known (weights); none in doubt."""

    def read(self, position: int) -> npt.NDArray[Any]:
        """Present contents of operand ``position``: C-contiguous, in the arg spec's dtype and shape.

        May be a view that is valid only until the next device operation: consume it before returning. Reading
        never claims a side of the buffer and never marks it written.
        """


class StepObserver(Protocol):
    """What is told of a source. Per invocation: started, each step's before and after (or failed), finished."""

    def invocation_started(self, sequence: SequenceDescription) -> None: ...

    def prepared(self, kernels: Callable[[], Sequence[KernelPaths]]) -> None:
        """What the invocation that has just started runs with; once per source, asked for where it is wanted."""

    def before(self, step: LiveStep) -> None: ...

    def after(self, step: LiveStep, result: StepResult) -> None: ...

    def failed(self, step: LiveStep, error: BaseException) -> None: ...

    def judged(self, step: StepDescription, statistics: Mapping[str, Any]) -> None:
        """What the watched program itself found when it compared ``step`` with its own reference, as JSON data.

        Comes when it is known: at the latest before the next step starts, or before the source is detached.
        """

    def invocation_finished(self) -> None: ...


class StepSource(Protocol):
    """Whatever runs steps and can be watched: an IRON callable behind its adapter, or an object made for it."""

    @property
    def sequence(self) -> SequenceDescription: ...

    def attach(self, observer: StepObserver) -> None:
        """Start telling ``observer`` about every step, from the next invocation on."""

    def detach(self) -> None:
        """Leave the watched object exactly as it was before :meth:`attach`. Safe to call twice."""
