"""Shows how a cluster loses its primary and nothing else: what ``make demo`` does, in less than a minute.

    scripts/cluster/demo.py [--keep]

Three nodes on free ports, in a folder of their own. It ends with 0 where everything was as promised, else with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from kvclient import Client, KvClientError
from kvserver.testing.cluster import ClusterProcesses
from kvserver.testing.process import ServerFailed

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = "examples/packages.jsonl"
OLD, NEW, THIRD = "n1", "n2", "n3"
SETTLES_WITHIN_S = 30.0
SHOWN_LINES = 6
AT_A_TIME = 8
WRITES = 500


class Broken(Exception):
    """Something was not as promised."""


@dataclasses.dataclass
class Shown:
    """What the end tells: one line for each promise, and whether it held."""

    lines: list[tuple[bool, str]] = dataclasses.field(default_factory=list)
    step: int = 0

    def begin(self, title: str, why: str) -> None:
        """Head a step and say what it is for."""
        self.step += 1
        print(f"\n{self.step}. {title}\n   {why}", flush=True)

    def hold(self, held: bool, what: str) -> None:
        """Note whether a promise held; end the demo where it did not."""
        self.lines.append((held, what))
        print(f"   {'=>' if held else 'BROKEN:'} {what}", flush=True)
        if not held:
            raise Broken(what)


class Writer:
    """Puts keys, several at a time, and notes each one that was acknowledged, until puts fail."""

    def __init__(self, address: str) -> None:
        self.acknowledged: dict[bytes, int] = {}
        self.errors: list[str] = []
        self._kv = Client(address, timeout_s=3.0)
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(AT_A_TIME)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Return when so many were acknowledged, or none will be any more."""
        while len(self.acknowledged) < count and any(thread.is_alive() for thread in self._threads):
            time.sleep(0.005)

    def end(self) -> None:
        """Return when no put is under way any more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._kv.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            key = b"writer/%06d" % next(self._numbers)
            try:
                self.acknowledged[key] = self._kv.put(key, b"of the writer").revision
            except KvClientError as error:
                self.errors.append(f"{key.decode()}: {error}")
                return


def main(arguments: Sequence[str] | None = None) -> int:
    """Show it; return the exit code."""
    parser = argparse.ArgumentParser(prog="demo.py", description="Shows how a cluster loses its primary and nothing else.")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the data of the nodes")
    keep = parser.parse_args(arguments).keep
    began, shown = time.monotonic(), Shown()
    with _folder(keep) as folder:
        cluster = ClusterProcesses(folder, write_quorum=2)
        try:
            _show(cluster, shown)
        except (Broken, ServerFailed, TimeoutError, KvClientError, subprocess.SubprocessError) as error:
            if not isinstance(error, Broken):
                shown.lines.append((False, f"{type(error).__name__}: {error}"))
            _show_logs(cluster)
        except KeyboardInterrupt:
            shown.lines.append((False, "interrupted"))
        finally:
            cluster.kill_all()
        return _sum_up(shown, time.monotonic() - began, folder if keep else None)


@contextlib.contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="kvserver-demo-")
    try:
        yield Path(folder)
    finally:
        if not keep:
            import shutil

            shutil.rmtree(folder, ignore_errors=True)


def _show(cluster: ClusterProcesses, shown: Shown) -> None:
    _start(cluster, shown)
    _load(cluster, shown)
    writer = _kill(cluster, shown)
    _promote(cluster, shown)
    _compare_acknowledged(cluster, shown, writer)
    _write_on(cluster, shown)
    _bring_back(cluster, shown)
    _compare_hashes(cluster, shown)


def _start(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin(
        "Three nodes start",
        f"{OLD} makes the cluster and is primary, {NEW} and {THIRD} follow. A write is acknowledged when 2 of 3 have it on disk.",
    )
    cluster.start()
    primary = cluster.wait_for_primary(OLD)
    cluster.wait_until_caught_up()
    kvctl(cluster, primary, "cluster status")
    shown.hold(primary == OLD, f"{OLD} is primary, and both followers have all that it has")


def _load(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin("The sample is loaded", "Through the primary. Each record is acknowledged when a second node has it, too.")
    kvctl(cluster, OLD, f"import {SAMPLE}")
    cluster.wait_until_caught_up()
    count = int(kvctl(cluster, THIRD, "--read-from any scan --count-only -o raw"))
    shown.hold(count > 0, f"{count} records were acknowledged, and a follower serves them")


def _kill(cluster: ClusterProcesses, shown: Shown) -> Writer:
    shown.begin(
        "The primary dies",
        f"A client writes without a pause, and in the middle of it: kill -9 {cluster[OLD].pid}, which is {OLD}.",
    )
    writer = Writer(cluster[OLD].address)
    writer.wait_for(WRITES)
    cluster.kill(OLD)
    writer.end()
    unknown = (
        f"{len(writer.errors)} were under way, one of them ended so:\n   {writer.errors[0]}"
        if writer.errors
        else "none was under way"
    )
    print(f"   of its writes {unknown}")
    kvctl(cluster, NEW, "cluster status")
    count = len(writer.acknowledged)
    shown.hold(count >= WRITES, f"{count} more writes were acknowledged before it died")
    return writer


def _promote(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin(
        f"{NEW} takes over",
        "It claims the next epoch in the register, has the third node promise to refuse lower ones, and fetches what it lacks.",
    )
    kvctl(cluster, NEW, "promote --yes")
    cluster.wait_for_primary(NEW)
    found = cluster.status()
    primary = found.primary if found is not None else None
    shown.hold(primary is not None and primary.epoch > 1, f"{NEW} is primary, in epoch {primary.epoch if primary else 0}")


def _compare_acknowledged(cluster: ClusterProcesses, shown: Shown, writer: Writer) -> None:
    shown.begin("What was acknowledged is there", "Every key that the client was told of, at the revision that it was told.")
    with cluster.client(NEW) as kv:
        there = {entry.key: entry.mod_revision for entry in kv.scan(b"writer/", keys_only=True)}
    lost = [key for key, revision in writer.acknowledged.items() if there.get(key) != revision]
    shown.hold(not lost, f"{len(writer.acknowledged)} acknowledged, {len(lost)} lost")


def _write_on(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin("Life goes on", f"With {OLD} still away: {NEW} and {THIRD} are two of three.")
    kvctl(cluster, NEW, "put greeting 'from the new primary'")
    kvctl(cluster, NEW, f"import {SAMPLE}")
    found = kvctl(cluster, NEW, "get greeting").strip()
    shown.hold(found == "from the new primary", "the new primary takes writes")


def _bring_back(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin(f"{OLD} comes back", "The register tells it that it was deposed: it follows, and keeps aside what it alone had.")
    before = len(cluster[OLD].log())
    cluster[OLD].start()
    cluster.wait_until_caught_up()
    for line in cluster[OLD].log()[before:][:SHOWN_LINES]:
        print(f"     {OLD} | {line}")
    kvctl(cluster, NEW, "cluster status")
    kvctl(cluster, NEW, "cluster history")
    shown.hold(cluster.primary() == NEW, f"{OLD} follows {NEW}, has all that it has, and {_kept_aside(cluster)}")


def _kept_aside(cluster: ClusterProcesses) -> str:
    """Say, and show, what the old primary had that the cluster went on without; none of it was acknowledged."""
    folders = sorted((cluster[OLD].data_dir / "lost").glob("*-*-*"))
    if not folders:
        return "had nothing that the others have not"
    first, last = (int(part, 16) for part in folders[-1].name.split("-")[:2])
    words = ["wal", "dump", str(folders[-1]), "--from-revision", str(first), "--limit", "2"]
    done = run_kvctl(words)
    _print_run(words, done.stdout + done.stderr)
    return f"keeps aside what nobody was told of, revisions {first} to {last}"


def _compare_hashes(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin("The same on all three", "A hash over every key, value, revision and version that a node holds.")
    deadline = time.monotonic() + SETTLES_WITHIN_S
    command = ["-E", cluster.endpoints, "check", "hash"]
    while (done := run_kvctl(command)).returncode == 1 and time.monotonic() < deadline:
        time.sleep(0.2)  # a follower shows a revision a moment after it has it, and different revisions are not compared
    _print_run(command, done.stdout + done.stderr)
    shown.hold(done.returncode == 0, "all three hold the same")


def kvctl(cluster: ClusterProcesses, name: str, line: str) -> str:
    """Run a command line of kvctl for a node, show both, and return what it printed. Raises Broken where it fails."""
    words = ["-E", cluster[name].address, *shlex.split(line)]
    done = run_kvctl(words)
    _print_run(words, done.stdout + done.stderr)
    if done.returncode:
        raise Broken(f"kvctl {line} ended with exit code {done.returncode}")
    return done.stdout


def run_kvctl(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run kvctl, as it is beside this interpreter."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KVCTL_")}
    command = [sys.executable, "-P", "-m", "kvctl", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


def _print_run(words: Sequence[str], printed: str) -> None:
    print(f"   $ kvctl {shlex.join(words)}")
    for line in printed.splitlines():
        print(f"     {line}")
    sys.stdout.flush()


def _show_logs(cluster: ClusterProcesses) -> None:
    for node in cluster.nodes.values():
        print(f"\nthe last lines of {node.name}:")
        for line in node.log(20) if node.was_started else ():
            print(f"   {line}")


def _sum_up(shown: Shown, seconds: float, kept: Path | None) -> int:
    failed = [what for held, what in shown.lines if not held]
    print("\nSummary")
    for held, what in shown.lines:
        print(f"   {'ok    ' if held else 'FAILED'}  {what}")
    if kept is not None:
        print(f"   the data of the nodes is in {kept}")
    verdict = "the primary died, and nothing that was acknowledged was lost" if not failed else "not all was as promised"
    print(f"\n{verdict} ({seconds:.1f} s)", flush=True)
    return 1 if failed or not shown.lines else 0


if __name__ == "__main__":
    sys.exit(main())
