# SPDX-License-Identifier: Apache-2.0
"""Imports run one way: a module imports from its own room and from earlier ones, inside functions too; no circle.

Read from the source, not by importing. What stands under ``if TYPE_CHECKING:`` never runs and is free: a part may name
the type of the whole that it is handed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = "fusion_replay"
REPOSITORY = Path(__file__).resolve().parents[1]
ROOT = REPOSITORY / PACKAGE

# Rooms, earlier ones first; those of a line are one layer. CONTRIBUTING.md prints this table.
LAYERS = (
    "errors",
    "system",
    "model",
    "compare",
    "operators",
    "refs",
    "snapshot",
    "sources simulator",
    "replaying",
    "recording",
    "diverge",
    "oracle",
    "report",
    "export",
    "golden",
    "cli",
    "__main__",
)

FACES = {"record": "recording", "replay": "replaying"}
"""Modules at the top that are the public face of a room, and belong to it."""

RANK = {room: rank for rank, line in enumerate(LAYERS) for room in line.split()}
MODULES = {
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def room(module: str) -> str:
    name = module.removeprefix(f"{PACKAGE}.").split(".")[0]
    return FACES.get(name, name)


def imports(tree: ast.AST, module: str = "") -> Iterator[str]:
    """Modules of the package that this code imports when it runs, wherever in it that stands."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for node in tree.orelse:
            yield from imports(node, module)
        return
    if isinstance(tree, ast.ImportFrom):
        assert not tree.level, f"{module}: relative import"
        if tree.module is not None and tree.module.split(".")[0] == PACKAGE:
            for alias in tree.names:
                inner = f"{tree.module}.{alias.name}"
                yield inner if inner in MODULES else tree.module
    elif isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names if alias.name.split(".")[0] == PACKAGE)
    for node in ast.iter_child_nodes(tree):
        yield from imports(node, module)


def against_the_order(module: str, source: str) -> list[str]:
    """Imports from a later layer, each with the rule that it breaks; of the package itself ``__version__`` alone."""
    return [
        f"{module} imports {other}: {room(other)} comes after {room(module)} in tests/test_layers.py"
        for other in imports(ast.parse(source), module)
        if other != PACKAGE and RANK[room(other)] > RANK[room(module)]
    ]


def private_names(module: str, source: str) -> list[str]:
    """Private modules and names of another room that this code imports."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == PACKAGE:
            if room(node.module) == room(module) and module:
                continue
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            found += [
                f"{module or 'a test'} imports the private {name} of {node.module}"
                for name in names
                if name.startswith("_") and not name.startswith("__")
            ]
    return found


FOREIGN = {
    "_dispatch": "of IRON's sequences: how they are dispatched",
    "_execution_plan": "of IRON's callables: kernels and tensors, step by step",
    "_exit": "of os: an end without clean-up",
    "_mpf_": "of mpmath: a number's parts",
    "_state": "of our double of pyxrt: how a run ended",
    "_steps": "of IRON's callables since August 2026, in place of _execution_plan",
}
"""Private names that tests may take from objects: other people's, for which there is nothing public."""


def private_in_a_test(source: str, doubles: frozenset[str] = frozenset()) -> list[str]:
    """Private names that a test takes from what it did not define: imported, of an object, or patched by name."""
    tree = ast.parse(source)
    own = doubles | names_defined(tree) | set(FOREIGN)
    found = private_names("", source)
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            names = [node.attr]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("setattr", "delattr")
        ):
            texts = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            names = [part for text in texts for part in text.split(".")]
        found += [
            f"line {node.lineno} takes the private {name}"
            for name in names
            if name.startswith("_") and not name.startswith("__") and name not in own
        ]
    return found


