"""Flower's Grid within one process: the same ServerApp and ClientApp, messages handed over as copies, no network.

Flower makes messages only inside its own processes; the private `TaskIdentity` says which one that is. This module is
the only one that touches it, and a test fails when Flower moves it.
"""

import copy
import logging
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fedmerge import stopping

log = logging.getLogger("fedmerge")

SERVER = 1  # Flower numbers the nodes itself; here the server is 1 and the sites follow


class InProcessGrid(Grid):
    """Messages to `nodes` sites, each handled by `client_app` in a thread of its own, `workers` at a time.

    Args:
        client_app: the sites' app; every site has its own Context and therefore its own state.
        run_config: as `flwr run --run-config` would give it, the same for all.
        nodes: how many sites there are; site i finds `partition-id = i` in its node config, as in Flower's simulation.
        workers: how many messages are handled at the same time.
        node_configs: more for each site's node config, as `flower-supernode --node-config` would give it.
        names: the nodes' names, as Flower's registry of nodes would give them; none as in Flower's simulation.
    """

    poll_s = 0.02  # how long to wait between two looks for replies: a look costs nothing here

    def __init__(
        self,
        client_app: ClientApp,
        run_config: Mapping[str, Any],
        nodes: int,
        workers: int = 1,
        node_configs: Sequence[Mapping[str, Any]] = (),
        names: Sequence[str] = (),
    ) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SERVER
        self._app = client_app
        self._contexts = {
            SERVER + 1 + i: Context(
                run_id=1,
                node_id=SERVER + 1 + i,
                node_config={"partition-id": i, "num-partitions": nodes, **(node_configs[i] if node_configs else {})},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for i in range(nodes)
        }
        self._names = tuple(names) or ("",) * nodes
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="site")
        self._replies: dict[str, Future[Message]] = {}
        self._lock = threading.Lock()

    def _handle(self, message: Message) -> Message:
        try:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
            return copy.deepcopy(reply)
        except Exception:
            log.exception("a site's app failed outside its own guard")
            return Message(Error(code=2, reason="the site's app failed"), reply_to=message)

    def set_run(self, run: Any) -> None:  # noqa: ANN401 - Flower's own private type
        """There is one run only."""

    @property
    def run(self) -> Any:  # noqa: ANN401 - Flower's own private type
        """There is no record of the run."""
        return None

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message from the server to a site."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All sites; they are there from the beginning."""
        return list(self._contexts)

    def get_nodes(self) -> list[NodeInfo]:
        """All nodes, with the names that they were given."""
        return [NodeInfo(node_id=node, name=name) for node, name in zip(self._contexts, self._names)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand a copy of each message to its site."""
        ids = []
        for message in messages:
            sent = copy.deepcopy(message)
            sent.metadata.__dict__["_message_id"] = name = uuid.uuid4().hex
            with self._lock:
                self._replies[name] = self._pool.submit(self._handle, sent)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there by now; each is given once."""
        with self._lock:
            done = [name for name in message_ids if name in self._replies and self._replies[name].done()]
            return [self._replies.pop(name).result() for name in done]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, wait, pull."""
        ids = self.push_messages(messages)
        return [self._replies.pop(name).result(timeout) for name in ids]

    def close(self) -> None:
        """Wait for what is under way, take no more."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def run(
    server_app: ServerApp,
    client_app: ClientApp,
    run_config: Mapping[str, Any],
    nodes: int,
    workers: int = 1,
    node_configs: Sequence[Mapping[str, Any]] = (),
    names: Sequence[str] = (),
) -> None:
    """Run both apps here until the ServerApp's main returns.

    Raises:
        FedmergeError: as the server's app raises it.
    """
    grid = InProcessGrid(client_app, run_config, nodes, workers, node_configs, names)
    context = Context(run_id=1, node_id=SERVER, node_config={}, state=RecordDict(), run_config=dict(run_config))
    try:
        with stopping.threads_too():
            server_app(grid, context)
    finally:
        grid.close()
        stopping.over()
