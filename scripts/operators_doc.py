#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/operators.md from the catalogue: ``scripts/operators_doc.py``, or ``--check`` to fail where it is stale.

Everything but the introduction and the list of what could not be established comes from fusion_replay/refs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from fusion_replay.operators import REQUIRED, OperatorSpec, Param
from fusion_replay.refs import specs as all_specs
from fusion_replay.refs._identity import HOME, NEUTRAL

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operators.md"

INTRODUCTION = """\
# Operators

<!-- Made by scripts/operators_doc.py from fusion_replay/refs; edit those. -->

What fusion-replay knows of IRON's operators: parameters, references, limits, and where each was read. The same on the
command line: `fusion-replay operators`, `fusion-replay operators NAME`, `--json`.

A *flavour* says whose rounding a reference follows: `pr117` (amd/IRON pull request 117, July 2026), `iron-2026-08`,
`iron-2026-09`, and `exact`, the true value rounded to bf16 once. Every operator answers every flavour; where IRON had
no form of its own, the nearest that exists answers and the result says which. All compute in float64 and round where
IRON's form rounds. *Forms* in the table counts the different functions behind the four names.

Limits are those of rule `tolerance`: an element passes if it is equal, within the given bf16 ULPs, closer than
max(atol, rtol (|a| + |b|)), or off by at most the given share of the largest expected value. Where a limit depends on
parameters, the table shows it for the defaults.

Which operator a reference was made for: the class of this name in the module that its section names (`gemv.py` since
September 2026, `gemv/op.py` before), with the fields in its table. Known to change no number of a call are {neutral},
and what a class declares as tuning (`auto()`). A recording of format 1.2 has each operator's module, every field that
is not the class's own, and what is folded into it. One with another field, of another module, with a per-call bound,
or with other arguments is *not covered*: `replay` takes what IRON's own `reference()` gave while it was recorded
(`stored`), and lists the step where there is none. Older recordings, arrays and the software NPU name no module;
theirs are the catalogue's.

Folds (`finish`, `prepare`: amd/IRON iron/common/declare/operator.py) of known operators are composed, link by link,
rounded between two links but in `exact`: elementwise ones on any tile, others where the tile is a row or the whole.
The software NPU runs each link's own kernel on the whole operand.

Of every operator: up to IRON's form of August 2026 (V4), compare mode passes an output full of NaN, and any Inf in the
reference makes the largest relative deviation NaN, so that the whole tensor passes, errors elsewhere in it included.
Right is that non-finite values must agree.
"""

NOT_COVERED = (
    (
        "WeightedRMSNorm",
        "iron/operators/rms_norm.py, one stored form",
        "became RMSNorm(weighted=True), which is covered",
    ),
    ("Pointwise, SiLUMul", "by name (contract of amd/IRON's newest catalogue)", "the class was not read"),
    ("FlowKVDecode, FusedDequantGEMV, FusedQKVProj, SwiGLUFusedDecode", "by name", "the class was not read"),
    (
        "conv2d, conv3d, avgpool, maxpool",
        "iron/operators/{conv2d,conv3d,avgpool}",
        "no declared operator where it was read",
    ),
    ("GEMM of iron.operators.flm", "iron/operators/flm/gemm/op.py", "B is packed; shares the plain one's name"),
    (
        "DequantBFP, PrefillAttention, PrefillSlidingAttention, DecodeLayer, LMHead, MMPrebuilt",
        "iron/operators/flm/{dequant,prefill_attn,swa,layer,lm_head,mm_prebuilt}",
        "model-specific packing",
    ),
)
"""IRON's operators without a reference here: name, where it stands, why; judged by what IRON gave while recording."""

NOT_ESTABLISHED = (
    "GEMV: which input the newest form declares as prepared was not read; B is taken, the one whose tile is a line.",
    "Clamp: what the core's min and max make of NaN (numpy's clip, which IRON's reference calls, keeps it).",
    "Copy: the class of a walk was not read, only its use (`offset`, `sizes`, `strides`, `bounded`, `elements`); a "
    "recorded walk is taken by those names.",
    "Copy, GEMM, MHA: what a device leaves in the rows past a per-call bound (`valid`); IRON skips such steps in "
    "compare mode.",
    "Dequant: how a tile above 16,384 values is laid out (the design caps the tile, the reference does not); the "
    "reference's reading is taken.",
    "DualGEMVSiLUMul: whether `tile_size_output` below M / num_aie_columns was ever used: the host's interleaving and "
    "the core's order of reading agree only where they are equal; the core's is taken. It was no runlist operator, and "
    "what became of it later was not found.",
    "GEMM: the epilogue field of the newest version was known from its name only; the meaning is that of GEMV's. "
    "Integer GEMM (i8, i16) has no reference here.",
    "MHA: before July 2026 K and V had num_heads heads in the arg spec whatever num_KV_heads said, and IRON tested no "
    "grouped case; (num_KV_heads, rows, d) is taken. What a device writes into padding rows: zeros, by IRON's "
    "reference, which no test of IRON's reaches.",
    "Sample: the software NPU draws by the same rule; whether a core's float32 division differs was not seen.",
    "Sample and Emit under the names dated July and August 2026: neither existed then.",
    "iron/operators/flm (FastFlowLM ports), dequant_i32, dequant_i32_bf16: model-specific, read by file name only. "
    "conv2d, conv3d, maxpool, avgpool, reduction: old interface without arg specs, no runlist operators.",
)


