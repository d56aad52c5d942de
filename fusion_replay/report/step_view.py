# SPDX-License-Identifier: Apache-2.0
"""One recorded step: its operator, its arrays with what their values look like, and what happened to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fusion_replay.model.text import block, columns, printable
from fusion_replay.report.text import human_bytes, human_ns, ran_on, table

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusion_replay.snapshot import RecordedStep, RecordedTensor

HEAD = 4
"""Leading elements shown of each array: enough to recognise zeros, a constant, or a shifted neighbour."""


@dataclass(frozen=True, slots=True)
class ValueSummary:
    """What an array's values look like. ``minimum`` .. ``mean`` are over its finite elements (None without any)."""

    minimum: float | None
    maximum: float | None
    mean: float | None
    zeros: int
    nans: int
    infs: int
    head: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TensorView:
    """One operand of one step. ``phase`` is "input", "output" or "previous" (an output's contents before the step)."""

    phase: str
    name: str
    position: int
    direction: str
    buffer: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    digest: str | None
    kept: bool
    unchanged: bool | None
    contents: ValueSummary | None


@dataclass(frozen=True, slots=True)
class StepView:
    """All that ``show F STEP`` says."""

    address: str
    label: str
    status: str
    ran_on: str
    op: str
    module: str
    params: Mapping[str, Any]
    values: Mapping[str, Any]
    elapsed_ns: int | None
    state: str | None
    error: str | None
    iron: Mapping[str, Any] | None
    noticed: Mapping[str, Any]
    withheld: str | None
    tensors: tuple[TensorView, ...]

    def records(self) -> Iterator[dict[str, Any]]:
        """JSON Lines, typed: one ``recorded_step``, then a ``tensor`` each."""
        step = asdict(self)
        tensors = step.pop("tensors")
        yield {"type": "recorded_step", **step}
        yield from ({"type": "tensor", "address": self.address, **t} for t in tensors)

    def __str__(self) -> str:
        lines = [self.label, f"  status    {self.status} on {self.ran_on}" + self._how()]
        if self.error:
            lines.append(f"  error     {self.error}")
        if self.withheld:
            lines.append(f"  contents  not kept, digests alone: {self.withheld}")
        params = _fields({k: v for k, v in self.params.items() if v not in ([], {})})
        lines.append(f"  operator  {self.op}({params})" + (f" of {self.module}" if self.module else ""))
        if self.values:
            lines.append("  values    " + ", ".join(f"{k}={v}" for k, v in self.values.items()))
        if self.iron:
            lines.append("  iron      its own compare: " + ", ".join(_figures(self.iron)))
        for name, (step, argument) in self.noticed.get("clobbered", {}).items():
            lines.append(
                f"  clobbered {name} is not what step {step} left there as {argument}: somebody wrote in between"
            )
        for name in self.noticed.get("rewritten", ()):
            lines.append(f"  rewritten {name}, a buffer that no step writes, changed since it was last looked at")
        if why := self.noticed.get("reference"):
            lines.append(f"  reference none of its own was kept: {why}")
        if self.noticed.get("assumed"):
            lines.append(f"  assumed   unchanged since first read, not looked at: {', '.join(self.noticed['assumed'])}")
        tables = _tables([_HEADER, *map(_row, self.tensors)])
        heads = []
        for t in self.tensors:
            if t.contents is not None and t.contents.head:
                more = ", ..." if len(t.contents.head) == HEAD else ""
                heads.append(f"  {t.phase} {t.name} = [{', '.join(f'{v:.6g}' for v in t.contents.head)}{more}]")
            if t.phase == "output" and t.unchanged:
                heads.append(f"  output {t.name}: completed but wrote nothing: every bit is as it was before the step")
        return "\n".join([block(lines), *tables, *map(printable, heads)])

    def _how(self) -> str:
        told = [human_ns(self.elapsed_ns), self.state or ""]
        return "".join(f", {t}" for t in told if t)


_HEADER = ["", "", "buffer", "dtype", "shape", "bytes", "min", "max", "mean", "zero", "nan", "inf"]


