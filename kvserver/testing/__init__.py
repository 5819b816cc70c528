"""Real servers for tests of software that uses kvserver.

With pytest, two fixtures come with the package and need no import:

    def test_greeting(kvserver_node):
        with kvserver_node.client() as kv:
            kv.put(b"greeting", b"hello")

    def test_a_crash(start_kvserver):
        server = start_kvserver("--memtable-mb", "1")
        with server.client() as kv:
            kv.put(b"k", b"v")
            server.kill()
            server.start()
            assert kv.get(b"k") is not None

``kvserver_node`` is a namespace of its own on one server that all tests of the session share; ``start_kvserver`` starts
servers that one test has for itself. Without pytest:

    from kvserver.testing import running_server

    with running_server() as server, server.client() as kv:
        kv.put(b"greeting", b"hello")

A server is a process of its own, started as its users start it. It needs the extra ``kvserver[server]``, and nothing else.
"""

from kvserver.testing.cluster import ClusterProcesses, ClusterServer, running_cluster
from kvserver.testing.process import ServerFailed
from kvserver.testing.running import ClientOptions, Node, Server, running_server

__all__ = [
    "ClientOptions",
    "ClusterProcesses",
    "ClusterServer",
    "Node",
    "Server",
    "ServerFailed",
    "running_cluster",
    "running_server",
]
