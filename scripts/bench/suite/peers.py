"""The peers, each started alone on free ports in a scratch folder, loaded by a tool in C, and asked what it really did.

Every put has 256 bytes and is answered after it is on the disk: etcd always does so, Redis by ``appendfsync always``, RocksDB
by ``--sync=1``. Where there is a choice it is the one that favours the peer: no background rewrites, one hot key for etcd.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from suite import parsing
from suite.figures import Load
from suite.plan import Run
from suite.processes import ProcessFailed, background, execute, free_port, wait_until

VALUE = bytes(range(256))
PUT_PATH = "/etcdserverpb.KV/Put"
GRPC_HEADERS = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
ETCD_SPLITS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((1, 1),),
    64: ((1, 64), (4, 16)),
    256: ((4, 64), (16, 16)),
    1000: ((4, 250), (20, 50)),
}
"""The loads of etcd: callers, and the connections and streams a connection that they are split into."""
REDIS_DEPTH = 16
SYNC_BYTES = 4096
DB_BENCH = "fillrandom"


class Tool(NamedTuple):
    """A program that a peer needs, and the Debian package that has it."""

    program: str
    package: str


ETCD = (Tool("etcd", "etcd-server"), Tool("h2load", "nghttp2-client"))
REDIS = (
    Tool("redis-server", "redis-server"),
    Tool("redis-benchmark", "redis-tools"),
    Tool("redis-cli", "redis-tools"),
)
ROCKSDB = (Tool("db_bench", "rocksdb-tools"),)
H2LOAD = (Tool("h2load", "nghttp2-client"),)
UNARY = "unary calls without the SDK"
NEEDED = {"etcd": ETCD, "Redis": REDIS, "RocksDB": ROCKSDB, UNARY: H2LOAD}
"""What is measured with programs that need not be there."""


def missing(tools: tuple[Tool, ...]) -> str:
    """Return the command that installs what is missing of some tools; empty where nothing is."""
    packages = dict.fromkeys(tool.package for tool in tools if shutil.which(tool.program) is None)
    return f"apt-get install {' '.join(packages)}" if packages else ""


def skipped(run: Run, name: str) -> bool:
    """Say loudly, and in the report, that something is skipped for want of a program; tell whether it is."""
    install = missing(NEEDED[name])
    if install:
        run.note(f"SKIPPED: {name} was not measured, because a program for it is not installed here: {install}")
    return bool(install)


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def grpc_message(fields: dict[int, bytes]) -> bytes:
    """Return a gRPC message, its prefix of 5 bytes included, with fields of bytes by number."""
    body = b"".join(varint(number << 3 | 2) + varint(len(value)) + value for number, value in fields.items())
    return b"\0" + len(body).to_bytes(4, "big") + body


def h2load(url: str, message: bytes, connections: int, streams: int, seconds: float, folder: Path) -> tuple[Load, int, list[str]]:
    """Send one gRPC message again and again; return the load, how many were answered, and the command."""
    body, log = folder / "message.grpc", folder / "h2load.log"
    body.write_bytes(message)
    log.unlink(missing_ok=True)
    command = ["h2load", "-D", f"{seconds * 1000:.0f}ms", "--warm-up-time", "300ms", "-c", str(connections), "-m", str(streams)]
    command += ["-d", str(body), f"--log-file={log}", *GRPC_HEADERS, url]
    outcome = execute(command, timeout_s=seconds + 60)
    with log.open() as lines:
        load = parsing.h2load(outcome.printed, lines)
    return _with_cores(load, outcome.cpu_seconds / outcome.seconds), parsing.h2load_answers(outcome.printed), command


def _with_cores(load: Load, cores: float) -> Load:
    return Load(load.per_s, load.p50_ms, load.p99_ms, load.p999_ms, cores)


def _answer(url: str) -> str:
    """Return what a URL has; empty where nobody serves it yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


def _without_ports(command: list[str], *urls: str) -> list[str]:
    for number, url in enumerate(urls, 1):
        command = [word.replace(url, f"http://127.0.0.1:PORT{number if len(urls) > 1 else ''}") for word in command]
    return command


