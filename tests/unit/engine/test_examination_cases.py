"""Each kind of damage to a data folder is found, by the check that it belongs to, with advice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.limits import MIB
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.register import NodeRecord
from kvserver.base.types import Epoch, Position
from kvserver.engine.examination.examine import CHECKS
from kvserver.engine.examination.findings import Level
from kvserver.engine.examination.subject import FileFacts
from kvserver.replication.local_register import LocalRegister
from kvserver.storage import rows
from kvserver.storage.restore_record import RestoreRecord, create_restore_record
from kvserver.wal import format as fmt
from support.log_scenes import flip
from support.logs import PATHS
from unit.engine.examined import LIMITS, MOUNTS, Scene, worse_than_ok

Damage = Callable[[Scene], object]


def planted(path: Path, data: bytes = b"x") -> Damage:
    return lambda scene: scene.fs.plant(path, data)


def kernel(path: str, text: str) -> Damage:
    return lambda scene: scene.kernel(path, text)


def mounted(kind: str, options: str = "rw") -> Damage:
    return kernel("/proc/self/mountinfo", MOUNTS + f"22 20 0:9 / /data {options} - {kind} none {options}\n")


def limited(name: str, limit: int) -> Damage:
    lines = [line if not line.startswith(name) else f"{name:<26}{limit:<21}{limit:<21}" for line in LIMITS.splitlines()]
    return kernel("/proc/self/limits", "\n".join(lines) + "\n")


def rewritten(path: Path, **changed: object) -> Damage:
    """Give a small record other fields, and the checksum that goes with them."""
    return lambda scene: scene.change(path, lambda data: encode_record({**decode_record(path, data), **changed}))


def row(key: bytes, value: bytes) -> Damage:
    return lambda scene: scene.rows.update({key: value})


def folder_gone(scene: Scene) -> None:
    scene.fs.rename(PATHS.root, Path("/elsewhere"))


def a_file_instead(scene: Scene) -> None:
    folder_gone(scene)
    scene.fs.plant(PATHS.root, b"")


def flipped_first(scene: Scene) -> None:
    scene.change(scene.segments()[0], lambda data: flip(data, fmt.SEGMENT_HEADER_LENGTH + 100))


def inside_a_group(scene: Scene) -> None:
    position = scene.positions[3]
    scene.flush_mark(Position(position.epoch, position.revision - 1, position.chain))


def ahead_of_the_log(scene: Scene) -> None:
    scene.flush_mark(Position(Epoch(1, 1), 99, bytes(16)))


def begins_late(scene: Scene) -> None:
    scene.flush_mark(scene.positions[0])
    scene.remove(scene.segments()[0])


def future(scene: Scene) -> None:
    scene.clock._wall_start_ms -= 600_000


def no_inodes(free: int) -> Damage:
    return lambda scene: setattr(scene.machine, "free_and_all_inodes", (free, 1_000_000))


def disk_with(free_bytes: int) -> Damage:
    return lambda scene: setattr(scene.fs, "free_space_bytes", free_bytes)


def dropped_team(scene: Scene) -> None:
    """The namespace went; its keys have not gone yet."""
    del scene.rows[rows.data_key(0, b"namespace/team")]
    scene.rows[rows.data_key(0, b"dropped/" + (2).to_bytes(4, "big"))] = rows.encode_version(9, 9, 1, b"team")
    scene.rows[rows.data_key(2, b"k")] = rows.encode_version(3, 3, 1, b"")


def identity_lost_beside_tables(scene: Scene) -> None:
    scene.remove_below(PATHS.wal)
    scene.remove(PATHS.identity)


def manifest_cut(scene: Scene) -> None:
    """RocksDB then knows of no table, and says nothing."""
    scene.rows.clear()
    scene.fs.plant(PATHS.tables / "000008.sst", b"x")


def inner_segment_missing(scene: Scene) -> None:
    scene.flush_mark(scene.positions[0])
    scene.remove(scene.segments()[1])


def end_lost(scene: Scene) -> None:
    """A second epoch began, at a revision that the log does not reach."""
    register = LocalRegister(scene.fs, PATHS)
    register.claim(Epoch(2, 2), NodeRecord("tester", "tester", ""), 0)
    register.record_branch(Epoch(2, 2), Position(Epoch(1, 1), 50, bytes(16)))


def foreign_file(scene: Scene) -> None:
    scene.machine.files[scene.segments()[1]] = FileFacts(0, 0o600, (1, 1), 1)


def missing_lock_rights(scene: Scene) -> None:
    def refuse(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    scene.fs.lock = refuse  # type: ignore[method-assign, assignment]


def being_restored(scene: Scene) -> None:
    record = RestoreRecord("file:///srv/archive", bytes(16), 7, False, str(PATHS.root), True, 0, {})
    create_restore_record(Environment(scene.fs, scene.clock), PATHS, record)
    scene.remove(PATHS.identity)


@dataclasses.dataclass
class Case:
    """A damage, and the finding that it must lead to."""

    name: str
    damage: Damage
    check: str
    level: Level
    found: str
    advice: str


P, W, N = Level.PROBLEM, Level.WARNING, Level.NOTE
_CLAIM, _BRANCH, _BEGUN = PATHS.claim(1), PATHS.branch(1), PATHS.begun(1)
_DATA = rows.data_key(1, b"a0")

CASES = [
    Case("no folder", folder_gone, "folder", P, "no such", "--data-dir"),
    Case("a file", a_file_instead, "folder", P, "a file", "--data-dir"),
    Case("strangers", planted(PATHS.root / "notes.txt"), "folder", N, "notes.txt", "move"),
    Case("lock unreadable", missing_lock_rights, "lock", N, "cannot be told", "as the user"),
    Case("identity lost", lambda s: s.remove(PATHS.identity), "identity", P, "holds a log but no IDENTITY", "from a copy"),
    Case("identity lost beside tables", identity_lost_beside_tables, "identity", P, "tables but neither IDENTITY", "from a copy"),
    Case(
        "identity flipped",
        lambda s: s.change(PATHS.identity, lambda d: d[:40] + b"x" + d[41:]),
        "identity",
        P,
        "IDENTITY",
        "copy",
    ),
    Case("newer format", rewritten(PATHS.identity, format_version=99), "identity", P, "format version 99", "newer"),
    Case("another software", rewritten(PATHS.identity, store="x"), "identity", P, "another software", "--data-dir"),
    Case("other register", rewritten(PATHS.identity, register="etcd"), "identity", N, "'etcd'", "own tools"),
    Case("origin damaged", planted(PATHS.origin, b"{}"), "origin", P, "checksum", "checkpoint"),
    Case("prepared left", planted(PATHS.prepared(3)), "leftovers", N, "prepared-3", "may be deleted"),
    Case("table half built", planted(PATHS.table_being_built(9)), "leftovers", N, "flush did not end", "may be deleted"),
    Case("identity.tmp left", planted(PATHS.identity_temporary), "leftovers", N, "IDENTITY.tmp", "may be deleted"),
    Case(
        "torn tail kept",
        lambda s: s.fs.plant(PATHS.torn(s.segments()[0], 4096), b"x"),
        "leftovers",
        N,
        "ends cut",
        "may be deleted",
    ),
    Case(
        "damaged segment kept",
        lambda s: s.fs.plant(PATHS.damaged(s.segments()[0], 1), b"x"),
        "leftovers",
        N,
        "replaced from the archive",
        "may be deleted",
    ),
    Case("copy left", planted(PATHS.scratch / "1" / "ORIGIN"), "leftovers", N, "did not end", "may be deleted"),
    Case("restore did not end", being_restored, "identity", P, "no store yet", "kvctl restore --archive file:///srv/archive"),
    Case("stranger in the log", planted(PATHS.wal / "core"), "leftovers", W, "core", "move"),
    Case("stranger in epochs", planted(PATHS.branch(7)), "leftovers", W, PATHS.branch(7).name, "move"),
    Case("files of another user", foreign_file, "owner", P, "do not belong to user 1000", "chown -R 1000"),
    Case("another user looks", lambda s: setattr(s.machine, "uid", 5), "owner", N, "this is user 5", "as the user"),
    Case("anyone writes", lambda s: s.machine.modes.update({PATHS.root: 0o777}), "owner", W, "every user", "chmod o-rwx"),
    Case(
        "anyone reads",
        lambda s: s.machine.modes.update({PATHS.root: 0o755, PATHS.tables: 0o755}),
        "owner",
        N,
        "look into",
        "chmod",
    ),
    Case("bit flipped in the log", flipped_first, "log", P, "damaged at offset 4096", "kvctl wal verify"),
    Case("segment missing", inner_segment_missing, "log", P, "segment is missing", "from a copy"),
    Case("torn end", Scene.tear_end, "log", W, "torn at offset", "start the server"),
    Case(
        "tables unreadable",
        lambda s: setattr(s, "open_error", Corruption("x", 0, "MANIFEST")),
        "tables",
        P,
        "MANIFEST",
        "checkpoint",
    ),
    Case("disk fails", lambda s: setattr(s, "open_error", OSError(5, "I/O error", "/t")), "tables", P, "I/O error", "dmesg"),
    Case("no mark", lambda s: s.rows.pop(rows.FLUSHED_KEY), "tables", P, "do not say how far", "checkpoint"),
    Case("end of the manifest lost", manifest_cut, "tables", W, "names none of 000008.sst", "ever flushed"),
    Case("unknown mark", row(rows.FLUSHED_KEY, b"\7"), "tables", P, "known form", "software that wrote"),
    Case("foreign tables", lambda s: s.flush_mark(s.positions[3], bytes(16)), "tables", P, "cluster 0000", "one copy"),
    Case("bad block", lambda s: setattr(s, "read_error", Corruption("y.sst", 7, "block")), "tables", P, "y.sst", "checkpoint"),
    Case("row that does not parse", row(_DATA, b"x"), "tables", P, "does not parse", "checkpoint"),
    Case("row of the future", row(_DATA, rows.encode_version(99, 2, 2, b"v")), "tables", P, "newer than", "checkpoint"),
    Case("unknown rows", row(b"zz", b""), "tables", P, "not known", "checkpoint"),
    Case("wrong bucket", row(rows.history_key(9, 1, b"a", 5), rows.encode_version(2, 2, 1, b"")), "tables", P, "bucket", "copy"),
    Case("row lost", lambda s: s.rows.pop(_DATA), "tables", W, "should hold 8 keys", "kvctl export"),
    Case("log begins late", begins_late, "marks", P, "revisions 4 to 5 are neither", "do not start"),
    Case("log gone", lambda s: s.remove(*s.segments()), "marks", P, "the log is gone", "do not start"),
    Case("tables ahead", ahead_of_the_log, "marks", P, "its end is missing", "do not start"),
    Case("another history", Scene.take_other_history, "marks", P, "another history", "same copy"),
    Case("not a frame's end", inside_a_group, "marks", P, "inside a group", "same copy"),
    Case("claim lost", lambda s: s.remove(_CLAIM), "epochs", P, "its claim is lost", "epochs/"),
    Case(
        "nonce differs",
        lambda s: [rewritten(p, nonce="1" * 16)(s) for p in (_CLAIM, _BRANCH, _BEGUN)],
        "epochs",
        P,
        "nonce",
        "epochs/",
    ),
    Case("branch differs", rewritten(_BRANCH, revision=5), "epochs", P, "behind 5 in the register", "epochs/"),
    Case(
        "claim flipped", lambda s: s.change(_CLAIM, lambda d: d.replace(b"tester", b"taster")), "epochs", P, "checksum", "epochs/"
    ),
    Case("claim without a field", planted(_CLAIM, encode_record({"epoch": 1})), "epochs", P, "KeyError", "report this"),
    Case("first segment of the epoch lost", lambda s: s.remove(*s.segments()), "epochs", P, "is missing", "do not start"),
    Case("end of the log lost", end_lost, "epochs", P, "revision 50 was durable", "do not start"),
    Case("window ahead", lambda s: s.oldest(50), "window", P, "oldest readable revision is 50", "same copy"),
    Case("old history left", lambda s: s.oldest(9), "window", N, "older history", "kvctl compact"),
    Case(
        "dropped namespace",
        dropped_team,
        "namespaces",
        N,
        "'team'",
        "kvctl compact",
    ),
    Case("disk full", disk_with(1 * MIB), "space", P, "too little to start", "delete nothing"),
    Case("disk nearly full", disk_with(64 * MIB), "space", W, "64.0 MiB free", "enlarge"),
    Case("no inodes", no_inodes(0), "inodes", P, "none is free", "inodes"),
    Case("few inodes", no_inodes(5), "inodes", W, "5 of", "inodes"),
    Case("in memory", mounted("tmpfs"), "mount", W, "gone when", "on a disk"),
    Case("in a container's layer", mounted("overlay"), "mount", W, "container", "volume"),
    Case("on nfs", mounted("nfs4"), "mount", W, "locks and syncs", "durability"),
    Case("shared by vbox", mounted("vboxsf"), "mount", W, "locks and syncs", "durability"),
    Case("fuse", mounted("fuse.sshfs"), "mount", W, "locks and syncs", "durability"),
    Case("copies on write", mounted("btrfs"), "mount", N, "copies on write", "copy-on-write"),
    Case("read-only", mounted("ext4", "ro"), "mount", P, "read-only", "remount"),
    Case("no barriers", mounted("ext4", "rw,nobarrier"), "mount", W, "barriers", "barriers"),
    Case(
        "two file systems",
        kernel("/proc/self/mountinfo", MOUNTS + "22 20 0:9 / /data/tables rw - ext4 /dev/b rw\n"),
        "mount",
        W,
        "different ones",
        "one file system",
    ),
    Case("slow disk", lambda s: s.slow_disk(40), "sync", W, "25 writes/s", "faster disk"),
    Case("disk that does not sync", lambda s: s.slow_disk(0), "sync", W, "too fast", "loss of power"),
    Case("few descriptors", limited("Max open files", 256), "descriptors", W, "256 are allowed", "LimitNOFILE"),
    Case("small files only", limited("Max file size", MIB), "file-size", P, "the log fails", "LimitFSIZE"),
    Case("rather small files", limited("Max file size", 100 * MIB), "file-size", W, "larger", "LimitFSIZE"),
    Case("small group", kernel("/sys/fs/cgroup/kv/memory.max", f"{128 * MIB}\n"), "memory", W, "128.0 MiB", "--memory-limit-mb"),
    Case("small machine", kernel("/proc/meminfo", "MemTotal: 200000 kB\n"), "memory", W, "195.3 MiB", "--memory-limit-mb"),
    Case("clock behind", future, "clock", W, "600 s in the future", "set the clock"),
]


def test_a_folder_that_is_being_restored_is_not_called_damaged() -> None:
    """What lies in it is on its way: that tables and log do not fit together yet is no finding, and no advice is given on it."""
    scene = Scene()
    being_restored(scene)
    scene.remove(*scene.segments())
    assert [one.check for one in worse_than_ok(scene.examine())] == ["identity"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_damaged_folder_gets_its_finding_and_its_advice(case: Case) -> None:
    scene = Scene()
    case.damage(scene)
    found = [one for one in scene.examine() if one.check == case.check and one.level is case.level and case.found in one.found]
    assert len(found) == 1, "\n".join(map(str, worse_than_ok(scene.examine())))
    assert case.advice in found[0].advice


def test_every_check_has_a_case() -> None:
    told = {case.check for case in CASES} | {"holds"}
    assert told == {check.name for check in CHECKS}


def test_most_damage_is_found_by_its_own_check_alone() -> None:
    """What has nothing to do with a damage must not complain about it."""
    alone = {
        "bit flipped in the log": {"log", "marks"},
        "another history": {"marks"},
        "branch differs": {"epochs"},
        "row lost": {"tables"},
    }
    for case in CASES:
        if case.name in alone:
            scene = Scene()
            case.damage(scene)
            assert {finding.check for finding in worse_than_ok(scene.examine())} <= alone[case.name], case.name
