# SPDX-License-Identifier: Apache-2.0
"""``replay F --oracle O``: the recording against a framework model's tensors.

Tested in tests/cli/test_oracle.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion_replay.cli.progress import Progress
from fusion_replay.cli.terminal import Terminal, command_line, typed_option
from fusion_replay.errors import MismatchError, MissingError, UsageError

if TYPE_CHECKING:
    from fusion_replay.oracle.judge import OracleReplay
    from fusion_replay.oracle.tokens import TokenFigures

TAKES = ("invocation",)


def against_oracle(
    file: str,
    oracle: str,
    map_file: str | None,
    logits: str | None,
    every: bool,
    weights: str | None,
    out: Terminal,
    options: dict[str, Any],
) -> int:
    """Exit status 1 where the runlist does not do what the model does, or a step on the way mismatches; 4 where that
    can't be said, because some tensors have no place."""
    if other := typed_option(set(options) - {*TAKES}):
        raise UsageError(f"replay --oracle: takes --map, --logits, --invocation and --all; leave {other} out")
    from fusion_replay.oracle.judge import judge_against
    from fusion_replay.snapshot import open_snapshot

    tokens: TokenFigures | None = None
    with open_snapshot(file, weights=weights) as snapshot:
        out.notes(snapshot.notes)
        if logits is not None:
            from fusion_replay.oracle.tokens import tokens_against

            tokens = tokens_against(snapshot, oracle, logits, options["invocation"])
        with Progress("comparing", quiet=out.quiet) as progress:
            found = judge_against(
                snapshot, oracle, map_path=map_file, invocation=options["invocation"], progress=progress
            )
    if out.as_json:
        told = [] if tokens is None else [{"type": "tokens", **tokens.to_dict()}]
        out.records([*told, *found.records()])
    else:
        from fusion_replay.report.oracle import layout

        out.report(layout(found, every=every))
        if tokens is not None:
            out.say(str(tokens))
    out.close(bool(found), next=_next(file, oracle, found))
    if found.made:
        return MismatchError.exit_code
    return 0 if found else MissingError.exit_code


def _next(file: str, oracle: str, found: OracleReplay) -> str | None:
    if found.first is not None:
        return command_line("show", file, found.first.wrong[0].split()[0] if found.first.wrong else found.first.address)
    return command_line("oracle", "map", file, oracle, "-o", "map.json") if found.unmapped else None


__all__ = ["against_oracle"]