def _tables(rows: list[list[str]]) -> list[str]:
    """One table; on a terminal that is too narrow for it two: what the arrays are, and what is in them."""
    whole = table(rows, right=range(5, 12))
    room = columns()
    if room is None or max(map(len, whole.splitlines())) <= room:
        return [whole]
    return [table([r[:6] for r in rows], right=(5,)), table([[*r[:2], *r[6:]] for r in rows], right=range(2, 8))]


def _row(t: TensorView) -> list[str]:
    c = t.contents
    numbers = ["", "", "", "", "", ""]
    if c is not None:
        numbers = [
            *(_number(v) for v in (c.minimum, c.maximum, c.mean)),
            *(f"{n:,}" for n in (c.zeros, c.nans, c.infs)),
        ]
    shape = "x".join(map(str, t.shape)) or "scalar"
    missing = " (digest only)" if t.digest else " (not recorded)"
    size = human_bytes(t.nbytes) + ("" if t.kept else missing)
    return [t.phase, t.name, t.buffer, t.dtype, shape, size, *numbers]


def _fields(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_spelled(value)}" for name, value in values.items())


def _spelled(value: Any) -> str:
    """A field of an operator: objects by class, those that are folded in with the fields that were given."""
    if isinstance(value, list):
        return f"[{', '.join(map(_spelled, value))}]"
    if not isinstance(value, dict) or "class" not in value:
        return str(value)
    own = {k: v for k, v in value.items() if k != "class"}
    if isinstance(own.get("params"), dict):
        own = {k: v for k, v in own["params"].items() if k in own.get("given", ())}
    return f"{value['class']}({_fields(own)})"


def _figures(iron: Mapping[str, Any]) -> Iterator[str]:
    for key, value in iron.items():
        if isinstance(value, Mapping):  # by output
            yield from (f"{key} {figure}" for figure in _figures(value))
        elif isinstance(value, bool) or not isinstance(value, float):
            yield f"{key} {value}"
        else:
            yield f"{key} {_number(value)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def view(step: RecordedStep) -> StepView:
    """Read the step's arrays (digests verified) and describe them.

    Raises:
        DamagedSnapshotError: an array is not what was recorded; the message names step and tensor.
    """
    tensors = [_tensor("input", t) for t in step.inputs.values()]
    for t in step.outputs.values():
        if t.previous is not None:
            tensors.append(_tensor("previous", t.previous))
        tensors.append(_tensor("output", t))
    return StepView(
        address=step.address,
        label=step.label,
        status=step.status,
        ran_on=ran_on(step.sequence.origin),
        op=step.op.type,
        module=step.op.module,
        params=dict(step.op.params),
        values=dict(step.values),
        elapsed_ns=step.elapsed_ns,
        state=step.state,
        error=step.error,
        iron=step.iron,
        noticed=step.noticed,
        withheld=step.withheld,
        tensors=tuple(tensors),
    )


def _tensor(phase: str, t: RecordedTensor) -> TensorView:
    return TensorView(
        phase=phase,
        name=t.name,
        position=t.position,
        direction=t.direction,
        buffer=t.buffer,
        shape=tuple(t.shape),
        dtype=t.dtype,
        nbytes=t.nbytes,
        digest=t.digest,
        kept=t.kept,
        unchanged=t.unchanged,
        contents=describe(t.numpy()) if t.kept else None,
    )


def describe(array: npt.NDArray[Any]) -> ValueSummary:
    """Counts and extremes of an array of any recorded dtype, in blocks, so that no whole copy is made."""
    import numpy as np

    flat = array.reshape(-1)
    low, high, total, finite, zeros, nans, infs = np.inf, -np.inf, 0.0, 0, 0, 0, 0
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        good = np.isfinite(block)
        nans += int(np.isnan(block).sum())
        infs += int(np.isinf(block).sum())
        zeros += int((block == 0).sum())
        if good.any():
            numbers = block[good]
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
            total += float(numbers.sum())
            finite += int(numbers.size)
    return ValueSummary(
        minimum=low if finite else None,
        maximum=high if finite else None,
        mean=total / finite if finite else None,
        zeros=zeros,
        nans=nans,
        infs=infs,
        head=tuple(float(v) for v in flat[:HEAD].astype(np.float64)),
    )


_BLOCK = 1 << 20