@contextlib.contextmanager
def etcd(run: Run) -> Iterator[str]:
    """Serve one member of etcd that is a cluster of its own; yield its URL."""
    client, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    folder = run.folder("etcd")
    command = ["etcd", "--data-dir", str(folder), "--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    command += ["--quota-backend-bytes", str(8 << 30), "--logger", "zap", "--log-level", "error"]
    run.command("etcd", _without_ports(command, client, peer))
    log = folder.with_suffix(".log")
    with background(command, log) as process:
        wait_until(lambda: '"health":"true"' in _answer(f"{client}/health"), process, log)
        yield client
    shutil.rmtree(folder, ignore_errors=True)


def load_etcd(run: Run, url: str, connections: int, streams: int) -> Load:
    """Put into etcd over several streams. Raises ProcessFailed where it counts fewer puts than were answered."""
    message = grpc_message({1: b"bench", 2: VALUE})
    before = parsing.metric(_answer(f"{url}/metrics"), "etcd_mvcc_put_total")
    load, answered, command = h2load(url + PUT_PATH, message, connections, streams, run.sizes.load_s, run.scratch)
    counted = parsing.metric(_answer(f"{url}/metrics"), "etcd_mvcc_put_total") - before
    run.command("etcd, load (its body: 5 bytes of gRPC, then a PutRequest)", _without_ports(command, url))
    if counted < answered:
        raise ProcessFailed(f"h2load had {answered} answers, but etcd counts {counted:.0f} puts")
    return load


@contextlib.contextmanager
def redis(run: Run) -> Iterator[int]:
    """Serve Redis with every write synced before it is answered; yield the port."""
    port, folder = free_port(), run.folder("redis")
    folder.mkdir()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0", "--maxclients", "4000"]
    run.command("Redis", [word.replace(str(port), "PORT") if word == str(port) else word or "''" for word in command])
    log = folder.with_suffix(".log")
    with background(command, log) as process:
        wait_until(lambda: _redis_cli(port, "ping") == "PONG", process, log)
        if "always" not in _redis_cli(port, "config", "get", "appendfsync").split():
            raise ProcessFailed("Redis does not sync always")
        yield port
    shutil.rmtree(folder, ignore_errors=True)


def _redis_cli(port: int, *words: str) -> str:
    done = subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip()


def load_redis(run: Run, port: int, connections: int, depth: int) -> Load:
    """Set random ones of the hot keys; a short run first says how many make up the time."""
    base = ["redis-benchmark", "-p", str(port), "-t", "set", "-d", str(len(VALUE)), "-r", str(run.sizes.hot_keys)]
    base += ["-c", str(connections), "-P", str(depth), "--csv"]
    few = max(connections * depth * 4, 500)
    guess = parsing.redis_benchmark(execute([*base, "-n", str(few)], timeout_s=120).printed).per_s
    many = max(few, int(guess * run.sizes.load_s))
    before = parsing.redis_set_calls(_redis_cli(port, "info", "commandstats"))
    outcome = execute([*base, "-n", str(many)], timeout_s=240)
    load = parsing.redis_benchmark(outcome.printed)
    shown = ["PORT" if word == str(port) else word for word in base]
    run.command(f"Redis, load{', pipelined' if depth > 1 else ''}", [*shown, "-n", str(many)])
    counted = parsing.redis_set_calls(_redis_cli(port, "info", "commandstats")) - before
    if counted < many or parsing.redis_info(_redis_cli(port, "info", "persistence"), "aof_last_write_status") != "ok":
        raise ProcessFailed(f"{many} SETs were answered, but Redis counts {counted}, or could not write its log")
    return _with_cores(load, outcome.cpu_seconds / outcome.seconds)


def load_rocksdb(run: Run, threads: int) -> Load:
    """Put random ones of the hot keys into RocksDB, from threads within its own process."""
    folder = run.folder("rocksdb")
    command = ["db_bench", f"--benchmarks={DB_BENCH}", f"--db={folder}", "--sync=1", f"--threads={threads}"]
    command += [f"--num={run.sizes.hot_keys}", f"--duration={max(1, round(run.sizes.load_s))}", "--seed=1", "--histogram=1"]
    command += ["--key_size=16", f"--value_size={len(VALUE)}", "--enable_pipelined_write=true"]
    outcome = execute(command, timeout_s=run.sizes.load_s + 120)
    shutil.rmtree(folder, ignore_errors=True)
    run.command("RocksDB", command)
    warning = parsing.db_bench_warning(outcome.printed)
    if warning:
        run.note(f"db_bench, as Debian builds it, says of itself: {warning}")
    return parsing.db_bench(outcome.printed, DB_BENCH)


def load_bare_syncs(run: Run, seconds: float) -> Load:
    """Write 4 KiB and sync them, one after the other, into space that was filled with zeros before: what the disk can do."""
    path, size = run.folder("bare"), 16 << 20
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    times: list[float] = []
    try:
        os.pwrite(fd, bytes(size), 0)
        os.fsync(fd)
        block, begin = b"x" * SYNC_BYTES, time.perf_counter()
        at = begin
        while at - begin < seconds:
            os.pwrite(fd, block, len(times) * SYNC_BYTES % size)
            os.fdatasync(fd)
            now = time.perf_counter()
            times.append(now - at)
            at = now
    finally:
        os.close(fd)
        path.unlink()
    ordered = sorted(times)
    p50, p99, p999 = (parsing.percentile(ordered, share) * 1000 for share in (0.5, 0.99, 0.999))
    return Load(len(times) / (at - begin), p50, p99, p999)
