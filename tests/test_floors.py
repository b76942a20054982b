"""The import law: a module imports from its own floor or from those below, and the two sides never meet."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("fedmerge", "sites", "server")

# The lowest prefix that fits decides; what is not listed is a defect of this table.
FLOORS = {
    "fedmerge": 0,
    "fedmerge.params": 0,
    "fedmerge.errors": 0,
    "fedmerge.stopping": 0,
    "fedmerge.answers": 1,
    "fedmerge.augment": 1,
    "fedmerge.bundle": 1,
    "fedmerge.campaign": 1,
    "fedmerge.checkpoint": 1,
    "fedmerge.colours": 1,
    "fedmerge.container": 1,
    "fedmerge.devices": 1,
    "fedmerge.dropout": 1,
    "fedmerge.labelfiles": 1,
    "fedmerge.likelihood": 1,
    "fedmerge.link": 1,
    "fedmerge.loader": 1,
    "fedmerge.logs": 1,
    "fedmerge.losses": 1,
    "fedmerge.measures": 1,
    "fedmerge.optimiser": 1,
    "fedmerge.parts": 1,
    "fedmerge.passes": 1,
    "fedmerge.recompute": 1,
    "fedmerge.regions": 1,
    "fedmerge.worker": 1,
    "fedmerge.workers": 1,
    "fedmerge.plugins": 1,
    "fedmerge.records": 1,
    "fedmerge.sessions": 1,
    "fedmerge.shapes": 1,
    "fedmerge.supervisor": 1,
    "fedmerge.surroundings": 1,
    "fedmerge.units": 1,
    "fedmerge.averaging": 1,
    "fedmerge.partition": 1,
    "fedmerge.penalties": 1,
    "fedmerge.fisher": 1,
    "fedmerge.fusion": 1,
    "fedmerge.nets": 1,
    "fedmerge.training": 1,
    "fedmerge.schedules": 1,
    "fedmerge.evaluation": 1,
    "fedmerge.heads": 1,
    "fedmerge.contribution": 2,
    "fedmerge.acceptance": 2,
    "fedmerge.distance": 2,
    "fedmerge.trust": 2,
    "fedmerge.wire": 2,
    "fedmerge.tasks": 2,
    "fedmerge.sums": 2,
    "fedmerge.seals": 2,
    "fedmerge.forms": 1,
    "fedmerge.transport": 2,
    "fedmerge.privacy": 2,
    "fedmerge.report": 2,
    "fedmerge.results": 2,
    "fedmerge.leaving": 2,
    "fedmerge.cards": 2,
    "fedmerge.contribution_cards": 2,
    "fedmerge.events": 2,
    "fedmerge.tracking": 2,
    "fedmerge.monai_export": 2,
    "fedmerge.monai_import": 2,
    "fedmerge.comparison": 2,
    "fedmerge.figures": 2,
    "fedmerge.bench": 2,
    "fedmerge.pages": 2,
    "fedmerge.dashboard": 2,
    "sites": 3,
    "sites.agent": 4,
    "sites.correspondence": 4,
    "sites.attack": 4,
    "sites.importance": 4,
    "sites.masks": 4,
    "sites.sums": 4,
    "sites.keeping": 4,
    "sites.recalled": 4,
    "sites.opening": 4,
    "sites.sealing": 4,
    "sites.inbound": 4,
    "sites.outbound": 4,
    "sites.parts": 4,
    "sites.service": 4,
    "sites.simulation": 4,
    "sites.source": 4,
    "sites.trainer": 4,
    "sites.vouched": 4,
    "sites.bench": 4,
    "sites.leaving": 4,
    "sites.admission": 4,
    "sites.budget": 4,
    "sites.private": 4,
    "sites.near": 4,
    "sites.ways": 4,
    "sites.finishing": 4,
    "sites.node": 4,
    "sites.superexec": 4,
    "sites.target": 4,
    "sites.app": 4,
    "server": 3,
    "server.values": 3,
    "server.stages": 3,
    "server.feasible": 3,
    "server.given": 3,
    "server.made": 3,
    "server.wanted": 4,
    "server.sealing": 4,
    "server.grouping": 4,
    "server.exchange": 4,
    "server.spans": 4,
    "server.sofar": 4,
    "server.outcome": 4,
    "server.ground": 3,
    "server.holding": 3,
    "server.record": 3,
    "server.merging": 4,
    "server.leaving": 4,
    "server.withdrawal": 3,
    "server.forgetting": 4,
    "server.contributing": 4,
    "server.training": 4,
    "server.adaptation": 4,
    "server.rows": 4,
    "server.rounds": 4,
    "server.choosing": 4,
    "server.strategy": 4,
    "server.app": 4,
    "server.door": 4,
    "server.runner": 4,
    "server.runs": 4,
    "server.up": 4,
    "server.verdict": 4,
    "server.guests": 4,
    "server.passage": 4,
    "server.threshold": 4,
    "server.inprocess": 4,
    "server.flower": 4,
    "fedmerge.cli": 5,
}
FOREIGN = {"flwr": ("fedmerge.transport",), "nibabel": (), "SimpleITK": (), "ray": ()}  # who may, in the library


def module_of(path: Path) -> str:
    """The dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(path: Path, *, lazy: bool) -> set[str]:
    """The modules that a file imports; `lazy`: also those imported inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if lazy else tree.body
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
    return found


def floor(module: str) -> int:
    """The floor of the nearest name in the table."""
    while module not in FLOORS:
        module = module.rpartition(".")[0]
    return FLOORS[module]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_floor_or_below(module):
    """No arrow points up; the command line alone sees everything, lazily."""
    for name in imports(MODULES[module], lazy=floor(module) < 5):
        if name.split(".")[0] in PACKAGES:
            assert floor(name) <= floor(module), f"{module} imports {name}, which is on a higher floor"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(("sites", "server"))])
def test_sites_and_server_never_import_each_other(module):
    """What a hospital runs holds no line of the server's, and the other way round."""
    other = "server" if module.startswith("sites") else "sites"
    assert not any(n.split(".")[0] == other for n in imports(MODULES[module], lazy=True))


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("fedmerge") and "cli" not in m])
def test_the_library_knows_neither_flower_nor_nifti(module):
    """Whoever merges models with the library needs no federation and no images."""
    for name in imports(MODULES[module], lazy=True):
        package = name.split(".")[0]
        assert package not in FOREIGN or module in FOREIGN[package], f"{module} imports {name}"