def page() -> str:
    """The whole of docs/operators.md."""
    specs = sorted(all_specs(), key=lambda s: s.type.lower())
    head = ("operator", "computes", "parameters that decide", "forms", "devices", "limit npu1", "limit npu2", "source")
    rows = [_row(s) for s in specs]
    introduction = INTRODUCTION.replace("{neutral}", _names(NEUTRAL))
    parts = [introduction, _table(head, rows), *(_section(s) for s in specs)]
    parts.append("## Not covered\n\nJudged by IRON's own reference as it was recorded (`stored`), else listed:\n")
    parts.append(_table(("operator", "source", "why"), list(NOT_COVERED)))
    parts.append("## Not established\n\nListed, not guessed:\n")
    parts.append("\n".join(f"- {line}" for line in NOT_ESTABLISHED) + "\n")
    return "\n".join(parts)


def _row(spec: OperatorSpec) -> tuple[str, ...]:
    deciding = ", ".join(f"`{p.name}`" for p in spec.params if p.decides)
    limits = [_limit(spec, device) for device in ("npu1", "npu2")]
    name = f"[{spec.type}](#{spec.type.lower()})"
    return name, spec.summary, deciding, str(len(spec.forms())), ", ".join(spec.devices), *limits, spec.source


def _limit(spec: OperatorSpec, device: str) -> str:
    return str(spec.tolerance_for(device)) if device in spec.devices else "no design"


def _section(spec: OperatorSpec) -> str:
    lines = [f"## {spec.type}", "", f"{spec.summary}.", ""]
    lines.append(_table(("parameter", "type", "default", "meaning"), [_parameter(p) for p in spec.params]))
    also = [a for a in spec.aliases if a != spec.type]
    facts = [f"Also called {', '.join(f'`{a}`' for a in also)}."] if also else []
    if spec.values:
        facts.append(f"Runtime values: {', '.join(f'`{v}`' for v in spec.values)}.")
    facts.append(f"Flavours: {'; '.join(_answered(form, names) for form, names in spec.forms())}.")
    facts.append(f"Made for: {spec.type} of `{HOME}.{spec.aliases[0]}`.")
    if spec.neutral:
        facts.append(f"Known to change nothing: {_names(spec.neutral)}.")
    if spec.elementwise:
        facts.append("Folded into another operator on tiles of any size.")
    if spec.prepared:
        facts.append(f"A prologue (`prepare`) is applied to {spec.prepared}.")
    if spec.float32:
        facts.append(f"Results of {_names(spec.float32)} stay float32, as IRON's do.")
    for device in spec.devices:
        limit = spec.tolerance_for(device)
        facts.append(f"Limit {device}: {limit} ({limit.source}).")
    if spec.exact_bits:
        facts.append("Moves bits: the device must reproduce the reference exactly.")
    if spec.partial:
        facts.append("Writes part of its output: the reference takes the old contents.")
    if spec.runlist is not None:
        facts.append("Has steps of its own for recordings: `SPEC.runlist`.")
    facts += [f"IRON's compare: {d}" for d in spec.defects]
    facts.append(f"Source: {spec.source}.")
    return "\n".join([*lines, *(f"- {f}" for f in facts), ""])


def _answered(form: str, names: list[str]) -> str:
    return _names(names) + ("" if form in names else f" (answered by `{form}`)") + " one form"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{n}`" for n in names)


def _parameter(p: Param) -> tuple[str, str, str, str]:
    default = "required" if p.default is REQUIRED else f"`{p.default!r}`"
    kind = {"tuple": "integers", "object": "any"}.get(p.type.__name__, p.type.__name__)
    return f"`{p.name}`", kind, default, p.help if p.decides or p.help else "shapes the design, not the result"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where the page is stale")
    wanted = page()
    if parser.parse_args().check:
        if PAGE.exists() and PAGE.read_text() == wanted:
            return 0
        print(f"{PAGE} is stale; run scripts/operators_doc.py", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
