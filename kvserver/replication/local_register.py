"""The register of a single node: files in its own data folder, each created once.

It can be trusted because the folder's lock keeps other processes out; it protects against nothing beyond this folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvserver.base.errors import Code, Corruption, ReplicationError
from kvserver.base.fs import FileSystem, create_once, read_file
from kvserver.base.paths import DataPaths, parse_claim
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote
from kvserver.base.types import Epoch, Position

KIND = "local"


class LocalRegister:
    """Claims and branch records as files below ``epochs/``. It knows of no other node, and of no quorum."""

    id = KIND
    url = ""

    def __init__(self, fs: FileSystem, paths: DataPaths) -> None:
        self._fs = fs
        self._paths = paths

    def records(self) -> list[EpochRecord]:
        """Return all epochs, oldest first. Raises Corruption."""
        if not self._fs.exists(self._paths.epochs):
            return []
        numbers = (parse_claim(name) for name in self._fs.list_dir(self._paths.epochs))
        return [self._record(number) for number in sorted(number for number in numbers if number is not None)]

    def claim(self, epoch: Epoch, node: NodeRecord, now_ms: int) -> None:
        """Claim an epoch; of the node its id is kept. Raises FileExistsError, OSError."""
        self._fs.make_dir(self._paths.epochs)
        fields = {"epoch": epoch.number, "nonce": f"{epoch.nonce:016x}", "node_id": node.node_id, "claimed_ms": now_ms}
        self._create(self._paths.claim(epoch.number), fields)

    def record_branch(self, epoch: Epoch, branch: Position) -> None:
        """Record where an epoch begins. Raises FileExistsError, ReplicationError (FENCED: another claim has it), OSError."""
        self._require_claim(epoch)
        fields = {
            "nonce": f"{epoch.nonce:016x}",
            "parent_epoch": branch.epoch.number,
            "parent_nonce": f"{branch.epoch.nonce:016x}",
            "revision": branch.revision,
            "chain": branch.chain.hex(),
        }
        self._create(self._paths.branch(epoch.number), fields)

    def record_begun(self, epoch: Epoch) -> None:
        """Record that the epoch's first segment is durable; see ``record_branch``."""
        self._require_claim(epoch)
        self._create(self._paths.begun(epoch.number), {"nonce": f"{epoch.nonce:016x}"})

    def nodes(self) -> list[NodeRecord]:
        """Return nothing: there is no other node."""
        return []

    def join(self, node: NodeRecord) -> None:
        """Do nothing: nobody looks for the node here."""

    def notes(self) -> list[PolicyNote]:
        """Return nothing: a single node has no quorum to give up."""
        return []

    def add_note(self, note: PolicyNote) -> None:
        """Raise ReplicationError (POLICY_UNMET): there is no quorum to give up or to return to."""
        what = "a node whose register is in its own folder has no quorum to give up or to return to"
        raise ReplicationError(Code.POLICY_UNMET, what, "see what holds with: kvctl cluster policy")

    def _require_claim(self, epoch: Epoch) -> None:
        claim = self._read(self._paths.claim(epoch.number))
        if claim["nonce"] != f"{epoch.nonce:016x}":
            what = f"epoch {epoch.number} belongs to another claim, of node {claim['node_id'] or 'unknown'}"
            raise ReplicationError(Code.FENCED, what, "stop this node and see which one is meant to serve")

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
