"""The server as a process: how it starts, how it refuses to, how it ends, and what is there after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.processes import Process, refusal
from kvproto.v1 import kv_pb2, kv_pb2_grpc

FAIL_THE_THIRD_SYNC = """
from kvserver.base import failpoints
passed = 0
def fail():
    global passed
    passed += 1
    if passed >= 3:
        raise OSError(5, "Input/output error")
failpoints.arm("wal.after_write", fail)
"""

HANG_THE_DISK = """
import threading
from kvserver.base import failpoints
failpoints.arm("wal.after_write", threading.Event().wait)
"""

HANG_THE_START = """
import sys, threading
from kvserver.base import failpoints
def hang():
    print("hanging", file=sys.stderr, flush=True)
    threading.Event().wait()
failpoints.arm("engine.open.after_lock", hang)
"""


def stub(server: Process) -> Any:
    return kv_pb2_grpc.KVStub(grpc.insecure_channel(server.address))


def put(kv: Any, key: bytes, value: bytes = b"v", timeout: float = 10.0) -> int:
    return int(kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=timeout).header.revision)


# -- starting ---------------------------------------------------------------------------------------------------------


def test_it_says_where_it_serves_ends_with_0_and_has_everything_after_its_restart(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "by itself"
    with Process("--data-dir", str(folder), "--name", "first") as server:
        server.ready()
        pattern = r"ready listen=127\.0\.0\.1:\d+ http=127\.0\.0\.1:\d+ name=first epoch=1 revision=1 data_dir='.*by itself'"
        assert re.fullmatch(pattern, server.ready_line)
        assert not server.address.endswith(":0")
        kv = stub(server)
        assert [put(kv, b"%d" % number) for number in range(5)] == [2, 3, 4, 5, 6]
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 3, "an idle client used up the grace"
        assert server.lines == [server.ready_line]
        assert "everything acknowledged is on disk" in server.errors[-1]
    with Process("--data-dir", str(folder), "--name", "second") as server:
        server.ready()
        assert (server.field("name"), server.field("epoch"), server.field("revision")) == ("first", "2", "6")
        assert stub(server).Get(kv_pb2.GetRequest(key=b"4")).kv.mod_revision == 6
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert any("--name second has no effect" in line for line in server.errors)  # only now is the other pipe read to its end


def test_hints_are_full_command_lines(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path), "--hints") as server:
        server.ready()
        assert server.stop() == 0
        commands = [line.strip() for line in server.lines if "kvctl" in line]
        assert len(commands) >= 3
        assert all(re.fullmatch(rf"/\S+/kvctl -E {server.address} \w.*", line) for line in commands)


def test_logs_can_be_json(tmp_path: Path) -> None:
    environment = {"KVSERVER_LOG_FORMAT": "json", "KVSERVER_LOG_LEVEL": "debug"}
    with Process("--data-dir", str(tmp_path), environment=environment) as server:
        assert server.ready().stop() == 0
        entries = [json.loads(line) for line in server.errors]
        assert {"time", "level", "logger", "message"} <= set(entries[0])
        begun = next(entry for entry in entries if entry.get("event") == "EpochBegun")
        assert begun["fields"]["number"] == 1


def test_a_used_port_is_named_before_the_data_is_touched(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, (error, hint) = refusal("--data-dir", str(tmp_path / "data"), "--listen", f"127.0.0.1:{port}")
        assert code == 1
        assert error == f"error: cannot listen on 127.0.0.1:{port}: Address already in use [NOT_SERVING]"
        assert hint.startswith("hint: ") and "--listen HOST:PORT" in hint
        code, (error, hint) = refusal("--data-dir", str(tmp_path / "data"), "--http", f"127.0.0.1:{port}")
        assert code == 1
        assert str(port) in error and "--http" in hint
    assert not (tmp_path / "data").exists()


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    code, (error, hint) = refusal("--data-dir", str(tmp_path), "--listen", "192.0.2.1:7400")
    assert code == 1
    assert "192.0.2.1:7400" in error and "--listen" in hint


def test_a_second_server_on_the_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path)) as server:
        kv = stub(server.ready())
        put(kv, b"k")
        code, (error, hint) = refusal("--data-dir", str(tmp_path))
        assert code == 1
        assert "in use by another process" in error and "[NOT_SERVING]" in error
        assert hint.startswith("hint: ")
        assert put(kv, b"k") == 3


def test_folders_that_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letters.txt").write_text("dear")
    code, (error, hint) = refusal("--data-dir", str(tmp_path / "foreign"))
    assert (code, "letters.txt" in error, "--data-dir" in hint) == (1, True, True)
    assert [path.name for path in (tmp_path / "foreign").iterdir() if path.name != "LOCK"] == ["letters.txt"]
    (tmp_path / "file").write_text("not a folder")
    code, (error, hint) = refusal("--data-dir", str(tmp_path / "file"))
    assert (code, str(tmp_path / "file") in error, "--data-dir" in hint) == (1, True, True)


def test_a_newer_folder_is_refused_by_its_version(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path)) as server:
        assert server.ready().stop() == 0
    rewrite = (
        "import pathlib\nfrom kvserver.base.record_file import decode_record, encode_record\n"
        f"path = pathlib.Path({str(tmp_path / 'IDENTITY')!r})\n"
        "fields = decode_record(path, path.read_bytes())\nfields['format_version'] = 99\n"
        "path.write_bytes(encode_record(fields))\n"
    )
    subprocess.run([os.sys.executable, "-c", rewrite], check=True)  # type: ignore[attr-defined]
    code, (error, hint) = refusal("--data-dir", str(tmp_path))
    assert code == 1
    assert "version 99" in error and "hint: " in hint


def test_damage_is_found_at_the_start_and_named(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path)) as server:
        kv = stub(server.ready())
        for number in range(10):
            put(kv, b"%d" % number, b"x" * 100)
        assert server.stop() == 0
    segment = next((tmp_path / "wal").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    at = data.index(b"x" * 100)
    data[at] ^= 1
    segment.write_bytes(data)
    code, (error, hint) = refusal("--data-dir", str(tmp_path))
    assert code == 1
    assert segment.name in error and "offset" in error and "[CORRUPTION]" in error
    assert "kvctl wal verify" in hint


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """A store on a file system that is mounted read-only."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "mounted"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        with Process("--data-dir", str(folder / "data")) as server:
            assert server.ready().stop() == 0
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield folder / "data"
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
def test_a_read_only_disk_at_the_start(read_only_folder: Path) -> None:
    code, (error, hint) = refusal("--data-dir", str(read_only_folder))
    assert code == 1
    assert "Read-only file system" in error
    assert "hint: " in hint


