"""Followers: what one costs the primary, how far it is behind, how fast it catches up, and what a quorum adds to a put."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from suite import peers, render
from suite.figures import ratio_rounds
from suite.ours import kvbench, kvbench_result
from suite.plan import Run, Step
from suite.processes import Server, kvserver
from suite.render import Wanted
from suite.sections.archive import bench, emptied, kvctl

CALLERS = 1000
CAUGHT_UP_S = 240.0
ARCHIVED_VALUE_BYTES = 1024

TEXT = """\
All nodes run on the same two cores and the same disk, with the client. *Lag*: from the acknowledgement of a put to its being read
from the follower, one probe every 20 ms beside puts at half of the rate that was reached with a follower."""


class Replication:
    """Measures nodes beside each other."""

    name = "replication"
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return the steps."""
        load_s, keys = run.sizes.load_s, run.sizes.restored_keys
        return [
            Step("puts alone and with a follower, its lag", load_s * 8 + 15, self._beside(run)),
            Step("a follower that catches up", 15 + keys / 20_000, self._catch_up(run)),
            Step("catching up from the archive", 25 + keys / 12_000, self._from_archive(run)),
            Step("one put under W = 2 of 2", 10, self._quorum(run)),
            Step("gets over three nodes", load_s * 2 + 15, self._gets(run)),
        ]

    # -- one follower beside the load -----------------------------------------------------------------------------------

    def _beside(self, run: Run) -> Callable[[], None]:
        def measure() -> None:
            for followers in (0, 1) if run.round % 2 == 0 else (1, 0):
                with emptied(run.folder("beside")) as folder, cluster(folder, 1 + followers) as nodes:
                    load = kvbench(run, nodes[0], "put", CALLERS, run.sizes.hot_keys, seconds=run.sizes.load_s * 2)
                    run.record_load(f"replication/{followers}", load, f"puts with {followers} followers")
                    if followers:
                        self._lag(run, nodes, load.per_s / 2)

        return measure

    def _lag(self, run: Run, nodes: list[Server], rate: float) -> None:
        caught_up(nodes[0], 2)
        seconds = run.sizes.load_s * 2
        with ExitStack() as stack:
            report = stack.enter_context(emptied(run.folder("lag")))
            flags = ("--rate", f"{rate:.0f}")
            puts = threading.Thread(
                target=lambda: kvbench_result(run, nodes[0], "put", CALLERS, run.sizes.hot_keys, *flags, seconds=seconds + 2)
            )
            puts.start()
            time.sleep(2)
            lag = json.loads(bench(["cluster_load.py", "lag", nodes[0].address, nodes[1].address, str(seconds)]))
            puts.join()
            assert report.exists()
        run.record("replication/lag_p50_ms", lag["p50_us"] / 1000)
        run.record("replication/lag_p99_ms", lag["p99_us"] / 1000)
        run.say(f"lag at {rate:,.0f}/s: p50 {lag['p50_us'] / 1000:.1f} ms, p99 {lag['p99_us'] / 1000:.1f} ms")

    # -- catching up ------------------------------------------------------------------------------------------------------

    def _catch_up(self, run: Run) -> Callable[[], None]:
        def measure() -> None:
            with emptied(run.folder("catch-up")) as folder, ExitStack() as stack:
                primary = stack.enter_context(kvserver(folder / "n1", *flags_of(folder, "n1")))
                with kvserver(folder / "n2", *flags_of(folder, "n2"), "--follow", primary.address):
                    caught_up(primary, 2)
                before = durable(run, primary)
                load = kvbench(run, primary, "put", CALLERS, run.sizes.hot_keys, seconds=run.sizes.load_s * 4)
                kvctl(run, "flush", "flush", server=primary)  # the primary is done with its own work
                commits = durable(run, primary) - before
                begin = time.perf_counter()
                stack.enter_context(kvserver(folder / "n2", *flags_of(folder, "n2"), "--follow", primary.address))
                started = time.perf_counter()
                caught_up(primary, 2)
                seconds = time.perf_counter() - begin
            run.record("replication/replay_per_s", commits / max(time.perf_counter() - started, 0.001))
            run.record("replication/primary_per_s", load.per_s)
            run.say(f"caught up with {commits:,} commits in {seconds:.1f} s, the start of the process included")

        return measure

    def _from_archive(self, run: Run) -> Callable[[], None]:
        def measure() -> None:
            keys = run.sizes.restored_keys // 2
            with emptied(run.folder("archive")) as folder, ExitStack() as stack:
                archive = [
                    "--archive",
                    f"file://{folder}/archive",
                    "--segment-mb",
                    "16",
                    "--slot-max-mb",
                    "64",
                    "--ballast-mb",
                    "0",
                    "--rewind-base-mb",  # it would hold the log, and nothing were taken from the archive
                    "0",
                ]
                primary = stack.enter_context(kvserver(folder / "n1", *flags_of(folder, "n1"), *archive))
                follow = [*flags_of(folder, "n2"), *archive, "--follow", primary.address, "--log-level", "info"]
                with kvserver(folder / "n2", *follow):
                    caught_up(primary, 2)
                    # One that has nothing is sent a copy of the store instead.
                    bench(["fill_store.py", primary.address, "1000", str(ARCHIVED_VALUE_BYTES)])
                    caught_up(primary, 2)
                bench(["fill_store.py", primary.address, str(keys), str(ARCHIVED_VALUE_BYTES)], timeout_s=300 + keys / 2_000)
                kvctl(run, "archive now", "archive", "now", server=primary)
                stack.enter_context(kvserver(folder / "n2", *follow))
                caught_up(primary, 2)
                taken = re.search(r"(\d+) bytes, ([\d.]+) s", archive_line(folder / "n2.log"))
            if taken is None:
                run.note("The follower did not need the archive to catch up.")
                return
            run.record("replication/archive_mb_per_s", int(taken[1]) / 1e6 / float(taken[2]))
            run.say(f"from the archive: {int(taken[1]) / 1e6 / float(taken[2]):.0f} MB/s of raw log")

        return measure

    # -- a quorum ---------------------------------------------------------------------------------------------------------

    def _quorum(self, run: Run) -> Callable[[], None]:
        def measure() -> None:
            seconds = min(run.sizes.load_s, 1.5)
            sync_ms = peers.load_bare_syncs(run, seconds).p50_ms or 0.0
            run.record("replication/sync_ms", sync_ms)
            for quorum in (0, 2):
                with emptied(run.folder("quorum")) as folder, cluster(folder, 2 if quorum else 1, quorum) as nodes:
                    load = kvbench(run, nodes[0], "put", 1, run.sizes.hot_keys, seconds=seconds)
                    run.record_load(f"replication/w{quorum}", load, "one caller, " + ("W = 2 of 2" if quorum else "alone"))
                    if quorum:
                        empty = json.loads(bench(["cluster_load.py", "gets", nodes[1].address, "1", "0.5"]))
                        run.record("replication/answer_us", empty["p50_us"])

        return measure

    # -- reads ------------------------------------------------------------------------------------------------------------

    def _gets(self, run: Run) -> Callable[[], None]:
        def measure() -> None:
            keys = min(run.sizes.hot_keys, 50_000)
            with emptied(run.folder("gets")) as folder, cluster(folder, 3) as nodes:
                bench(["fill_store.py", nodes[0].address, str(keys), "256"])
                caught_up(nodes[0], 3)
                for count in (1, 3):
                    addresses = ",".join(node.address for node in nodes[:count])
                    figures = json.loads(bench(["cluster_load.py", "gets", addresses, str(keys), str(run.sizes.load_s)]))
                    run.record(f"replication/gets_{count}", figures["per_s"])
                    run.say(f"gets over {count} nodes: {figures['per_s']:,.0f}/s")

        return measure

    # -- the report -------------------------------------------------------------------------------------------------------

    def render(self, run: Run) -> str:
        """Return the tables."""
        return "\n\n".join(["### Followers", TEXT, render.targets(targets(run))])


