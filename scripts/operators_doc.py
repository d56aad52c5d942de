#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes docs/operators.md from the catalogue: ``scripts/operators_doc.py``, or ``--check`` to fail where it is stale.

Everything but the introduction and the list of what could not be established comes from fusion_replay/refs.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from fusion_replay.errors import UsageError
from fusion_replay.model.runlist import ArgSpec
from fusion_replay.operators import REQUIRED, OperatorSpec, Param
from fusion_replay.refs import Fold, find
from fusion_replay.refs import specs as all_specs
from fusion_replay.refs._folds import composed
from fusion_replay.refs._identity import NEUTRAL, home_of
from fusion_replay.simulator.kernels.builtin import builtin_kernels
from fusion_replay.simulator.workloads.op import DEFAULTS

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

Of every operator: up to IRON's form of August 2026 (V4), compare mode passes an output full of NaN, and any Inf in the
reference makes the largest relative deviation NaN, so that the whole tensor passes, errors elsewhere in it included.
Right is that non-finite values must agree.
"""

_UNKNOWN, _NO, _STORED, _LISTED = "none", "no", "`stored`", "nothing: it has no `reference()`"
NOT_COVERED = (
    (
        "Conv2d",
        "`iron.operators.conv2d.op`",
        _UNKNOWN,
        _NO,
        _NO,
        _LISTED,
        "amd/IRON iron/operators/conv2d/op.py (06f3bee5, 81e31e67): the bias is the device's in one version and the "
        "host's in the other, under the same fields",
    ),
    (
        "Conv3d",
        "`iron.operators.conv3d.op`",
        _UNKNOWN,
        _NO,
        _NO,
        _LISTED,
        "amd/IRON iron/operators/conv3d/op.py (06f3bee5): built for a placeholder's extents, run on others",
    ),
    (
        "AveragePool2d, MaxPool2d",
        "`iron.operators.avgpool.op`, `iron.operators.maxpool.op`",
        _UNKNOWN,
        _NO,
        _NO,
        _LISTED,
        "amd/IRON iron/operators/avgpool/reference.py, aie_kernels/aie2p/avgpool.cc (06f3bee5): the reference divides "
        "a padded window by all of it, the kernel by what is not padding; extents come with the call",
    ),
    (
        "GEMM",
        "`iron.operators.flm.gemm.op`",
        _UNKNOWN,
        _NO,
        _NO,
        _STORED,
        "amd/IRON iron/operators/flm/gemm/op.py (5102ec5d): B is packed; shares the plain one's name",
    ),
    (
        "DequantBFP, PrefillAttention, PrefillSlidingAttention, DecodeLayer, LMHead, MMPrebuilt",
        "`iron.operators.flm`",
        _UNKNOWN,
        _NO,
        _NO,
        _STORED,
        "amd/IRON iron/operators/flm/{dequant,prefill_attn,swa,layer,lm_head,mm_prebuilt}: a model's own packing, read "
        "by file name only",
    ),
    (
        "any other",
        "any other",
        _UNKNOWN,
        _NO,
        _NO,
        _STORED,
        "a user's own, declared with `@fusion_replay.operator`, by that",
    ),
)
"""IRON's operators without a reference here, as rows of the matrix; the source says why."""

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
    "FlowKVDecode: how near a core's `aie::inv` comes to 1/l; the software NPU divides in float32.",
    "FusedDequantGEMV, FusedQKVProj, SiLUMul, SwiGLUFusedDecode, FlowKVDecode: no runlist operators where they were "
    "read (an operator ran itself), so no recording of IRON's has them yet; arrays and the software NPU do.",
    "dequant_i32, dequant_i32_bf16, reduction: read by file name only.",
)


MATRIX = """\
Which operator a reference was made for: the class of this name in this module (`gemv.py` since September 2026,
`gemv/op.py` before), with these fields; the ones in brackets change no number of a call, nor do {neutral} of any
operator and what a class declares as tuning (`auto()`). A recording of format 1.2 has each operator's module, every
field that is not the class's own, and what is folded into it. One with another field, of another module, with a
per-call bound, or with other arguments is *not covered*, and judged as the rows at the end are: by what IRON's own
`reference()` gave while it was recorded (`stored`); where there is none, by nothing, and the step is listed. Older
recordings, arrays and the software NPU name no module; theirs are the catalogue's.

Folds (`finish`, `prepare`: amd/IRON iron/common/declare/operator.py) of known operators are composed, link by link,
rounded between two links but in `exact`. *As a fold*: what tile the operator takes where it is the link. *Takes*: what
it has folded into it. The software NPU runs each link's own kernel on the whole operand.
"""


def page() -> str:
    """The whole of docs/operators.md."""
    specs = sorted(all_specs(), key=lambda s: s.type.lower())
    head = ("operator", "computes", "forms", "devices", "limit npu1", "limit npu2")
    parts = [INTRODUCTION, _table(head, [_row(s) for s in specs])]
    parts += ["## Which judges what\n", MATRIX.replace("{neutral}", _names(NEUTRAL)), _table(*_matrix(specs))]
    parts += [_section(s) for s in specs]
    parts.append("## Not established\n\nListed, not guessed:\n")
    parts.append("\n".join(f"- {line}" for line in NOT_ESTABLISHED) + "\n")
    return "\n".join(parts)


def _row(spec: OperatorSpec) -> tuple[str, ...]:
    limits = [_limit(spec, device) for device in ("npu1", "npu2")]
    name = f"[{spec.type}](#{spec.type.lower()})"
    return name, spec.summary, str(len(spec.forms())), ", ".join(spec.devices), *limits


def _matrix(specs: Iterable[OperatorSpec]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head = ("operator", "module", "fields known", "as a fold", "takes", "judged by", "source")
    rows = []
    for spec in specs:
        tuning = [p.name for p in spec.params if not p.decides] + list(spec.neutral)
        fields = _names(p.name for p in spec.params if p.decides) + (f" ({_names(tuning)})" if tuning else "")
        judge = "its steps, each by its own" if spec.type not in builtin_kernels() else "ours"
        rows.append((spec.type, f"`{home_of(spec)}`", fields, *_folds(spec), judge, spec.source))
    return head, [*rows, *NOT_COVERED]


def _folds(spec: OperatorSpec) -> tuple[str, str]:
    """What it does as a fold, and what is folded into it: asked of the code that composes them."""
    params = DEFAULTS[spec.type]
    reads, writes = ([s for s in spec.arg_specs(params) if wanted(s)] for wanted in (_reads, _writes))
    tile = "no"
    for at, arg in enumerate(reads):
        with contextlib.suppress(UsageError):
            Fold(spec, params, at).operands(arg.shape)
            tile = "any tile" if spec.elementwise else "the whole" if spec.prepared else "a row, the whole"
    taken = []
    for kind in ("prepare", "finish"):
        shape = next((s.shape for s in reads if s.name == spec.prepared), ()) if kind == "prepare" else writes[0].shape
        link = [Fold(find("SiLU"), {"size": math.prod(shape)}, 0)]
        with contextlib.suppress(UsageError):
            composed(spec, params, *((link, []) if kind == "prepare" else ([], link)))
            taken.append(f"`{kind}` ({spec.prepared})" if kind == "prepare" else f"`{kind}`")
    return tile, ", ".join(taken) or "no"


def _reads(arg: ArgSpec) -> bool:
    return arg.reads


def _writes(arg: ArgSpec) -> bool:
    return arg.writes


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
