"""What goes wrong with tables while a server serves: met by name, told in status and log, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.processes import Process
from integration.tables_scenes import FLAGS, Held, Scene, assert_all_there, client, make_scene, tables, unreadable, write
from kvclient import Client, Compacted, Corruption, KvClientError, Put, TablesFailed, UnknownNamespace

PATIENCE_S = 30.0
MIB = 1 << 20


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("store") / "data", False)


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def kvctl(server: Process, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvctl", "-E", server.address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


# A flipped bit that is met while serving


def harm_a_key(folder: Path, model: dict[bytes, Held], place: int = -1) -> tuple[bytes, Path]:
    """Flip a bit in the value of a key in a table, the newest one unless told; return the key and the table."""
    table = tables(folder)[place]
    data = bytearray(table.read_bytes())
    for key, held in sorted(model.items())[100:]:  # the first block is read at the start
        at = data.find(held.value[20:120])
        if at >= 0:
            data[at] ^= 1
            table.write_bytes(data)
            return key, table
    raise AssertionError("no value lies in the table as it is")


def test_a_damaged_block_fails_its_reads_and_others_go_on(scene: Scene, tmp_path: Path) -> None:
    folder = scene.copy(tmp_path / "data")
    key, table = harm_a_key(folder, scene.model)
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        for _ in range(3):
            with pytest.raises(Corruption) as caught:
                kv.get(key)
            assert str(table) in caught.value.message
        with pytest.raises(TablesFailed) as judged:  # certainly not written, which CORRUPTION alone would not say
            kv.put(key, b"v", if_revision=scene.model[key].mod_revision)
        assert str(table) in judged.value.message
        harmed = unreadable(kv, scene.model)
        assert 0 < len(harmed) < 40
        with pytest.raises(Corruption):
            list(kv.scan())
        assert_all_there(kv, {one: held for one, held in scene.model.items() if one.startswith(b"k012")}, b"k012")
        told = kvctl(server, "get", key.decode())
        assert told.returncode == 4
        assert "[CORRUPTION]" in told.stderr and "kvctl doctor" in told.stderr
        revision = kv.put(b"another", b"goes on").revision
        entry = kv.get(b"another")
        assert entry is not None and entry.mod_revision == revision
        assert server.popen.poll() is None
        assert server.stop() == 0
    deep = subprocess.run(
        [sys.executable, "-m", "kvctl", "doctor", "--data-dir", str(folder), "--deep"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert deep.returncode == 5
    assert table.name in deep.stdout


def test_a_flush_that_meets_damage_is_reported_and_writes_end_only_when_memory_is_full(scene: Scene, tmp_path: Path) -> None:
    """The flush must read what a put displaced; without it history would have a hole."""
    folder = scene.copy(tmp_path / "data")
    key, table = harm_a_key(folder, scene.model)
    small = ("--data-dir", str(folder), "--memtable-mb", "1", "--memory-limit-mb", "4")
    later: dict[bytes, Held] = {}
    with Process(*small) as server, client(server) as kv:
        kv.put(key, b"displaces what cannot be read")
        with pytest.raises(TablesFailed) as caught:
            kv.flush()
        assert table.name in caught.value.message
        (warning,) = kv.status().warnings
        assert warning.startswith("Memory cannot be written into tables") and table.name in warning
        written = 0
        rng = random.Random(1)
        with pytest.raises(TablesFailed) as refused:
            while True:
                value = rng.randbytes(1000)
                puts = [Put(b"later-%05d" % (written * 40 + number), value) for number in range(40)]
                revision = kv.write(puts).revision
                later.update({put.key: Held(value, revision) for put in puts})
                written += 1
        assert "memory is full" in refused.value.message and table.name in refused.value.message
        assert kv.status().memory_bytes > 3 * MIB
        assert kv.status().flushed_revision == scene.flushed[-1]
        assert_all_there(kv, later, b"later-")
        assert sum(table.name in line and "WARNING" in line for line in server.errors) == 1, "each reason is reported once"
        server.signal(signal.SIGKILL)
        server.wait()
    with Process(*small) as server, client(server) as kv:
        assert_all_there(kv, later, b"later-")  # the log still has what could not be flushed
        with pytest.raises(TablesFailed):
            until(lambda: kv.put(b"x", b"y").revision < 0)
        assert server.stop() == 0
    table.write_bytes(tables(scene.folder)[-1].read_bytes())
    with Process(*small) as server, client(server) as kv:
        until(lambda: kv.status().flushed_revision > scene.flushed[-1])
        entry = kv.get(key)
        assert entry is not None and entry.value == b"displaces what cannot be read"
        last = Held(entry.value, entry.mod_revision)
        assert_all_there(kv, scene.model | later | {key: last})
        assert [one.revision for one in kv.history(key)][:2] == [last.mod_revision, scene.model[key].mod_revision]
        kv.flush()
        assert kv.status().warnings == ()


def test_a_merge_that_meets_damage_is_reported_and_nothing_is_lost(scene: Scene, tmp_path: Path) -> None:
    """RocksDB takes no more tables in then; memory and the log hold what comes until somebody mends the file."""
    folder = scene.copy(tmp_path / "data")
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        kv.flush()
        assert server.stop() == 0
    sound = tables(folder)[-2]
    content = sound.read_bytes()
    _, table = harm_a_key(folder, scene.model, -2)
    assert table == sound
    later: dict[bytes, Held] = {}
    rng = random.Random(2)
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        with pytest.raises(TablesFailed) as caught:
            for number in range(20):
                value = rng.randbytes(1000)
                later[b"later-%d" % number] = Held(value, kv.put(b"later-%d" % number, value).revision)
                kv.flush()
        assert table.name in caught.value.message
        until(lambda: any("not merged" in warning and table.name in warning for warning in kv.status().warnings))
        later[b"later-x"] = Held(b"x", kv.put(b"later-x", b"x").revision)
        assert_all_there(kv, later, b"later-")
        server.signal(signal.SIGKILL)
        server.wait()
    table.write_bytes(content)
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        kv.flush()
        assert_all_there(kv, scene.model | later)
        until(lambda: kv.status().warnings == ())


# The helper killed, again and again


def helpers(server: Process) -> list[int]:
    """Return the ids of the processes that build tables for a server."""
    found = []
    for thread in Path(f"/proc/{server.popen.pid}/task").iterdir():
        try:
            children = [int(word) for word in (thread / "children").read_text().split()]
        except FileNotFoundError:
            continue
        for child in children:
            try:
                if b"flush_helper_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
            except FileNotFoundError:
                continue
    return found


def test_a_helper_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    model: dict[bytes, Held] = {}
    rng, killed = random.Random(3), 0
    flags = ("--data-dir", str(tmp_path), "--memtable-mb", "1")
    with Process(*flags) as server, client(server) as kv:
        stop = threading.Event()

        def kill() -> None:
            nonlocal killed
            while not stop.wait(0.05):
                for pid in helpers(server):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            while killed < 4:
                write(kv, model, rng, commits=10)
        finally:
            stop.set()
            killer.join()
        assert_all_there(kv, model)
        assert kv.flush().flushed_revision == kv.status().visible_revision
        assert kv.status().warnings == ()
        assert_all_there(kv, model)
        assert sum("by itself" in line and "exit_code=-9" in line for line in server.errors) >= 4
        (helper,) = helpers(server)
        server.signal(signal.SIGKILL)
        server.wait()
    until(lambda: not Path(f"/proc/{helper}/cmdline").exists() or not Path(f"/proc/{helper}/cmdline").read_bytes())
    with Process(*flags) as server, client(server) as kv:
        assert_all_there(kv, model)
        assert not list((tmp_path / "building").iterdir())
        assert server.stop() == 0


def test_a_helper_that_stands_still_ends_with_the_server_and_leaves_nothing(tmp_path: Path) -> None:
    model: dict[bytes, Held] = {}
    flags = ("--data-dir", str(tmp_path), "--memtable-mb", "1")
    with Process(*flags) as server, client(server) as kv:
        kv.put(b"first", b"flush")
        kv.flush()
        (helper,) = helpers(server)
        os.kill(helper, signal.SIGSTOP)
        write(kv, model, random.Random(4), commits=120)
        assert kv.status().flushed_revision < kv.status().visible_revision - 50
        assert server.stop() == 0
        assert not Path(f"/proc/{helper}").exists()
    with Process(*flags) as server, client(server) as kv:
        kv.delete(b"first")
        assert_all_there(kv, model)


# Few descriptors


def limited(descriptors: int) -> str:
    """Return a prelude that lets a server and its helpers open no more files than that."""
    return f"import resource; resource.setrlimit({resource.RLIMIT_NOFILE}, ({descriptors}, {descriptors}))"


def test_a_server_with_few_descriptors_refuses_by_name_and_loses_nothing(tmp_path: Path) -> None:
    """It may not start, or serve, flush and merge as far as it gets: what it acknowledged is there, and is told right."""
    model: dict[bytes, Held] = {}
    rng = random.Random(5)
    served = 0
    for descriptors in (24, 32, 36, 40, 48, 64):
        with Process("--data-dir", str(tmp_path), "--memtable-mb", "1", prelude=limited(descriptors)) as server:
            until(lambda: server.ready_line or server.popen.poll() is not None)
            if not server.ready_line:
                assert server.wait() == 1
                assert any("Too many open files" in line for line in server.errors), server.errors
                continue
            served += 1
            with Client(server.address, timeout_s=5.0) as kv:
                _work(kv, model, rng)
            server.signal(signal.SIGTERM)
            server.wait()
    assert served, "all of them were too few"
    with Process("--data-dir", str(tmp_path), "--memtable-mb", "1") as server, client(server) as kv:
        assert_all_there(kv, model)
        kv.flush()
        assert_all_there(kv, model)
        assert kv.status().warnings == ()


def _work(kv: Client, model: dict[bytes, Held], rng: random.Random) -> None:
    """Write and flush until something is refused, or no more connections are taken, or for a while."""
    for _ in range(8):
        try:
            write(kv, model, rng, commits=20)
            kv.flush()
        except KvClientError as error:
            assert error.code in ("TABLES_FAILED", "DISK_UNAVAILABLE", "UNAVAILABLE"), error
            return


# Gone while it is read


def fill_namespace(server: Process, kv: Client, name: str) -> Client:
    """Make a namespace that is larger than what a connection holds, half of it in tables, half in memory."""
    kv.create_namespace(name)
    team = client(server, name)
    rng = random.Random(6)
    for half in range(2):
        for block in range(100):
            team.write([Put(b"%d-%05d" % (half, block * 100 + number), rng.randbytes(500)) for number in range(100)])
        if not half:
            kv.flush()
    return team


@pytest.mark.parametrize("reverse", [False, True])
def test_a_namespace_dropped_while_it_is_scanned_ends_the_scan_by_name(tmp_path: Path, reverse: bool) -> None:
    with Process("--data-dir", str(tmp_path), *FLAGS) as server, client(server) as kv:
        kv.put(b"k", b"of the default one")
        with fill_namespace(server, kv, "team") as team:
            revision = kv.status().visible_revision
            scan = team.scan(reverse=reverse)
            seen = [next(scan).key for _ in range(10)]
            past = team.scan(revision=revision, reverse=reverse)
            seen_past = [next(past).key for _ in range(10)]
            kv.drop_namespace("team")
            kv.flush()
            for iterator, keys in ((scan, seen), (past, seen_past)):
                with pytest.raises(UnknownNamespace) as caught:
                    keys.extend(entry.key for entry in iterator)
                assert caught.value.hint
                assert len(keys) < 20_000
                assert keys == sorted(keys, reverse=reverse)
            until(lambda: any("dropped namespace were removed" in line for line in server.errors))
        assert kv.create_namespace("team").id > 2
        assert [entry.key for entry in kv.scan()] == [b"k"]
        assert kv.status().warnings == ()
        assert server.stop() == 0


def test_kvctl_says_that_the_namespace_it_scans_was_dropped(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path), *FLAGS) as server, client(server) as kv, fill_namespace(server, kv, "team"):
        command = [sys.executable, "-m", "kvctl", "-E", server.address, "-n", "team", "scan", "-o", "json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as scan:
            assert scan.stdout is not None and scan.stderr is not None
            first = scan.stdout.readline()
            kv.drop_namespace("team")
            rest = scan.stdout.read().splitlines()
            error = scan.stderr.read()
        assert first and 0 < len(rest) < 19_999
        assert scan.returncode == 4
        assert '"UNKNOWN_NAMESPACE"' in error


# Before the window


@pytest.fixture
def windowed(tmp_path: Path) -> Iterator[tuple[Process, Client]]:
    """A server that keeps no more than a few revisions readable, and has given up others."""
    with Process("--data-dir", str(tmp_path), *FLAGS, "--history-revisions", "1") as server, client(server) as kv:
        yield server, kv


def test_a_revision_before_the_window_is_refused_with_the_oldest_that_can_be_read(windowed: tuple[Process, Client]) -> None:
    server, kv = windowed
    for number in range(30):
        kv.put(b"k", b"%d" % number)
    kv.compact(20)
    for flush in (False, True):
        if flush:
            kv.flush()
        for read in (lambda: kv.get(b"k", revision=19), lambda: list(kv.scan(revision=19)), lambda: kv.count(revision=1)):
            with pytest.raises(Compacted) as caught:
                read()
            assert caught.value.oldest_readable_revision == 20
        entry = kv.get(b"k", revision=20)
        assert entry is not None and entry.mod_revision == 20
        for arguments in (("get", "k", "--revision", "19"), ("scan", "--revision", "19")):
            told = kvctl(server, *arguments)
            assert told.returncode == 4
            assert "before revision 20" in told.stderr and "[COMPACTED]" in told.stderr
            assert "read at revision 20 or later" in told.stderr
    assert kv.status().oldest_readable_revision == 20
