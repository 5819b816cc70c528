"""Several fake servers as one cluster: who is primary, who knows it, how far behind the others are.

All nodes have one store, as if followers had everything at once; what is different about them is said here. A node that was
deposed has a store of its own from then on (``depose``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc

from kvproto.v1 import cluster_pb2, kv_pb2, replication_pb2
from support.fake_store import FakeError, FakeStore

if TYPE_CHECKING:
    from support.fake_server import FakeServer

_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
_WRITES = {"Put", "Delete", "Write", "CreateNamespace", "DropNamespace", "Compact"}


class FakeNode:
    """One node's part in a cluster."""

    def __init__(self) -> None:
        self.name = "fake"
        self.role = ""
        """``"primary"`` or ``"follower"``; empty: it is alone, and does not know the question."""
        self.primary = ""
        """The address of the primary, as far as it knows."""
        self.epoch = 0
        """Under which it answers; 0: its store's."""
        self.lag_ms = 0
        self.is_lying = False
        """Its health says that it is primary, and its answers do not."""
        self.probed = 0

    @property
    def takes_no_writes(self) -> bool:
        """Whether it sends writes on."""
        return self.role == "follower"

    def serve(self, server: grpc.Server) -> None:
        """Serve its health."""
        check = grpc.unary_unary_rpc_method_handler(self._check)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),))

    def status(self) -> cluster_pb2.ClusterStatusResponse:
        """Return what it knows of the cluster."""
        described = replication_pb2.DescribeResponse(role=self.role, primary=self.primary)
        return cluster_pb2.ClusterStatusResponse(nodes=[cluster_pb2.ClusterNode(described=described, is_self=True)])

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.probed += 1
        if not self.role:
            context.abort(grpc.StatusCode.NOT_FOUND, "no service of this name is known here")
        return _SERVING if self.role == "primary" or self.is_lying else _NOT_SERVING

    def check(self, method: str, request: Any) -> None:
        """Refuse what this node does not do."""
        if method in _WRITES and self.takes_no_writes:
            known = {"primary": self.primary} if self.primary else {}
            raise FakeError("NOT_PRIMARY", "this node takes no writes", **known)
        if self.lag_ms > getattr(request, "max_lag_ms", 0) > 0:
            raise FakeError("STALE", f"this node is {self.lag_ms} ms behind")

    def check_frame(self, frame: kv_pb2.PipelineRequest) -> None:
        """Refuse a frame as a whole."""
        if frame.WhichOneof("operations") in ("puts", "deletes"):
            self.check("Put", frame)
        elif frame.WhichOneof("operations") == "gets":
            self.check("Get", frame)


class FakeNodes:
    """Nodes that started together; the first one is primary."""

    def __init__(self, nodes: list[FakeServer]) -> None:
        self.nodes = nodes
        for number, server in enumerate(nodes):
            server.store = nodes[0].store
            server.node.name = f"n{number}"
            server.start()
        self.promote(0)

    @property
    def endpoints(self) -> list[str]:
        """Where the nodes are."""
        return [server.endpoint for server in self.nodes]

    @property
    def store(self) -> FakeStore:
        """What the nodes hold."""
        return next(server.store for server in self.nodes if server.node.role == "primary")

    def promote(self, place: int) -> None:
        """Make a node primary, and let all know it."""
        for number, server in enumerate(self.nodes):
            server.node.role = "primary" if number == place else "follower"
            server.node.primary = self.nodes[place].endpoint

    def nobody(self) -> None:
        """Let nobody be primary, as in the middle of a failover."""
        for server in self.nodes:
            server.node.role, server.node.primary = "follower", ""

    def depose(self, place: int, successor: int) -> None:
        """Make another node primary under the next epoch; the one deposed goes on as if nothing had happened."""
        old = self.nodes[place]
        apart = FakeStore()
        apart.epoch, apart.assigned, apart.visible = old.store.epoch, old.store.assigned, old.store.visible
        apart.rows = {name: list(rows) for name, rows in old.store.rows.items()}
        shared = old.store
        old.store = apart
        shared.branches[shared.epoch] = shared.visible
        shared.epoch += 1
        for server in self.nodes:
            if server is not old:
                server.node.role, server.node.primary = "follower", self.nodes[successor].endpoint
        self.nodes[successor].node.role = "primary"

    def written(self, key: bytes) -> int:
        """Return how often a key was put, on the primary."""
        return len(self.store.rows.get(("", key), ()))


@contextlib.contextmanager
def running(*nodes: FakeServer) -> Iterator[FakeNodes]:
    """Run nodes as a cluster."""
    try:
        yield FakeNodes(list(nodes))
    finally:
        for server in nodes:
            server.stop()
