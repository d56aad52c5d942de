# SPDX-License-Identifier: Apache-2.0
"""Faults that spoil what a kernel has computed. Every class cites the report it is modelled on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.simulator.dispatch import Array, StepDispatch
from fusion_replay.simulator.faults.fault import Fault
from fusion_replay.simulator.faults.kind import ArmedFault, Kind, Spoiler, first_output, tile_of, tiles_of

if TYPE_CHECKING:
    from fusion_replay.simulator.sequence import PlannedStep


class Zeros(Kind):
    """The output is all zeros: https://github.com/Xilinx/llvm-aie/issues/1056."""

    name = "zeros"
    summary = "every output element is zero"
    report = "https://github.com/Xilinx/llvm-aie/issues/1056"

    def after(self, armed: ArmedFault, dispatch: StepDispatch) -> None:
        dispatch.outputs[:] = [np.zeros_like(o) for o in dispatch.outputs]


class Shift(Spoiler):
    """Everything lands one block too far, the first block keeps its old contents:
    https://github.com/amd/Triton-XDNA/issues/99 (there from the second dispatch on; address it as 1:STEP)."""

    name = "shift"
    summary = "the output is shifted by one block"
    report = "https://github.com/amd/Triton-XDNA/issues/99"
    usage = "[:ELEMENTS]"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        size = first_output(step).size
        by = int(fault.args[0]) if fault.args else tile_of(step.params, size)
        return None if 0 < by < size else f"cannot shift {size} elements by {by}"

    def spoil(self, armed: ArmedFault, dispatch: StepDispatch, output: Array) -> Array:
        by = armed.arg(0, tile_of(dispatch.params, output.size))
        return np.concatenate([dispatch.previous[0].reshape(-1)[:by], output[:-by]])


class SwapColumns(Spoiler):
    """Two columns of the array deliver into each other's place: https://github.com/Xilinx/mlir-air/issues/1429 (tiles
    bit-identical, in the wrong order), https://github.com/Xilinx/mlir-aie/issues/2392 (8-column matmul)."""

    name = "swap-columns"
    summary = "the parts computed by two AIE columns change places"
    report = "https://github.com/Xilinx/mlir-air/issues/1429"
    usage = "[:COLUMN:COLUMN]"

    def parse(self, text: str, args: list[str]) -> tuple[int | str, ...]:
        if len(args) == 1:
            raise UsageError(f"fault {text!r}: expected {self.name}{self.usage}")
        return super().parse(text, args)

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        columns = _columns(step.params)
        a, b = _pair(fault)
        if columns < 2:
            return "it runs on one column"
        if a == b or max(a, b) >= columns:
            return f"it runs on columns 0 to {columns - 1}; columns {a} and {b} cannot be swapped"
        if _by_column(step.spec.type, step.params, first_output(step).shape) is None:
            return f"its output {first_output(step).shape} does not divide into {columns} columns"
        return None

    def spoil(self, armed: ArmedFault, dispatch: StepDispatch, output: Array) -> Array:
        split = _by_column(dispatch.spec.type, dispatch.params, first_output(dispatch).shape)
        assert split is not None
        columns = output.reshape(split)
        a, b = _pair(armed.fault)
        columns[:, :, [a, b]] = columns[:, :, [b, a]]
        return columns


class Batch(Spoiler):
    """Only the first part is right, the others repeat it: https://github.com/amd/IRON/issues/83 (partitions beyond the
    first wrong, correlation 0.75, unnoticed by the tests)."""

    name = "batch"
    summary = "every batch (head, group) beyond the first repeats the first"
    report = "https://github.com/amd/IRON/issues/83"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        return None if _batches(step.params) > 1 else "it has one batch"

    def spoil(self, armed: ArmedFault, dispatch: StepDispatch, output: Array) -> Array:
        batches = output.reshape(first_output(dispatch).shape)
        if getattr(dispatch.params, "heads_interleaved", False):
            batches[:, 1:] = batches[:, :1]
        else:
            batches = batches.reshape(_batches(dispatch.params), -1)
            batches[1:] = batches[0]
        return batches


class DropTile(Spoiler):
    """One tile is never written back: https://github.com/Xilinx/mlir-aie/issues/2446 (the last block of each loop)."""

    name = "drop-tile"
    summary = "one tile of the output keeps its old contents"
    report = "https://github.com/Xilinx/mlir-aie/issues/2446"
    usage = "[:TILE], TILE counted from 0"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        tiles = tiles_of(step.params, first_output(step).size)
        if tiles < 2:
            return "its output is one tile"
        if fault.args and int(fault.args[0]) >= tiles:
            return f"its output has tiles 0 to {tiles - 1}"
        return None

    def spoil(self, armed: ArmedFault, dispatch: StepDispatch, output: Array) -> Array:
        tile = tile_of(dispatch.params, output.size)
        at = armed.arg(0, tiles_of(dispatch.params, output.size) - 1) * tile
        output[at : at + tile] = dispatch.previous[0].reshape(-1)[at : at + tile]
        return output


