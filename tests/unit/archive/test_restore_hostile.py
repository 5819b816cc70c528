"""Archives that were damaged, mixed up or forged: refused by name, with nothing half-open and nothing touched elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kvserver.archive.dictionary import store_dictionary, train
from kvserver.archive.names import parse_backup, parse_dictionary, parse_file, parse_manifest, parse_segment
from kvserver.archive.plan import RestorePlan
from kvserver.archive.records import BackupFile, BackupRecord, decode_backup, encode_backup
from kvserver.archive.segment_format import HEADER_LENGTH
from kvserver.archive.segment_writing import CompressOptions
from kvserver.base.errors import Code, Corruption, KvError, OpenRefused
from kvserver.base.paths import DataPaths
from kvserver.commit.requests import Put
from support.archived_store import ArchivedStore, all_of
from support.memory_store import MemoryStore

RESTORED = Path("/restored")
_numbers = itertools.count(1)


@pytest.fixture
def kept() -> ArchivedStore:
    """A backup at revision 4, and three segments behind it."""
    kept = ArchivedStore()
    kept.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"), Put(1, b"a", b"3"))
    kept.backup()
    for number in range(3):
        kept.seal()
        kept.group(*(Put(1, b"%d-%d" % (number, key), random.Random(key).randbytes(200)) for key in range(40)))
    kept.archive()
    return kept


def objects(kept: ArchivedStore) -> dict[str, bytes]:
    assert isinstance(kept.store, MemoryStore)
    return kept.store.objects


def names(kept: ArchivedStore, parse: Callable[[str], object]) -> list[str]:
    return sorted(name for name in objects(kept) if parse(name) is not None)


@contextlib.contextmanager
def nothing_else_touched(kept: ArchivedStore) -> Iterator[None]:
    """Check that files outside of what is restored, and objects of the archive, stay what they are."""
    before, archive = _others(kept), dict(objects(kept))
    yield
    assert _others(kept) == before
    assert objects(kept) == archive


def _others(kept: ArchivedStore) -> dict[Path, bytes]:
    return {path: data for path, data in kept.fs.contents().items() if not path.is_relative_to(RESTORED)}


def new_target() -> Path:
    return RESTORED / f"{next(_numbers)}"


def refusal(kept: ArchivedStore, plan: RestorePlan, target: Path | None = None, **options: Any) -> KvError:
    """Return the error that a restore ends with, after a look at what it leaves."""
    target = target or new_target()
    with nothing_else_touched(kept), pytest.raises(KvError) as refused:
        kept.restore(plan, target, **{"job_bytes": 1, **options})
    assert refused.value.hint
    if kept.fs.exists(DataPaths(target).restore):
        with pytest.raises(OpenRefused, match="did not end"):
            kept.open_copy(target)
    return refused.value


def damage(kept: ArchivedStore, name: str, data: bytes) -> Corruption:
    """Exchange an object and return the error; with the object put back, the same command goes on."""
    plan, whole, target = kept.plan(), objects(kept)[name], new_target()
    objects(kept)[name] = data
    error = refusal(kept, plan, target)
    assert isinstance(error, Corruption), error
    assert error.code is Code.CORRUPTION
    assert name in error.message
    objects(kept)[name] = whole
    kept.restore(plan, target)
    assert all_of(kept.open_copy(target)) == all_of(kept.database)
    return error


# Bytes


@pytest.mark.parametrize("kind", [parse_segment, parse_file], ids=["segment", "file"])
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "longer", "zeros"])
def test_a_damaged_object_is_named_and_the_restore_goes_on_when_it_is_put_back(
    kept: ArchivedStore, kind: Callable[[str], object], which: int, how: str
) -> None:
    wanted = set(names(kept, kind))
    if kind is parse_segment:
        wanted &= {kept.names.segment(entry.id) for leg in kept.plan().legs for entry in leg.entries}
    name = sorted(wanted)[which]
    data = objects(kept)[name]
    middle = len(data) // 2
    spoilt = {
        "truncated": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :],
        "empty": b"",
        "longer": data + b"\0",
        "zeros": bytes(len(data)),
    }[how]
    damage(kept, name, spoilt)


def test_any_flipped_bit_of_any_object_is_found_or_does_not_matter(kept: ArchivedStore) -> None:
    rng = random.Random(3)
    expected, revision = all_of(kept.database), kept.database.marks.visible
    found = 0
    for number in range(120):
        name = rng.choice(sorted(objects(kept)))
        data = objects(kept)[name]
        at = rng.randrange(len(data))
        objects(kept)[name] = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        target = RESTORED / f"flipped {number}"
        try:
            kept.restore(kept.plan(revision), target)
        except KvError as error:
            assert error.code in (Code.CORRUPTION, Code.NO_RESTORE_PLAN), error
            found += 1
        else:
            assert all_of(kept.open_copy(target)) == expected, name
        objects(kept)[name] = data
    assert found > 40


@pytest.mark.parametrize("kind", [parse_segment, parse_file], ids=["segment", "file"])
def test_an_object_that_went_since_the_plan_was_made_is_named(kept: ArchivedStore, kind: Callable[[str], object]) -> None:
    plan = kept.plan()
    wanted = {kept.names.segment(plan.legs[0].entries[-1].id)} if kind is parse_segment else set(names(kept, kind))
    name = wanted.pop()
    del objects(kept)[name]
    error = refusal(kept, plan)
    assert (name in error.message, "missing" in error.message) == (True, True)


# Segments


def test_a_bomb_is_refused_before_it_is_unpacked(kept: ArchivedStore) -> None:
    """A block that would become 4 GiB; its frame says so, or says nothing."""
    name = kept.names.segment(kept.plan().legs[0].entries[0].id)
    data = objects(kept)[name]
    for says_so in (True, False):
        parameters = zstandard.ZstdCompressionParameters.from_level(1, write_content_size=says_so, write_checksum=True)
        bomb = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(64 << 20))
        damage(kept, name, data[:HEADER_LENGTH] + bomb + data[HEADER_LENGTH:])
        damage(kept, name, (data[:HEADER_LENGTH] + bomb).ljust(len(data), b"\0")[: len(data)])


def test_segments_under_each_others_names_are_refused(kept: ArchivedStore) -> None:
    plan = kept.plan()
    one, other = (kept.names.segment(entry.id) for entry in plan.legs[0].entries[1:3])
    held = objects(kept)
    held[one], held[other] = held[other], held[one]
    error = refusal(kept, plan)
    assert isinstance(error, Corruption)
    assert one in error.message or other in error.message


def test_the_segment_of_another_store_is_refused(kept: ArchivedStore) -> None:
    """As like as can be: the same commits, written by another cluster."""
    other = ArchivedStore(store=MemoryStore(), seed=9)
    other.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"), Put(1, b"a", b"3"))
    other.archive()
    theirs = names(other, parse_segment)[0]
    mine = next(name for name in names(kept, parse_segment) if "/0000000000000002-" in name)
    for name in names(kept, parse_backup):
        del objects(kept)[name]
    damage(kept, mine, objects(other)[theirs])


def test_a_plan_that_lies_about_a_segment_is_refused(kept: ArchivedStore) -> None:
    plan = kept.plan()
    leg = plan.legs[0]
    first = leg.entries[0]
    for lie in (
        {"raw_length": first.raw_length + 1},
        {"stored_length": first.stored_length - 1},
        {"end": first.end._replace(chain=bytes(16))},
        {"segment_id": 1},
        {"last_time_ms": first.last_time_ms + 1},
        {"dictionary_id": 0x8000},
    ):
        lying = leg._replace(entries=(first._replace(**lie), *leg.entries[1:]))  # type: ignore[arg-type]
        error = refusal(kept, dataclasses.replace(plan, legs=(lying,)))
        assert isinstance(error, Corruption), lie


def test_a_leg_that_parts_at_another_chain_is_of_another_history(kept: ArchivedStore) -> None:
    """The branch lies inside a frame: nothing but the commits tells whether the archive says the truth about it."""
    whole = kept.restore(20, RESTORED / "fork")
    kept.database.close()
    fork = ArchivedStore(kept.fs, kept.store, DataPaths(RESTORED / "fork"), seed=70)
    fork.group(Put(1, b"fork", b""))
    fork.archive()
    plan = fork.plan()
    leg = plan.legs[0]
    assert leg.upto == whole.position
    lying = leg._replace(upto=whole.position._replace(chain=bytes(16)))
    error = refusal(fork, dataclasses.replace(plan, legs=(lying, *plan.legs[1:])))
    assert (isinstance(error, Corruption), "another history" in error.message) == (True, True)


def test_a_missing_dictionary_is_named(kept: ArchivedStore) -> None:
    dictionary = train([f"value {number} of some kind".encode() * 9 for number in range(50)], 0x8000)
    store_dictionary(kept.store, kept.names, dictionary)
    kept.options = CompressOptions(block_bytes=4096, dictionary=dictionary)
    kept.group(Put(1, b"z", b"value 7 of some kind" * 20), Put(1, b"y", b""))
    kept.archive()
    plan = kept.plan()
    assert plan.legs[-1].entries[-1].dictionary_id == 0x8000
    (name,) = names(kept, parse_dictionary)
    held = objects(kept).pop(name)
    target = new_target()
    error = refusal(kept, plan, target)
    assert (name in error.message, "missing" in error.message) == (True, True)
    objects(kept)[name] = held
    kept.restore(plan, target)
    assert all_of(kept.open_copy(target)) == all_of(kept.database)


# Bases


def forged(kept: ArchivedStore, **changes: Any) -> RestorePlan:
    """Return a plan whose base says something else, and its files in the archive."""
    plan = kept.plan()
    assert plan.base is not None
    return dataclasses.replace(plan, base=plan.base._replace(**changes))


def test_a_base_with_two_files_of_one_name_is_refused(kept: ArchivedStore) -> None:
    plan = kept.plan()
    assert plan.base is not None
    error = refusal(kept, forged(kept, files=[*plan.base.files, plan.base.files[0]]))
    assert "two files alike" in error.message


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "",
        "a\0b",
        "a\\b",
        ".hidden",
        "x" * 300,
        "\N{FULLWIDTH FULL STOP}" * 2 + "/x",
        "a\nb",
    ],
)
def test_a_record_whose_files_leave_the_folder_is_damage(kept: ArchivedStore, path: str) -> None:
    """The record's own checksums match: somebody made it."""
    (name,) = names(kept, parse_backup)
    record: BackupRecord = decode_backup(name, objects(kept)[name])
    sha256 = hashlib.sha256(b"root::0:0").digest()
    objects(kept)[kept.names.file(sha256)] = b"root::0:0"
    objects(kept)[name] = encode_backup(record._replace(files=[*record.files, BackupFile(path, 9, sha256)]))
    with pytest.raises(Corruption):
        decode_backup(name, objects(kept)[name])
    with nothing_else_touched(kept):
        plan = kept.plan()
        assert plan.base is None, "it is no backup, and the log does without one"


