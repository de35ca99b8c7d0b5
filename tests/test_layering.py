"""Who may import whom. A cycle, or an import upward, means that a concept is in the wrong file."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SEAMS = {"esxprov.model", "esxprov.errors", "bridge.contract"}
FOREIGN = {
    "pika": {"bridge.amqp"},
    "pymysql": {"esxprov.database"},
    "pyVmomi": {"esxprov.vsphere"},
    "inotify_simple": {"esxprov.leases.watcher"},
    "jinja2": {"esxprov.vmx"},
    "click": {"esxprov.cli", "esxprov.tables"},
    "numpy": {"esxprov.placement", "benchmarks"},
    "waitress": {"esxprov.web"},
    "scipy": {"esxprov.placement.exact", "esxprov.placement.moves", "benchmarks"},
}
PURE = [
    "esxprov.library.manifest",
    "esxprov.library.reference",
    "esxprov.library.shelf",
    "esxprov.placement.books",
    "esxprov.placement.again",
    "esxprov.placement.booking",
    "esxprov.placement.calendar",
    "esxprov.placement.capacity",
    "esxprov.placement.choose",
    "esxprov.placement.departures",
    "esxprov.placement.exact",
    "esxprov.placement.explain",
    "esxprov.placement.failover",
    "esxprov.placement.farm",
    "esxprov.placement.filters",
    "esxprov.placement.host",
    "esxprov.placement.moves",
    "esxprov.placement.promises",
    "esxprov.placement.request",
    "esxprov.placement.ledger",
    "esxprov.placement.reconcile",
    "esxprov.placement.recover",
    "esxprov.placement.scores",
    "esxprov.placement.search",
    "esxprov.placement.snapshot",
    "esxprov.placement.wants",
    "esxprov.placement.world",
    "esxprov.slots.names",
    "esxprov.slots.plan",
    "esxprov.slots.size",
]


def modules() -> dict[str, set[str]]:
    """Module name -> names of everything it imports, at any depth of the file."""
    found = {}
    for path in [*ROOT.glob("bridge/**/*.py"), *ROOT.glob("esxprov/**/*.py")]:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        imported: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.update(f"{node.module}.{alias.name}" for alias in node.names)
        found[name] = imported
    return found


IMPORTS = modules()


def ours(name: str) -> set[str]:
    """The project's modules that a module imports."""
    found = set()
    for target in IMPORTS[name]:
        parts = target.split(".")
        candidates = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        found.add(next((known for known in candidates if known in IMPORTS), ""))
    return found - {"", "bridge", "esxprov"}


@pytest.mark.parametrize("library", FOREIGN)
def test_a_foreign_library_appears_in_one_place(library: str) -> None:
    users = {name for name, imported in IMPORTS.items() if any(t.split(".")[0] == library for t in imported)}
    assert users
    assert {
        name for name in users if not any(name == ok or name.startswith(ok + ".") for ok in FOREIGN[library])
    } == set()


def test_the_wire_knows_nothing_of_the_product() -> None:
    for name in IMPORTS:
        if name.startswith("bridge"):
            assert not [target for target in IMPORTS[name] if target.startswith("esxprov")], name


@pytest.mark.parametrize("name", ["esxprov.model", "esxprov.errors"])
def test_the_words_of_the_product_need_nothing_but_the_contract(name: str) -> None:
    assert ours(name) <= SEAMS


@pytest.mark.parametrize("name", PURE)
def test_decisions_need_no_world(name: str) -> None:
    allowed = SEAMS | set(PURE) | {"esxprov.annotation", "esxprov.placement", "esxprov.plain", "esxprov.slots"}
    assert ours(name) <= allowed
    standard = {target.split(".")[0] for target in IMPORTS[name]} - {"esxprov", "bridge"}
    assert standard <= (set(sys.stdlib_module_names) - {"time", "random", "os", "socket"}) | {"numpy", "scipy"}


def test_handlers_see_neither_the_broker_nor_the_database_nor_pyvmomi() -> None:
    for name in IMPORTS:
        if name.startswith("esxprov.handlers"):
            touched = {"esxprov.database", "esxprov.vsphere", "esxprov.dispatch", "esxprov.journal", "esxprov.service"}
            assert not ours(name) & (touched | {"esxprov.library.locks"}), name


def test_the_library_needs_no_hypervisor() -> None:
    """Its locks are rows, and all else in it is decided of bytes."""
    for name in IMPORTS:
        if name.startswith("esxprov.library."):
            others = {one for one in ours(name) if not one.startswith("esxprov.library.")}
            assert others <= {"esxprov.database", "esxprov.errors", "esxprov.model", "esxprov.ports"}, name


def test_no_module_imports_itself_by_way_of_others() -> None:
    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for target in sorted(ours(name) - {name}):
                walk(target, (*path, name))
            done.add(name)

    done: set[str] = set()
    for name in IMPORTS:
        walk(name, ())
