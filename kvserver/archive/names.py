"""Every object name in an archive: made here, parsed here by one strict pattern, nowhere else.

Below the archive's address, for each cluster (its id, 32 hexadecimal digits):

    <cluster>/CLUSTER                                        whose prefix this is, and which store it was forked from
    <cluster>/log/<epoch>/<first>-<last>-<hash>.kva          a segment of the log, compressed
    <cluster>/manifest/<epoch>/<number>.json                 one record of an epoch's manifest
    <cluster>/backups/<revision>-<time ms>.json              a base backup: which files, at which position
    <cluster>/files/<sha-256>                                a file of a backup; of equal files there is one
    <cluster>/uploads/<number>-<time ms>.json                a backup is being made: its files are named by nothing yet
    <cluster>/points/<name>.json                             a revision that somebody gave a name
    <cluster>/dictionaries/<id>.dict                         a dictionary that small segments are compressed with
    <cluster>/RETENTION                                      what was given up

Numbers are lower-case hexadecimal of fixed width, so that the order of names is the order of history. A name that comes from a
store is taken apart and made again of its parts; no part of it ever becomes a path or another name as it is.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HEX8, _HEX16, _HEX32, _HEX64 = (f"[0-9a-f]{{{width}}}" for width in (8, 16, 32, 64))
_CLUSTER = re.compile(rf"({_HEX32})/CLUSTER")
_SEGMENT = re.compile(rf"({_HEX32})/log/({_HEX8})/({_HEX16})-({_HEX16})-({_HEX32})\.kva")
_MANIFEST = re.compile(rf"({_HEX32})/manifest/({_HEX8})/({_HEX8})\.json")
_BACKUP = re.compile(rf"({_HEX32})/backups/({_HEX16}-{_HEX16})\.json")
_UPLOAD = re.compile(rf"({_HEX32})/uploads/({_HEX16}-{_HEX16})\.json")
_FILE = re.compile(rf"({_HEX32})/files/({_HEX64})")
_POINT = re.compile(rf"({_HEX32})/points/([a-z0-9][a-z0-9._-]{{0,62}})\.json")
_DICTIONARY = re.compile(rf"({_HEX32})/dictionaries/({_HEX8})\.dict")

BACKUP_ID = re.compile(rf"{_HEX16}-{_HEX16}")
"""Revision and time of a backup: what people name it by."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_OBJECT = re.compile(rf"{_PART}(/{_PART}){{0,7}}")
_PREFIX = re.compile(rf"({_PART}/){{0,7}}")

