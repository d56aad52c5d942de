# SPDX-License-Identifier: Apache-2.0
"""Imports run one way: a module imports from its own room and from earlier ones, inside functions too; no circle.

Read from the source, not by importing. What stands under ``if TYPE_CHECKING:`` never runs and is free: a part may name
the type of the whole that it is handed.
"""

from __future__ import annotations

import ast
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


UNDONE = ("snapshot.",)  # circles inside this room are being taken apart


def test_no_circle_between_files() -> None:
    found = circles(graph_of(SOURCES))
    assert [g for g in found if not g[0].removeprefix(f"{PACKAGE}.").startswith(UNDONE)] == []


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
