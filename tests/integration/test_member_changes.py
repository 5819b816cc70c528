"""What changes a node's part in the middle of something else: promises, reopenings, failures, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from integration.members import MemberNode, Members, members
from integration.serving import refused, until
from kvserver.archive.store import Store
from kvserver.base import failpoints
from kvserver.base.errors import Code, Corruption, NotServing, ReplicationError
from kvserver.base.register import NodeRecord
from kvserver.base.types import Epoch, Role
from kvserver.replication import store_register
from kvserver.replication.messages import NodeIdentity
from kvserver.replication.register_records import Founded
from kvserver.server.app import SOFTWARE_FAILURE

pytestmark = pytest.mark.timeout(120)


def hold(name: str) -> threading.Event:
    """Hold whichever thread comes to a failpoint, until the event is set."""
    release = threading.Event()
    failpoints.arm(name, lambda: (release.wait(30), None)[1])
    return release


def candidate(node: MemberNode, name: str = "x") -> NodeIdentity:
    """Return who another node of the same cluster is."""
    return node.member.identity()._replace(name=name, node_id=f"id of {name}", address="127.0.0.1:1")


async def written_upto(nodes: Members, count: int = 3) -> None:
    await nodes.until_streaming(*list(nodes)[1:])
    for number in range(count):
        await nodes["a"].put(b"k%d" % number)
    await nodes.until_equal(*nodes)


async def test_a_promise_whose_candidate_hung_up_is_kept_and_the_node_follows_on(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        member, epoch = nodes["b"].member, Epoch(9, 99)
        release = hold("vow.after_write")
        asking = asyncio.create_task(member.promise(epoch, candidate(nodes["b"])))
        await until(lambda: member.parts._promising)
        asking.cancel()
        await asyncio.sleep(0.05)
        assert not asking.done() and member.changing.locked(), "half a promise would leave a node that follows nobody"
        failpoints.disarm_all()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert member.vow.promised == epoch
        await until(lambda: nodes["b"].state == "FENCED")  # it looks around again, and obeys nobody lower


async def test_a_promise_waits_for_a_reopening_and_ends_one_that_waits(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        member = nodes["b"].member
        prepare = threading.Event()
        reopening = asyncio.create_task(member.reopen(lambda: (prepare.wait(30), None)[1]))
        await until(lambda: member.life is None)
        assert (await refused(nodes["b"].get(b"k0"))).code == "NOT_SERVING"
        asking = asyncio.create_task(member.promise(Epoch(2, 5), candidate(nodes["b"])))
        await asyncio.sleep(0.05)
        assert not asking.done()
        reopening.cancel()  # as a pause of the driver does: from here on it is carried out to its end
        prepare.set()
        with pytest.raises(asyncio.CancelledError):
            await reopening
        said = await asking
        assert said.promised and said.end.position.revision == nodes["a"].database.log_end().position.revision
        assert member.life is not None

        async with member.changing:  # ... and one that waits for its turn is ended by whoever has it
            waiting = asyncio.create_task(member.reopen(lambda: None))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not member.changing.locked() and member.life is not None


async def test_two_who_make_it_stand_still_are_both_told_when_it_does(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        parts = nodes["b"].member.parts
        driver = parts.driver
        assert driver is not None
        may_end = asyncio.Event()
        was_paused = 0
        pause = driver.pause

        async def slow() -> None:
            nonlocal was_paused
            if driver._task is None:  # somebody else ends it already, and this one has nothing to wait for
                return
            task, driver._task = driver._task, None
            await may_end.wait()
            driver._task = task
            await pause()
            was_paused += 1

        driver.pause = slow  # type: ignore[method-assign]
        first = asyncio.create_task(parts.stand_still())
        await asyncio.sleep(0)

        async def second() -> int:
            async with parts.not_following():
                return was_paused

        other = asyncio.create_task(second())
        await asyncio.sleep(0.01)
        assert not other.done(), "what is under way of the first one's is not at its end"
        may_end.set()
        assert await other >= 1
        await first
        assert driver._task is None, "the promise has ended, the promotion has not"
        parts.move_again()
        await nodes.until_streaming("b")


async def test_a_fenced_primary_says_so_everywhere_and_is_no_primary_for_anybody(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        a = nodes["a"]
        said = await a.member.promise(Epoch(2, 5), candidate(a))
        assert said.promised and said.end == a.database.log_end()
        refusal = await refused(a.put(b"x"))
        assert (refusal.code, refusal.metadata["primary"]) == ("NOT_PRIMARY", "127.0.0.1:1")
        assert await a.get(b"k0") == b"v"
        status = await a.status()
        assert status.role == "primary" and any("takes no writes any more: x becomes primary" in text for text in status.warnings)
        assert not a.member.is_primary and a.state == "FENCED"
        assert a.app is not None and [check.name for check in a.app.probes.ready() if not check.passed] == ["part"]
        assert a.app._grpc.health._serving["primary"] is False and a.app._grpc.health._serving[""] is True
        await a.promote()  # nobody became primary: it may be again, by its own name
        assert await a.put(b"x") and a.app._grpc.health._serving["primary"] is True
        await nodes.until_streaming("b")


async def test_a_promise_of_a_stranger_of_a_lower_or_of_the_same_number_changes_nothing(tmp_path: Path) -> None:
    async with members(tmp_path, "a") as nodes:
        a = nodes["a"]
        current = a.database.history.current
        for epoch in (Epoch(1, 0), Epoch(1, (1 << 64) - 1), current):
            said = await a.member.promise(epoch, candidate(a))
            assert not said.promised and said.highest == current
        with pytest.raises(ReplicationError, match="of another cluster"):
            await a.member.promise(Epoch(2, 5), candidate(a)._replace(cluster_id=b"\1" * 16))
        with pytest.raises(ReplicationError, match="in the register"):
            await a.member.promise(Epoch(2, 5), candidate(a)._replace(register_id="another"))
        assert a.member.is_primary and a.member.vow.promised.number < 2
        assert await a.put(b"k")


async def test_the_register_deposes_a_primary_that_nobody_asked(tmp_path: Path) -> None:
    async with members(tmp_path, "a") as nodes:
        a = nodes["a"]
        await a.put(b"k")
        register, epoch, end = a.member.register, Epoch(2, 5), a.database.log_end()
        await asyncio.to_thread(register.claim, epoch, NodeRecord("x", "id of x", "127.0.0.1:1"), 1)
        await a.member.watch.look()
        assert a.member.is_primary, "a claim is not yet an epoch"
        await asyncio.to_thread(register.record_branch, epoch, end.position)
        await asyncio.to_thread(register.record_begun, epoch)
        await asyncio.to_thread(register.join, NodeRecord("x", "id of x", "127.0.0.1:1"))
        await a.member.watch.look()
        assert not a.member.is_primary
        await nodes.until_role("a", Role.FOLLOWER)
        refusal = await refused(a.put(b"x"))
        assert (refusal.code, refusal.metadata["primary"]) == ("NOT_PRIMARY", "127.0.0.1:1")


async def test_another_epoch_of_its_number_halts_a_primary(tmp_path: Path) -> None:
    async with members(tmp_path, "a") as nodes:
        a = nodes["a"]
        await a.put(b"k")
        watch, current = a.member.watch, a.database.history.current
        (record,) = watch.records
        watch.records = [record._replace(epoch=Epoch(current.number, current.nonce ^ 1), node="x", node_id="id of x")]
        a.member._on_look()
        assert (await refused(a.put(b"x"))).code == "NOT_PRIMARY"
        assert a.state == "FENCED" and "another epoch 1 than this node's, of x" in a.member.parts.describe().reason
        assert a.database.role is Role.PRIMARY, "there is nobody whom it could follow"


async def test_a_primary_behind_a_stuck_claim_is_promoted_again(tmp_path: Path) -> None:
    """The candidate died behind its promises, and this primary was the one that it could not reach."""
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        a, b = nodes["a"], nodes["b"]
        epoch = Epoch(2, 5)
        await asyncio.to_thread(a.member.register.claim, epoch, NodeRecord("x", "id of x", "127.0.0.1:1"), 1)
        assert (await b.member.promise(epoch, candidate(b))).promised
        await until(lambda: b.state == "FENCED")
        await a.member.watch.look()
        assert any("x has claimed epoch 2 and not gone on" in text for text in (await a.status()).warnings)
        assert await a.put(b"alone")
        steps = await a.promote()
        assert steps[-1].done and steps[-1].epoch.number == 3
        await nodes.until_streaming("b")
        await nodes.until_equal("a", "b")
        assert not (await a.status()).warnings


async def test_a_call_that_outlives_the_part_is_told_so_by_the_store_that_was_closed(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        former = nodes["b"].database
        await former.flush()
        await nodes["b"].member.reopen(lambda: None)
        with pytest.raises(NotServing):
            await asyncio.wait_for(former.read(1, [b"k0"], former.marks.visible), 5)


# -- what fails -----------------------------------------------------------------------------------------------------


def _raise(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("point", ["engine.open.after_tables", "engine.open.after_claim", "engine.open.after_first_segment"])
async def test_a_promotion_that_cannot_open_the_store_follows_again(tmp_path: Path, point: str) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        b = nodes["b"]
        times = iter([OSError(5, "Input/output error")])

        def fail_once() -> None:
            for error in times:
                raise error

        failpoints.arm(point, fail_once)
        with pytest.raises(ReplicationError, match="cannot be opened as primary"):
            await b.promote()
        failpoints.disarm_all()
        assert b.member.life is not None and b.database.role is Role.FOLLOWER and not b.member.changing.locked()
        # What has a segment of the new epoch is what history goes on from.
        winner, other = ("b", "a") if point == "engine.open.after_first_segment" else ("a", "b")
        await nodes[winner].promote()
        await nodes[winner].put(b"after")
        await nodes.until_streaming(other)
        await nodes.until_equal(winner, other)


async def test_a_store_that_opens_as_neither_ends_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        b = nodes["b"]
        failpoints.arm("engine.open.after_tables", _raise(OSError(5, "Input/output error")))
        with pytest.raises(ReplicationError, match="cannot be opened as primary"):
            await b.promote()
        failpoints.disarm_all()
        assert b.app is not None
        assert await asyncio.wait_for(b.app.wait(), 5) == SOFTWARE_FAILURE
        assert await b.stop() == SOFTWARE_FAILURE
        assert "the store cannot be opened again" in caplog.text


async def test_a_reopening_that_finds_damage_ends_the_process_and_says_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        b = nodes["b"]
        failpoints.arm("engine.open.after_tables", _raise(Corruption("/x/wal/1", 5, "it is torn", "do this and that")))
        with pytest.raises(Corruption):
            await b.member.reopen(lambda: None)
        failpoints.disarm_all()
        assert b.app is not None and await asyncio.wait_for(b.app.wait(), 5) == SOFTWARE_FAILURE
        assert "/x/wal/1" in caplog.text and "do this and that" in caplog.text


async def test_what_prepare_raises_is_raised_and_the_store_is_open_all_the_same(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        with pytest.raises(OSError, match="full"):
            await nodes["b"].member.reopen(_raise(OSError(28, "full")))
        assert nodes["b"].member.life is not None and nodes["b"].member.parts.shipping is not None
        assert nodes["b"].app is not None and not nodes["b"].app._stop_asked.done()


async def test_a_follower_whose_log_fails_ends(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        b = nodes["b"]
        log = b.database._log

        def fail() -> None:
            raise OSError(5, "Input/output error")

        log.sync = fail  # type: ignore[method-assign]
        await nodes["a"].put(b"more")
        assert b.app is not None and await asyncio.wait_for(b.app.wait(), 10) == SOFTWARE_FAILURE
        assert [check.name for check in b.app.probes.ready() if not check.passed][-1:] == ["log"]
        with pytest.raises(NotServing):  # nothing is read back from that disk by this process
            await b.member.become(Role.FOLLOWER)
        assert await b.stop() == SOFTWARE_FAILURE


# -- the end --------------------------------------------------------------------------------------------------------


async def test_a_node_ends_in_the_middle_of_its_promotion(tmp_path: Path) -> None:
    async with members(tmp_path, "a", "b") as nodes:
        await written_upto(nodes)
        b = nodes["b"]
        release = hold("engine.open.after_recover")
        promoting = asyncio.create_task(b.promote())
        await until(lambda: b.member.life is None, 10)
        stopping = asyncio.create_task(b.stop())
        await asyncio.sleep(0.1)
        failpoints.disarm_all()
        release.set()
        assert await asyncio.wait_for(stopping, 10) == 0
        await asyncio.gather(promoting, return_exceptions=True)
        await b.start()  # nothing of it was left open
        assert b.database.log_end().position.revision >= 4


async def test_a_primary_whose_quorum_is_away_ends_within_its_grace(tmp_path: Path) -> None:
    flags = ("--members", "a,b", "--write-quorum", "2")
    async with members(tmp_path, "a", "b", flags=flags) as nodes:
        await nodes.until_streaming("b")
        await nodes["a"].put(b"k")
        await nodes["b"].stop()
        writing = asyncio.create_task(nodes["a"].put(b"unmet", timeout_s=30))
        await until(lambda: nodes["a"].database.marks.durable > nodes["a"].database.marks.visible)
        app, nodes["a"].app = nodes["a"].app, None
        assert app is not None
        assert await asyncio.wait_for(app.stop(), 12) == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await writing


async def test_the_first_policy_is_made_up_for_by_the_next_start(tmp_path: Path) -> None:
    async with members(tmp_path, "a") as nodes:
        a = nodes["a"]
        assert not any(policy.members for policy in a.database.policies())
        await a.stop()
        await a.start("--members", "a,b", "--write-quorum", "1")  # as if the first one had died before its commit was durable
        await until(lambda: [(one.write_quorum, one.members) for one in a.database.policies()] == [(1, ("a", "b"))])
        await a.put(b"k")
        await a.stop()
        await a.start("--members", "a", "--write-quorum", "1")
        assert a.database.policies()[-1].members == ("a", "b"), "later the settings have no effect"


async def test_without_its_register_a_primary_begins_as_follower_until_it_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with members(tmp_path, "a", "b", run=lambda name: name == "a") as nodes:
        a = nodes["a"]
        await a.put(b"k")
        await a.stop()
        look = store_register.look
        is_down = True

        def looked(store: Store) -> Founded | None:
            if is_down:
                raise ReplicationError(Code.REGISTER_UNAVAILABLE, "the register is down", "")
            return look(store)

        monkeypatch.setattr(store_register, "look", looked)
        await a.start()
        assert a.database.role is Role.FOLLOWER
        status = await a.status()
        assert status.role == "follower" and any("register cannot be read" in text for text in status.warnings)
        with pytest.raises(ReplicationError, match="is down"):
            await nodes["b"].start()
        is_down = False
        await nodes.until_role("a", Role.PRIMARY)
        assert await a.put(b"more") and a.database.history.current.number == 2
