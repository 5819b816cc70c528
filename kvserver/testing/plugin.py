"""The fixtures: pytest finds this module by the package's entry point, in every run; so it imports no more than it must.

- ``kvserver_node``: a namespace of its own on a server that all tests of the session share (with pytest-xdist: of a worker).
  Cheap: a test pays for two short calls. It cannot be killed; what belongs to the whole server (revisions, ``compact``,
  ``status``) is shared.
- ``start_kvserver(*flags, data_dir=None, environment=None, archive=False)``: starts a server for one test alone, which may kill
  it.
- ``kvserver_shared``: the shared server itself, started when it is first needed.
- ``kvserver_flags``: flags of the shared server; none, unless a project overrides this fixture.

The report of a test that fails shows the last lines that its servers printed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from kvserver.testing.running import START_TIMEOUT_S, Node, Server, running_server

SHOWN_LINES = 40
"""So many lines of a server's log stand in the report of a test that fails."""

_USED = pytest.StashKey[list[Server]]()
"""On a test: the servers that it has used."""


class StartServer(Protocol):
    """What the fixture ``start_kvserver`` is."""

    def __call__(
        self,
        *flags: str,
        data_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        archive: bool | Path = False,
    ) -> Server:
        """Start a server, which is killed when the test is over; see ``running_server``."""


@pytest.fixture(scope="session")
def kvserver_flags() -> Sequence[str]:
    """Flags of the server that the tests share; override this fixture to set them."""
    return ()


@pytest.fixture(scope="session")
def kvserver_shared(kvserver_flags: Sequence[str]) -> Iterator[Server]:
    """The server that all tests of the session share."""
    with running_server(*kvserver_flags) as server:
        yield server


@pytest.fixture
def kvserver_node(kvserver_shared: Server, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A namespace of the test's own on the shared server."""
    server = kvserver_shared
    if not server.running:  # a test before this one has lost it, and has been told so
        server.start()
    _note(request, server)
    with server.isolated(request.node.name) as node:
        yield node
        server.check_running()


@pytest.fixture
def start_kvserver(request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """A function that starts servers for this test alone."""
    with contextlib.ExitStack() as servers:

        def start(
            *flags: str,
            data_dir: Path | None = None,
            environment: Mapping[str, str] | None = None,
            start_timeout_s: float = START_TIMEOUT_S,
            archive: bool | Path = False,
        ) -> Server:
            __tracebackhide__ = True
            server = servers.enter_context(
                running_server(
                    *flags, data_dir=data_dir, environment=environment, start_timeout_s=start_timeout_s, archive=archive
                )
            )
            _note(request, server)
            return server

        yield start


def _note(request: pytest.FixtureRequest, server: Server) -> None:
    """Remember that the test uses a server."""
    request.node.stash.setdefault(_USED, []).append(server)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers of a test printed, if it failed."""
    report = yield
    if report.failed:
        for server in item.stash.get(_USED, []):
            report.sections.append((f"kvserver at {server.address}", "\n".join(server.log(SHOWN_LINES))))
    return report
