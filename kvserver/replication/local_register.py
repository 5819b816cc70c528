"""The register of a single node: files in its own data folder, each created once.

It can be trusted because the folder's lock keeps other processes out; it protects against nothing beyond this folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, create_once, read_file
from kvserver.base.paths import DataPaths, parse_claim
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.register import EpochRecord
from kvserver.base.types import Epoch, Position

KIND = "local"


class LocalRegister:
    """Claims and branch records as files below ``epochs/``."""

    def __init__(self, fs: FileSystem, paths: DataPaths) -> None:
        self._fs = fs
        self._paths = paths

    def records(self) -> list[EpochRecord]:
        """Return all epochs, oldest first. Raises Corruption."""
        if not self._fs.exists(self._paths.epochs):
            return []
        numbers = (parse_claim(name) for name in self._fs.list_dir(self._paths.epochs))
        return [self._record(number) for number in sorted(number for number in numbers if number is not None)]

    def claim(self, epoch: Epoch, node_id: str, now_ms: int) -> None:
        """Claim an epoch. Raises FileExistsError, OSError."""
        self._fs.make_dir(self._paths.epochs)
        fields = {"epoch": epoch.number, "nonce": f"{epoch.nonce:016x}", "node_id": node_id, "claimed_ms": now_ms}
        self._create(self._paths.claim(epoch.number), fields)

    def record_branch(self, epoch: Epoch, branch: Position) -> None:
        """Record where an epoch begins. Raises FileExistsError, OSError."""
        fields = {
            "nonce": f"{epoch.nonce:016x}",
            "parent_epoch": branch.epoch.number,
            "parent_nonce": f"{branch.epoch.nonce:016x}",
            "revision": branch.revision,
            "chain": branch.chain.hex(),
        }
        self._create(self._paths.branch(epoch.number), fields)

    def record_begun(self, epoch: Epoch) -> None:
        """Record that the epoch's first segment is durable. Raises FileExistsError, OSError."""
        self._create(self._paths.begun(epoch.number), {"nonce": f"{epoch.nonce:016x}"})

    def _create(self, path: Path, fields: dict[str, Any]) -> None:
        create_once(self._fs, path, self._paths.epoch_temporary(), encode_record(fields))

    def _record(self, number: int) -> EpochRecord:
        claim = self._read(self._paths.claim(number))
        if claim["epoch"] != number:
            raise Corruption(self._paths.claim(number), 0, f"the claim is to epoch {claim['epoch']}")
        epoch = Epoch(number, int(claim["nonce"], 16))
        branch = None
        if self._fs.exists(self._paths.branch(number)):
            fields = self._read_beside(self._paths.branch(number), claim)
            parent = Epoch(fields["parent_epoch"], int(fields["parent_nonce"], 16))
            branch = Position(parent, fields["revision"], bytes.fromhex(fields["chain"]))
        begun = self._fs.exists(self._paths.begun(number))
        if begun:
            self._read_beside(self._paths.begun(number), claim)
        return EpochRecord(epoch, claim["node_id"], claim["claimed_ms"], branch, begun)

    def _read_beside(self, path: Path, claim: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a record that belongs to a claim. Raises Corruption where it belongs to another."""
        fields = self._read(path)
        if fields["nonce"] != claim["nonce"]:
            raise Corruption(path, 0, "the record is of another claim to the same number")
        return fields

    def _read(self, path: Path) -> dict[str, Any]:
        return decode_record(path, read_file(self._fs, path))
