# SPDX-License-Identifier: Apache-2.0
"""Errors of a runlist, drawn by seed: MiniLM recorded with one of them, in which every step matches its reference.

Each says the boundary that is the first to be wrong, by the model's name, and what is wrong, in a word of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import fusion_replay as fr
from fusion_replay.simulator import operators
from fusion_replay.simulator.workloads import minilm
from fusion_replay.simulator.workloads.base import SequenceSpec

TEXT = "The NPU said seven; the reference said eight."
TOKENS = 13

_ATTENTION = "encoder.layer.{}.attention"
_FIRST_WRONG = {
    "query": f"{_ATTENTION}.self.query",
    "key": f"{_ATTENTION}.self.key",
    "value": f"{_ATTENTION}.self.value",
    "attn_output": f"{_ATTENTION}.output.dense",
    "ffn_up": "encoder.layer.{}.intermediate.dense",
    "ffn_down": "encoder.layer.{}.output.dense",
}


@dataclass
class RunlistError:
    """One error.

    Attributes:
        kind: in a word.
        at: the model's tensors that it makes wrong first.
        cause: what a cause that is right must contain.
        buffers: changes the buffers before the run; ``steps`` the runlist; ``tokens`` what the mask leaves.
        epsilon: of the model that it is compared with.
    """

    kind: str
    at: tuple[str, ...]
    cause: tuple[str, ...]
    buffers: Callable[[dict[str, Any]], None] = lambda views: None
    steps: Callable[[list[Any]], list[Any]] = lambda runlist: runlist
    tokens: int = TOKENS
    epsilon: float = 1e-12
    what: str = field(default="")


def draw(seed: int) -> RunlistError:
    """The kinds in turns, what they strike by the seed."""
    rng = np.random.default_rng(seed)
    made: RunlistError = _KINDS[seed % len(_KINDS)](rng)
    return made


def record(path: Path, error: RunlistError | None, device: str = "npu1", faults: tuple[str, ...] = ()) -> Path:
    """MiniLM on the software NPU with this error in its buffers or its runlist."""
    original = minilm.plan
    if error is not None:

        def plan(*args: Any, **kwargs: Any) -> SequenceSpec:
            made = original(*args, **kwargs)
            return replace(made, runlist=error.steps(list(made.runlist)))

        minilm.plan = plan  # type: ignore[assignment]
    try:
        run = minilm.WORKLOAD.build(device, faults, {"text": TEXT})
    finally:
        minilm.plan = original
    with fr.record(path, run.callable, if_exists="replace"):
        run.prepare(0)
        if error is not None:
            names = list(run.callable.op.subbuffer_layout)
            views = {name: run.callable.get_buffer(name).numpy_view().reshape(-1) for name in names}
            error.buffers(views)
            for name in names:
                run.callable.get_buffer(name).to("npu")
            if error.tokens != TOKENS:
                run.callable.write_values({minilm.VECTOR_SIZE: error.tokens})
        run.callable()
    return path


# --- kinds ----------------------------------------------------------------------------------------------------------


def _part(rng: Any, names: tuple[str, ...] = tuple(_FIRST_WRONG)) -> str:
    return str(rng.choice(names))


def _exchanged(rng: Any) -> RunlistError:
    part = _part(rng)
    i, j = sorted(rng.choice(6, 2, replace=False).tolist())

    def swap(views: dict[str, Any]) -> None:
        a, b = views[f"W_{part}_{i}"], views[f"W_{part}_{j}"]
        a[:], b[:] = b.copy(), a.copy()

    wrong = tuple(_FIRST_WRONG[part].format(k) for k in (i, j))
    return RunlistError("layers exchanged", wrong, (f"W_{part}_{j}", f"W_{part}_{i}"), swap, what=f"{part} {i} {j}")


def _transposed(rng: Any) -> RunlistError:
    part, i = _part(rng, ("query", "key", "value", "attn_output")), int(rng.integers(6))

    def turn(views: dict[str, Any]) -> None:
        w = views[f"W_{part}_{i}"]
        w[:] = w.reshape(384, 384).T.copy().reshape(-1)

    return RunlistError("transposed", (_FIRST_WRONG[part].format(i),), ("transposed",), turn, what=f"{part} {i}")


def _heads(rng: Any) -> RunlistError:
    part, i = _part(rng, ("query", "key", "value")), int(rng.integers(6))
    order = rng.permutation(12)

    def permute(views: dict[str, Any]) -> None:
        for name in (f"W_{part}_{i}", f"b_{part}_{i}"):
            rows = views[name].reshape(12, -1)
            rows[:] = rows[order].copy()

    return RunlistError("heads permuted", (_FIRST_WRONG[part].format(i),), ("order",), permute, what=f"{part} {i}")


def _scale(rng: Any) -> RunlistError:
    value = float(rng.choice([1.0, 1 / 32, 0.125]))

    def forget(views: dict[str, Any]) -> None:
        views["attn_scale_factor"][:] = value

    wrong = tuple(f"{_ATTENTION}.self".format(i) for i in range(6))
    return RunlistError("scale", wrong, ("attn_scale_factor",), forget, what=f"{value}")


def _epsilon(rng: Any) -> RunlistError:
    eps = float(rng.choice([0.001, 0.003, 0.01]))
    return RunlistError("epsilon", ("embeddings.LayerNorm",), ("epsilon",), epsilon=eps, what=f"{eps}")


def _mask(rng: Any) -> RunlistError:
    wrong = tuple(f"{_ATTENTION}.self".format(i) for i in range(6))
    return RunlistError("mask", wrong, ("vector_size", "13"), tokens=TOKENS - int(rng.integers(1, 4)))


def _residual(rng: Any) -> RunlistError:
    i, attention = int(rng.integers(6)), bool(rng.integers(2))
    source = "attn_output" if attention else "ffn_output"
    at = f"{_ATTENTION}.output.LayerNorm:in" if attention else "encoder.layer.{}.output.LayerNorm:in"
    norm = at.removesuffix(":in")

    def drop(runlist: list[Any]) -> list[Any]:
        adds = [k for k, s in enumerate(runlist) if s[1:] == ("hidden", source, "hidden")]
        k = adds[i]
        layer_norm, _, target = runlist[k + 1]
        return [*runlist[:k], (layer_norm, source, target), *runlist[k + 2 :]]

    return RunlistError(
        "residual", (at.format(i), norm.format(i)), ("residual", "hidden"), steps=drop, what=f"{source} {i}"
    )


def _positions(rng: Any) -> RunlistError:
    by = int(rng.choice([-1, 1]))

    def shift(views: dict[str, Any]) -> None:
        rows = views["positions"].reshape(64, 384)
        rows[:] = np.roll(rows, by, 0).copy()

    wrong = ("embeddings.position_embeddings", "embeddings.LayerNorm:in")
    return RunlistError("positions", wrong, ("positions", "row"), shift, what=f"{by}")


def _activation(rng: Any) -> RunlistError:
    i, kind = int(rng.integers(6)), str(rng.choice(["SiLU", "ReLU", "Tanh", "Sigmoid"]))

    def other(runlist: list[Any]) -> list[Any]:
        k = [n for n, s in enumerate(runlist) if type(s[0]).__name__ == "GELU"][i]
        columns = runlist[k][0].num_aie_columns
        channels = {} if kind == "SiLU" else {"num_channels": 1}
        op = getattr(operators, kind)(size=64 * 1536, num_aie_columns=columns, tile_size=1536, **channels)
        return [*runlist[:k], (op, *runlist[k][1:]), *runlist[k + 1 :]]

    at = f"encoder.layer.{i}.intermediate.intermediate_act_fn"
    return RunlistError("activation", (at,), ("GELU",), steps=other, what=f"{kind} {i}")


def _times(rng: Any) -> RunlistError:
    part, i, factor = _part(rng), int(rng.integers(6)), float(rng.choice([0.5, 2.0, 8.0]))

    def multiply(views: dict[str, Any]) -> None:
        views[f"W_{part}_{i}"][:] *= np.asarray(factor, views[f"W_{part}_{i}"].dtype)

    return RunlistError(
        "not scaled", (_FIRST_WRONG[part].format(i),), ("times",), multiply, what=f"{part} {i} {factor}"
    )


def _bias(rng: Any) -> RunlistError:
    part, i = _part(rng, ("query", "value", "attn_output", "ffn_up")), int(rng.integers(5))

    def other(views: dict[str, Any]) -> None:
        views[f"b_{part}_{i}"][:] = views[f"b_{part}_{i + 1}"].copy()

    wrong = _FIRST_WRONG[part].format(i)
    return RunlistError("bias", (wrong,), (f"b_{part}_{i}",), other, what=f"{part} {i}")


def _operands(rng: Any) -> RunlistError:
    """Scores of keys and queries instead of queries and keys."""
    i = int(rng.integers(6))

    def swap(runlist: list[Any]) -> list[Any]:
        at = [n for n, s in enumerate(runlist) if str(s[1]).startswith("queries_heads[")][12 * i : 12 * i + 12]
        return [(s[0], s[2], s[1], s[3]) if n in at else s for n, s in enumerate(runlist)]

    return RunlistError("operands", (f"{_ATTENTION}.self".format(i),), ("exchanged",), steps=swap, what=f"{i}")


def _head_offset(rng: Any) -> RunlistError:
    """Each head weighs the values of the next one."""
    i = int(rng.integers(6))

    def shift(runlist: list[Any]) -> list[Any]:
        at = [n for n, s in enumerate(runlist) if str(s[1]).startswith("attn_weights[")][12 * i : 12 * i + 12]
        values = [runlist[n][2] for n in at]
        found = list(runlist)
        for k, n in enumerate(at):
            op, weights, _, out = runlist[n]
            found[n] = (op, weights, values[(k + 1) % 12], out)
        return found

    return RunlistError("head offset", (f"{_ATTENTION}.self".format(i),), ("order",), steps=shift, what=f"{i}")


_KINDS: tuple[Callable[[Any], RunlistError], ...] = (
    _exchanged,
    _transposed,
    _heads,
    _scale,
    _epsilon,
    _mask,
    _residual,
    _positions,
    _activation,
    _times,
    _bias,
    _operands,
    _head_offset,
)