POINT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""The name of a point: what retention keeps because somebody said so."""


class SegmentId(NamedTuple):
    """What the name of an archived segment says; they sort as history does."""

    epoch_number: int
    first_revision: int
    last_revision: int
    """One less than ``first_revision`` for a segment without commits."""
    content_hash: bytes
    """16 bytes; ``kvserver.archive.segment_format.content_hash``."""


class ArchiveNames:
    """The names below one cluster's prefix."""

    def __init__(self, cluster_id: bytes) -> None:
        self.cluster_id = cluster_id
        self.prefix = f"{cluster_id.hex()}/"
        self.cluster = f"{self.prefix}CLUSTER"
        self.retention = f"{self.prefix}RETENTION"
        self.segments = f"{self.prefix}log/"
        self.manifests = f"{self.prefix}manifest/"
        self.backups = f"{self.prefix}backups/"
        self.files = f"{self.prefix}files/"
        self.uploads = f"{self.prefix}uploads/"
        self.points = f"{self.prefix}points/"
        self.dictionaries = f"{self.prefix}dictionaries/"

    def segment(self, segment: SegmentId) -> str:
        """Return the name of an archived segment."""
        epoch, first, last, content_hash = segment
        return f"{self.epoch_segments(epoch)}{first:016x}-{last:016x}-{content_hash.hex()}.kva"

    def epoch_segments(self, epoch_number: int) -> str:
        """Return what the names of an epoch's segments begin with."""
        return f"{self.segments}{epoch_number:08x}/"

    def epoch_manifest(self, epoch_number: int) -> str:
        """Return what the names of an epoch's manifest records begin with."""
        return f"{self.manifests}{epoch_number:08x}/"

    def manifest(self, epoch_number: int, number: int) -> str:
        """Return the name of a manifest record."""
        return f"{self.epoch_manifest(epoch_number)}{number:08x}.json"

    def backup(self, backup_id: str) -> str:
        """Return the name of a backup's record. Raises ValueError for what is no id of a backup."""
        return f"{self.backups}{_whole(BACKUP_ID, backup_id)}.json"

    def file(self, sha256: bytes) -> str:
        """Return the name of a file of a backup."""
        return f"{self.files}{sha256.hex()}"

    def upload(self, upload_id: str) -> str:
        """Return the name of what announces a backup that is being made. Raises ValueError for what is no id of one."""
        return f"{self.uploads}{_whole(BACKUP_ID, upload_id)}.json"

    def point(self, name: str) -> str:
        """Return the name of a named point's record. Raises ValueError for what is no name of one."""
        return f"{self.points}{_whole(POINT_NAME, name)}.json"

    def dictionary(self, dictionary_id: int) -> str:
        """Return the name of a dictionary."""
        return f"{self.dictionaries}{dictionary_id:08x}.dict"


def is_object_name(name: str) -> bool:
    """Say whether a store may be asked for an object of this name: nothing in it means anything to a file system or a URL."""
    return _OBJECT.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """Return the name of an object as it is. Raises ValueError where a store may not be asked for it."""
    return _whole(_OBJECT, name)


def checked_prefix(prefix: str) -> str:
    """Return what a listing is asked for as it is: nothing, or parts of a name that end with a slash. Raises ValueError."""
    return _whole(_PREFIX, prefix)


def backup_id(revision: int, made_ms: int) -> str:
    """Return the id of a backup of a revision made at a time."""
    return f"{revision:016x}-{made_ms:016x}"


def parse_cluster(name: str) -> bytes | None:
    """Return the cluster of a name of the form ``<cluster>/CLUSTER``; None for any other."""
    match = _CLUSTER.fullmatch(name)
    return bytes.fromhex(match[1]) if match else None


def parse_segment(name: str) -> SegmentId | None:
    """Return the parts of an archived segment's name; None for any other."""
    match = _SEGMENT.fullmatch(name)
    return SegmentId(int(match[2], 16), int(match[3], 16), int(match[4], 16), bytes.fromhex(match[5])) if match else None


def parse_manifest(name: str) -> tuple[int, int] | None:
    """Return epoch number and number of a manifest record's name; None for any other."""
    match = _MANIFEST.fullmatch(name)
    return (int(match[2], 16), int(match[3], 16)) if match else None


def parse_backup(name: str) -> str | None:
    """Return the id of a backup record's name; None for any other."""
    match = _BACKUP.fullmatch(name)
    return match[2] if match else None


def parse_file(name: str) -> bytes | None:
    """Return the SHA-256 of a backup file's name; None for any other."""
    match = _FILE.fullmatch(name)
    return bytes.fromhex(match[2]) if match else None


def parse_upload(name: str) -> str | None:
    """Return the id of what announces a backup that is being made; None for any other name."""
    match = _UPLOAD.fullmatch(name)
    return match[2] if match else None


def parse_point(name: str) -> str | None:
    """Return the name of a point from its record's name; None for any other."""
    match = _POINT.fullmatch(name)
    return match[2] if match else None


def parse_dictionary(name: str) -> int | None:
    """Return the id of a dictionary's name; None for any other."""
    match = _DICTIONARY.fullmatch(name)
    return int(match[2], 16) if match else None


def _whole(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{text[:64]!r} is not of the form {pattern.pattern}")
    return text
