"""What a member says of itself to probes, metrics and operators; and the comparison of contents, on real stores."""

from __future__ import annotations

import asyncio
import http.client
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from integration.members import Members, members
from integration.serving import refused, until
from kvserver.base.errors import KvError
from kvserver.base.metrics import CLUSTER_METRICS
from kvserver.server.app import App
from kvserver.server.content_check import DISTRUST_AFTER
from kvserver.service.archive import Hashed

pytestmark = pytest.mark.timeout(120)


def asked(app: App, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", app.http_port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


async def scraped(nodes: Members, name: str) -> dict[str, Any]:
    """Return the metrics of a node as of now: by name, with the labels behind it."""
    node = nodes[name]
    assert node.app is not None
    node.member.tick()
    _, body = await asyncio.to_thread(asked, node.app, "/metrics")
    families = list(text_string_to_metric_families(body))
    for metric in CLUSTER_METRICS:
        for family in families:
            if family.name == metric.name.removesuffix("_total"):
                assert (family.type, family.documentation) == (metric.kind.value, metric.help)
                assert all(set(sample.labels) == set(metric.labels) for sample in family.samples)
    return {"|".join((sample.name, *sample.labels.values())): sample.value for family in families for sample in family.samples}


async def test_metrics_probes_and_status_of_each_part(tmp_path: Path) -> None:
    flags = ("--members", "a,b", "--write-quorum", "2")
    async with members(tmp_path, "a", "b", flags=flags) as nodes:
        await nodes.until_streaming("b")
        await nodes["a"].put(b"k")
        await nodes.until_equal("a", "b")
        primary, follower = await scraped(nodes, "a"), await scraped(nodes, "b")
        exposed = {name.partition("|")[0] for name in (*primary, *follower)}
        assert {metric.name for metric in CLUSTER_METRICS} <= exposed
        assert (primary["kv_is_primary"], follower["kv_is_primary"]) == (1, 0)
        assert primary["kv_followers|streaming"] == 1 and primary["kv_slot_connected|b"] == 1
        assert primary["kv_quorum_met"] == 1 and primary["kv_quorum_degraded"] == 0
        assert primary["kv_replicated_revision"] == primary["kv_durable_revision"] == primary["kv_slot_durable_revision|b"]
        assert follower["kv_follower_state|STREAMING"] == 1 and follower["kv_follower_state|FAILED"] == 0
        assert follower["kv_state_transitions_total|CATCHUP_STREAM|STREAMING"] == 1
        assert follower["kv_replication_lag_revisions"] == 0 and follower["kv_register_reachable"] == 1
        told = [await nodes[name].status() for name in "ab"]
        assert [(one.role, list(one.warnings)) for one in told] == [("primary", []), ("follower", [])]
        for name in "ab":
            app = nodes[name].app
            assert app is not None
            assert await asyncio.to_thread(asked, app, "/readyz") == (200, "ok\n")
            assert app._grpc.health._serving["primary"] is (name == "a")

        await nodes["b"].stop()
        for _ in range(2):
            primary = await scraped(nodes, "a")
        assert primary["kv_followers|away"] == 1 and primary["kv_slot_connected|b"] == 0
        writing = asyncio.create_task(nodes["a"].put(b"unmet", timeout_s=30))
        await until(lambda: nodes["a"].database.marks.durable > nodes["a"].database.marks.visible)
        for _ in range(4):
            primary = await scraped(nodes, "a")
        assert primary["kv_quorum_met"] == 0
        await nodes["b"].start()
        await writing


async def test_a_follower_is_ready_once_it_has_heard_its_primary(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await nodes.until_streaming("b")
        await nodes["a"].put(b"k")
        await nodes.until_equal("a", "b")
        for name in "ba":
            await nodes[name].stop()
        await nodes["b"].start()
        app = nodes["b"].app
        assert app is not None
        status, body = await asyncio.to_thread(asked, app, "/readyz")
        assert status == 503 and "FAILED contact: the primary was not heard since the store was opened" in body
        await nodes["a"].start()
        await nodes.until_streaming("b")
        assert await asyncio.to_thread(asked, app, "/readyz") == (200, "ok\n")
        await nodes["a"].stop()
        await until(lambda: nodes["b"].state == "CONNECTING")
        assert (await asyncio.to_thread(asked, app, "/readyz"))[0] == 200, "reads that mind say how old an answer may be"


async def test_contents_are_compared_at_exactly_one_revision_while_writes_go_on(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b", "c") as nodes:
        await nodes.until_streaming("b", "c")
        for number in range(50):
            await nodes["a"].put(b"k%03d" % number, b"v" * 100)
        done = False

        async def write_on() -> None:
            number = 0
            while not done:
                await nodes["a"].put(b"k%03d" % (number % 70), b"w%d" % number)
                number += 1

        writing = asyncio.create_task(write_on())
        parts = nodes["a"].member.parts
        try:
            for number in range(3):
                assert parts.shipping is not None
                revision = await parts.content.lead(parts.shipping)
                assert revision, "the flush was frozen at exactly the revision that was announced"
                await until(lambda: all(nodes[name].member.parts.content.rounds > number for name in "bc"))  # noqa: B023
        finally:
            done = True
            await writing
        assert all(nodes[name].member.parts.content._differed == 0 for name in "bc")
        assert parts.content.rounds == 3 and not nodes["b"].member.parts.distrusted


async def test_content_that_differs_twice_is_served_no_more_until_it_is_fetched_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await nodes.until_streaming("b")
        await nodes["a"].put(b"k")
        b, parts = nodes["b"], nodes["a"].member.parts
        life = b.member.life
        assert life is not None and b.app is not None
        hash_flushed = life.copies.hash_flushed

        async def other(flushing: Any) -> Hashed:
            return (await hash_flushed(flushing))._replace(sha256=b"\0" * 32)

        life.copies.hash_flushed = other  # type: ignore[method-assign]
        for times in range(1, DISTRUST_AFTER + 1):
            assert not b.member.parts.distrusted and parts.shipping is not None
            await nodes["a"].put(b"k%d" % times)
            assert await parts.content.lead(parts.shipping)
            await until(lambda: b.member.parts.content.rounds == times)  # noqa: B023
        assert "for the second time in a row" in b.member.parts.distrusted
        assert "serves no more" in caplog.text and "kvctl reinit b" in caplog.text
        assert (await refused(b.get(b"k"))).code == "NOT_SERVING"
        described = b.member.parts.describe()
        assert (described.state, described.reason) == ("FAILED", b.member.parts.distrusted)
        status, body = await asyncio.to_thread(asked, b.app, "/readyz")
        assert status == 503 and "FAILED content: its content differs" in body
        assert b.app._grpc.health._serving[""] is False
        with pytest.raises(KvError, match="it has failed: its content differs"):
            await b.promote()

        await b.member.reopen(lambda: None)  # the same tables
        assert (await refused(b.get(b"k"))).code == "NOT_SERVING"
        await b.member.parts._control.reinit()
        await until(lambda: not b.member.parts.distrusted, 20)
        await nodes.until_streaming("b")
        assert await b.get(b"k") == b"v"
        assert (await asyncio.to_thread(asked, b.app, "/readyz"))[0] == 200