# -- ending -----------------------------------------------------------------------------------------------------------


def test_every_acknowledged_write_is_there_after_a_kill_in_the_middle_of_the_load(tmp_path: Path) -> None:
    acknowledged: dict[bytes, int] = {}
    for life in range(3):
        with Process("--data-dir", str(tmp_path)) as server:
            kv = stub(server.ready())
            for key, revision in acknowledged.items():
                assert kv.Get(kv_pb2.GetRequest(key=key)).kv.mod_revision == revision
            loaders = [threading.Thread(target=_load, args=(kv, b"%d-%d-" % (life, n), acknowledged)) for n in range(4)]
            loaders.append(threading.Thread(target=_load_frames, args=(kv, b"%d-f-" % life, acknowledged)))
            for loader in loaders:
                loader.start()
            wanted = len(acknowledged) + 1000
            while len(acknowledged) < wanted:
                time.sleep(0.002)
            server.popen.kill()
            for loader in loaders:
                loader.join()
    with Process("--data-dir", str(tmp_path)) as server:
        kv = stub(server.ready())
        found = {one.key: one.mod_revision for chunk in kv.Scan(kv_pb2.ScanRequest()) for one in chunk.kvs}
        missing = {key for key, revision in acknowledged.items() if found.get(key) != revision}
        assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged keys are gone"
        assert server.stop() == 0


