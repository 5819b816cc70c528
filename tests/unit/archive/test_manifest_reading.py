"""Reading an epoch's manifest, which anybody may have written: what does not check is refused by name, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.archive import manifest_chain
from kvserver.archive.errors import ArchiveFenced
from kvserver.archive.manifest import EpochManifest, read_epoch_manifest
from kvserver.archive.records import Closing, RetentionRecord, encode_retention
from kvserver.archive.store import ObjectInfo
from kvserver.base.errors import Corruption
from kvserver.base.types import Epoch, Position
from support.archives import ArchiveScene
from support.log_scenes import flip
from support.memory_store import MemoryStore


def reopened(scene: ArchiveScene) -> EpochManifest:
    epoch, branch = scene.epochs[-1]
    return EpochManifest.open(scene.store, scene.names, epoch, branch, "other", scene.clock)


def begun(store: MemoryStore | None = None) -> ArchiveScene:
    scene = ArchiveScene(store if store is not None else MemoryStore())
    scene.begin()
    return scene


def three_records() -> ArchiveScene:
    scene = begun()
    for _ in range(3):
        scene.segment(1)
    return scene


def refusal(scene: ArchiveScene) -> Corruption:
    with pytest.raises(Corruption) as caught:
        read_epoch_manifest(scene.store, scene.names, 1)
    with pytest.raises((Corruption, ArchiveFenced)):
        reopened(scene)
    return caught.value


def test_a_missing_record_is_named() -> None:
    for number in (0, 1):
        scene = three_records()
        scene.store.delete(scene.names.manifest(1, number))
        assert str(refusal(scene).path) == scene.names.manifest(1, number)


@pytest.mark.parametrize(
    "changes",
    [
        {"written_ms": 1},
        {"number": 2},
        {"number": 0},
        {"cluster_id": bytes(16)},
        {"epoch": Epoch(1, 5)},
        {"epoch": Epoch(2, 5)},
        {"previous_sha256": bytes(32)},
        {"previous_sha256": b""},
        {"closing": Closing(Epoch(2, 5), Position(Epoch(1, 5), 3, bytes(16)))},
        {"node_name": "mallory"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_exchanged_record_is_refused(changes: dict[str, Any]) -> None:
    scene = three_records()
    scene.rewrite(1, **changes)
    assert refusal(scene).path in (scene.names.manifest(1, 1), scene.names.manifest(1, 2))


def test_a_duplicated_or_reordered_record_is_refused() -> None:
    scene = three_records()
    objects = scene.objects
    one, two = scene.names.manifest(1, 1), scene.names.manifest(1, 2)
    objects[one], objects[two] = objects[two], objects[one]
    assert refusal(scene).path == one
    scene = three_records()
    objects = scene.objects
    objects[scene.names.manifest(1, 3)] = objects[two]
    assert refusal(scene).path == scene.names.manifest(1, 3)


def test_entries_that_lie_are_refused_where_they_are_continued() -> None:
    scene = three_records()
    other = scene.entries[2].start._replace(chain=bytes(16))
    entry = scene.entries[2]._replace(start=other, previous=other)
    scene.rewrite(2, entries=[entry])
    with pytest.raises(Corruption, match="begins at"):
        reopened(scene)


def test_every_flip_and_every_truncation_is_found() -> None:
    scene = begun()
    scene.segment(1)
    name = scene.names.manifest(1, 0)
    data = scene.store.read(name)
    objects = scene.objects
    for at in range(len(data)):
        for changed in (flip(data, at), data[:at]):
            if changed.rstrip() == data.rstrip():
                continue  # only the line's end is missing
            objects[name] = changed
            with pytest.raises(Corruption):
                read_epoch_manifest(scene.store, scene.names, 1)


def test_a_record_of_endless_nesting_is_refused() -> None:
    scene = begun()
    scene.store.create(scene.names.manifest(1, 0), [b"[" * 200_000])
    assert "JSON" in refusal(scene).what


def test_what_is_too_large_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Boasting(MemoryStore):
        def list(self, prefix: str) -> Any:
            return (ObjectInfo(info.name, 1 << 40) for info in MemoryStore.list(self, prefix))

    scene = begun(Boasting())
    scene.segment(1)
    with pytest.raises(Corruption, match="more than an archive of any use has"):
        read_epoch_manifest(scene.store, scene.names, 1)
    scene = three_records()
    monkeypatch.setattr(manifest_chain, "MAX_RECORD_BYTES", 100)
    with pytest.raises(Corruption, match="larger than any record"):
        read_epoch_manifest(scene.store, scene.names, 1)


def test_a_number_far_away_is_not_walked_to() -> None:
    scene = three_records()
    far = scene.names.manifest(1, 0xFFFF_FFFF)
    scene.store.create(far, [scene.store.read(scene.names.manifest(1, 2))])
    assert str(refusal(scene).path) == scene.names.manifest(1, 3)


def test_records_that_were_given_up_may_be_missing_and_no_others() -> None:
    scene = three_records()
    scene.store.delete(scene.names.manifest(1, 0))
    floor = RetentionRecord(scene.cluster_id, scene.entries[1].start.revision + 1, 0)
    scene.store.replace(scene.names.retention, encode_retention(floor), None)
    manifest = reopened(scene)
    assert manifest.entries == scene.entries[1:]
    manifest.append([scene.put(1)])
    scene.store.delete(scene.names.manifest(1, 1))
    assert str(refusal(scene).path) == scene.names.manifest(1, 1)


def test_a_floor_of_another_cluster_gives_nothing_up() -> None:
    scene = three_records()
    scene.store.delete(scene.names.manifest(1, 0))
    scene.store.replace(scene.names.retention, encode_retention(RetentionRecord(bytes(16), 100, 0)), None)
    assert refusal(scene).path == scene.names.retention
