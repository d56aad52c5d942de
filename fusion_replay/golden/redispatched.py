# SPDX-License-Identifier: Apache-2.0
"""Does the NPU still give what a golden holds, without a new recording: each step dispatched on its recorded inputs.

Recorded binaries run on an NPU through pyxrt; a recording of the software NPU runs there without any. No code that a
golden names is run, and a step that moved can't hide behind an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fusion_replay.golden.check_report import CheckedStep
from fusion_replay.golden.moves import WORDS
from fusion_replay.golden.tolerances import in_force
from fusion_replay.replaying.redispatch import outcome as verdicts
from fusion_replay.replaying.redispatch.run import redispatch

if TYPE_CHECKING:
    from fusion_replay.golden.document import Golden
    from fusion_replay.replaying.redispatch.outcome import StepOutcome
    from fusion_replay.snapshot import Snapshot


@dataclass(slots=True)
class Device:
    """What is known of the NPU while several goldens are checked on it.

    Attributes:
        lost_at: golden and step that it was lost at; empty while it answers.
    """

    lost_at: str = ""


def can_dispatch(golden: Golden, recorded: Snapshot, on: Literal["sim", "npu"] | None, run_recipes: bool) -> bool:
    """Whether the recording itself is dispatched again, rather than made again from the golden's recipe.

    A recipe that builds with today's toolchain asks for more, so it goes first where it may run.
    """
    recipe = golden.recipe or {}
    runs_code = "python" in recipe or "command" in recipe
    if on == "npu":
        held = any(k.xclbin is not None and k.xclbin.kept for k in recorded.binaries)
        return held and not (run_recipes and runs_code)
    software = all(s.origin.get("variant") == "simulator" for s in recorded.sequences)
    return on == "sim" and software and (not recipe or "test" in recipe or (runs_code and not run_recipes))


def dispatch_again(
    golden: Golden, recorded: Snapshot, on: Literal["sim", "npu"], device: Device, scratch: Path, *, exact: bool
) -> list[CheckedStep]:
    """The steps of ``golden``, dispatched again: the accepted bits first, its limits second unless ``exact``.

    Args:
        scratch: a folder for the journal: a check starts afresh, whatever an earlier one left.

    Raises:
        MissingError: nothing can be run here, with the reason.
        SnapshotError: damaged contents.
    """
    if device.lost_at:
        why = f"the device was lost at {device.lost_at}"
        return [CheckedStep("npu", s.address, s.label, "not_compared", "not_run", why) for s in golden.steps]
    report = redispatch(recorded, on, tolerances=in_force(golden.tolerances), journal=scratch / "redispatch.jsonl")
    lost = next((s for s in report.steps if s.verdict == verdicts.LOST), None)
    if lost is not None:
        device.lost_at = f"{golden.name} {lost.label}"
    ran = {s.address: s for s in report.steps}
    return [_outcome(s.address, s.label, ran[s.address], exact) for s in golden.steps if s.address in ran]


def _outcome(address: str, label: str, ran: StepOutcome, exact: bool) -> CheckedStep:
    if ran.verdict == verdicts.UNCHANGED:
        return CheckedStep("npu", address, label, "same")
    text = f"{ran.verdict}{f': {ran.detail}' if ran.detail else ''}"
    if ran.verdict == verdicts.NOT_RUN:
        return CheckedStep("npu", address, label, "not_compared", "not_run", ran.detail)
    if ran.verdict == verdicts.INSIDE and not exact:
        return CheckedStep("npu", address, label, "within", "npu", text)
    return CheckedStep("npu", address, label, "moved", "npu", f"{WORDS['npu']}: {text}")


__all__ = ["Device", "can_dispatch", "dispatch_again"]
