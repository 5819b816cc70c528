"""What every ``FileSystem`` does alike: the operating system's, the one in memory, and those that record and that fail."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.fs import File, FileSystem, OsFileSystem, create_once, opened, read_file, write_new_file
from support.faultfs import FaultFileSystem
from support.memfs import MemoryFileSystem
from support.recordfs import RecordingFileSystem

MAKERS: dict[str, Callable[[], FileSystem]] = {
    "os": OsFileSystem,
    "memory": MemoryFileSystem,
    "recording": lambda: RecordingFileSystem(MemoryFileSystem()),
    "fault": lambda: FaultFileSystem(MemoryFileSystem()),
    "fault on recording on os": lambda: FaultFileSystem(RecordingFileSystem(OsFileSystem())),
}


@pytest.fixture(params=MAKERS)
def fs(request: pytest.FixtureRequest) -> FileSystem:
    return MAKERS[request.param]()


@pytest.fixture
def root(fs: FileSystem, tmp_path: Path) -> Path:
    root = tmp_path / "data"
    fs.make_dir(root)
    return root


@pytest.fixture
def file(fs: FileSystem, root: Path) -> File:
    return fs.create(root / "file")


def content(file: File) -> bytes:
    return file.pread(file.size() + 1, 0)


# Reading and writing


def test_a_new_file_is_empty_and_can_be_written_and_read(file: File) -> None:
    assert file.size() == 0
    assert file.pread(10, 0) == b""
    file.pwrite(b"hello", 0)
    assert file.size() == 5
    assert file.pread(5, 0) == b"hello"


def test_a_read_returns_fewer_bytes_only_at_the_end(file: File) -> None:
    file.pwrite(b"0123456789", 0)
    assert file.pread(4, 3) == b"3456"
    assert file.pread(100, 7) == b"789"
    assert file.pread(1, 10) == b""
    assert file.pread(1, 1000) == b""
    assert file.pread(0, 0) == b""


def test_a_write_replaces_only_its_own_bytes(file: File) -> None:
    file.pwrite(b"0123456789", 0)
    file.pwrite(b"ab", 4)
    assert content(file) == b"0123ab6789"
    file.pwrite(b"XYZ", 8)
    assert content(file) == b"0123ab67XYZ"


def test_a_write_beyond_the_end_leaves_zeros_between(file: File) -> None:
    file.pwrite(b"a", 0)
    file.pwrite(b"z", 4)
    assert content(file) == b"a\0\0\0z"


def test_writing_nothing_changes_nothing(file: File) -> None:
    file.pwrite(b"", 100)
    assert file.size() == 0


def test_what_is_written_does_not_change_with_the_callers_buffer(file: File) -> None:
    buffer = bytearray(b"before")
    file.pwrite(bytes(buffer), 0)
    file.pwrite(memoryview(buffer)[:3], 6)  # type: ignore[arg-type]  # whatever has bytes is taken
    buffer[:] = b"xxxxxx"
    assert content(file) == b"beforebef"


def test_truncate_cuts_and_extends_with_zeros(file: File) -> None:
    file.pwrite(b"0123456789", 0)
    file.truncate(4)
    assert content(file) == b"0123"
    file.truncate(6)
    assert content(file) == b"0123\0\0"
    file.truncate(6)
    assert file.size() == 6
    file.truncate(0)
    assert content(file) == b""


@pytest.mark.parametrize(
    "call",
    [
        lambda file: file.pwrite(b"a", -1),
        lambda file: file.pread(1, -1),
        lambda file: file.truncate(-1),
    ],
)
def test_negative_numbers_are_refused(file: File, call: Callable[[File], object]) -> None:
    with pytest.raises(OSError) as caught:
        call(file)
    assert caught.value.errno == errno.EINVAL


def test_syncs_return_nothing_and_change_nothing_visible(fs: FileSystem, root: Path, file: File) -> None:
    file.pwrite(b"data", 0)
    file.datasync()
    file.sync()
    fs.sync_dir(root)
    assert content(file) == b"data"


def test_a_closed_file_refuses_every_call_but_another_close(file: File) -> None:
    file.close()
    file.close()
    calls: list[Callable[[], object]] = [
        lambda: file.pread(1, 0),
        lambda: file.pwrite(b"a", 0),
        file.size,
        lambda: file.truncate(0),
    ]
    for call in calls:
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    for sync in (file.datasync, file.sync):
        with pytest.raises((OSError, ValueError)):  # os.fsync takes no negative descriptor: ValueError
            sync()


def test_two_open_files_of_one_name_see_each_others_writes(fs: FileSystem, root: Path, file: File) -> None:
    with opened(fs.open(root / "file", writable=True)) as second:
        second.pwrite(b"abc", 0)
        assert content(file) == b"abc"
        file.truncate(1)
        assert second.size() == 1


def test_a_file_opened_for_reading_cannot_be_changed(fs: FileSystem, root: Path, file: File) -> None:
    file.pwrite(b"abc", 0)
    with opened(fs.open(root / "file")) as reader:
        with pytest.raises(OSError) as caught:
            reader.pwrite(b"x", 0)
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError) as caught:
            reader.truncate(0)
        assert caught.value.errno == errno.EINVAL
        reader.datasync()
        assert content(reader) == b"abc"


# Names


def test_create_refuses_a_name_that_is_taken(fs: FileSystem, root: Path, file: File) -> None:
    file.pwrite(b"kept", 0)
    with pytest.raises(FileExistsError):
        fs.create(root / "file")
    fs.make_dir(root / "folder")
    with pytest.raises(FileExistsError):
        fs.create(root / "folder")
    assert content(file) == b"kept"


def test_what_does_not_exist_is_not_found(fs: FileSystem, root: Path) -> None:
    missing = root / "missing"
    calls: list[Callable[[], object]] = [
        lambda: fs.open(missing),
        lambda: fs.open(missing, writable=True),
        lambda: fs.create(missing / "file"),
        lambda: fs.rename(missing, root / "other"),
        lambda: fs.link(missing, root / "other"),
        lambda: fs.remove(missing),
        lambda: fs.list_dir(missing),
        lambda: fs.sync_dir(missing),
        lambda: fs.lock(missing / "LOCK"),
        lambda: fs.free_bytes(missing),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError):
            call()
    assert fs.list_dir(root) == []


def test_a_file_is_no_folder(fs: FileSystem, root: Path, file: File) -> None:
    calls: list[Callable[[], object]] = [
        lambda: fs.create(root / "file" / "below"),
        lambda: fs.open(root / "file" / "below"),
        lambda: fs.list_dir(root / "file"),
        lambda: fs.sync_dir(root / "file"),
        lambda: fs.rename(root / "file", root / "file" / "below"),
    ]
    for call in calls:
        with pytest.raises(NotADirectoryError):
            call()
    assert not fs.exists(root / "file" / "below")


def test_a_folder_is_no_file(fs: FileSystem, root: Path) -> None:
    fs.make_dir(root / "folder")
    write_new_file(fs, root / "file", b"")
    calls: list[Callable[[], object]] = [
        lambda: fs.open(root / "folder", writable=True),
        lambda: fs.remove(root / "folder"),
        lambda: fs.rename(root / "file", root / "folder"),
        lambda: fs.lock(root / "folder"),
    ]
    for call in calls:
        with pytest.raises(IsADirectoryError):
            call()
    with pytest.raises(PermissionError):
        fs.link(root / "folder", root / "other")


def test_exists_says_what_is_there(fs: FileSystem, root: Path, file: File) -> None:
    assert fs.exists(root)
    assert fs.exists(root / "file")
    assert not fs.exists(root / "other")


def test_list_dir_is_sorted_and_holds_folders_too(fs: FileSystem, root: Path) -> None:
    for name in ("b", "a", "C", "10", "9"):
        fs.create(root / name).close()
    fs.make_dir(root / "aa")
    assert fs.list_dir(root) == ["10", "9", "C", "a", "aa", "b"]


def test_rename_replaces_what_had_the_name(fs: FileSystem, root: Path) -> None:
    write_new_file(fs, root / "old", b"old")
    write_new_file(fs, root / "new", b"new")
    with opened(fs.open(root / "new")) as replaced:
        fs.rename(root / "old", root / "new")
        assert fs.list_dir(root) == ["new"]
        assert read_file(fs, root / "new") == b"old"
        assert content(replaced) == b"new"


def test_rename_moves_between_folders_and_keeps_open_files(fs: FileSystem, root: Path, file: File) -> None:
    fs.make_dir(root / "folder")
    fs.rename(root / "file", root / "folder" / "moved")
    file.pwrite(b"later", 0)
    assert fs.list_dir(root) == ["folder"]
    assert read_file(fs, root / "folder" / "moved") == b"later"


def test_rename_of_one_of_two_names_onto_the_other_does_nothing(fs: FileSystem, root: Path) -> None:
    write_new_file(fs, root / "one", b"data")
    fs.link(root / "one", root / "two")
    fs.rename(root / "one", root / "two")
    assert fs.list_dir(root) == ["one", "two"]
    fs.rename(root / "one", root / "one")
    assert read_file(fs, root / "one") == b"data"


def test_rename_into_a_missing_folder_is_refused_and_keeps_the_file(fs: FileSystem, root: Path, file: File) -> None:
    with pytest.raises(FileNotFoundError):
        fs.rename(root / "file", root / "missing" / "file")
    assert fs.list_dir(root) == ["file"]


def test_link_gives_a_second_name_to_the_same_file(fs: FileSystem, root: Path, file: File) -> None:
    fs.link(root / "file", root / "second")
    file.pwrite(b"both", 0)
    assert read_file(fs, root / "second") == b"both"
    fs.remove(root / "file")
    assert fs.list_dir(root) == ["second"]
    assert read_file(fs, root / "second") == b"both"


def test_link_refuses_a_name_that_is_taken(fs: FileSystem, root: Path) -> None:
    write_new_file(fs, root / "new", b"new")
    write_new_file(fs, root / "taken", b"taken")
    with pytest.raises(FileExistsError):
        fs.link(root / "new", root / "taken")
    assert read_file(fs, root / "taken") == b"taken"


def test_a_removed_file_can_still_be_used_while_open(fs: FileSystem, root: Path, file: File) -> None:
    fs.remove(root / "file")
    file.pwrite(b"data", 0)
    assert content(file) == b"data"
    assert not fs.exists(root / "file")
    fs.create(root / "file").close()
    assert read_file(fs, root / "file") == b""


def test_make_dir_makes_what_is_missing_and_may_be_repeated(fs: FileSystem, root: Path) -> None:
    fs.make_dir(root / "a" / "b" / "c")
    fs.make_dir(root / "a" / "b" / "c")
    assert fs.list_dir(root / "a" / "b") == ["c"]
    assert fs.list_dir(root / "a" / "b" / "c") == []


def test_an_empty_folder_can_be_removed_and_made_again(fs: FileSystem, root: Path, file: File) -> None:
    fs.make_dir(root / "a" / "b")
    fs.sync_dir(root / "a")
    for path, error in ((root / "a", errno.ENOTEMPTY), (root / "file", errno.ENOTDIR), (root / "none", errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            fs.remove_dir(path)
        assert caught.value.errno == error
    fs.remove_dir(root / "a" / "b")
    fs.remove_dir(root / "a")
    assert fs.list_dir(root) == ["file"]
    with pytest.raises(FileNotFoundError):
        fs.sync_dir(root / "a")
    fs.make_dir(root / "a")
    fs.sync_dir(root / "a")
    assert fs.list_dir(root / "a") == []


def test_info_says_what_a_name_stands_for(fs: FileSystem, root: Path, file: File) -> None:
    file.pwrite(b"12345", 0)
    assert fs.info(root / "file") == ("file", 5)
    assert fs.info(root) == ("folder", 0)
    assert fs.info(root / "none") is fs.info(root / "none" / "below") is fs.info(root / "file" / "below") is None


def test_free_bytes_is_a_number_of_bytes(fs: FileSystem, root: Path) -> None:
    assert fs.free_bytes(root) > 0


# Locks


def test_a_held_lock_refuses_another(fs: FileSystem, root: Path) -> None:
    lock = fs.lock(root / "LOCK")
    assert fs.exists(root / "LOCK")
    with pytest.raises(BlockingIOError):
        fs.lock(root / "LOCK")
    fs.lock(root / "OTHER").release()
    lock.release()
    lock.release()
    fs.lock(root / "LOCK").release()


def test_a_lock_belongs_to_the_file_and_not_to_the_name(fs: FileSystem, root: Path) -> None:
    first = fs.lock(root / "LOCK")
    fs.rename(root / "LOCK", root / "RENAMED")
    second = fs.lock(root / "LOCK")
    with pytest.raises(BlockingIOError):
        fs.lock(root / "RENAMED")
    first.release()
    second.release()


# Helpers


def test_write_new_file_writes_once(fs: FileSystem, root: Path) -> None:
    write_new_file(fs, root / "file", b"data")
    assert read_file(fs, root / "file") == b"data"
    with pytest.raises(FileExistsError):
        write_new_file(fs, root / "file", b"other")
    assert read_file(fs, root / "file") == b"data"


def test_create_once_lets_the_first_win(fs: FileSystem, root: Path) -> None:
    create_once(fs, root / "claim", root / "claim.tmp", b"first")
    with pytest.raises(FileExistsError):
        create_once(fs, root / "claim", root / "claim.tmp", b"second")
    assert read_file(fs, root / "claim") == b"first"
    assert fs.list_dir(root) == ["claim"]


def test_create_once_does_not_mind_what_an_earlier_try_left(fs: FileSystem, root: Path) -> None:
    write_new_file(fs, root / "claim.tmp", b"half")
    create_once(fs, root / "claim", root / "claim.tmp", b"whole")
    assert read_file(fs, root / "claim") == b"whole"
    assert fs.list_dir(root) == ["claim"]
