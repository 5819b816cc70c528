"""Runs a cluster of three nodes on this machine until Ctrl-C: what ``make run`` does.

    scripts/cluster/run.py [--data-dir data/cluster] [--write-quorum 2] [--first-port 7400] [flags of kvserver serve]

Nodes n1, n2 and n3 listen on 127.0.0.1:7400 to 7402, for probes and metrics on 7480 to 7482. At the first start n1 makes the
cluster and is primary; later the register knows who was. Every line that a node prints stands behind its name.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from kvctl.settings import DEFAULT_ENDPOINT
from kvserver.testing.cluster import NAMES, ClusterProcesses, ClusterServer
from kvserver.testing.process import ServerFailed

FIRST_PORT = 7400
HTTP_ABOVE = 80
POLL_S = 0.2
PRIMARY_WITHIN_S = 30.0

_PRINTING = threading.Lock()


def say(text: str, name: str = "") -> None:
    """Print lines, whole ones, whoever else prints; those of a node behind its name."""
    with _PRINTING:
        for line in text.splitlines() or [""]:
            print(f"{name} | {line}" if name else line, flush=True)


class Stopped(BaseException):
    """Somebody asked the script to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cluster that the command line describes; return the exit code."""
    told, flags = _parser().parse_known_args(arguments)
    environment = {name: value for name, value in os.environ.items() if name.startswith("KVSERVER_")}
    cluster = ClusterProcesses(
        told.data_dir.resolve(),
        flags=flags,
        write_quorum=told.write_quorum,
        ports=range(told.first_port, told.first_port + len(NAMES)),
        http_ports=range(told.first_port + HTTP_ABOVE, told.first_port + HTTP_ABOVE + len(NAMES)),
        environment=environment,
        on_line=lambda name, line: say(line, name),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        cluster.start()
        _tell(cluster)
        _watch(cluster)
    except ServerFailed as failure:
        say(f"\nthe cluster did not start: {failure}")
        _end(cluster)
        return 1
    except Stopped:
        return _end(cluster)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Runs a cluster of three nodes on this machine. Flags that are not named here are for every node.",
        allow_abbrev=False,
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data/cluster"), metavar="DIR", help="where everything lies")
    parser.add_argument(
        "--first-port",
        type=int,
        default=FIRST_PORT,
        metavar="N",
        help=f"n1 listens there, n2 and n3 on the next two; HTTP is {HTTP_ABOVE} above; {FIRST_PORT} unless given",
    )
    parser.add_argument(
        "--write-quorum",
        type=int,
        choices=range(len(NAMES) + 1),
        default=0,
        help="at the cluster's first start: so many of the three must have synced a write; 0: the primary alone",
    )
    return parser


def _stop(number: int, frame: FrameType | None) -> None:
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_DFL)  # once more ends the script, and with it every node, at once
    raise Stopped


def _tell(cluster: ClusterProcesses) -> None:
    """Say who plays which part, and what to try."""
    try:
        primary = cluster.wait_for_primary(timeout_s=PRIMARY_WITHIN_S)
        with contextlib.suppress(TimeoutError):  # what is missing then stands in the status
            cluster.wait_until_caught_up(timeout_s=PRIMARY_WITHIN_S)
    except TimeoutError as error:
        say(f"\nno node is primary: {error}\nmake one: {kvctl()} -E {cluster['n2'].address} promote")
        return
    rows = (
        f"  {node.name}  {'primary ' if node.name == primary else 'follower'}  {node.address}  http://{node.http_address}/metrics"
        f"  pid {node.pid}"
        for node in cluster.nodes.values()
    )
    say("\n" + "\n".join(rows))
    say(_to_try(cluster[primary], next(node for node in cluster.nodes.values() if node.name != primary)))


def _to_try(primary: ClusterServer, follower: ClusterServer) -> str:
    """Return command lines that work as they stand."""
    own = kvctl() if primary.address == DEFAULT_ENDPOINT else f"{kvctl()} -E {primary.address}"
    lines = (
        (f"{own} cluster status", "who is what, and how far"),
        (f"{own} put greeting hello", "through the primary"),
        (f"{kvctl()} -E {follower.address} --read-from any get greeting", "from a follower"),
        (f"{own} repl slots", "who is shipped the log"),
        (f"{own} cluster policy set --members {','.join(NAMES)} --write-quorum 2", "acknowledged by two of three from now on"),
        (f"kill -9 {primary.pid}", "the primary is gone"),
        (f"{kvctl()} -E {follower.address} promote", "the follower takes over"),
    )
    return (
        "try it from another terminal:\n"
        + "\n".join(f"  {line}\n      # {what}" for line, what in lines)
        + "\nCtrl-C stops all nodes"
    )


def kvctl() -> str:
    """Return the path of kvctl beside this interpreter, as a shell takes it."""
    return shlex.quote(str(Path(sys.executable).parent / "kvctl"))


def _watch(cluster: ClusterProcesses) -> None:
    """Look after the processes until somebody asks to end, or none is left; say of each one that dies how to start it again."""
    alive = {node.name for node in cluster.running}
    while alive:
        time.sleep(POLL_S)
        for name in sorted(alive - {node.name for node in cluster.running}):
            alive.discard(name)
            node = cluster[name]
            say(f"{name} ended with exit code {node.exit_code}; {_others(alive)}", name)
            say(f"start it again from another terminal: {node.command}", name)
    say("no node is left")


def _others(alive: set[str]) -> str:
    return f"{' and '.join(sorted(alive))} go on" if len(alive) > 1 else f"{next(iter(alive), 'none')} goes on"


def _end(cluster: ClusterProcesses) -> int:
    """Stop all nodes in order; return the exit code."""
    say("\nstopping all nodes, the primary first")
    try:
        cluster.stop()
    except ServerFailed as failure:
        say(str(failure))
        return 1
    finally:
        cluster.kill_all()
    say("all nodes have stopped; the same command starts them again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