def names_defined(tree: ast.AST) -> set[str]:
    """Names of functions and classes, and attributes set on ``self``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            found.add(node.attr)
    return found


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in number:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], number[other])
        if lowest[node] == number[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def graph_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    return {module: set(imports(ast.parse(source), module)) - {module, PACKAGE} for module, source in sources.items()}


SOURCES = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_from_a_later_layer(module: str) -> None:
    if module != PACKAGE:
        assert against_the_order(module, SOURCES[module]) == []
        assert private_names(module, SOURCES[module]) == []


def test_no_test_takes_a_private_name() -> None:
    tests = REPOSITORY / "tests"
    doubles = [tests / "doubles.py", *tests.glob("*_doubles/**/*.py"), *tests.glob("*_double/**/*.py")]
    own = frozenset().union(*(names_defined(ast.parse(p.read_text("utf-8"))) for p in doubles))
    files = {str(p.relative_to(tests)): p for p in tests.rglob("*.py")}
    found = {
        name: wrong
        for name, path in files.items()
        if not name.startswith(("fake_iron/", "iron_doubles/", "pyxrt_double/"))
        and (wrong := private_in_a_test(path.read_text("utf-8"), own))
    }
    assert found == {}


def test_no_circle_between_files() -> None:
    assert circles(graph_of(SOURCES)) == []


def test_no_circle_between_rooms() -> None:
    rooms: dict[str, set[str]] = {}
    for module, others in graph_of(SOURCES).items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others if room(other) != room(module))
    assert circles(rooms) == []


def test_an_injected_circle_is_found() -> None:
    sources = dict(SOURCES)
    sources[f"{PACKAGE}.errors"] += f"\ndef late():\n    from {PACKAGE}.model.runlist import ArgSpec\n"
    assert any(f"{PACKAGE}.errors" in group for group in circles(graph_of(sources)))


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert list(imports(ast.parse(SOURCES[PACKAGE]))) == []


def test_every_module_has_a_layer_and_every_layer_a_module() -> None:
    assert {room(m) for m in MODULES if m != PACKAGE} == set(RANK)
    assert [name for name in RANK if f"{PACKAGE}.{name}" not in MODULES] == []


def test_contributing_prints_this_table() -> None:
    line = " -> ".join(", ".join(layer.split()) for layer in LAYERS if not layer.startswith("_"))
    text = " ".join((REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert f"`{line}`" in text, f"CONTRIBUTING.md: expected the order of rooms as `{line}`"


TWICE = {
    "Kernel": "an operator's kernel on the software NPU; a step's operator with its inputs, as causes execute it",
    "Run": "a workload that was built; one evaluation of an operator's arithmetic",
    "Span": "bytes of a buffer; an interval of values",
}
"""Public classes of one name in two modules, with what each means."""


def classes(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Modules that define each public class."""
    found: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(module)
    return found


def test_a_name_has_one_meaning() -> None:
    found = {name: where for name, where in classes(SOURCES).items() if len(where) > 1}
    assert {name: where for name, where in found.items() if name not in TWICE} == {}, "one name, one meaning"
    assert set(TWICE) <= set(found), "no longer doubled"
    made = classes({"a": "class Plan: ...", "b": "class Plan: ...\nclass _Plan: ..."})
    assert made == {"Plan": ["a", "b"]}, "the test above can fail"


def test_contributing_says_where_a_change_goes() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## Where a change goes")[1].split("##")[0]
    named = [path for path in re.findall(r"`([a-z_0-9./]+/[a-z_0-9./A-Z]*)`", table) if not re.search(r"[A-Z]", path)]
    assert len(named) >= 15
    assert [path for path in named if not ((ROOT / path).exists() or (REPOSITORY / path).exists())] == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("snapshot.read.reader", "from fusion_replay.replay import replay", ["replaying"]),
        ("compare.rules", "def f():\n    import fusion_replay.sources.iron", ["sources"]),
        ("record", "try:\n    from fusion_replay import cli\nexcept ImportError: pass", ["cli"]),
        ("record", "if TYPE_CHECKING:\n    from fusion_replay.report.text import count", []),
        ("record", "if TYPE_CHECKING:\n    pass\nelse:\n    from fusion_replay import cli", ["cli"]),
        ("cli.replay", "from fusion_replay import __version__, replay", []),
        ("sources.iron", "import numpy; from fusion_replay.sources.describe import jsonable", []),
    ],
)
def test_what_counts_as_an_import(module: str, source: str, found: list[str]) -> None:
    told = against_the_order(f"{PACKAGE}.{module}", source)
    assert [text.partition(": ")[2].split()[0] for text in told] == found


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("cli.replay", "from fusion_replay.refs import _plugins", 1),
        ("cli.replay", "from fusion_replay.refs._plugins import load", 1),
        ("cli.replay", "from fusion_replay.replaying.judge import _judge", 1),
        ("refs.gelu", "from fusion_replay.refs._elementwise import unary_args", 0),
        ("cli.replay", "from fusion_replay import __version__", 0),
    ],
)
def test_what_counts_as_private(module: str, source: str, count: int) -> None:
    assert len(private_names(f"{PACKAGE}.{module}", source)) == count


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from fusion_replay.refs import _plugins", 1),
        ("from fusion_replay.refs import plugins\nplugins._loaded.clear()", 1),
        ("def test(monkeypatch): monkeypatch.setattr('fusion_replay.refs._catalogue.find', None)", 1),
        ("def test(patch, spill): patch.setattr(spill, '_start', None)", 1),
        ("def test(call): call._execution_plan.clear()", 0),
        ("class Double:\n    def __init__(self): self._own = 1\ndef test(): assert Double()._own", 0),
        ("class Part(Locked):\n    def take(self): self._lock.acquire()", 0),
    ],
)
def test_what_counts_as_private_in_a_test(source: str, count: int) -> None:
    assert len(private_in_a_test(source)) == count
