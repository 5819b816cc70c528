"""kvctl archive verify: a sound archive, and what is said of one that is not."""

from __future__ import annotations

from typing import Any

import pytest

from support.archives import ArchiveScene
from unit.kvctl.archived import Archived, log_only, two_epochs


def segment_name(scene: ArchiveScene, number: int) -> str:
    return scene.names.segment(scene.entries[number].id)


def test_a_sound_archive(offline: Any, archived: Archived) -> None:
    two_epochs(archived)
    told = offline("archive", "verify", "--archive", archived.url, "-o", "json")
    assert (told.exit_code, told.err) == (0, "")
    assert (told.json["whole"], told.json["segments"], told.json["backups"], told.json["files"]) == (True, 4, 2, 3)
    assert told.json["restorable"][0]["last_revision"] == 9
    shown = offline("archive", "verify", "--archive", archived.url).out.decode()
    assert shown.splitlines()[-1] == "everything is there, and every byte checks"
    raw = offline("archive", "verify", "--archive", archived.url, "-o", "raw").out.decode().splitlines()
    assert "whole\tTrue" in raw
    assert raw[-1].split("\t")[0] == "restorable"


@pytest.mark.parametrize("offset", [0, 200, -10])
def test_a_flipped_bit_in_a_segment(offline: Any, archived: Archived, offset: int) -> None:
    log_only(archived)
    name = segment_name(archived.scene, 1)
    archived.flip(name, offset)
    found = offline("archive", "verify", "--archive", archived.url, "-o", "json")
    assert (found.exit_code, found.json["whole"]) == (5, False)
    (damage,) = found.json["damaged"]
    assert damage["name"] == name
    assert damage["what"].startswith("damaged at offset ")
    assert damage["prevents"] == "revisions 5 to 9 cannot be restored"
    assert found.json["lost"] == [{"first_revision": 5, "last_revision": 9}]
    shown = offline("archive", "verify", "--archive", archived.url)
    assert shown.exit_code == 5
    assert f"damaged: {name}: " in shown.out.decode()
    assert "because of it: revisions 5 to 9 cannot be restored" in shown.out.decode()
    raw = offline("archive", "verify", "--archive", archived.url, "-o", "raw").out.decode()
    assert f"damaged\t{name}\t" in raw
    assert "lost\t5\t9" in raw.splitlines()


def test_a_missing_segment_and_a_missing_record(offline: Any, archived: Archived) -> None:
    two_epochs(archived)
    archived.store.delete(segment_name(archived.scene, 0))
    archived.store.delete(archived.scene.names.manifest(2, 0))
    found = offline("archive", "verify", "--archive", archived.url, "-o", "json")
    assert found.exit_code == 5
    assert [one["what"] for one in found.json["damaged"]] == ["the object is missing"]
    assert found.json["problems"]


def test_of_a_fork_it_says_what_was_not_read(offline: Any, archived: Archived) -> None:
    log_only(archived)
    fork = archived.scene.fork()
    fork.begin()
    fork.segment(1)
    there = ("archive", "verify", "--archive", archived.url)
    shown = offline(*there, "--cluster", fork.cluster_id.hex()).out.decode()
    parent = archived.scene.cluster_id.hex()
    assert f"the log and backups of the store that it was forked from: --cluster {parent}" in shown
    assert "not read" not in offline(*there, "--cluster", parent).out.decode()


def test_what_no_record_names_is_no_damage(offline: Any, archived: Archived) -> None:
    log_only(archived)
    archived.store.create(archived.scene.names.file(bytes(32)), [b"of a backup that was never finished"])
    found = offline("archive", "verify", "--archive", archived.url, "-o", "json")
    assert (found.exit_code, len(found.json["leftovers"])) == (0, 1)
    assert "left over: " in offline("archive", "verify", "--archive", archived.url).out.decode()


def test_nothing_to_verify(offline: Any, archived: Archived) -> None:
    archived.store.delete(archived.scene.names.cluster)
    nothing = offline("archive", "verify", "--archive", archived.url, "-o", "json")
    assert (nothing.exit_code, nothing.error["code"]) == (6, "NO_RESTORE_PLAN")
