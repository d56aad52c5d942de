# SPDX-License-Identifier: Apache-2.0
"""Which attributes IRON's classes of today have that no double has: ``python tests/iron_doubles/surface.py IRON``.

IRON is the folder of a checkout that holds ``common``. Read are class attributes, methods and what methods assign to
``self``; nothing is imported. :data:`REAL` is what the public files had when the doubles were last held against them:
amd/IRON ``iron/common/image/{callable,sequence,standalone}.py`` and ``iron/common/declare/operator.py``, the newest
stored forms, autumn 2026, of an operator its public names. :data:`WITHOUT` is what no double needs, and why. A name in
neither is news: whoever adds it to :data:`REAL` looks whether recording is concerned.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
FILES = ("image/callable.py", "image/sequence.py", "image/standalone.py", "declare/operator.py")

REAL: dict[str, str] = {
    "StepCallable": """FALLBACK_TOLERANCE op compare tolerance last_elapsed dispatch_values _on_npu arena
        _arena_generation _buffers _storage _steps _follow_arena get_buffer get_storage write_values __call__ __init__
        _reference _check""",
    "FullELFCallable": """_holding op arena device_name sequence_name last_elapsed kernel _handle _run _runs
        _buffer_cache _storage_cache _argument_index input_buffer output_buffer scratch_buffer _arena_generation
        feedback_buffer trace_buffer _trace_arg handle run new_run release _make_run params write_values _arguments
        lowered_mlir_path get_buffer get_storage _follow_arena _sync_inputs start wait __call__ __init__""",
    "FullELFRun": """name _handle handle _feedback_arg _params_path _params wired bind bind_feedback params
        write_values read_value scratchpad_alias start wait __init__""",
    "OperatorSequence": """runlist coresident name input_args output_args feedback_args buffer_offsets plan_scratch
        explicit_buffer_sizes extra_flags share_designs arena residents shared_words _arena_layout mode _image image
        _artifacts subbuffer_layout buffer_sizes slice_info _coerce_dispatch traced unique_operators unique_designs
        infer_buffer_offsets _place_in_arena calculate_buffer_layout buffer_dtype prepare compile link elf_path
        artifacts _record get_callable get_layout_for_buffer __init__""",
    "OperatorImage": "op _artifacts _kernel compile artifacts __call__ _build __init__",
    "Operator": """accept_views aiecc_flags array array_key at_line bound_extents bound_values buffers build_array
        call_operands call_reference check_derived check_shim_columns compatible configuration copies_to copy
        derived_at design_key dev device domains exported_design extent_unit external finish finish_inputs
        finish_line finishes fold from_operands gate has_sequence_override infer inputs judge name on_array ops
        outputs own_preamble pinned placed placements prefold prepare prepare_inputs prepares probed reference
        residents resolve resolve_columns resolved sequence shim_columns test tolerance trace use_value uses_value
        validate value value_buffer value_symbol values widths with_tunables""",
}

_BUILDS = "of building or tuning an image, before anything is dispatched"
_ARENA = "of the memory behind an arena: buffers are asked for by get_buffer"
_LAYOUT = "of where a buffer lies, which subbuffer_layout and slice_info say"
_RUNS = "of how runs share a device's heap and values; a run's start and wait are what is seen"
WITHOUT: dict[str, dict[str, str]] = {
    "FullELFCallable": {
        _ARENA: "arena _arena_generation _storage_cache _follow_arena get_storage _arguments _argument_index "
        "feedback_buffer _sync_inputs",
        _RUNS: "_holding _runs run handle release _make_run params device_name sequence_name",
        _BUILDS: "trace_buffer _trace_arg lowered_mlir_path",
    },
    "FullELFRun": {
        _RUNS: "_handle handle _feedback_arg _params_path _params wired bind params read_value scratchpad_alias",
    },
    "OperatorSequence": {
        _LAYOUT: "get_layout_for_buffer",
        _BUILDS: "_coerce_dispatch traced unique_designs unique_operators calculate_buffer_layout prepare link "
        "elf_path artifacts _artifacts _record image _place_in_arena _arena_layout",
    },
    "OperatorImage": {_BUILDS: "_artifacts artifacts _build"},
    "Operator": {
        _BUILDS: """accept_views aiecc_flags array array_key at_line build_array call_operands check_derived
        check_shim_columns compatible configuration copies_to copy derived_at design_key dev domains exported_design
        extent_unit external finish_inputs finish_line fold from_operands has_sequence_override infer on_array ops
        own_preamble placed prefold prepare_inputs probed residents resolve resolve_columns sequence shim_columns
        test use_value uses_value validate value_buffer value_symbol widths with_tunables"""
    },
}

DOUBLES: dict[str, tuple[str, ...]] = {
    "StepCallable": ("iron_doubles/v6.py:StepCallable", "fake_iron/v6/iron/common/image/callable.py:StepCallable"),
    "FullELFCallable": (
        "iron_doubles/whole.py:FullELF",
        "iron_doubles/v6.py:FullELFCallable",
        "fake_iron/v6/iron/common/image/callable.py:FullELFCallable",
    ),
    "FullELFRun": (
        "iron_doubles/v6.py:FullELFRun",
        "fake_iron/v6/iron/common/image/callable.py:FullELFRun",
    ),
    "OperatorSequence": (
        *(f"iron_doubles/v{n}.py:OperatorSequence" for n in (5, 6)),
        "fake_iron/v6/iron/common/image/sequence.py:OperatorSequence",
    ),
    "OperatorImage": ("fake_iron/v6/iron/common/image/standalone.py:OperatorImage",),
    "Operator": ("iron_doubles/autumn.py:Operator",),
}


def surface(source: str) -> dict[str, set[str]]:
    """Class -> names of its attributes, in one file's source."""
    found = {}
    for cls in [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]:
        names = {n.name for n in cls.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        for node in ast.walk(cls):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "self" else set()
        for statement in cls.body:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            names |= {t.id for t in targets if isinstance(t, ast.Name)}
        found[cls.name] = names
    return found


def doubled(kind: str) -> set[str]:
    """What the doubles of this class have, together."""
    names = set()
    for place in DOUBLES[kind]:
        file, _, cls = place.partition(":")
        names |= surface((TESTS / file).read_text("utf-8"))[cls]
    return names


def without(kind: str) -> set[str]:
    return {name for names in WITHOUT.get(kind, {}).values() for name in names.split()}


def news(sources: dict[str, str]) -> dict[str, set[str]]:
    """Class -> attributes that neither :data:`REAL` nor a double has; ``sources``: by file name."""
    found: dict[str, set[str]] = {}
    for source in sources.values():
        for kind, names in surface(source).items():
            if kind in REAL:
                told = {n for n in names if not n.startswith("_")} if kind == "Operator" else names
                found[kind] = told - set(REAL[kind].split()) - doubled(kind)
    return {kind: names for kind, names in found.items() if names}


def main(checkout: Path) -> int:
    new = news({name: (checkout / "common" / name).read_text("utf-8") for name in FILES})
    for kind, names in new.items():
        print(f"{kind}: {', '.join(sorted(names))}: no double has it")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
