# SPDX-License-Identifier: Apache-2.0
"""Logits against a model's, token by token, teacher-forced: KL divergence, top-1 and top-k, the first wrong token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion_replay.errors import MissingError, UsageError
from fusion_replay.model import serialise
from fusion_replay.oracle.file import open_oracle
from fusion_replay.system.messages import count

if TYPE_CHECKING:
    from fusion_replay.model.step import RecordedTensor
    from fusion_replay.snapshot import Snapshot

Floats = npt.NDArray[np.float64]

TOP = 5
"""Tokens whose overlap is counted."""


@dataclass(frozen=True, slots=True)
class WrongToken:
    """A token whose likeliest successor is not the model's.

    Attributes:
        token: its number, from 0.
        model, found: the likeliest successors.
        margin: of the model's logits, that of ``model`` over that of ``found``: small where it was nearly a tie.
    """

    token: int
    model: int
    found: int
    margin: float

    to_dict = serialise.to_dict


@dataclass(frozen=True, slots=True)
class TokenFigures:
    """Of all tokens.

    Attributes:
        tokens: how many; ``vocabulary``: logits of each.
        kl_mean, kl_p90, kl_max: of the divergence of the recorded distribution from the model's, nats; NaN where a
            logit is NaN. ``kl_max_at``: the token with the largest.
        top1: tokens whose likeliest successor is another one. ``first``: the first of them.
        top_k: the mean share of the model's :data:`TOP` likeliest successors that are among the recorded ones; one that
            is no less likely there than the last of them counts.
    """

    tokens: int
    vocabulary: int
    kl_mean: float
    kl_p90: float
    kl_max: float
    kl_max_at: int
    top1: int
    top_k: float
    first: WrongToken | None

    to_dict = serialise.to_dict

    def __str__(self) -> str:
        told = f"KL mean {self.kl_mean:.3g}, 90th percentile {self.kl_p90:.3g}, largest {self.kl_max:.3g} at token "
        told += f"{self.kl_max_at}; top-1 differs in {self.top1} of {count(self.tokens, 'token')}, "
        told += f"top-{TOP} overlap {self.top_k:.1%}"
        if self.first is None:
            return told
        f = self.first
        return f"{told}; first wrong at token {f.token}: {f.found} for {f.model}, which leads by {f.margin:.3g}"


def figures_of(found: Floats, model: Floats) -> TokenFigures:
    """Both (tokens, vocabulary)."""
    p, q = _log_softmax(model), _log_softmax(found)
    with np.errstate(invalid="ignore"):
        terms = np.where(p == -np.inf, 0.0, np.exp(p) * (p - q))
    kl = np.maximum(terms.sum(1), 0.0)  # rounding may leave it a little below
    wanted, had = model.argmax(1), found.argmax(1)
    wrong = np.flatnonzero((wanted != had) | np.isnan(found).any(1)).tolist()
    first = None
    if wrong:
        i = wrong[0]
        margin = float(model[i, wanted[i]] - model[i, had[i]])
        first = WrongToken(i, int(wanted[i]), int(had[i]), margin)
    k = min(TOP, model.shape[1])
    likeliest = np.argsort(-model, axis=1, kind="stable")[:, :k]
    last = -np.sort(-found, axis=1)[:, k - 1 : k]
    overlap = (np.take_along_axis(found, likeliest, 1) >= last).mean()
    return TokenFigures(
        tokens=len(model),
        vocabulary=model.shape[1],
        kl_mean=float(kl.mean()),
        kl_p90=float(np.percentile(kl, 90)),
        kl_max=float(kl.max()),
        kl_max_at=int(np.argmax(np.where(np.isnan(kl), np.inf, kl))),
        top1=len(wrong),
        top_k=float(overlap),
        first=first,
    )


def tokens_against(
    snapshot: Snapshot, oracle_path: str | os.PathLike[str], logits: str, invocation: int | None = None
) -> TokenFigures:
    """A recording's logits against a tensor of an oracle, (tokens, vocabulary) without axes of length 1.

    Args:
        logits: ``TENSOR=BUFFER``, or ``TENSOR`` where the sequence has one output buffer. Each row of the tensor is
            one invocation's buffer, or all rows are one invocation's.
        invocation: of one alone.

    Raises:
        UsageError: no such tensor or buffer, or shapes that don't fit.
        MissingError: no invocation is complete, or its logits were not kept.
    """
    name, _, buffer = logits.partition("=")
    with open_oracle(oracle_path) as oracle:
        model = np.asarray(oracle.read(oracle[name]), np.float64)
    model = model.reshape([n for n in model.shape if n != 1] or [1])
    model = model[None] if model.ndim == 1 else model
    if model.ndim != 2:
        raise UsageError(f"{oracle_path}: {name} is {model.shape}; expected logits as (tokens, vocabulary)")
    if not np.isfinite(model).any():
        raise UsageError(f"{oracle_path}: {name} holds no finite logit")
    return figures_of(_recorded(snapshot, buffer, invocation, model.shape), model)


# --- parts ----------------------------------------------------------------------------------------------------------


def _recorded(snapshot: Snapshot, buffer: str, invocation: int | None, shape: Sequence[int]) -> Floats:
    last: dict[int, RecordedTensor] = {}
    for step in snapshot.steps(invocation=invocation):
        outputs = step.sequence.output_args
        if not buffer and len(outputs) != 1:
            raise UsageError(
                f"{snapshot.path}: {step.sequence.name} has {count(len(outputs), 'output buffer')}; say which one "
                "holds the logits: TENSOR=BUFFER"
            )
        for tensor in step.outputs.in_order():
            if tensor.use.buffer == (buffer or outputs[0]):
                last[step.invocation] = tensor
    complete = {i.index for i in snapshot.invocations if i.status == "complete"}
    rows = [tensor for number, tensor in sorted(last.items()) if number in complete]
    if not rows:
        raise MissingError(f"{snapshot.path}: no complete invocation writes {buffer or 'an output buffer'}")
    lacking = next((t for t in rows if not t.kept), None)
    if lacking is not None:
        raise MissingError(f"{snapshot.path}: the logits of {lacking.what} {lacking.absent}")
    tokens, vocabulary = shape
    each = rows[0].use.spec.size // vocabulary
    if len(rows) == tokens and each:
        return np.stack([_wide(t)[:vocabulary] for t in rows])
    if len(rows) == 1 and rows[0].use.spec.size == each * vocabulary and each >= tokens:
        return _wide(rows[0]).reshape(each, vocabulary)[:tokens]
    raise UsageError(
        f"{snapshot.path}: {count(len(rows), 'invocation')} with {rows[0].use.spec.size:,} logits each; the oracle has "
        f"{count(tokens, 'token')} of {vocabulary:,}"
    )


def _wide(tensor: RecordedTensor) -> Floats:
    return np.asarray(tensor.numpy(), np.float64).reshape(-1)


def _log_softmax(logits: Floats) -> Floats:
    top = logits.max(1, keepdims=True)
    shifted = logits - np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        found: Any = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return np.asarray(found, np.float64)


__all__ = ["TOP", "TokenFigures", "WrongToken", "figures_of", "tokens_against"]
