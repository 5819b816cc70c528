"""The failing file system: the planned call fails, in the planned way, and no other."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.fs import FileSystem, OsFileSystem, create_once, opened, read_file, write_new_file
from support.faultfs import FAILING, READING, Fault, FaultFileSystem, FaultPlan, ProcessKilled, failing_calls
from support.memfs import MemoryFileSystem
from support.recordfs import Kind

ROOT = Path("/data")
FILE = ROOT / "file"

Faulty = FaultFileSystem[MemoryFileSystem]


def memory() -> MemoryFileSystem:
    inner = MemoryFileSystem()
    inner.make_dir(ROOT)
    inner.plant(FILE, b"0123456789")
    return inner


def faulty(*faults: Fault, space_bytes: int | None = None) -> Faulty:
    return FaultFileSystem(memory(), FaultPlan(faults, space_bytes))


CALLS: dict[Kind, Callable[[FileSystem], object]] = {
    "create": lambda fs: fs.create(ROOT / "new"),
    "open": lambda fs: fs.open(FILE),
    "rename": lambda fs: fs.rename(FILE, ROOT / "new"),
    "link": lambda fs: fs.link(FILE, ROOT / "new"),
    "remove": lambda fs: fs.remove(FILE),
    "exists": lambda fs: fs.exists(FILE),
    "list_dir": lambda fs: fs.list_dir(ROOT),
    "make_dir": lambda fs: fs.make_dir(ROOT / "folder"),
    "sync_dir": lambda fs: fs.sync_dir(ROOT),
    "lock": lambda fs: fs.lock(ROOT / "LOCK"),
    "free_bytes": lambda fs: fs.free_bytes(ROOT),
    "pwrite": lambda fs: fs.open(FILE, writable=True).pwrite(b"A", 0),
    "pread": lambda fs: fs.open(FILE).pread(1, 0),
    "size": lambda fs: fs.open(FILE).size(),
    "truncate": lambda fs: fs.open(FILE, writable=True).truncate(1),
    "datasync": lambda fs: fs.open(FILE).datasync(),
    "sync": lambda fs: fs.open(FILE).sync(),
    "close": lambda fs: fs.open(FILE).close(),
}


@pytest.mark.parametrize("kind", CALLS)
def test_each_kind_of_call_can_fail_and_then_does_nothing(kind: Kind) -> None:
    fs = faulty(Fault(kinds={kind}, error=errno.EROFS))
    before = fs.inner.contents()
    with pytest.raises(OSError) as caught:
        CALLS[kind](fs)
    assert caught.value.errno == errno.EROFS
    assert fs.inner.contents() == before
    assert not fs.inner.exists(ROOT / "LOCK")
    assert (fs.fired, fs.counts[kind]) == (1, 1)
    CALLS[kind](fs)
    assert (fs.fired, fs.counts[kind]) == (1, 2)


@pytest.mark.parametrize("kind", CALLS)
def test_without_a_plan_nothing_fails(kind: Kind) -> None:
    fs = FaultFileSystem(memory())
    CALLS[kind](fs)
    assert fs.counts[kind] == 1
    assert fs.space_left_bytes is None


def test_a_fault_may_strike_after_the_call_was_performed() -> None:
    fs = faulty(Fault(kinds={"rename"}, performed=True))
    with pytest.raises(OSError, match="Input/output error"):
        fs.rename(FILE, ROOT / "new")
    assert fs.inner.list_dir(ROOT) == ["new"]


def test_the_n_th_call_fails_once_or_from_then_on() -> None:
    for forever, wanted in ((False, [0, 1, 0, 0]), (True, [0, 1, 1, 1])):
        fs = faulty(Fault(at=2, kinds={"sync_dir"}, forever=forever))
        failures = []
        for _ in range(4):
            fs.exists(FILE)
            try:
                fs.sync_dir(ROOT)
                failures.append(0)
            except OSError:
                failures.append(1)
        assert failures == wanted
        assert fs.fired == sum(wanted)


def test_a_fault_counts_only_the_paths_it_names() -> None:
    fs = faulty(Fault(kinds={"create"}, where=lambda path: path.suffix == ".tmp"))
    fs.create(ROOT / "a")
    with pytest.raises(OSError, match="Input/output error"):
        fs.create(ROOT / "a.tmp")


def test_by_default_a_fault_counts_the_calls_that_disks_fail() -> None:
    assert set(CALLS) - FAILING == {"size", "close", "free_bytes"}
    assert READING < FAILING
    fs = faulty(Fault(at=2))
    fs.free_bytes(ROOT)
    with opened(fs.open(FILE)) as file:
        file.size()
    with pytest.raises(OSError, match="Input/output error"):
        fs.open(FILE)


def test_of_several_faults_each_has_its_own_count() -> None:
    fs = faulty(Fault(at=1, kinds={"create"}, error=errno.EMFILE), Fault(at=2, kinds={"sync_dir"}, error=errno.EIO))
    with pytest.raises(OSError) as caught:
        fs.create(ROOT / "new")
    assert caught.value.errno == errno.EMFILE
    fs.sync_dir(ROOT)
    with pytest.raises(OSError) as caught:
        fs.sync_dir(ROOT)
    assert caught.value.errno == errno.EIO
    assert fs.fired == 2


def test_a_short_write_leaves_a_part_and_raises() -> None:
    fs = faulty(Fault(kinds={"pwrite"}, error=errno.ENOSPC, written_bytes=3))
    with opened(fs.open(FILE, writable=True)) as file:
        with pytest.raises(OSError) as caught:
            file.pwrite(b"ABCDEF", 8)
        assert caught.value.errno == errno.ENOSPC
    assert read_file(fs, FILE) == b"01234567ABC"


def test_a_failed_sync_abandons_what_was_not_synced() -> None:
    fs = faulty(Fault(kinds={"datasync"}))
    with opened(fs.open(FILE, writable=True)) as file:
        file.pwrite(b"A", 0)
        with pytest.raises(OSError, match="Input/output error"):
            file.datasync()
        file.datasync()
    (item,) = fs.inner.unsynced()
    assert item.abandoned
    assert read_file(fs, FILE) == b"A123456789"


def test_a_sync_that_was_performed_and_failed_abandons_nothing() -> None:
    fs = faulty(Fault(kinds={"sync"}, performed=True))
    with opened(fs.open(FILE, writable=True)) as file:
        file.pwrite(b"A", 0)
        with pytest.raises(OSError, match="Input/output error"):
            file.sync()
    assert fs.inner.unsynced() == []


def test_an_action_runs_before_the_call() -> None:
    fs = faulty()
    seen: list[bytes] = []
    plan = FaultPlan([Fault(at=2, kinds={"pwrite"}, error=None, action=lambda: seen.append(read_file(fs.inner, FILE)))])
    acting = FaultFileSystem(fs.inner, plan)
    with opened(acting.open(FILE, writable=True)) as file:
        file.pwrite(b"A", 0)
        file.pwrite(b"B", 0)
    assert seen == [b"A123456789"]
    assert read_file(fs, FILE) == b"B123456789"
    assert acting.fired == 1


def test_after_a_kill_no_call_comes_through() -> None:
    inner = memory()
    fs = FaultFileSystem(inner, FaultPlan([Fault(at=1, kinds={"pwrite"}, kills=True, written_bytes=1)]))
    file = fs.open(FILE, writable=True)
    with pytest.raises(ProcessKilled):
        file.pwrite(b"AB", 0)
    for call in (lambda: fs.exists(FILE), file.size, file.datasync, file.close):
        with pytest.raises(ProcessKilled):
            call()
    assert read_file(inner, FILE) == b"A123456789"
    assert [item.abandoned for item in inner.unsynced()] == [False]
    assert not issubclass(ProcessKilled, Exception)


def test_a_process_can_be_ended_from_outside() -> None:
    fs = faulty()
    fs.end_process()
    with pytest.raises(ProcessKilled):
        fs.exists(FILE)


# The budget of space


def test_growth_takes_from_the_budget_and_a_write_too_long_is_cut_short() -> None:
    fs = faulty(space_bytes=5)
    with opened(fs.open(FILE, writable=True)) as file:
        file.pwrite(b"AB", 0)
        assert fs.space_left_bytes == 5
        file.pwrite(b"CDE", 9)
        assert fs.space_left_bytes == 3
        assert fs.free_bytes(ROOT) == 3
        with pytest.raises(OSError) as caught:
            file.pwrite(b"FGHIJ", 12)
        assert caught.value.errno == errno.ENOSPC
        assert read_file(fs, FILE) == b"AB2345678CDEFGH"
        with pytest.raises(OSError, match="No space left"):
            file.pwrite(b"K", 100)
        file.pwrite(b"Z", 0)
        fs.add_space(1)
        file.pwrite(b"I", 15)
        with pytest.raises(OSError, match="No space left"):
            file.truncate(17)
        with pytest.raises(OSError, match="No space left"):
            fs.create(ROOT / "new")
        file.truncate(10)
        assert fs.space_left_bytes == 6
    fs.create(ROOT / "new").close()


def test_removing_the_last_name_gives_the_space_back() -> None:
    fs = faulty(space_bytes=20)
    create_once(fs, ROOT / "claim", ROOT / "claim.tmp", b"12345")
    assert fs.space_left_bytes == 15
    fs.link(ROOT / "claim", ROOT / "second")
    fs.rename(ROOT / "second", ROOT / "third")
    fs.rename(ROOT / "third", ROOT / "claim")
    assert fs.space_left_bytes == 15
    fs.remove(ROOT / "claim")
    assert fs.space_left_bytes == 15
    fs.remove(ROOT / "third")
    assert fs.space_left_bytes == 20


def test_renaming_over_a_file_gives_its_space_back() -> None:
    fs = faulty(space_bytes=20)
    write_new_file(fs, ROOT / "new", b"123")
    fs.rename(ROOT / "new", FILE)
    assert fs.space_left_bytes == 27
    fs.rename(FILE, FILE)
    with pytest.raises(FileNotFoundError):
        fs.remove(ROOT / "new")
    assert fs.space_left_bytes == 27


def test_a_planned_short_write_takes_from_the_budget_too() -> None:
    fs = faulty(Fault(kinds={"pwrite"}, written_bytes=4), space_bytes=3)
    with opened(fs.open(FILE, writable=True)) as file:
        with pytest.raises(OSError, match="No space left"):
            file.pwrite(b"ABCDEF", 10)
    assert read_file(fs, FILE) == b"0123456789ABC"


def test_without_a_budget_none_can_be_added() -> None:
    with pytest.raises(ValueError, match="no budget"):
        faulty().add_space(1)


def test_the_budget_works_on_a_real_file_system(tmp_path: Path) -> None:
    fs = FaultFileSystem(OsFileSystem(), FaultPlan(space_bytes=3))
    with pytest.raises(OSError, match="No space left"):
        write_new_file(fs, tmp_path / "file", b"12345")
    assert (tmp_path / "file").read_bytes() == b"123"


# The loop


def test_the_loop_fails_each_call_once_and_ends_with_an_unharmed_run() -> None:
    failed: list[list[tuple[Kind, Path]]] = []
    for fs in failing_calls(memory, Fault(error=errno.EIO)):
        try:
            create_once(fs, ROOT / "claim", ROOT / "claim.tmp", b"data")
            assert fs.fired == 0
        except OSError:
            assert fs.fired == 1
        failed.append(fs.struck)
    claim, temporary = ROOT / "claim", ROOT / "claim.tmp"
    assert failed == [
        [("exists", temporary)],
        [("create", temporary)],
        [("pwrite", temporary)],
        [("sync", temporary)],
        [("link", claim)],
        [("remove", temporary)],
        [("sync_dir", ROOT)],
        [],
    ]
    assert read_file(fs.inner, ROOT / "claim") == b"data"


def test_a_loop_that_never_ends_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="after 3 runs"):
        for fs in failing_calls(memory, Fault(), limit=3):
            with pytest.raises(OSError, match="Input/output error"):
                for _ in range(10):
                    fs.exists(FILE)