class BitFlip(Spoiler):
    """One bit of one element flips. The nearest report is a miscompiled store that spoils single elements of a group:
    https://github.com/Xilinx/llvm-aie/issues/847."""

    name = "bitflip"
    summary = "one bit of one output element flips"
    report = "https://github.com/Xilinx/llvm-aie/issues/847"
    usage = "[:ELEMENT[:BIT]]"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        output = first_output(step)
        bits = 8 * output.nbytes // max(output.size, 1)
        if outside := _no_element(fault, output):
            return outside
        return f"an element has bits 0 to {bits - 1}" if len(fault.args) > 1 and int(fault.args[1]) >= bits else None

    def spoil(self, armed: ArmedFault, dispatch: StepDispatch, output: Array) -> Array:
        bits = 8 * output.dtype.itemsize
        element = armed.arg(0, int(armed.rng(dispatch).integers(output.size)))
        words = output.view(f"u{output.dtype.itemsize}")
        words[element] ^= words.dtype.type(1 << armed.arg(1, bits - 2))  # default: the highest exponent bit of a float
        return output


class NotANumber(Spoiler):
    """One element becomes NaN. No report names a kernel; compare mode of https://github.com/amd/IRON/pull/117 lets such
    an output pass, so nobody would have been told."""

    name = "nan"
    summary = "one output element is NaN"
    report = "https://github.com/amd/IRON/pull/117"
    usage = "[:ELEMENT]"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        output = first_output(step)
        if "float" not in output.dtype:
            return f"its output is {output.dtype}"
        return _no_element(fault, output)

    def spoil(self, armed: ArmedFault, dispatch: StepDispatch, output: Array) -> Array:
        output[armed.arg(0, int(armed.rng(dispatch).integers(output.size)))] = np.nan
        return output


class Nondeterministic(Spoiler):
    """A buffer is overwritten before it is drained: one tile, another one in every invocation, shows its neighbour's
    data, and the state is COMPLETED all the same: https://github.com/Xilinx/mlir-aie/issues/3656. The seed decides
    which tile, so a recording with the same seed is the same; another seed is another run."""

    name = "nondeterministic"
    summary = "one tile, a different one each time, holds its neighbour's data"
    report = "https://github.com/Xilinx/mlir-aie/issues/3656"

    def refuses(self, fault: Fault, step: PlannedStep) -> str | None:
        return None if tiles_of(step.params, first_output(step).size) > 1 else "its output is one tile"

    def spoil(self, armed: ArmedFault, dispatch: StepDispatch, output: Array) -> Array:
        tile = tile_of(dispatch.params, output.size)
        tiles = output[: output.size // tile * tile].reshape(-1, tile)
        victim = int(armed.rng(dispatch).integers(len(tiles)))
        tiles[victim] = tiles[(victim + 1) % len(tiles)]
        return output


def _no_element(fault: Fault, output: ArgSpec) -> str | None:
    """Why the fault's first argument is no element of this output, or None."""
    outside = fault.args and int(fault.args[0]) >= output.size
    return f"its output has elements 0 to {output.size - 1}" if outside else None


def _pair(fault: Fault) -> tuple[int, int]:
    return (int(fault.args[0]), int(fault.args[1])) if fault.args else (0, 1)


def _batches(params: Any) -> int:
    """How many independent results lie in the output: batches, heads of an attention, groups of heads."""
    return next((int(n) for name in ("num_batches", "num_heads", "groups") if (n := getattr(params, name, None))), 1)


def _columns(params: Any) -> int:
    """Columns that the work is spread over: MHA has a pipeline and GQAContext a group in each, MemCopy counts cores."""
    names = ("num_aie_columns", "num_pipelines", "num_of_pipelines", "groups", "num_cores")
    return next((int(n) for name in names if (n := getattr(params, name, None))), 1)


def _by_column(op_type: str, params: Any, shape: tuple[int, ...]) -> tuple[int, int, int, int] | None:
    """The output as (outer, round, column, inner): which axis says the AIE column. None where it does not divide.

    GEMM deals its tile_n-wide blocks of C out to the columns in turn, MHA its blocks of B_q rows; the others give every
    column a run of each batch's flat output (amd/IRON iron/operators: gemm, mha, gemv, elementwise_add).
    """
    columns, size = _columns(params), math.prod(shape)
    outer, axis, width = int(getattr(params, "num_batches", None) or 1), 0, 0
    if op_type == "GEMM":
        outer, tail = (1, size // int(params.N)) if params.c_col_maj else (size // int(params.N), 1)
        axis, width = int(params.N) * tail, int(params.tile_n) * tail
    elif op_type == "MHA":
        rows, outer = (0, 1) if params.heads_interleaved else (1, shape[0])
        axis, width = size // outer, int(params.B_q) * size // outer // shape[rows]
    else:
        axis = size // outer
        width = axis // columns
    if width == 0 or axis % (width * columns):
        return None
    return outer, axis // (width * columns), columns, width
