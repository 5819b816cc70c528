"""Probes and metrics over HTTP: what they say, when they say no, and that nobody holds the process through them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from integration.serving import until
from kvproto.v1 import kv_pb2, kv_pb2_grpc
from kvserver.base import failpoints
from kvserver.base.metrics import CLUSTER_METRICS, METRICS, Kind
from kvserver.server import config
from kvserver.server import http as server_http
from kvserver.server.app import SOFTWARE_FAILURE, App
from kvserver.server.http import HttpServer
from kvserver.server.probes import HEARTBEAT_LIMIT_S, Phase, Probes
from kvserver.service.archive import Check
from support.clocks import ManualClock


def ask(port: int, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, str, Any]:
    """Return status, body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


@contextlib.asynccontextmanager
async def app_on(folder: Path, *flags: str) -> AsyncIterator[App]:
    """Run a whole server in this event loop."""
    told = config.parse(["serve", "--data-dir", str(folder), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", *flags], {})
    app = App(told)
    await app.start()
    try:
        yield app
    finally:
        failpoints.disarm_all()
        await app.stop()


def calls_counted(app: App) -> int:
    assert app._grpc is not None
    return sum(sum(stats.handled.values()) for stats in app._grpc.stats if stats.method == "Put")


def http_port(app: App) -> int:
    return int(app.ready_line().partition(" http=")[2].split()[0].rpartition(":")[2])


@pytest.fixture
def probes() -> Probes:
    return Probes(ManualClock())


@pytest.fixture
def served(probes: Probes) -> Iterator[HttpServer]:
    server = HttpServer("127.0.0.1", 0, probes, lambda accept: (b"metrics\n", "text/plain"), ManualClock())
    yield server
    server.stop()


# -- probes ---------------------------------------------------------------------------------------------------------


def test_a_loop_that_gives_no_sign_is_not_alive() -> None:
    clock = ManualClock()
    probes = Probes(clock)
    assert all(check.passed for check in probes.live())
    clock.advance_ms(int(HEARTBEAT_LIMIT_S * 1000))
    assert not all(check.passed for check in probes.live())
    probes.beat()
    assert all(check.passed for check in probes.live())


def test_ready_is_who_serves(probes: Probes, served: HttpServer) -> None:
    assert ask(served.port, "/livez")[:2] == (200, "ok\n")
    status, body, _ = ask(served.port, "/readyz")
    assert (status, "the node is starting" in body) == (503, True)
    probes.phase = Phase.SERVING
    assert ask(served.port, "/readyz")[:2] == (200, "ok\n")
    assert "ok serving: the node is serving" in ask(served.port, "/readyz?verbose")[1]
    probes.phase = Phase.STOPPING
    assert ask(served.port, "/readyz")[0] == 503
    assert ask(served.port, "/livez")[0] == 200


async def test_a_hung_loop_is_seen_by_the_probe_and_not_by_its_hanging(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("kvserver.server.probes.HEARTBEAT_LIMIT_S", 0.5)
    async with app_on(tmp_path) as app:
        port = http_port(app)
        asked = asyncio.get_running_loop().run_in_executor(None, _ask_in_a_second, port)
        time.sleep(2.0)  # noqa: ASYNC251 - this is the hang
        assert (await asked)[0] == 503


def _ask_in_a_second(port: int) -> tuple[int, str, Any]:
    time.sleep(1.0)
    return ask(port, "/livez")


async def test_a_failed_log_is_not_ready_and_ends_the_app(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(5, "the disk is gone")

    async with app_on(tmp_path) as app:
        port = http_port(app)
        assert (await asyncio.to_thread(ask, port, "/readyz"))[0] == 200
        failpoints.arm("wal.after_write", fail)
        async with grpc.aio.insecure_channel(str(app.listen)) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await kv_pb2_grpc.KVStub(channel).Put(kv_pb2.PutRequest(key=b"k"))  # type: ignore[misc]
        assert await asyncio.wait_for(app.wait(), 5) == SOFTWARE_FAILURE
        status, body, _ = await asyncio.to_thread(ask, port, "/readyz")
        assert (status, "FAILED log: it failed" in body) == (503, True)
        assert await app.stop() == SOFTWARE_FAILURE


async def test_a_close_that_fails_makes_the_end_a_failure(tmp_path: Path, monkeypatch: Any) -> None:
    async with app_on(tmp_path) as app:
        database = app.probes.database
        assert database is not None
        close = database.close

        def broken() -> None:
            close()
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(database, "close", broken)
        app.ask_to_stop()
        assert await app.wait() == 0
        assert await app.stop() == SOFTWARE_FAILURE


# -- metrics --------------------------------------------------------------------------------------------------------


async def test_every_metric_of_the_table_is_exposed_as_the_table_says(tmp_path: Path) -> None:
    archive = (tmp_path / "archive").as_uri()
    async with app_on(tmp_path / "data", "--memory-limit-mb", "100", "--ballast-mb", "0", "--archive", archive) as app:
        assert app._node.life is not None and app._node.life.archive is not None
        done = (Check(1_000, True, "", 1.0), Check(2_000, False, "", 2.0))
        upkeep = app._node.life.archive._upkeep
        upkeep.last_verify, upkeep.last_drill = done
        async for _ in app._node.life.archive.create_backup():
            pass
        async with grpc.aio.insecure_channel(str(app.listen)) as channel:
            kv: Any = kv_pb2_grpc.KVStub(channel)
            await kv.Put(kv_pb2.PutRequest(key=b"k", value=b"v"))
            with pytest.raises(grpc.aio.AioRpcError):
                await kv.Put(kv_pb2.PutRequest())
        await until(lambda: calls_counted(app) == 2)  # a caller has its answer before the call is counted as handled
        status, body, headers = await asyncio.to_thread(ask, http_port(app), "/metrics")
        assert (status, headers["Content-Type"].startswith("text/plain")) == (200, True)
        families = {family.name: family for family in text_string_to_metric_families(body)}
        assert not {metric.name.removesuffix("_total") for metric in CLUSTER_METRICS} & set(families), "it is alone"
        for metric in METRICS:
            if metric in CLUSTER_METRICS:
                continue
            family = families[metric.name.removesuffix("_total")]
            assert (family.type, family.documentation) == (metric.kind.value, metric.help)
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels)
                assert metric.kind is Kind.HISTOGRAM or sample.name == metric.name
        samples = {
            (sample.name, *(value for name, value in sorted(sample.labels.items()) if name in ("grpc_method", "grpc_code"))): (
                sample.value
            )
            for family in families.values()
            for sample in family.samples
        }
        assert samples["kv_revision",] == 2
        assert samples["kv_commits_total",] == 1
        assert samples["kv_memory_limit_bytes",] == 100 * 1024 * 1024
        assert samples["kv_keys",] == 1
        assert samples["kv_data_disk_free_bytes",] > 0
        assert samples["kv_archive_last_backup_revision",] == 1
        assert (samples["kv_archive_last_verify_ok",], samples["kv_archive_last_drill_ok",]) == (1, 0)
        assert samples["grpc_server_handled_total", "OK", "Put"] == 1
        assert samples["grpc_server_handled_total", "InvalidArgument", "Put"] == 1
        assert samples["grpc_server_started_total", "Put"] == 2
        assert samples["grpc_server_handling_seconds_count", "Put"] == 2
        assert "process_resident_memory_bytes" in families


async def test_a_reader_that_asks_for_openmetrics_gets_it(tmp_path: Path) -> None:
    async with app_on(tmp_path) as app:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        status, body, headers = await asyncio.to_thread(ask, http_port(app), "/metrics", "GET", accept)
        assert (status, body.endswith("# EOF\n")) == (200, True)
        assert "openmetrics" in headers["Content-Type"]


async def test_the_lag_of_the_loop_is_measured(tmp_path: Path) -> None:
    async with app_on(tmp_path) as app:
        time.sleep(1.5)  # noqa: ASYNC251 - this is the lag
        lag = "kv_event_loop_lag_seconds "

        def value() -> float:
            body = ask(http_port(app), "/metrics")[1]
            return float(body.partition(f"\n{lag}")[2].split()[0])

        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(value) > 0.3


# -- the HTTP server ------------------------------------------------------------------------------------------------


def test_other_paths_and_methods(served: HttpServer) -> None:
    assert ask(served.port, "/")[0] == 404
    assert ask(served.port, "/livez/../metrics")[0] == 404
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
        status, body, headers = ask(served.port, "/livez", method)
        assert (status, headers["Allow"]) == (405, "GET")
        assert body == ("" if method == "HEAD" else "only GET is served\n")
    assert ask(served.port, "/metrics")[1] == "metrics\n"


def test_who_sends_slowly_or_nothing_is_cut_off_and_holds_nobody(probes: Probes) -> None:
    clock = ManualClock()
    server = HttpServer("127.0.0.1", 0, probes, lambda accept: (b"", ""), clock)
    try:
        slow = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(server_http.MAX_CONNECTIONS)]
        for connection in slow:
            connection.sendall(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        with pytest.raises((ConnectionError, http.client.BadStatusLine, TimeoutError)):
            _ask_until_refused(server.port)
        clock.advance_ms(int(server_http.CONNECTION_S * 1000) + 1)
        begun = time.monotonic()
        for connection in slow:
            connection.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100) == b"", "it was answered although its request never came"
            connection.close()
        assert time.monotonic() - begun < 5, "it was the silence that ended them, not the time they had in all"
        _wait_for(lambda: ask(server.port, "/livez")[0] == 200)
    finally:
        server.stop()


def _ask_until_refused(port: int) -> None:
    for _ in range(100):
        ask(port, "/livez")
        time.sleep(0.02)


def _wait_for(condition: Any) -> None:
    for _ in range(200):
        with contextlib.suppress(ConnectionError, http.client.HTTPException, TimeoutError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")


def test_a_request_of_nonsense_is_answered_or_cut_off(served: HttpServer) -> None:
    for nonsense in (b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000):
        with socket.create_connection(("127.0.0.1", served.port), 10) as connection, contextlib.suppress(OSError):
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    assert ask(served.port, "/livez")[0] == 200


async def test_a_node_without_an_archive_has_no_metrics_of_one(tmp_path: Path) -> None:
    async with app_on(tmp_path) as app:
        _, body, _ = await asyncio.to_thread(ask, http_port(app), "/metrics")
        assert "kv_archive" not in body


async def test_metrics_and_probes_are_served_while_the_log_is_read_back(tmp_path: Path) -> None:
    release = threading.Event()
    failpoints.arm("engine.open.after_recover", lambda: (release.wait(20), None)[1])
    told = config.parse(["serve", "--data-dir", str(tmp_path), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"], {})
    app = App(told)
    starting = asyncio.ensure_future(app.start())
    try:
        await until(lambda: app.http_port)
        port = app.http_port
        assert (await asyncio.to_thread(ask, port, "/livez"))[0] == 200
        assert (await asyncio.to_thread(ask, port, "/readyz"))[0] == 503
        assert "kv_build_info" in (await asyncio.to_thread(ask, port, "/metrics"))[1]
        release.set()
        await starting
        assert (await asyncio.to_thread(ask, port, "/readyz"))[0] == 200
    finally:
        failpoints.disarm_all()
        release.set()
        await starting
        await app.stop()
