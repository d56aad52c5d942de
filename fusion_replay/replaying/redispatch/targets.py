# SPDX-License-Identifier: Apache-2.0
"""Where steps are dispatched again: an NPU through pyxrt, or the software NPU."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import FusionReplayError, MissingDependencyError, MissingError, UsageError
from fusion_replay.replaying.redispatch.binaries import Choice, choose
from fusion_replay.sources.protocol import DispatchResult, MemoryUse

if TYPE_CHECKING:
    from fusion_replay.model.runlist import ArgSpec
    from fusion_replay.model.step import Step
    from fusion_replay.simulator.alone import LoneKernel
    from fusion_replay.simulator.folded import FoldedKernel
    from fusion_replay.snapshot import Snapshot
    from fusion_replay.sources.xrt import XrtDevice

Bytes = npt.NDArray[np.uint8]


class CannotRunError(Exception):
    """Why this step has no kernel here; nothing was dispatched."""


class Runner(Protocol):
    """One step's kernel, ready."""

    @property
    def binaries(self) -> str:
        """ "recorded", "new", or ""."""

    @property
    def places(self) -> tuple[int, ...]:
        """As :func:`~fusion_replay.replaying.redispatch.memory.lay_out` takes them."""

    def run(self, memory: Sequence[Bytes], uses: Sequence[MemoryUse], timeout: float) -> DispatchResult:
        """
        Raises:
            CannotRunError: its binaries do not fit; nothing was dispatched.
        """


class Target(Protocol):
    """
    Attributes:
        name: for people; figures of the software NPU are labelled so. "" where the device tells none.
        generation: "npu1", "npu2", or None where nobody knows.
        fingerprint: of everything here that decides what comes out, hexadecimal.
    """

    name: str
    generation: str | None
    fingerprint: str

    def prepare(self, step: Step) -> Runner:
        """
        Raises:
            CannotRunError: something is missing for this step.
        """

    def alive(self) -> bool:
        """Whether it still answers after something went wrong; what was loaded is let go."""

    def close(self) -> None: ...


# --- an NPU -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _NpuRunner:
    device: XrtDevice
    choice: Choice
    side: str

    @property
    def binaries(self) -> str:
        return self.choice.origin

    @property
    def places(self) -> tuple[int, ...]:
        return self.choice.places

    def run(self, memory: Sequence[Bytes], uses: Sequence[MemoryUse], timeout: float) -> DispatchResult:
        try:
            kernel = self.device.load(self.choice.xclbin, self.choice.instructions, self.choice.kernel)
            declared = self.device.arguments(self.choice.xclbin, self.choice.kernel)
            if declared is not None and declared < len(uses):  # XRT would reach beyond its table
                raise MissingError(
                    f"kernel {self.choice.kernel} takes {declared} buffers, the recorded step has {len(uses)}; "
                    "it is another operator's build"
                )
            return self.device.run(kernel, memory, uses, timeout)
        except MissingError as error:
            raise CannotRunError(f"nothing was dispatched, {self.side}: {error}") from error


class NpuTarget:
    """Device 0, with recorded or new binaries."""

    def __init__(self, snapshot: Snapshot, build_dir: Path | None) -> None:
        self._choices = choose(snapshot, build_dir)
        self._sides = {"recorded": "the recorded binaries", "new": f"--build-dir {build_dir}"}
        self._numbers = {id(sequence): number for number, sequence in enumerate(snapshot.sequences)}
        self._device = _open_device()
        self.name, self.generation = self._device.name, self._device.generation
        prints = "".join(choice.fingerprint for choice in self._choices.values())
        self.fingerprint = hashlib.sha256(f"{self.name}{prints}".encode()).hexdigest()

    def prepare(self, step: Step) -> Runner:
        choice = self._choices[self._numbers[id(step.sequence)], step.description.operator]
        if choice.lacks is not None:
            raise CannotRunError(choice.lacks)
        if step.description is not step.sequence.steps[step.index]:
            raise CannotRunError("its call moved operands by per-call values, which are not dispatched again")
        return _NpuRunner(self._device, choice, self._sides[choice.origin])

    def alive(self) -> bool:
        return self._device.alive()

    def close(self) -> None:
        self._device.close()


def _open_device() -> XrtDevice:
    try:
        from fusion_replay.sources.xrt import XrtDevice
    except ImportError as error:
        found = "none" if isinstance(error, ModuleNotFoundError) else "one that cannot be imported"
        raise MissingDependencyError(
            f"pyxrt: expected XRT's Python binding, found {found} ({error}); source /opt/xilinx/xrt/setup.sh under the "
            "Python that XRT was built for, or use --on sim"
        ) from error
    return XrtDevice()


# --- the software NPU -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _SimRunner:
    kernel: LoneKernel | FoldedKernel
    values: dict[str, int | float]
    binaries: str = ""
    places: tuple[int, ...] = ()

    def run(self, memory: Sequence[Bytes], uses: Sequence[MemoryUse], timeout: float) -> DispatchResult:
        return self.kernel.run(memory, uses, self.values)


class SimTarget:
    """The software NPU of one generation; every operator on a device of its own, so no state leaks between steps."""

    def __init__(self, generation: str) -> None:
        from fusion_replay.simulator.device import DEVICES

        if generation not in DEVICES:
            raise UsageError(f"device {generation!r}: expected {' or '.join(DEVICES)}")
        self.generation: str | None = generation
        self.name = f"the software NPU ({generation})"
        self.fingerprint = hashlib.sha256(self.name.encode()).hexdigest()
        self._kernels: dict[tuple[int, int, tuple[str, ...]], LoneKernel | FoldedKernel] = {}

    def prepare(self, step: Step) -> Runner:
        from fusion_replay import operators, refs

        covered = refs.coverage(step.op, step.description.operands)
        if covered.spec is None and refs.lookup(step.op.type) is not None:
            raise CannotRunError(f"{covered.why}; the software NPU has no kernel of it")
        spec = covered.spec
        params = SimpleNamespace(**step.op.params)
        values = {} if spec is None else operators.runtime_values(spec, params, step.values)
        key = (id(step.sequence), step.description.operator, tuple(sorted(values)))
        if key not in self._kernels:
            specs = [use.spec for use in step.description.operands]
            try:
                made = self._kernel(step, specs, values)
            except FusionReplayError as error:
                raise CannotRunError(str(error)) from error
            self._kernels[key] = made
        return _SimRunner(self._kernels[key], values)

    def _kernel(self, step: Step, specs: Sequence[ArgSpec], roles: Iterable[str]) -> LoneKernel | FoldedKernel:
        from fusion_replay import refs
        from fusion_replay.simulator.alone import LoneKernel

        op, generation = step.op, str(self.generation)
        folds = refs.folds_of(op) if op.given is not None else ([], [])
        if not any(folds):
            return LoneKernel(op.type, op.params, specs, roles, generation)
        from fusion_replay.simulator.folded import FoldedKernel

        plain = refs.find(op.type)
        own = plain.arg_specs(op.params)
        prepared = next((i for i, s in enumerate(own) if s.name == plain.prepared), 0)
        return FoldedKernel(op.type, op.params, specs, roles, generation, folds=folds, own=len(own), prepared=prepared)

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        self._kernels.clear()


__all__ = ["CannotRunError", "NpuTarget", "Runner", "SimTarget", "Target"]
