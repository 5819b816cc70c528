"""The pure parts around measuring: threads by purpose, gRPC's bytes, file systems, keys that fill a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvproto.v1 import kv_pb2
from suite import cpu, machine, peers
from suite.ours import kvbench_command
from suite.plan import QUICK, Run
from suite.stores import shuffled_keys

MOUNTS = """/dev/vda / ext4 rw,relatime 0 0
tmpfs /tmp tmpfs rw,nosuid 0 0
/dev/vdb /srv xfs rw 0 0
/dev/vdc /srv ext4 rw,noatime 0 0
"""


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("event-loop", "event loop: parse, evaluate, memory, answer"),
        ("log-writer", "log thread: checksum, chain, write, sync"),
        ("log-space", "space keeper: zeros written ahead"),
        ("Thread-1 (_poll", "gRPC's poller"),
        ("grpc_global_tim", "gRPC's own threads: the wire"),
        ("event_engine", "gRPC's own threads: the wire"),
        ("rocksdb:low", "tables, flushes, merges"),
        ("tables", "tables, flushes, merges"),
        ("http", "probes and metrics"),
        ("python", cpu.OTHER),
    ],
)
def test_a_thread_is_counted_where_it_belongs(name: str, title: str) -> None:
    assert cpu.group_of(name) == title
    assert title in cpu.titles()


def test_processor_time_is_what_was_used_in_between() -> None:
    before = cpu.grouped([("event-loop", 1000.0), ("rocksdb:low", 50.0), ("rocksdb:high", 50.0)])
    after = cpu.grouped([("event-loop", 3000.0), ("rocksdb:low", 50.0), ("rocksdb:high", 50.0), ("log-writer", 500.0)])
    assert cpu.each_us(before, after, 100) == {
        cpu.group_of("event-loop"): 20.0,
        cpu.group_of("rocksdb:low"): 0.0,
        cpu.group_of("log-writer"): 5.0,
    }


def test_the_schedulers_account_is_preferred_to_ticks(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("7 (log-writer) S 1 1 1 0 -1 0 5 0 0 0 1 2 0 0")
    assert cpu.used_us(tmp_path) == ("log-writer", 3e6 / cpu.TICKS_PER_SECOND)
    (tmp_path / "schedstat").write_text("1234567 89 10\n")
    assert cpu.used_us(tmp_path) == ("log-writer", 1234.567)


def test_a_process_has_used_time_and_memory() -> None:
    assert sum(cpu.snapshot(os.getpid()).values()) > 0
    assert cpu.peak_mib(os.getpid()) > 1


def test_the_bytes_sent_to_etcd_are_what_protobuf_would_write() -> None:
    # Our own PutRequest has other fields at other numbers; a message with bytes at 1 and 2 is a column of keys and values.
    expected = kv_pb2.PutColumns(keys=[b"k" * 200], values=[peers.VALUE]).SerializeToString()
    fields = {field.number: field.name for field in kv_pb2.PutColumns.DESCRIPTOR.fields}
    numbers = {name: number for number, name in fields.items()}
    message = peers.grpc_message({numbers["keys"]: b"k" * 200, numbers["values"]: peers.VALUE})
    assert message == b"\0" + len(expected).to_bytes(4, "big") + expected


@pytest.mark.parametrize(("value", "written"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_a_varint_has_seven_bits_a_byte(value: int, written: bytes) -> None:
    assert peers.varint(value) == written


def test_every_split_of_etcds_callers_has_that_many() -> None:
    for callers, splits in peers.ETCD_SPLITS.items():
        assert {connections * streams for connections, streams in splits} == {callers}
    assert set(QUICK.callers) <= set(peers.ETCD_SPLITS)


def test_a_peer_that_is_not_installed_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = {"redis-server", "redis-cli"}
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}" if program in there else None)
    run = Run(QUICK, tmp_path)
    assert peers.skipped(run, "Redis")
    told = "SKIPPED: Redis was not measured, because a program for it is not installed here: apt-get install redis-tools"
    assert run.notes == [told]
    assert peers.missing(peers.ETCD) == "apt-get install etcd-server nghttp2-client"
    there |= {"redis-benchmark"}
    assert not peers.skipped(Run(QUICK, tmp_path), "Redis")


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("/home/a", "ext4 (rw,relatime)"),
        ("/tmp/x", "tmpfs (rw,nosuid)"),
        ("/srv", "ext4 (rw,noatime)"),
        ("/srv2", "ext4 (rw,relatime)"),
    ],
)
def test_the_file_system_is_the_innermost_and_newest_mount(folder: str, found: str) -> None:
    assert machine.file_system(MOUNTS, Path(folder)) == found


def test_a_version_is_found_and_a_missing_tool_has_none() -> None:
    assert machine.version_of(["echo", "db_bench version 7.8.3"], r"version (\S+)") == "7.8.3"
    assert machine.version_of(["no-such-program-here"], r"(.*)") == ""
    assert "Python" in machine.own_versions()


def test_a_store_is_filled_with_the_keys_that_kvbench_asks_for_in_another_order() -> None:
    order = shuffled_keys(1000)
    keys = sorted(order)
    assert (keys[0], keys[-1], len(set(keys))) == (b"kvbench/0000000000", b"kvbench/0000000999", 1000)
    assert order != keys
    assert shuffled_keys(1000) == order


def test_kvbench_is_told_what_to_do(tmp_path: Path) -> None:
    command = kvbench_command("127.0.0.1:1", "get", 64, 0.5, 0.25, 1000, tmp_path / "r.json", "--no-load")
    words = " ".join(command[1:])
    assert words.startswith(
        "-m kvbench run --workload get --clients 64 --duration 0.5s --keys 1000 --value-size 256 --warm-up 0.25s"
    )
    assert command[-1] == "--no-load"
    assert "--warm-up" not in kvbench_command("127.0.0.1:1", "put", 1, 0.5, 0, 1000, tmp_path / "r.json")