def test_a_base_of_another_moment_than_its_record_says_is_refused(kept: ArchivedStore) -> None:
    plan = kept.plan()
    assert plan.base is not None
    for changes in (
        {"position": plan.base.position._replace(chain=bytes(16))},
        {"position": plan.base.position._replace(revision=3)},
        {"owner_id": bytes(16)},
    ):
        error = refusal(kept, forged(kept, **changes))
        assert isinstance(error, Corruption), changes


def test_a_base_that_claims_to_be_huge_is_refused_before_anything_is_fetched(kept: ArchivedStore) -> None:
    plan = kept.plan()
    assert plan.base is not None
    huge = plan.base.files[0]._replace(length=1 << 50)
    target = new_target()
    error = refusal(kept, forged(kept, files=[huge]), target)
    assert error.code is Code.DISK_FULL
    assert kept.fs.list_dir(target) == ["LOCK"]
    error = refusal(kept, forged(kept, files=[huge]), check_space=False)
    assert isinstance(error, Corruption)


def test_a_damaged_manifest_is_told_of_where_the_newest_revision_is_asked_for(kept: ArchivedStore) -> None:
    name = names(kept, parse_manifest)[-1]
    objects(kept)[name] = objects(kept)[name].replace(b"tester", b"taster")
    plan = kept.plan()
    assert plan.revision < kept.database.marks.visible
    assert any(name in note and "kvctl archive verify" in note for note in plan.notes)


def test_manifest_records_under_each_others_names_lead_to_no_plan_or_to_the_truth(kept: ArchivedStore) -> None:
    expected = all_of(kept.database)
    listed = names(kept, parse_manifest)
    for name in listed[:-1]:
        held = objects(kept)[name]
        objects(kept)[name] = objects(kept)[listed[-1]]
        try:
            copy = kept.restored(kept.database.marks.visible)
        except KvError as error:
            assert error.code in (Code.NO_RESTORE_PLAN, Code.CORRUPTION)
        else:
            assert all_of(copy) == expected
        objects(kept)[name] = held
