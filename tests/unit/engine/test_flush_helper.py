"""The builders of tables: the helper's process and the builder in place, on a log and tables of the real kind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvserver.base import failpoints
from kvserver.base.clock import SystemClock
from kvserver.base.errors import Corruption
from kvserver.base.events import Event, FlushHelperDied
from kvserver.base.fs import FileSystem, OsFileSystem
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.base.types import Position
from kvserver.engine import flush_messages as messages
from kvserver.engine.flush_helper import HelperProcess, InlineBuilder
from kvserver.storage import rows
from kvserver.storage.flush_job import FlushBuilder, FlushFailed, FlushJob, FlushOutcome
from kvserver.storage.rocks import RocksTables
from kvserver.storage.rows import Statistics
from kvserver.storage.tables import Tables
from kvserver.wal.log import LogWriter
from kvserver.wal.space import LogSpace
from support.logs import CLUSTER_ID, CREATION, EPOCH, SMALL, payload_of, segment_ids
from support.memfs import MemoryFileSystem
from support.twin_tables import TwinTables


class Store:
    """A data folder: a log without threads, and how far it is flushed."""

    def __init__(self, fs: FileSystem, root: Path) -> None:
        self.fs = fs
        self.paths = DataPaths(root)
        for folder in (self.paths.wal, self.paths.building):
            fs.make_dir(folder)
        self.log = LogWriter(fs, self.paths, SystemClock(), SMALL, LogSpace(fs, self.paths, SMALL), segment_ids())
        self.log.begin_epoch(CLUSTER_ID, EPOCH, CREATION, [], 0)
        self.flushed: Position = CREATION

    def put(self, *keys: str, value: bytes = b"value") -> Store:
        self.log.write_group(len(keys), payload_of(*keys, value=value))
        return self

    def job(self) -> FlushJob:
        """Return the job of what is not flushed."""
        target = self.paths.table_being_built(self.log.position.revision)
        return FlushJob(CLUSTER_ID, self.flushed, self.log.position, 0, 4, 1234, target)

    def flush(self, builder: FlushBuilder, tables: Tables) -> FlushOutcome:
        job = self.job()
        outcome = builder.build(job)
        tables.ingest(job.target)
        self.flushed = job.upto
        return outcome

    def left_over(self) -> list[str]:
        return self.fs.list_dir(self.paths.building)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(OsFileSystem(), tmp_path / "data")


@pytest.fixture
def tables(store: Store) -> Iterator[RocksTables]:
    opened = RocksTables.open(store.paths.tables, MIB)
    yield opened
    opened.close()


class Helpers:
    """Helpers that are closed at the end of the test, and what they reported."""

    def __init__(self, store: Store) -> None:
        self.events: list[Event] = []
        self._store = store
        self._started: list[HelperProcess] = []

    def start(self, failpoints: str = "", niceness: int = 0) -> HelperProcess:
        helper = HelperProcess(self._store.paths, MIB, self.events.append, failpoints, niceness)
        self._started.append(helper)
        return helper

    def close(self) -> None:
        for helper in self._started:
            helper.close()


@pytest.fixture
def helpers(store: Store, tables: RocksTables) -> Iterator[Helpers]:
    made = Helpers(store)
    yield made
    made.close()


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def version(tables: Tables, key: str) -> rows.Stored | None:
    (row,) = tables.get_many([rows.data_key(1, key.encode())])
    return rows.decode_version(row) if row is not None else None


def everything(tables: Tables) -> list[tuple[bytes, bytes]]:
    return tables.rows(b"", b"", 1000)


def test_both_builders_make_the_same_rows(store: Store, tables: RocksTables, helpers: Helpers) -> None:
    memory = MemoryFileSystem()
    twin = Store(memory, Path("/data"))
    inline_tables = TwinTables(memory, twin.paths.tables)
    inline = InlineBuilder(memory, twin.paths, inline_tables)
    helper = helpers.start()
    for keys in (("a", "b", "a"), ("b", "c"), ("d",)):
        outcomes = [
            each.put(*keys).flush(builder, its_tables)
            for each, builder, its_tables in ((store, helper, tables), (twin, inline, inline_tables))
        ]
        assert outcomes[0].statistics == outcomes[1].statistics
        assert (outcomes[0].rows, outcomes[0].history_rows) == (outcomes[1].rows, outcomes[1].history_rows)
        without_position = [[row for row in everything(each) if row[0] != rows.FLUSHED_KEY] for each in (tables, inline_tables)]
        assert without_position[0] == without_position[1]
    assert version(tables, "b") == (5, 3, 2, b"value")
    assert outcomes[0].statistics == {1: Statistics(4, 4, 20)}
    flushed = tables.get_many([rows.FLUSHED_KEY])[0]
    assert flushed is not None
    assert rows.decode_flushed(flushed).position == store.log.position
    inline.close()
    assert not helpers.events


def test_the_helper_is_started_once_and_only_when_it_is_needed(store: Store, tables: RocksTables, helpers: Helpers) -> None:
    helper = helpers.start()
    assert helper.pid == 0
    store.put("a").flush(helper, tables)
    pid = helper.pid
    assert pid
    store.put("b").flush(helper, tables)
    assert helper.pid == pid


@pytest.mark.parametrize("inline", [True, False])
def test_a_file_left_behind_is_replaced(inline: bool, store: Store, tables: RocksTables, helpers: Helpers) -> None:
    builder = InlineBuilder(store.fs, store.paths, tables) if inline else helpers.start()
    store.put("a").job().target.write_bytes(b"half of a table")
    store.flush(builder, tables)
    assert version(tables, "a") == (2, 2, 1, b"value")


@pytest.mark.parametrize("inline", [True, False])
def test_damage_is_named_and_leaves_nothing_behind(inline: bool, store: Store, tables: RocksTables, helpers: Helpers) -> None:
    builder = InlineBuilder(store.fs, store.paths, tables) if inline else helpers.start()
    segment = store.put("a").log.segment.path
    data = segment.read_bytes()
    segment.write_bytes(data[:4180] + bytes([data[4180] ^ 1]) + data[4181:])
    with pytest.raises(Corruption, match="a frame that was durable does not check") as caught:
        builder.build(store.job())
    assert (str(caught.value.path), caught.value.offset) == (str(segment), 4096)
    assert caught.value.hint
    assert store.left_over() == []
    segment.write_bytes(data)
    store.flush(builder, tables)
    assert version(tables, "a")
    assert not helpers.events


@pytest.mark.parametrize("inline", [True, False])
def test_what_the_disk_refuses_keeps_its_number(inline: bool, store: Store, tables: RocksTables, helpers: Helpers) -> None:
    builder = InlineBuilder(store.fs, store.paths, tables) if inline else helpers.start()
    segment = store.put("a").log.segment.path
    segment.rename(segment.with_suffix(".away"))
    segment.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        builder.build(store.job())
    assert caught.value.filename == str(segment) or caught.value.filename is None
    assert store.left_over() == []


def test_a_build_in_place_that_fails_at_its_end_leaves_nothing_behind(store: Store, tables: RocksTables) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "a test")

    failpoints.arm("flush.build.after_finish", fail)
    try:
        with pytest.raises(OSError, match="a test"):
            InlineBuilder(store.fs, store.paths, tables).build(store.put("a").job())
    finally:
        failpoints.disarm_all()
    assert store.left_over() == []


def test_a_mistake_of_the_helper_is_a_failed_flush_that_says_where(store: Store, tables: RocksTables, helpers: Helpers) -> None:
    helper = helpers.start()
    store.put("a")
    backwards = FlushJob(CLUSTER_ID, store.log.position, CREATION, 0, 4, 0, store.job().target)
    with pytest.raises(FlushFailed, match=r"ValueError: the range ends at revision 1.* at log_range\.py:\d+"):
        helper.build(backwards)
    assert store.left_over() == []
    store.flush(helper, tables)


@pytest.mark.parametrize("place", ["flush.build.before_finish", "flush.build.after_finish"])
def test_a_helper_that_is_killed_is_reported_and_started_again(
    place: str, store: Store, tables: RocksTables, helpers: Helpers
) -> None:
    helper = helpers.start(f"{place}=kill@2")
    store.put("a").flush(helper, tables)
    first = helper.pid
    store.put("a", "b")
    with pytest.raises(FlushFailed, match="by signal 9"):
        helper.build(store.job())
    assert helpers.events == [FlushHelperDied(-signal.SIGKILL, True)]
    assert helper.pid == 0
    assert store.left_over() == []
    store.flush(helper, tables)
    assert helper.pid not in (0, first)
    assert version(tables, "a") == (3, 2, 2, b"value")


def test_a_helper_that_dies_between_jobs_is_reported_at_the_next(store: Store, tables: RocksTables, helpers: Helpers) -> None:
    helper = helpers.start()
    store.put("a").flush(helper, tables)
    os.kill(helper.pid, signal.SIGKILL)
    store.put("b")
    with pytest.raises(FlushFailed, match="by signal 9"):
        helper.build(store.job())
    assert helpers.events == [FlushHelperDied(-signal.SIGKILL, True)]
    store.flush(helper, tables)


def test_a_helper_that_cannot_begin_says_its_exit_code(store: Store, tables: RocksTables, helpers: Helpers) -> None:
    helper = helpers.start("no.such.place=kill")
    with pytest.raises(FlushFailed, match="with exit code 1"):
        helper.build(store.put("a").job())
    assert helpers.events == [FlushHelperDied(1, True)]


def test_a_helper_that_cannot_be_started_is_a_failed_flush(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(store.paths.root / "no-such-program"))
    helper = HelperProcess(store.paths, MIB, lambda event: None)
    with pytest.raises(FlushFailed, match="cannot be started"):
        helper.build(store.put("a").job())
    helper.close()


def test_closing_ends_a_build_under_way(store: Store, tables: RocksTables, helpers: Helpers) -> None:
    helper = helpers.start()
    store.put("a").flush(helper, tables)
    pid = helper.pid
    os.kill(pid, signal.SIGSTOP)  # it will never answer
    failures: list[Exception] = []

    def build() -> None:
        try:
            helper.build(store.put("b").job())
        except FlushFailed as error:
            failures.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    time.sleep(0.05)
    begun = time.monotonic()
    helper.close()
    thread.join(10)
    assert time.monotonic() - begun < 5
    assert [str(failure) for failure in failures] == ["the helper that builds tables was closed"]
    assert not helpers.events, "what was meant is not reported"
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(FlushFailed, match="was closed"):
        helper.build(store.job())
    helper.close()


def test_the_helper_ends_with_its_parent_and_not_with_the_terminal(store: Store, tables: RocksTables) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from kvserver.base.paths import DataPaths\nfrom kvserver.engine import flush_messages\n"
        "from kvserver.engine.flush_helper import HelperProcess\n"
        "helper = HelperProcess(DataPaths(Path(sys.argv[1])), 1 << 20, print)\n"
        "helper.build(flush_messages.decode_job(sys.stdin.buffer.readline()))\n"
        "print(helper.pid, flush=True)\nsys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(store.paths.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(messages.encode_job(store.put("a").job()))
        parent.stdin.flush()
        pid = int(parent.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
        time.sleep(0.1)
        assert _is_alive(pid)
        parent.kill()
        wait_until(lambda: not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_helper_has_the_servers_open_files_not(store: Store, tables: RocksTables, helpers: Helpers) -> None:
    held = os.open(store.paths.root, os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        helper = helpers.start()
        store.put("a").flush(helper, tables)
        names = {str(entry.readlink()) for entry in Path(f"/proc/{helper.pid}/fd").iterdir()}
        assert str(store.paths.root) not in names
    finally:
        os.close(held)


@pytest.mark.parametrize("niceness", [0, 7])
def test_the_helper_is_as_nice_as_it_is_told(niceness: int, store: Store, tables: RocksTables, helpers: Helpers) -> None:
    helper = helpers.start(niceness=niceness)
    store.put("a").flush(helper, tables)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, helper.pid) == min(own + niceness, 19)


def test_the_helper_imports_neither_grpc_nor_the_server() -> None:
    code = "import json, sys\nimport kvserver.engine.flush_helper_main\nprint(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    roots = {name.partition(".")[0] for name in modules}
    assert not roots & {"grpc", "google.protobuf", "kvproto", "asyncio", "uvloop", "sortedcontainers", "logging", "subprocess"}
    assert {name.split(".")[1] for name in modules if name.startswith("kvserver.")} <= {"base", "wal", "storage", "engine"}


OUTCOME = FlushOutcome(5, 3, 1000, {0: Statistics(1, 2, 3), 7: Statistics(0, 0, 0)}, 0.25)


def test_jobs_and_outcomes_survive_the_way(store: Store) -> None:
    job = store.put("a").job()
    assert messages.decode_job(messages.encode_job(job)) == job
    line = messages.encode_outcome(OUTCOME)
    assert line.count(b"\n") == 1
    assert messages.decode_answer(line) == OUTCOME


@pytest.mark.parametrize("error", [Corruption("/a/b", 7, "torn", "look"), OSError(28, "full", "/a/b"), OSError(5, "bad")])
def test_errors_survive_the_way(error: Corruption | OSError) -> None:
    with pytest.raises(type(error)) as caught:
        messages.decode_answer(messages.encode_error(error))
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "hint", "") == getattr(error, "hint", "")


def test_an_error_without_a_number_is_a_failed_flush() -> None:
    with pytest.raises(FlushFailed, match="OSError: strange"):
        messages.decode_answer(messages.encode_error(OSError("strange")))
