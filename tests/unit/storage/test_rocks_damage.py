"""Damaged tables in RocksDB: each kind of damage is named, or survived without a wrong row."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.fs import OsFileSystem
from kvserver.storage.rocks import RocksTables, open_reader
from kvserver.storage.sst_check import _check_cover, check_table
from kvserver.storage.tables import TableReader

CACHE_BYTES = 1 << 20
ALL = 1 << 20
KEYS = [b"k%06d" % number for number in range(3000)]
VERSIONS = 3


def version(number: int) -> dict[bytes, bytes]:
    return {key: b"%d" % number + random.Random(key).randbytes(40) for key in KEYS}


def make(folder: Path) -> Path:
    """Make tables that hold three versions of every row, each in a table of its own, the newest in the last."""
    tables = RocksTables.open(folder, CACHE_BYTES)
    for number in range(VERSIONS):
        writer = tables.new_table(folder.parent / "new.sst")
        for key, value in version(number).items():
            writer.put(key, value)
        writer.finish()
        tables.ingest(folder.parent / "new.sst")
    tables.close()
    return folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sound") / "tables")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("foreign") / "tables")


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "tables"))


def newest(folder: Path, pattern: str) -> Path:
    return max(folder.glob(pattern))


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, left: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])


Damage = Callable[[Path, Path], None]

REFUSED: dict[str, tuple[Damage, str]] = {
    "a table is missing": (lambda at, _: newest(at, "*.sst").unlink(), ".sst"),
    "a table is cut": (lambda at, _: cut(newest(at, "*.sst"), 0.99), ".sst"),
    "a table is empty": (lambda at, _: cut(newest(at, "*.sst"), 0), ".sst"),
    "a table's end is flipped": (lambda at, _: flip(newest(at, "*.sst"), 0.99999), ".sst"),
    # As long as the one that it replaces; RocksDB says then that some table has another identity, not which.
    "a table is another store's": (lambda at, other: copy(newest(other, "*.sst"), newest(at, "*.sst")), ""),
    "two tables are swapped": (lambda at, _: swap(*sorted(at.glob("*.sst"))[1:]), ".sst"),
    "the list is missing": (lambda at, _: newest(at, "MANIFEST*").unlink(), "MANIFEST-"),
    "the list is empty": (lambda at, _: cut(newest(at, "MANIFEST*"), 0), "MANIFEST-"),
    "the list is flipped at its begin": (lambda at, _: flip(newest(at, "MANIFEST*"), 0.1), "MANIFEST-"),
    "the list is flipped at its end": (lambda at, _: flip(newest(at, "MANIFEST*"), 0.9), "MANIFEST-"),
    "the list is another store's": (lambda at, other: copy(newest(other, "MANIFEST*"), newest(at, "MANIFEST*")), ""),
    "CURRENT is missing": (lambda at, _: (at / "CURRENT").unlink(), "CURRENT"),
    "CURRENT is empty": (lambda at, _: cut(at / "CURRENT", 0), "CURRENT"),
    "CURRENT is flipped": (lambda at, _: flip(at / "CURRENT", 0.5), ""),
    "CURRENT names nothing": (lambda at, _: write(at / "CURRENT", b"MANIFEST-000099\n"), "MANIFEST-000099"),
    "only tables are left": (lambda at, _: remove_but(at, ".sst"), "CURRENT"),
}

SURVIVED: dict[str, Damage] = {
    "nothing": lambda at, _: None,
    "the options are missing": lambda at, _: newest(at, "OPTIONS*").unlink(),
    "the options are garbage": lambda at, _: write(newest(at, "OPTIONS*"), b"\xffgarbage"),
    "the binding's file is missing": lambda at, _: (at / "rocksdict-config.json").unlink(),
    "the binding's file is cut": lambda at, _: cut(at / "rocksdict-config.json", 0.5),
    "the binding's file says something else": lambda at, _: write(
        at / "rocksdict-config.json", b'{"raw_mode":false,"prefix_extractors":{"default":{"Fixed":1}}}'
    ),
    "RocksDB's own log is garbage": lambda at, _: write(newest(at, "*.log"), b"garbage" * 99),
    "RocksDB's own log is missing": lambda at, _: newest(at, "*.log").unlink(),
    "the identity is another store's": lambda at, other: copy(other / "IDENTITY", at / "IDENTITY"),
    "a staging file is left over": lambda at, _: write(at / "000099.dbtmp", b"MANIFEST-0"),
    "a table that nothing names is left over": lambda at, other: copy(newest(other, "*.sst"), at / "000099.sst"),
}


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    copy(other, one)
    write(other, content)


def remove_but(folder: Path, suffix: str) -> None:
    for path in folder.iterdir():
        if path.suffix != suffix:
            path.unlink()


def openings(folder: Path) -> list[Callable[[], TableReader]]:
    return [lambda: open_reader(folder, CACHE_BYTES), lambda: RocksTables.open(folder, CACHE_BYTES)]


@pytest.mark.parametrize("name", REFUSED)
def test_damage_is_refused_by_name(folder: Path, foreign: Path, name: str) -> None:
    damage, names = REFUSED[name]
    damage(folder, foreign)
    for opening in openings(folder):
        with pytest.raises(Corruption) as caught:
            opening()
        assert names in str(caught.value.path)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("name", SURVIVED)
def test_what_does_not_matter_is_survived(folder: Path, foreign: Path, name: str) -> None:
    SURVIVED[name](folder, foreign)
    for opening in openings(folder):
        tables = opening()
        assert tables.get_many(KEYS) == list(version(VERSIONS - 1).values())
        assert tables.rows(b"", b"", ALL) == list(version(VERSIONS - 1).items())
        tables.close()
    tables = RocksTables.open(folder, CACHE_BYTES)
    assert tables.verify() == []
    tables.close()


def test_a_damaged_block_is_an_error_of_every_read_that_meets_it_and_never_an_end(folder: Path) -> None:
    path = newest(folder, "*.sst")
    flip(path, 0.5)
    tables = RocksTables.open(folder, CACHE_BYTES)
    for reverse in (False, True):
        with pytest.raises(Corruption) as caught:
            tables.rows(b"", b"", ALL, reverse=reverse)
        assert caught.value.path == path and caught.value.offset > 0
    with pytest.raises(Corruption):
        tables.get_many(KEYS)
    assert tables.get_many(KEYS[:5]) == list(version(2).values())[:5]
    assert tables.rows(b"", b"", 5) == list(version(2).items())[:5]
    with pytest.raises(Corruption) as caught:
        tables.compact(b"", b"")
    assert caught.value.path == path
    (finding,) = tables.verify()
    assert path.name in finding
    assert "checksum" in tables.figures().background_error
    tables.close()


def test_a_list_that_lost_its_end_opens_as_an_earlier_moment(folder: Path) -> None:
    # RocksDB takes it for a crash in the middle of an ingest. Whoever needs more compares the flushed position with the log.
    cut(newest(folder, "MANIFEST*"), 0.99)
    for opening in openings(folder):
        tables = opening()
        assert tables.rows(b"", b"", ALL) == list(version(1).items())
        tables.close()


@pytest.mark.parametrize("left", [[], ["MANIFEST-000001", "IDENTITY", "LOCK", "000001.dbtmp", "rocksdict-config.json"]])
def test_a_creation_that_was_cut_short_is_begun_again(tmp_path: Path, left: list[str]) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for name in left:
        (folder / name).write_bytes(b"half")
    make(folder)
    tables = RocksTables.open(folder, CACHE_BYTES)
    assert tables.rows(b"", b"", 1) == list(version(2).items())[:1]
    tables.close()


# The check of one file


def test_a_flipped_bit_is_found_wherever_it_is(sound: Path, tmp_path: Path) -> None:
    data = newest(sound, "*.sst").read_bytes()
    chance = random.Random(7)
    places = [*range(len(data) - 500, len(data)), *(chance.randrange(len(data)) for _ in range(200))]
    path = tmp_path / "flipped.sst"
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(Corruption):
            check_table(OsFileSystem(), path)


@pytest.mark.parametrize("seed", range(3))
def test_garbage_is_found_and_nothing_else_goes_wrong(sound: Path, tmp_path: Path, seed: int) -> None:
    data = newest(sound, "*.sst").read_bytes()
    chance = random.Random(seed)
    path = tmp_path / "garbage.sst"
    for _ in range(60):
        start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        garbage = chance.choice([data[:start], data[start:end], data[:start] + data[end:], chance.randbytes(200) + data[-53:]])
        if garbage == data:
            continue
        path.write_bytes(garbage)
        with pytest.raises(Corruption):
            check_table(OsFileSystem(), path)


@pytest.mark.parametrize(
    "spans",
    [[], [(0, 10), (15, 5)], [(0, 10), (16, 5), (26, 4)], [(1, 10), (16, 14)], [(0, 10), (14, 16)], [(0, 10), (0, 10), (15, 20)]],
)
def test_blocks_that_leave_bytes_unchecked_or_share_them_are_damage(spans: list[tuple[int, int]]) -> None:
    _check_cover(Path("x.sst"), [(15, 20), (0, 10)], 40)
    with pytest.raises(Corruption):
        _check_cover(Path("x.sst"), spans, 40)


def test_a_sound_table_has_its_length(sound: Path) -> None:
    for path in sound.glob("*.sst"):
        assert check_table(OsFileSystem(), path) == path.stat().st_size
