# SPDX-License-Identifier: Apache-2.0
"""What a recording can be told, as one frozen dataclass: keyword arguments, environment and command line come from it.

``record()`` takes the fields as keyword arguments, a recorded program reads them from ``FUSION_REPLAY_*``, the command
line makes its options of them. Loaded at the start of every recorded process, so it imports next to nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import parse_buffer
from fusion_replay.model.step_filter import StepFilter, parts
from fusion_replay.recording.filters import FILTERS, parse_invocations
from fusion_replay.recording.option_declaration import MOST, Option, size_in_bytes
from fusion_replay.recording.references import DEFAULT_BUDGET, Budget

IfExists = Literal["error", "replace", "number"]
OnError = Literal["warn", "raise"]
Level = Literal["full", "digest"]
Keep = Literal["all", "mismatch"]
Texts = str | Sequence[str]


def _offer(help: str | None = None, **how: Any) -> dict[str, Any]:
    """A field's metadata: attributes of its :class:`Option`."""
    return {"help": help, **how}


@dataclass(frozen=True, slots=True)
class Options:
    """See :func:`fusion_replay.record` for what each means; the fields stand in the order of ``record --help``.

    Those that it does not take: ``out``, the snapshot of a program's first process that dispatches, while the others
    take the next free number; ``separate``, sequences with auto or fused dispatch get separate dispatch; ``child_log``,
    the file in which the processes of one recorded program say what became of them. ``if_exists`` None: "error" where
    the user has named the file, else "number".

    Raises:
        UsageError: a malformed value, or values that exclude each other; names it and what was expected.
    """

    out: str | None = field(
        default=None,
        metadata=_offer(
            "The snapshot to write.  [default: NAME.h5, next free number]",
            keyword=False,
            flags=("-o", "--output"),
            metavar="F",
        ),
    )
    if_exists: IfExists | None = field(
        default=None, metadata=_offer("What to do about an existing F.  [default: error with -o, else number]")
    )
    level: Level = field(
        default="full",
        metadata=_offer("digest: of every tensor its digest alone, enough to compare two runs.  [default: full]"),
    )
    op: str | None = field(
        default=None,
        metadata=_offer(
            "Keep contents of these operators' steps; of all other steps digests alone.", metavar="TYPES", keeps=True
        ),
    )
    step: str | None = field(
        default=None,
        metadata=_offer(
            "... of these steps: numbers, ranges, addresses (412,10-20,3:400-412).", metavar="STEPS", keeps=True
        ),
    )
    buffer: str | None = field(
        default=None,
        metadata=_offer("... of steps that use these buffers (name, or name[start:end]).", metavar="NAMES", keeps=True),
    )
    invocation: str | None = field(
        default=None,
        metadata=_offer("... of these calls (0,3-5). All filters given must agree.", metavar="NUMBERS", keeps=True),
    )
    only_matching: bool = field(
        default=False, metadata=_offer("What the filters leave out is not recorded, digests neither.", keeps=True)
    )
    max_bytes: int | None = field(
        default=None,
        metadata=_offer(
            "Keep contents of this size (500M, 2G; before compression), then digests.",
            metavar="SIZE",
            text=True,
            keeps=True,
        ),
    )
    max_steps: int | None = field(
        default=None, metadata=_offer("Keep contents of the first N steps, then digests.", metavar="N", keeps=True)
    )
    keep: Keep = field(
        default="all",
        metadata=_offer(
            "mismatch: keep contents of steps that deviate, from --against or else from their references, which are "
            "then computed at every step, on the recorded thread: about the time that replay takes.  [default: all]",
            keeps=True,
        ),
    )
    against: str | None = field(
        default=None,
        metadata=_offer(
            "With --keep mismatch: from this recording, of any level, bit for bit.", metavar="EARLIER.h5", keeps=True
        ),
    )
    max_invocations: int | None = field(
        default=None, metadata=_offer("Keep contents of the first N calls, then digests.", metavar="N", keeps=True)
    )
    verify_static: bool = field(
        default=False, metadata=_offer("Look at weights at every step, not only the first time.")
    )
    with_reference: bool | None = field(
        default=None,
        metadata=_offer(
            "Keep what each operator's own reference() gives, or none.  "
            "[default: of what the catalogue does not cover]",
            flags=("--with-reference/--no-reference",),
        ),
    )
    reference_budget: str = field(
        default=DEFAULT_BUDGET,
        metadata=_offer(
            f"What that may cost: seconds of waiting, bytes kept.  [default: {DEFAULT_BUDGET}]", metavar="S,SIZE"
        ),
    )
    weights_in: str | None = field(
        default=None, metadata=_offer("Weights go into this side file, which later recordings share.", metavar="W.h5")
    )
    no_weights: bool = field(default=False, metadata=_offer("Keep only the digests of weights."))
    binaries: bool = field(default=True, metadata=_offer("With a program: keep no xclbin and instruction files."))
    separate: bool = field(
        default=False,
        metadata=_offer("With a program: auto and fused dispatch become separate dispatch.", keyword=False),
    )
    whole_calls: bool = field(
        default=False, metadata=_offer("With a program: what runs fused is recorded too, each call as one step.")
    )
    repeat_calls: int = field(
        default=1,
        metadata=_offer(
            "With whole calls: make each N times on the same contents of all buffers.  [default: 1]",
            metavar="N",
            above_zero=True,
        ),
    )
    slow_after: float = field(
        default=10.0,
        metadata=_offer(
            "Tell of a step that runs far longer than its like after S seconds; 0: never.  [default: 10]", metavar="S"
        ),
    )
    step_timeout: float | None = field(
        default=None,
        metadata=_offer(
            "Stop the run when a step takes longer than S seconds; its inputs are kept.", metavar="S", above_zero=True
        ),
    )
    on_error: OnError = field(default="warn")
    child_log: str | None = field(default=None, metadata=_offer(keyword=False))

    def __post_init__(self) -> None:
        if self.level not in ("full", "digest"):
            raise UsageError(f"level {self.level!r}: expected 'full' or 'digest'")
        self._check_keep()
        self._check_limits()
        self._check_filters()
        if self.if_exists not in (None, "error", "replace", "number"):
            raise UsageError(f"if_exists={self.if_exists!r}: expected 'error', 'replace' or 'number'")
        if self.on_error not in ("warn", "raise"):
            raise UsageError(f"on_error={self.on_error!r}: expected 'warn' or 'raise'")
        Budget.parse(self.reference_budget)
        if self.weights_in is not None and self.no_weights:
            raise UsageError(f"weights_in={self.weights_in!r}: goes with no_weights=False; leave out one of them")

    def _check_keep(self) -> None:
        if self.keep not in ("all", "mismatch"):
            raise UsageError(f"keep {self.keep!r}: expected 'all' or 'mismatch'")
        if self.keep == "mismatch" and self.level == "digest":
            raise UsageError("keep 'mismatch' with level 'digest': no contents are kept that it could choose")
        if self.against is not None and self.keep != "mismatch":
            raise UsageError(f"against {self.against!r}: goes with keep 'mismatch'")

    def _check_limits(self) -> None:
        if isinstance(self.repeat_calls, bool) or not isinstance(self.repeat_calls, int) or self.repeat_calls < 1:
            raise UsageError(f"repeat_calls {self.repeat_calls!r}: expected a count above 0")
        for name in ("max_bytes", "max_steps", "max_invocations"):
            limit = getattr(self, name)
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit < MOST):
                raise UsageError(f"{name} {limit!r}: expected a count above 0; leave it out for no limit")
            if limit is not None and self.level == "digest":
                raise UsageError(f"{name} {limit}: level 'digest' keeps no contents that it could limit")

    def _check_filters(self) -> None:
        for name in ("op", "buffer"):
            given = getattr(self, name)
            if given is not None and not all(parts(given)):
                raise UsageError(f"{name} {given!r}: expected names separated by commas")
        _ = (
            [parse_buffer(part) for part in parts(self.buffer)],
            StepFilter.parse(self.step) if self.step is not None else None,
        )
        _ = parse_invocations(self.invocation)
        if self.only_matching and not self.filters:
            raise UsageError("only_matching: goes with a filter: op, step, buffer or invocation")
        if self.filters and self.level == "digest" and not self.only_matching:
            given = next(iter(self.filters))
            raise UsageError(
                f"{given} with level 'digest': no contents are kept that it could choose; add only_matching"
            )

    @classmethod
    def of(cls, **given: Any) -> Options:
        """From what a caller may give: several values as one text or as a sequence, sizes as ``"2G"``, any path."""
        for name in FILTERS:
            if name in given:
                given[name] = _joined(given[name])
        if isinstance(size := given.get("max_bytes"), str):
            given["max_bytes"] = size_in_bytes(size)
        for name in ("against", "weights_in"):
            if given.get(name) is not None:
                given[name] = os.fspath(given[name])
        return cls(**given)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], **typed: Any) -> Options:
        """From ``FUSION_REPLAY_*``, an unset or empty variable leaving the default; what is ``typed`` wins.

        Raises:
            UsageError: a malformed value; names the variable, what was expected and what was found.
        """
        given = {o.name: o.parse(environ[o.variable]) for o in options() if environ.get(o.variable)}
        return cls.of(**{**given, **typed})

    def to_environ(self) -> dict[str, str]:
        """The variables that say exactly this; defaults are left out."""
        found = {}
        for option in options():
            value = getattr(self, option.name)
            if value != option.default:
                found[option.variable] = ("1" if value else "0") if isinstance(value, bool) else str(value)
        return found

    @property
    def filters(self) -> dict[str, str]:
        """Those given, by name."""
        given = {name: getattr(self, name) for name in FILTERS}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def kept(self) -> dict[str, Any]:
        """What differs from keeping everything, as JSON data; the level apart."""
        found = {o.name: getattr(self, o.name) for o in options() if o.keeps and getattr(self, o.name) != o.default}
        return found if self.against is None else {**found, "against": os.path.basename(self.against)}


@functools.cache
def options() -> tuple[Option, ...]:
    """Every field of :class:`Options`, in order."""
    hints = typing.get_type_hints(Options)
    fields = dataclasses.fields(Options)
    return tuple(Option(f.name, _without_none(hints[f.name]), f.default, **f.metadata) for f in fields)


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return hint
    return next(h for h in typing.get_args(hint) if h is not types.NoneType)


def _joined(given: Texts | int | None) -> str | None:
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, int):
        return str(given)
    return ",".join(map(str, given))


__all__ = [
    "IfExists",
    "Keep",
    "Level",
    "OnError",
    "Options",
    "Texts",
    "options",
]
