"""From follower to primary and back: who seals, what lies behind the end, and marks that the other node never had."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvserver.base.fs import read_file
from kvserver.base.types import Epoch
from kvserver.wal import format as fmt
from support.logs import EPOCH, SmallLog, recover_log, segment_ids
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.received_logs import Follower, marked_and_sealed, same_bytes


def segment_ids_from(number: int) -> Callable[[], int]:
    ids = segment_ids()
    for _ in range(number):
        ids()
    return ids


@pytest.mark.parametrize("most_bytes", [1, 1 << 20])
def test_a_primary_opens_behind_what_was_received(most_bytes: int) -> None:
    source = marked_and_sealed()
    follower = Follower().follow(source.fs, source.writer, most_bytes)
    follower.log.close()
    found = recover_log(follower.fs)
    assert (found.groups, found.log.position) == (source.groups, source.writer.position)
    promoted = SmallLog(follower.fs, new_segment_id=segment_ids_from(50)).begin(Epoch(2, 22), found.log)
    promoted.put("of the new epoch")
    third = Follower().follow(follower.fs, promoted.writer)
    same_bytes(follower.fs, promoted.writer, third)


def test_a_segment_of_which_only_the_header_came_is_sealed_by_a_promotion() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    follower = Follower().follow(source.fs, source.writer)
    assert follower.log.end.offset == fmt.SEGMENT_HEADER_LENGTH
    follower.log.close()
    found = recover_log(follower.fs)
    assert (found.groups, found.log.position) == ([], source.writer.position)
    promoted = SmallLog(follower.fs, new_segment_id=segment_ids_from(50)).begin(Epoch(2, 22), found.log)
    group = promoted.put("a")
    assert recover_log(follower.fs).groups == [group]


def test_others_take_the_seal_of_a_promotion_where_the_old_primary_went_on() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    source.put("a")
    one, two = (Follower().follow(source.fs, source.writer) for _ in range(2))
    source.put("lost")
    one.log.close()
    found = recover_log(one.fs)
    promoted = SmallLog(one.fs, new_segment_id=segment_ids_from(50)).begin(Epoch(2, 22), found.log)
    promoted.put("b")
    two.follow(one.fs, promoted.writer)
    same_bytes(one.fs, promoted.writer, two)


def test_a_primary_that_is_deposed_goes_on_as_a_follower_in_the_segment_that_it_wrote() -> None:
    """Zero-filled space lies behind its last frame; what is received must not leave any of it behind the seal."""
    deposed_disk = MemoryFileSystem()
    source = SmallLog(deposed_disk).begin()
    source.put("a")
    one = Follower().follow(source.fs, source.writer)
    one.log.close()
    deposed_disk.kill()
    promoted = SmallLog(one.fs, new_segment_id=segment_ids_from(50)).begin(Epoch(2, 22), recover_log(one.fs).log)
    promoted.put("b")
    deposed = Follower(source.fs, wrote=lambda epoch: epoch == EPOCH)
    assert len(read_file(source.fs, source.writer.segment.path)) == deposed.log.end.offset
    deposed.follow(one.fs, promoted.writer)
    same_bytes(one.fs, promoted.writer, deposed)
    assert Follower(deposed_disk.power_loss(lambda _: LOST)).groups == source.groups + promoted.groups