def _load(kv: Any, prefix: bytes, acknowledged: dict[bytes, int]) -> None:
    for number in range(1_000_000):
        key = prefix + b"%d" % number
        try:
            acknowledged[key] = put(kv, key)
        except grpc.RpcError:
            return


def _load_frames(kv: Any, prefix: bytes, acknowledged: dict[bytes, int]) -> None:
    def frames() -> Iterator[kv_pb2.PipelineRequest]:
        for number in range(1_000_000):
            time.sleep(0.002)
            yield kv_pb2.PipelineRequest(frame_id=number, puts=kv_pb2.PutColumns(keys=keys(number), values=[b"v"] * 50))

    def keys(number: int) -> list[bytes]:
        return [prefix + b"%d-%d" % (number, n) for n in range(50)]

    try:
        for answer in kv.Pipeline(frames()):
            for n, key in enumerate(keys(answer.frame_id)):
                acknowledged[key] = answer.first_revision + n
    except grpc.RpcError:
        return


def test_a_stop_under_load_acknowledges_nothing_that_is_not_there(tmp_path: Path) -> None:
    acknowledged: dict[bytes, int] = {}
    with Process("--data-dir", str(tmp_path)) as server:
        kv = stub(server.ready())
        loader = threading.Thread(target=_load_frames, args=(kv, b"k", acknowledged))
        loader.start()
        while len(acknowledged) < 500:
            time.sleep(0.002)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 4, "an open stream used up the grace"
        loader.join()
    with Process("--data-dir", str(tmp_path)) as server:
        kv = stub(server.ready())
        found = {one.key: one.mod_revision for chunk in kv.Scan(kv_pb2.ScanRequest()) for one in chunk.kvs}
        assert found == acknowledged, "every frame is answered or was not carried out"


def test_a_failed_sync_ends_the_process_at_once_and_never_with_0(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path), prelude=FAIL_THE_THIRD_SYNC) as server:
        kv = stub(server.ready())
        written = []
        with pytest.raises(grpc.RpcError) as caught:
            for number in range(20):
                put(kv, b"%d" % number)
                written.append(number)
        begun = time.monotonic()
        assert caught.value.code() is grpc.StatusCode.UNKNOWN  # type: ignore[attr-defined]
        assert server.wait() == 70
        assert time.monotonic() - begun < 2
        assert any("CRITICAL" in line for line in server.errors)
    with Process("--data-dir", str(tmp_path)) as server:
        kv = stub(server.ready())
        for number in written:
            assert kv.Get(kv_pb2.GetRequest(key=b"%d" % number)).HasField("kv")


def test_the_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path), prelude=HANG_THE_DISK) as server:
        kv = stub(server.ready())
        hanging = kv.Put.future(kv_pb2.PutRequest(key=b"k"))
        time.sleep(0.3)
        server.signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.popen.poll() is None, "it did not wait for the call under way"
        begun = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 1
        hanging.cancel()


def test_a_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path), prelude=HANG_THE_START) as server:
        while "hanging" not in server.errors:
            assert server.popen.poll() is None
            time.sleep(0.01)
        assert server.stop() == 0
    with Process("--data-dir", str(tmp_path)) as server:
        assert server.ready().stop() == 0


def test_the_armed_kill_of_the_environment_kills(tmp_path: Path) -> None:
    environment = {"KVSERVER_FAILPOINTS": "wal.after_sync=kill@3"}
    with Process("--data-dir", str(tmp_path), environment=environment) as server:
        kv = stub(server.ready())
        with pytest.raises(grpc.RpcError):
            for number in range(20):
                put(kv, b"%d" % number)
        assert server.wait() == -signal.SIGKILL
    with Process("--data-dir", str(tmp_path), environment={"KVSERVER_FAILPOINTS": "no.such=kill"}) as server:
        assert server.wait() == 1
        assert "no.such" in "\n".join(server.errors)