def targets(run: Run) -> list[Wanted]:
    """Return the targets with what was reached."""
    rounds = run.figures.rounds
    alone, added = rounds("replication/w0.p50_ms"), rounds("replication/w2.p50_ms")
    sync = rounds("replication/sync_ms")
    above = {number: added[number] - alone[number] - sync[number] for number in added if number in alone and number in sync}
    return [
        Wanted(
            "puts with one asynchronous follower on the same cores to puts alone",
            "0.6",
            lambda value: value >= 0.6,
            ratio_rounds(rounds("replication/1.per_s"), rounds("replication/0.per_s")),
        ),
        Wanted(
            "its lag at half of that rate, p99", "100 ms", lambda value: value <= 100, rounds("replication/lag_p99_ms"), " ms"
        ),
        Wanted("the same, p50", "", lambda value: True, rounds("replication/lag_p50_ms"), " ms"),
        Wanted(
            "replay on a follower that catches up to the primary's rate",
            "1.3 times",
            lambda value: value >= 1.3,
            ratio_rounds(rounds("replication/replay_per_s"), rounds("replication/primary_per_s")),
            " times",
        ),
        Wanted(
            "catching up from the archive, 1 KiB values",
            "100 MB/s of raw log",
            lambda value: value >= 100,
            rounds("replication/archive_mb_per_s"),
            " MB/s",
        ),
        Wanted(
            "one put under W = 2 of 2: p50 above one put alone and one fdatasync, a round trip between nodes left in",
            "a round trip + 0.5 ms",
            lambda value: value <= 0.5 + ROUND_TRIP_MS,
            above,
            " ms",
        ),
        Wanted("gets through the SDK from one node", "", lambda value: True, rounds("replication/gets_1"), "/s"),
        Wanted("gets through the SDK spread over three nodes", "", lambda value: True, rounds("replication/gets_3"), "/s"),
    ]


ROUND_TRIP_MS = 0.21
"""On an open stream over the loopback, without load; measured once with a bare gRPC stream."""


def flags_of(folder: Path, name: str) -> list[str]:
    """Return the flags of a node of a cluster in a folder."""
    return ["--name", name, "--register", f"file://{folder}/register"]


@contextmanager
def cluster(folder: Path, count: int, quorum: int = 0) -> Iterator[list[Server]]:
    """Serve a new cluster of so many nodes; the first one is primary."""
    names = [f"n{number + 1}" for number in range(count)]
    members = ["--members", ",".join(names), "--write-quorum", str(quorum)] if quorum else []
    with ExitStack() as stack:
        nodes: list[Server] = []
        for name in names:
            follow = ["--follow", nodes[0].address] if nodes else []
            flags = [*flags_of(folder, name), *follow, *([] if nodes else members)]
            nodes.append(stack.enter_context(kvserver(folder / name, *flags)))
        yield nodes


def durable(run: Run, server: Server) -> int:
    """Return a node's newest durable revision."""
    status = json.loads(kvctl(run, "status", "status", "-o", "json", server=server))
    return int(status["durable_revision"])


def caught_up(primary: Server, count: int) -> None:
    """Wait until all nodes of a cluster have applied what the primary has."""
    bench(["cluster_load.py", "wait", primary.address, str(count)], timeout_s=CAUGHT_UP_S)


def archive_line(log: Path) -> str:
    """Return the line of a node's log that says what it took from the archive; empty: there is none."""
    lines = [line for line in log.read_text().splitlines() if "from the archive" in line]
    return lines[-1] if lines else ""
