# SPDX-License-Identifier: Apache-2.0
"""The software NPU: IRON-shaped operators and callables with AIE numerics and injectable faults, in numpy.

A functional model: what it computes follows the reported numerics of the two NPU generations, how long it takes says
nothing about them. ``simulate(runlist)`` gives a callable that a recorder cannot tell from IRON's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_replay.simulator.callable import SimulatedCallable
    from fusion_replay.simulator.faults import Fault


def simulate(
    runlist: Sequence[tuple[Any, ...]],
    device: str = "npu1",
    faults: Sequence[Fault | str] = (),
    *,
    name: str = "sim",
    input_args: Sequence[str] = (),
    output_args: Sequence[str] = (),
    buffer_sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> SimulatedCallable:
    """A runlist as a callable on the software NPU, ready to run.

    Args:
        runlist: entries ``(operator, buffer name, ...)``; operators from :mod:`.operators`, names in arg-spec order,
            slices as ``"name[start:end]"`` in bytes.
        device: "npu1" (AIE2: Phoenix, Hawk Point) or "npu2" (AIE2P: Strix, Krackan).
        faults: what to break, as :class:`.faults.Fault` or text such as ``"0:3:zeros"``, ``"GEMV:shift:64"``.
        name: of the sequence.
        input_args, output_args: buffers that the host fills before and reads after each call.
        buffer_sizes: sizes in bytes of buffers that are only named through slices.
        seed: of the faults' random choices.

    Raises:
        RunlistError: wrong argument counts, slices outside their base, sizes that disagree.
        UnknownOperatorError: an operator without a description or a kernel.
        UsageError: an unknown device, a design outside the device's rules, a fault that fits no step.
    """
    from fusion_replay.simulator.sequence import SimulatedSequence

    return SimulatedSequence(
        name, runlist, input_args, output_args, buffer_sizes, device=device, faults=faults, seed=seed
    ).get_callable()


def __getattr__(name: str) -> Any:
    homes = {
        "Fault": "faults",
        "parse_fault": "faults",
        "NpuTensor": "tensor",
        "HostRuntimeError": "errors",
        "SimulatedCallable": "callable",
        "SimulatedSequence": "sequence",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{homes[name]}"), name)


__all__ = [
    "Fault",
    "HostRuntimeError",
    "NpuTensor",
    "SimulatedCallable",
    "SimulatedSequence",
    "parse_fault",
    "simulate",
]
