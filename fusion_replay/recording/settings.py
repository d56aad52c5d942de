# SPDX-License-Identifier: Apache-2.0
"""What ``record python app.py`` tells the program's processes: one frozen dataclass, by ``FUSION_REPLAY_*``.

The command line makes it from its options and from variables that the user has set, the recorded processes read it
back. A malformed value is refused where it is read, before anything runs.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fusion_replay.errors import UsageError
from fusion_replay.recording.how import How, IfExists, OnError
from fusion_replay.recording.retention import Keep, Keeping

PREFIX = "FUSION_REPLAY_"
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Settings:
    """Every field is the variable of its name in capitals: ``step_timeout`` is ``FUSION_REPLAY_STEP_TIMEOUT``.

    Attributes:
        out: the snapshot of the first process that dispatches; the others take the next free number.
        if_exists: what to do about an existing ``out``; None: "error" where the user named it, else "number".
        on_error: "warn" or "raise": what a failure of the recorder itself does.
        separate: sequences with auto or fused dispatch get separate dispatch.
        whole_calls: a sequence whose steps can't be seen is recorded too, each call as one step.
        level, op, step, buffer, invocation, only_matching, max_bytes, max_steps, max_invocations, keep, against: what
            is kept, as :class:`~fusion_replay.recording.retention.Keeping` says; max_bytes also as ``2G``.
        verify_static: look at weights at every step, instead of taking them for unchanged.
        with_reference: keep what each operator's own ``reference()`` gives.
        binaries: keep the xclbin and instruction files behind the kernels; otherwise their digests alone.
        weights_in: the side file that takes the weights.
        no_weights: keep only the digests of weights.
        slow_after: seconds after which a step that runs far longer than its like is told on stderr; 0: never.
        step_timeout: seconds after which a step is given up and its process ended; None: never.
        ledger: the file in which the processes of one recorded run say what became of them.
    """

    out: str | None = None
    if_exists: IfExists | None = None
    on_error: OnError = "warn"
    separate: bool = False
    whole_calls: bool = False
    level: Literal["full", "digest"] = "full"
    op: str | None = None
    step: str | None = None
    buffer: str | None = None
    invocation: str | None = None
    only_matching: bool = False
    max_bytes: str | None = None
    max_steps: int | None = None
    max_invocations: int | None = None
    keep: Keep = "all"
    against: str | None = None
    verify_static: bool = False
    with_reference: bool = False
    binaries: bool = True
    weights_in: str | None = None
    no_weights: bool = False
    slow_after: float = 10.0
    step_timeout: float | None = None
    ledger: str | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read ``FUSION_REPLAY_*``; a variable that is unset or empty leaves its default.

        Raises:
            UsageError: a malformed value; names the variable, what was expected and what was found.
        """
        hints = typing.get_type_hints(cls)
        given = {
            field.name: _parse(variable(field.name), environ[variable(field.name)], hints[field.name])
            for field in dataclasses.fields(cls)
            if environ.get(variable(field.name))
        }
        return cls(**given)

    @property
    def keeping(self) -> Keeping:
        """What of the run is kept.

        Raises:
            UsageError: malformed, or at odds with each other.
        """
        return Keeping.of(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Keeping)})

    def how(self, if_exists: IfExists) -> How:
        """How it is recorded, where this is done about a file that is there."""
        return How(**{f.name: getattr(self, f.name) for f in dataclasses.fields(How)} | {"if_exists": if_exists})

    def to_environ(self) -> dict[str, str]:
        """The variables that say exactly this; defaults are left out."""
        found = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                found[variable(field.name)] = ("1" if value else "0") if isinstance(value, bool) else str(value)
        return found


def variable(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def _parse(name: str, text: str, hint: Any) -> Any:
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    options = [h for h in typing.get_args(hint) if h is not types.NoneType] if optional else []
    kind = options[0] if options else hint
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if text not in choices:
            raise UsageError(f"{name}={text!r}: expected {' or '.join(map(repr, choices))}; correct or unset it")
        return text
    if kind is bool:
        if text.lower() not in _WORDS:
            raise UsageError(f"{name}={text!r}: expected 1 or 0; correct or unset it")
        return _WORDS[text.lower()]
    if kind is int:
        if not (text.isascii() and text.isdigit()):
            raise UsageError(f"{name}={text!r}: expected a count; correct or unset it")
        return int(text)
    if kind is float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise UsageError(f"{name}={text!r}: expected a number of seconds, 0 or more; correct or unset it")
        return number
    return text


__all__ = ["PREFIX", "Settings", "variable"]
