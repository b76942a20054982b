"""Flower's registry of SuperNodes, made equal to the roster.

The orders are those of the command `flwr`. Flower never takes a key a second time, so a site that was revoked comes
back with new keys only. What Flower calls a node is kept in `flower/nodes.json`; a registration that was interrupted is
found there and finished.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from fedmerge import whole
from fedmerge.errors import ConfigError
from server import consortium, superlink
from server.home import Home


@dataclass(frozen=True)
class Node:
    """A site as Flower knows it: the number of the node, and the key that it was registered with."""

    site: str
    node_key: str
    number: str


@dataclass(frozen=True)
class Table:
    """`flower/nodes.json`: the nodes that we registered, and the one that is being registered just now."""

    nodes: tuple[Node, ...] = ()
    pending: Node | None = None


@dataclass(frozen=True)
class Change:
    """What was done to make the registry equal the roster: names of sites."""

    registered: tuple[str, ...] = ()
    unregistered: tuple[str, ...] = ()


def sync_nodes(home: Home, *, now: float) -> Change | None:
    """Register the nodes that the roster has and Flower has not, and unregister the others.

    A site whose time has run out stays registered, because Flower would not take its key again when it is renewed; the
    front door turns it away.

    Args:
        home: of the server.
        now: seconds since 1970.

    Returns:
        What was done, or None where no SuperLink is up: it is done when one is.

    Raises:
        Refused: the roster was edited.
        Unanswered: the SuperLink refused an order; the sentence has its words.
    """
    with _alone(home):
        roster = consortium.current(home, now)
        address = superlink.address(home)
        if address is None or not superlink.healthy(home, int(address.rpartition(":")[2])):
            return None
        table = _adopted(home, _read(home), _numbers(home))
        wanted = {(entry.name, entry.node_key) for entry in roster.entries}
        gone = [node for node in table.nodes if (node.site, node.node_key) not in wanted]
        for node in gone:
            superlink.order(home, "supernode", "unregister", node.number)
            table = replace(table, nodes=tuple(one for one in table.nodes if one != node))
            _write(home, table)
        there = {(node.site, node.node_key) for node in table.nodes}
        missing = [entry for entry in roster.entries if (entry.name, entry.node_key) not in there]
        for entry in missing:
            pending = Node(entry.name, entry.node_key, "")
            _write(home, replace(table, pending=pending))
            table = Table((*table.nodes, replace(pending, number=_register(home, pending))))
            _write(home, table)
    return Change(tuple(entry.name for entry in missing), tuple(node.site for node in gone))


def nodes(home: Home) -> dict[str, str]:
    """Flower's number of a node -> name of the site."""
    return {node.number: node.site for node in (_read(home) or Table()).nodes}


def _adopted(home: Home, table: Table | None, numbers: set[str]) -> Table:
    """The table as far as Flower agrees; a node of an interrupted registration is taken in, any other one goes.

    Only this module registers nodes, one at a time, so a node that it does not know is the pending one.
    """
    if table is None and numbers:
        state = home.flower / "state.db"
        raise ConfigError(f"{home.nodes} is missing, but Flower knows nodes: stop the server and remove {state}")
    known = tuple(node for node in table.nodes if node.number in numbers) if table else ()
    strangers = sorted(numbers - {node.number for node in known})
    if table is not None and table.pending is not None and len(strangers) == 1:
        known, strangers = (*known, replace(table.pending, number=strangers[0])), []
    for number in strangers:
        superlink.order(home, "supernode", "unregister", number)
    adopted = Table(known)
    if adopted != table:
        _write(home, adopted)
    return adopted


def _register(home: Home, node: Node) -> str:
    """The number of a node that is registered now."""
    path = home.flower / ".node.pub"
    path.write_text(node.node_key + "\n", encoding="utf-8")
    try:
        return str(superlink.order(home, "supernode", "register", str(path), "--name", node.site)["node-id"])
    finally:
        path.unlink()


def _numbers(home: Home) -> set[str]:
    """The numbers of all nodes that are registered."""
    told = superlink.order(home, "supernode", "list")["nodes"]
    return {str(node["node-id"]) for node in told if node["status"] not in ("unregistered", "deleted")}


def _read(home: Home) -> Table | None:
    """The table on disk; None where there is none."""
    try:
        read = json.loads(home.nodes.read_text(encoding="utf-8"))
        pending = Node(**read["pending"]) if read["pending"] else None
        return Table(tuple(Node(**one) for one in read["nodes"]), pending)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        state = home.flower / "state.db"
        raise ConfigError(f"{home.nodes} is damaged: stop the server, and remove it and {state}") from None


def _write(home: Home, table: Table) -> None:
    partial = home.nodes.with_name(".nodes.json.part")
    partial.write_text(json.dumps(asdict(table), indent=1), encoding="utf-8")
    partial.replace(home.nodes)


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Nobody else gives orders while the block runs."""
    home.flower.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole.locked(home.flower / ".nodes.lock"):
        yield
