# SPDX-License-Identifier: Apache-2.0
"""Imports run one way: a module imports from its own layer and from earlier ones, inside functions too.

Read from the source, not by importing. What stands under ``if TYPE_CHECKING:`` never runs and is free: a part may name
the type of the whole that it is handed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "fusion_replay"
ROOT = Path(__file__).resolve().parents[1] / PACKAGE

# Rooms (or single modules of one, where a room has two floors), earlier ones first; those of a line are one layer.
LAYERS = """
errors
model bf16 how keeping ledger locking screen running telling provenance tries watcher
guard settings
tensors tolerance tiling blocks
deviation
rules
compare
operators plugins refs
user_operators
snapshot
hooks.after_import hooks.owner hooks.patches hooks.separate
sources
workloads
hooks hooks.everything
judging
watch
watchdog array_step
record
replay
redispatching
redispatch
check dispatch program
diverge
report
export
golden
cli
_site __main__
"""
# The registry, its users' files and its catalogue are one layer: the first question to it loads the other two.

RANK = {room: rank for rank, line in enumerate(LAYERS.split("\n")) for room in line.split()}
MODULES = {
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def rank(module: str) -> int:
    """Of the longest entry of LAYERS that the module lies in."""
    name = module.removeprefix(f"{PACKAGE}.")
    while name not in RANK and "." in name:
        name = name.rpartition(".")[0]
    return RANK[name]


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
    """Imports from a later layer; the package itself (``__version__``, the public names) is everyone's."""
    found = imports(ast.parse(source), module)
    return [other for other in found if other != PACKAGE and rank(other) > rank(module)]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_from_a_later_layer(module: str) -> None:
    if module != PACKAGE:
        assert against_the_order(module, MODULES[module].read_text(encoding="utf-8")) == []


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    source = MODULES[PACKAGE].read_text(encoding="utf-8")
    assert list(imports(ast.parse(source))) == []


def test_every_module_has_a_layer_and_every_layer_a_module() -> None:
    rooms = {m.removeprefix(f"{PACKAGE}.").split(".")[0] for m in MODULES if m != PACKAGE}
    assert rooms == {room.split(".")[0] for room in RANK}
    assert [room for room in RANK if f"{PACKAGE}.{room}" not in MODULES] == []


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("snapshot.reader", "from fusion_replay.replay import replay", ["fusion_replay.replay"]),
        ("compare", "def f():\n    import fusion_replay.sources.iron", ["fusion_replay.sources.iron"]),
        ("record", "try:\n    from fusion_replay import cli\nexcept ImportError: pass", ["fusion_replay.cli"]),
        ("record", "if TYPE_CHECKING:\n    from fusion_replay.replay import ReplayReport", []),
        ("record", "if TYPE_CHECKING:\n    pass\nelse:\n    from fusion_replay import cli", ["fusion_replay.cli"]),
        ("cli.replay", "from fusion_replay import __version__, replay", []),
        ("sources.iron", "import numpy; from fusion_replay.sources.describe import jsonable", []),
    ],
)
def test_what_counts_as_an_import(module: str, source: str, found: list[str]) -> None:
    assert against_the_order(f"{PACKAGE}.{module}", source) == found
