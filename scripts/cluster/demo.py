"""Shows how a cluster loses its primary and nothing else: what ``make demo`` does, in less than a minute.

    scripts/cluster/demo.py [--keep]

Three nodes on free ports, in a folder of their own. It ends with 0 where everything was as promised, else with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
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
SAMPLE = ROOT / "examples" / "packages.jsonl"
OLD, NEW, THIRD = "n1", "n2", "n3"
SETTLES_WITHIN_S = 30.0
KEPT_LINES = 4


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
    """Puts keys one after the other, and notes each one that was acknowledged, until a put fails."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.acknowledged: dict[bytes, int] = {}
        self.error = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_for(self, count: int) -> None:
        """Return when so many were acknowledged, or none will be any more."""
        while len(self.acknowledged) < count and self._thread.is_alive():
            time.sleep(0.005)

    def end(self) -> None:
        """Return when no put is under way any more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._address, timeout_s=3.0) as kv:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                key = b"writer/%06d" % number
                try:
                    self.acknowledged[key] = kv.put(key, b"value %d" % number).revision
                except KvClientError as error:
                    self.error = f"{key.decode()}: {error}"
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
    told = json.loads(kvctl(cluster, OLD, f"import {shlex.quote(str(SAMPLE))} -o json"))
    cluster.wait_until_caught_up()
    kvctl(cluster, THIRD, "scan --count-only")
    shown.hold(told["imported"] > 0, f"{told['imported']} records were acknowledged, and followers serve them")


def _kill(cluster: ClusterProcesses, shown: Shown) -> Writer:
    shown.begin(
        "The primary dies",
        f"A client writes without a pause, and in the middle of it: kill -9 {cluster[OLD].pid}, which is {OLD}.",
    )
    writer = Writer(cluster[OLD].address)
    writer.wait_for(300)
    cluster.kill(OLD)
    writer.end()
    print(f"   the client's last answer: {writer.error or 'none'}")
    kvctl(cluster, NEW, "cluster status")
    shown.hold(len(writer.acknowledged) >= 300, f"{len(writer.acknowledged)} more writes were acknowledged before it died")
    return writer


def _promote(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin(
        f"{NEW} takes over",
        "It claims the next epoch in the register, has the third node promise to refuse lower ones, and fetches what it lacks.",
    )
    steps = [json.loads(line) for line in kvctl(cluster, NEW, "promote --yes -o json", show=False).splitlines()]
    for step in steps:
        print(f"     {step['step']:<10}{step['message']}")
    cluster.wait_for_primary(NEW)
    last = steps[-1]
    shown.hold(last["done"] and last["epoch"] > 1, f"{NEW} is primary, in epoch {last['epoch']}")


def _compare_acknowledged(cluster: ClusterProcesses, shown: Shown, writer: Writer) -> None:
    shown.begin("What was acknowledged is there", "Every key that the client was told of, at the revision that it was told.")
    with cluster.client(NEW) as kv:
        there = {entry.key: entry.mod_revision for entry in kv.scan(b"writer/", keys_only=True)}
    lost = [key for key, revision in writer.acknowledged.items() if there.get(key) != revision]
    shown.hold(not lost, f"{len(writer.acknowledged)} acknowledged, {len(lost)} lost")


def _write_on(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin("Life goes on", f"With {OLD} still away: {NEW} and {THIRD} are two of three.")
    kvctl(cluster, NEW, "put greeting 'from the new primary'")
    kvctl(cluster, NEW, f"import {shlex.quote(str(SAMPLE))}")
    found = kvctl(cluster, NEW, "get greeting", show=False).strip()
    shown.hold(found == "from the new primary", "the new primary takes writes")


def _bring_back(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin(f"{OLD} comes back", "The register tells it that it was deposed: it follows, and keeps aside what it alone had.")
    before = len(cluster[OLD].log())
    cluster[OLD].start()
    cluster.wait_until_caught_up()
    for line in cluster[OLD].log()[before:][:KEPT_LINES]:
        print(f"     {OLD} | {line}")
    kvctl(cluster, NEW, "cluster status")
    kvctl(cluster, NEW, "cluster history")
    aside = sorted(path.name for path in (cluster[OLD].data_dir / "lost").glob("*"))
    kept = f"kept {', '.join(aside)} aside" if aside else "had nothing that the others have not"
    shown.hold(cluster.primary() == NEW, f"{OLD} follows {NEW}, has all that it has, and {kept}")


def _compare_hashes(cluster: ClusterProcesses, shown: Shown) -> None:
    shown.begin("The same on all three", "A hash over every key, value, revision and version that a node holds.")
    deadline = time.monotonic() + SETTLES_WITHIN_S
    command = ["-E", cluster.endpoints, "check", "hash"]
    while (done := run_kvctl(command)).returncode == 1 and time.monotonic() < deadline:
        time.sleep(0.2)  # a follower shows a revision a moment after it has it, and different revisions are not compared
    _print_run(command, done.stdout + done.stderr)
    shown.hold(done.returncode == 0, "all three hold the same")


def kvctl(cluster: ClusterProcesses, name: str, line: str, *, show: bool = True) -> str:
    """Run a command line of kvctl for a node, show both, and return what it printed. Raises Broken where it fails."""
    words = ["-E", cluster[name].address, *shlex.split(line)]
    done = run_kvctl(words)
    _print_run(words, (done.stdout if show else "") + done.stderr)
    if done.returncode:
        raise Broken(f"kvctl {line} ended with exit code {done.returncode}")
    return done.stdout


def run_kvctl(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run kvctl, as it is beside this interpreter."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KVCTL_")}
    command = [sys.executable, "-P", "-m", "kvctl", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


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
