"""The file system in memory: what a kill leaves, what a power loss may leave, what a sync settles."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from kvserver.base.fs import create_once, opened, read_file, write_new_file
from support.memdisk import LENGTH_ONLY, LOST, WHOLE, NameChange, Survival, Unsynced
from support.memfs import MemoryFile, MemoryFileSystem

ROOT = Path("/data")
FILE = ROOT / "file"


def keep_nothing(_: Unsynced) -> Survival:
    return LOST


def keep_everything(_: Unsynced) -> Survival:
    return WHOLE


def keep_names(item: Unsynced) -> Survival:
    return WHOLE if isinstance(item.change, NameChange) else LOST


@pytest.fixture
def fs() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_dir(ROOT)
    return fs


@pytest.fixture
def file(fs: MemoryFileSystem) -> MemoryFile:
    """A file whose name is durable, with durable content."""
    fs.plant(FILE, b"0123456789")
    return fs.open(FILE, writable=True)


def left(fs: MemoryFileSystem, *fates: Survival) -> bytes:
    """Return the file's content after a power loss with these fates of the unsynced changes."""
    return read_file(fs.power_loss(lambda item: fates[item.number]), FILE)


# Content


def test_synced_content_survives(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"abc", 8)
    file.datasync()
    assert fs.unsynced() == []
    assert left(fs) == b"01234567abc"
    file.truncate(3)
    file.sync()
    assert left(fs) == b"012"


