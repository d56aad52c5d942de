# SPDX-License-Identifier: Apache-2.0
"""One list of options: whoever offers them offers the fields of ``Options``, and nobody lists them again."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fusion_replay as fr
from fusion_replay.cli.record import command
from fusion_replay.errors import UsageError
from fusion_replay.recording.options import Options, options

seconds = st.floats(min_value=0, max_value=1e9, allow_nan=False)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@settings(suppress_health_check=[HealthCheck.too_slow])  # where the machine is busy
@given(
    st.builds(
        Options,
        out=st.none() | texts,
        if_exists=st.sampled_from([None, "error", "replace", "number"]),
        on_error=st.sampled_from(["warn", "raise"]),
        separate=st.booleans(),
        level=st.sampled_from(["full", "digest"]),
        verify_static=st.booleans(),
        with_reference=st.booleans(),
        slow_after=seconds,
        step_timeout=st.none() | seconds,
        child_log=st.none() | texts,
    )
)
def test_what_is_written_is_what_is_read(chosen: Options) -> None:
    environ = chosen.to_environ()
    assert all(name.startswith("FUSION_REPLAY_") for name in environ)
    assert Options.from_environ({**environ, "FUSION_REPLAY_SOMETHING_ELSE": "x", "PATH": "/bin"}) == chosen


def test_defaults_need_no_variables() -> None:
    assert Options().to_environ() == {}
    assert Options.from_environ({"FUSION_REPLAY_STEP_TIMEOUT": ""}) == Options()


@pytest.mark.parametrize("text", ["1", "true", "YES"])
def test_switches(text: str) -> None:
    assert Options.from_environ({"FUSION_REPLAY_SEPARATE": text}).separate
    assert not Options.from_environ({"FUSION_REPLAY_SEPARATE": "0"}).separate


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEPARATE", "on or off"),
        ("STEP_TIMEOUT", "-1"),
        ("STEP_TIMEOUT", "inf"),
        ("SLOW_AFTER", "10s"),
        ("IF_EXISTS", "overwrite"),
        ("ON_ERROR", "RAISE"),
    ],
)
def test_malformed_values_name_variable_and_expectation(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"^FUSION_REPLAY_{name}={value!r}: expected .*; correct or unset it$"):
        Options.from_environ({f"FUSION_REPLAY_{name}": value})


# --- one list -----------------------------------------------------------------------------------------------------

ROOT = Path(fr.__file__).parent
NAMES = {option.name for option in options()}
SEVERAL = 6
"""Names of options together that make a list: a function that needs so many takes ``Options``."""
LISTS = ("recording/options.py: class Options", "record.py: def record")
"""The one list, and the signature that users read, which the next test compares with it."""


def second_lists(place: str, source: str) -> Iterator[str]:
    """Wherever several options are named together: fields, parameters, flags, dictionaries, names in a tuple."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ClassDef():
                what = f"class {node.name}"
                names = {ast.unparse(n.target) for n in node.body if isinstance(n, ast.AnnAssign)}
            case ast.FunctionDef():
                what = f"def {node.name}"
                names = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
                flags = [c.value for d in node.decorator_list for c in ast.walk(d) if isinstance(c, ast.Constant)]
                names |= {f.strip("-").replace("-", "_") for f in flags if isinstance(f, str) and f.startswith("--")}
            case ast.Dict():
                what = "a dictionary"
                names = {k.value for k in node.keys if isinstance(k, ast.Constant)}
            case ast.Tuple() | ast.List() | ast.Set():
                what = "a list of names"
                names = {e.value for e in node.elts if isinstance(e, ast.Constant)}
            case _:
                continue
        listed = sorted(names & NAMES)
        if len(listed) >= SEVERAL and f"{place}: {what}" not in LISTS:
            yield (
                f"{place}:{node.lineno}: {what} names the options {', '.join(listed)} again; there is one list of "
                "options, recording/options.py: take Options, or make it from options()"
            )


def test_nobody_lists_the_options_again() -> None:
    found = [
        said
        for path in ROOT.rglob("*.py")
        for said in second_lists(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "class Again:\n    level: str\n    op: str\n    step: str\n    keep: str\n    against: str\n    out: str",
        "def again(level, *, op, step, keep, against, separate): pass",
        "again = {'level': 1, 'op': 2, 'step': 3, 'keep': 4, 'against': 5, 'out': 6}",
        "again = ('level', 'op', 'step', 'keep', 'against', 'out')",
        "@o('--level')\n@o('--op')\n@o('--max-bytes')\n@o('--keep')\n@o('--against')\n@o('--out')\ndef f(**k): pass",
    ],
)
def test_a_second_list_is_found(source: str) -> None:
    (said,) = second_lists("x.py", source)
    assert re.match(r"x\.py:\d: .* names the options against, keep, level, .* again; there is one list", said)


def test_arguments_of_record_are_the_fields() -> None:
    taken = {p.name: p.default for p in list(inspect.signature(fr.record).parameters.values())[2:]}
    fields = {option.name: option.default for option in options() if option.keyword}
    fields["if_exists"] = "error"  # the caller has named the file
    assert taken == fields


def test_options_of_the_command_line_are_the_fields() -> None:
    own = {"workload", "sim", "fault", "listed", "matrix", "device", "only", "program", "verbose", "quiet"}
    own |= {"user_operators", "no_import"}  # of every verb; there once the command line has loaded this one
    offered = {p.name for p in command.params} - own
    assert offered == {option.name for option in options() if option.help is not None}
    kinds = {p.name: p for p in command.params if isinstance(p, click.Option)}
    assert isinstance(kinds["keep"].type, click.Choice)
    assert kinds["binaries"].opts == ["--no-binaries"]
    assert kinds["out"].opts == ["-o", "--output"]


def test_help_names_every_variable() -> None:
    told = " ".join((command.help or "").split())
    named = {name.lower() for name in re.findall(r"\bFUSION_REPLAY_(\w+)|\b_([A-Z_]+)", told) for name in name if name}
    assert named == NAMES - {"child_log"}, "child_log is between record and the processes that it starts"


def test_what_is_typed_wins_and_both_are_looked_at_together() -> None:
    environ = {"FUSION_REPLAY_OP": "GEMV", "FUSION_REPLAY_MAX_BYTES": "2k", "FUSION_REPLAY_LEVEL": "digest"}
    found = Options.from_environ(environ, level="full", only_matching=True)
    assert found == Options(op="GEMV", max_bytes=2000, only_matching=True)
    with pytest.raises(UsageError, match="max_bytes 2000: level 'digest' keeps no contents"):
        Options.from_environ(environ)