def test_each_unsynced_change_survives_or_not(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    file.truncate(4)
    file.pwrite(b"B", 5)
    assert left(fs, LOST, LOST, LOST) == b"0123456789"
    assert left(fs, WHOLE, WHOLE, WHOLE) == b"A123\0B"
    assert left(fs, WHOLE, LOST, WHOLE) == b"A1234B6789"
    assert left(fs, LOST, WHOLE, LOST) == b"0123"
    assert read_file(fs, FILE) == b"A123\0B"


def test_a_torn_write_leaves_what_was_there_or_zeros_where_the_file_grew(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"ABCDEF", 7)
    assert left(fs, Survival(((0, 2),))) == b"0123456AB9"
    assert left(fs, Survival(((0, 4),))) == b"0123456ABCD"
    assert left(fs, Survival(((0, 4),), grown=True)) == b"0123456ABCD\0\0"
    assert left(fs, LENGTH_ONLY) == b"0123456789\0\0\0"
    assert left(fs, Survival(((4, 6),))) == b"0123456789\0EF"
    assert left(fs, Survival(((0, 1), (5, 6)))) == b"0123456A89\0\0F"


def test_a_lost_write_before_a_kept_one_leaves_a_hole(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"one", 10)
    file.pwrite(b"two", 13)
    assert left(fs, LOST, WHOLE) == b"0123456789\0\0\0two"


def test_a_sync_by_another_open_file_settles_all_writes(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    fs.open(FILE).datasync()
    assert left(fs) == b"A123456789"


# A failed sync


def test_after_a_failed_sync_the_writes_are_visible_but_no_later_sync_writes_them(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    fs.fail_next_sync(errno.ENOSPC)
    with pytest.raises(OSError) as caught:
        file.datasync()
    assert caught.value.errno == errno.ENOSPC
    file.datasync()
    file.sync()
    assert read_file(fs, FILE) == b"A123456789"
    (item,) = fs.unsynced()
    assert item.abandoned
    assert str(item) == "write /data/file 0+1 (its sync failed)"
    assert left(fs, LOST) == b"0123456789"
    assert left(fs, WHOLE) == b"A123456789"


def test_writing_again_after_a_failed_sync_helps(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"ABC", 10)
    file.drop_unsynced()
    file.pwrite(b"9ABCD", 9)
    assert len(fs.unsynced()) == 2
    file.datasync()
    assert fs.unsynced() == []
    assert left(fs) == b"0123456789ABCD"


def test_writing_a_part_again_saves_only_that_part(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"ABC", 0)
    file.drop_unsynced()
    file.pwrite(b"X", 1)
    file.datasync()
    assert left(fs, LOST) == b"0X23456789"
    assert left(fs, WHOLE) == b"AXC3456789"
    file.truncate(2)
    file.datasync()
    assert left(fs, LOST) == b"0X"


def test_writes_older_than_a_failed_sync_do_not_cover_it(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"AB", 0)
    file.drop_unsynced()
    file.pwrite(b"C", 0)
    file.datasync()
    file.pwrite(b"D", 0)
    file.drop_unsynced()
    file.datasync()
    assert len(fs.unsynced()) == 2
    assert left(fs, LOST, LOST) == b"C123456789"
    assert left(fs, WHOLE, WHOLE) == b"DB23456789"


def test_only_the_next_sync_of_the_named_file_fails(fs: MemoryFileSystem, file: MemoryFile) -> None:
    fs.fail_next_sync(path=FILE)
    write_new_file(fs, ROOT / "other", b"data")
    with pytest.raises(OSError, match="Input/output error"):
        file.sync()
    file.sync()


def test_dropped_caches_show_what_the_disk_has(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    file.drop_unsynced()
    file.pwrite(b"B", 1)
    fs.drop_caches()
    assert read_file(fs, FILE) == b"0B23456789"
    assert left(fs, WHOLE) == b"0B23456789"
    assert left(fs, LOST) == b"0123456789"


# Names


def test_a_name_is_lost_until_its_folder_is_synced(fs: MemoryFileSystem) -> None:
    write_new_file(fs, FILE, b"data")
    assert fs.power_loss(keep_nothing).list_dir(ROOT) == []
    fs.sync_dir(ROOT)
    assert read_file(fs.power_loss(keep_nothing), FILE) == b"data"


def test_a_durable_name_of_an_unsynced_file_leads_to_what_survived(fs: MemoryFileSystem) -> None:
    with opened(fs.create(FILE)) as file:
        file.pwrite(b"data", 0)
    fs.sync_dir(ROOT)
    assert left(fs, LOST) == b""
    assert left(fs, LENGTH_ONLY) == b"\0\0\0\0"
    assert left(fs, WHOLE) == b"data"


def test_a_rename_is_lost_or_done_but_never_half(fs: MemoryFileSystem, file: MemoryFile) -> None:
    write_new_file(fs, ROOT / "new", b"new")
    fs.sync_dir(ROOT)
    fs.rename(ROOT / "new", FILE)
    before, after = fs.power_loss(keep_nothing), fs.power_loss(keep_everything)
    assert before.contents() == {FILE: b"0123456789", ROOT / "new": b"new"}
    assert after.contents() == {FILE: b"new"}


def test_a_rename_between_folders_is_bound_to_both(fs: MemoryFileSystem) -> None:
    fs.make_dir(ROOT / "a")
    fs.make_dir(ROOT / "b")
    fs.plant(ROOT / "a" / "x", b"x")
    write_new_file(fs, ROOT / "a" / "earlier", b"")
    fs.rename(ROOT / "a" / "x", ROOT / "b" / "x")
    write_new_file(fs, ROOT / "a" / "later", b"")
    lost = fs.power_loss(lambda item: LOST if "earlier" in str(item) else WHOLE)
    assert lost.list_dir(ROOT / "a") == ["x"]
    assert lost.list_dir(ROOT / "b") == []
    fs.sync_dir(ROOT / "b")
    synced = fs.power_loss(keep_nothing)
    assert synced.list_dir(ROOT / "a") == ["earlier"]
    assert synced.list_dir(ROOT / "b") == ["x"]


def test_names_survive_in_order_or_if_asked_in_any(fs: MemoryFileSystem) -> None:
    write_new_file(fs, ROOT / "1", b"")
    write_new_file(fs, ROOT / "2", b"")
    fs.rename(ROOT / "1", ROOT / "3")

    def lose_first(item: Unsynced) -> Survival:
        return LOST if item.number == 0 else WHOLE

    assert fs.power_loss(lose_first).list_dir(ROOT) == []
    assert fs.power_loss(lose_first, ordered_names=False).list_dir(ROOT) == ["2", "3"]


def test_a_removed_name_may_come_back(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    fs.remove(FILE)
    assert [str(item) for item in fs.unsynced()] == ["write /data/file 0+1", "remove /data/file"]
    assert left(fs, WHOLE, LOST) == b"A123456789"
    assert not fs.power_loss(keep_everything).exists(FILE)


def test_links_still_share_a_file_after_a_power_loss(fs: MemoryFileSystem, file: MemoryFile) -> None:
    fs.link(FILE, ROOT / "second")
    fs.sync_dir(ROOT)
    file.pwrite(b"A", 0)
    after = fs.power_loss(keep_everything)
    with opened(after.open(FILE, writable=True)) as again:
        again.pwrite(b"B", 0)
    assert read_file(after, ROOT / "second") == b"B123456789"


def test_made_folders_are_durable(fs: MemoryFileSystem) -> None:
    fs.make_dir(ROOT / "a" / "b")
    assert fs.power_loss(keep_nothing).list_dir(ROOT / "a") == ["b"]


def test_create_once_is_durable_on_return(fs: MemoryFileSystem) -> None:
    create_once(fs, FILE, ROOT / "tmp", b"claim")
    after = fs.power_loss(keep_nothing)
    assert after.contents() == {FILE: b"claim"}


# Folders renamed, and other refusals


def test_a_folder_can_be_renamed_but_not_into_itself(fs: MemoryFileSystem) -> None:
    fs.plant(ROOT / "a" / "file", b"data")
    fs.plant(FILE, b"")
    fs.rename(ROOT / "a", ROOT / "b")
    assert read_file(fs, ROOT / "b" / "file") == b"data"
    with pytest.raises(OSError) as caught:
        fs.rename(ROOT / "b", ROOT / "b" / "c")
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(NotADirectoryError):
        fs.rename(ROOT / "b", FILE)
    fs.make_dir(ROOT / "c")
    with pytest.raises(OSError) as caught:
        fs.rename(ROOT / "b", ROOT / "c")
    assert caught.value.errno == errno.ENOTEMPTY


def test_paths_are_absolute_and_the_root_has_no_name(fs: MemoryFileSystem) -> None:
    fs.plant(FILE, b"")
    with pytest.raises(ValueError, match="absolute"):
        fs.exists(Path("data"))
    with pytest.raises(OSError) as caught:
        fs.remove(Path("/"))
    assert caught.value.errno == errno.EISDIR
    with pytest.raises(OSError) as caught:
        fs.create(Path("/"))
    assert caught.value.errno == errno.EBUSY
    with pytest.raises(FileExistsError):
        fs.make_dir(FILE)


# Processes


def test_a_kill_keeps_what_was_written_and_ends_open_files_and_locks(fs: MemoryFileSystem, file: MemoryFile) -> None:
    lock = fs.lock(ROOT / "LOCK")
    file.pwrite(b"A", 0)
    fs.kill()
    for call in (file.size, file.datasync, file.close, lock.release, file.drop_unsynced):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    assert read_file(fs, FILE) == b"A123456789"
    fs.lock(ROOT / "LOCK").release()
    assert left(fs, LOST, LOST) == b"0123456789"


def test_a_kill_for_good_leaves_nothing_to_the_threads_of_the_dead(fs: MemoryFileSystem) -> None:
    first = fs.another_process()
    first.lock(ROOT / "LOCK")
    first.kill(for_good=True)
    with pytest.raises(OSError) as caught:
        first.create(FILE)
    assert caught.value.errno == errno.EBADF
    second = fs.another_process()
    second.lock(ROOT / "LOCK")
    with pytest.raises(BlockingIOError):
        fs.lock(ROOT / "LOCK")
    first.kill(for_good=True)
    with pytest.raises(BlockingIOError):
        fs.lock(ROOT / "LOCK")


def test_a_new_process_settles_what_a_dead_one_wrote(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    fs.kill()
    with opened(fs.open(FILE)) as again:
        again.datasync()
    assert left(fs) == b"A123456789"


# Copies


def test_a_clone_is_independent(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    write_new_file(fs, ROOT / "new", b"new")
    fs.link(FILE, ROOT / "second")
    fs.lock(ROOT / "LOCK")
    twin = fs.clone()
    assert twin.contents() == fs.contents()
    assert list(map(str, twin.unsynced())) == list(map(str, fs.unsynced()))
    file.pwrite(b"B", 1)
    fs.remove(ROOT / "new")
    with opened(twin.open(ROOT / "second", writable=True)) as other:
        other.pwrite(b"C", 2)
        other.datasync()
    twin.lock(ROOT / "LOCK")
    assert read_file(fs, FILE) == b"AB23456789"
    assert read_file(twin, FILE) == b"A1C3456789"
    assert read_file(twin.power_loss(keep_names), FILE) == b"A1C3456789"
    assert read_file(fs.power_loss(keep_nothing), FILE) == b"0123456789"


def test_what_power_loss_returns_has_nothing_unsynced_and_can_be_written(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    after = fs.power_loss(keep_everything)
    assert after.unsynced() == []
    with opened(after.open(FILE, writable=True)) as again:
        again.pwrite(b"B", 1)
    assert read_file(after.power_loss(keep_nothing), FILE) == b"A123456789"
    assert read_file(fs, FILE) == b"A123456789"
    file.datasync()
    assert left(fs) == b"A123456789"


def test_planted_files_replace_others_durably(fs: MemoryFileSystem, file: MemoryFile) -> None:
    fs.plant(FILE, b"planted")
    assert fs.unsynced() == []
    assert fs.contents() == {FILE: b"planted"}
    assert left(fs) == b"planted"


def test_free_bytes_is_what_the_test_says(fs: MemoryFileSystem) -> None:
    fs.free_space_bytes = 12
    assert fs.free_bytes(ROOT) == 12
    assert fs.clone().free_bytes(ROOT) == 12


def test_threads_can_write_at_once(fs: MemoryFileSystem) -> None:
    with opened(fs.create(FILE)) as file:

        def write(first: int) -> None:
            for offset in range(first, 4000, 4):
                file.pwrite(bytes([first]), offset)
                if offset % 100 == first:
                    file.datasync()

        threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        file.datasync()
    fs.sync_dir(ROOT)
    assert left(fs) == bytes([0, 1, 2, 3]) * 1000
