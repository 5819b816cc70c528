"""The register that all nodes of a cluster see: objects below an address of its own, in a shared folder or in object storage.

What keeps two primaries apart is one property of the store: a name is created once. Whoever creates the claim to a number has the
epoch, and nobody else will. All the rest is care for what lies between this property and its user:

* **An answer that is lost.** After ``StoreUnavailable`` a record may be there or not. It is created again: where that succeeds it
  was not, where the name is taken it is read back. Each record carries the random token of the call that wrote it, so a call
  knows its own record from one that says the same. Where even that does not come through, the error says so; a claim that is
  there without anybody knowing is passed over as one without a branch.
* **The wrong place.** A share that is not mounted is an empty folder that takes every claim. So the object REGISTER is read
  before anything is written or epochs are listed, and must be the one that the node's identity names.
* **A listing that lags.** Storages exist that list an object a moment late. Epochs are read by name behind the last one listed,
  and so are the branch and begin of those whose listing lacks them.
* **Damage.** Every record is checked whole. One that does not check is corruption, never skipped: without it the same number
  could mean two primacies.

Every call blocks, perhaps for minutes, so none is made on the event loop. Safe for several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvserver.archive.store import Held, ObjectExists, ObjectMissing, ReplaceConflict, Store, StoreError, StoreUnavailable
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, OpenRefused, ReplicationError
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote
from kvserver.base.types import Epoch, Identity, Position
from kvserver.replication import register_records as records
from kvserver.replication.register_records import Claim, Founded

KIND_PREFIX = "store:"
"""What the identity of a node says of such a register begins so; its id follows."""

_TRIES = 3
"""Another writer is given way to so often, and an answer that was lost asked for again."""


def look(store: Store) -> Founded | None:
    """Return what a store is the register of; None where it is none yet. Raises ReplicationError, Corruption."""
    with _reachable(store.url):
        try:
            data = store.read(records.REGISTER, limit=records.MAX_RECORD_BYTES)
        except ObjectMissing:
            return None
        except ValueError as error:
            raise records.damaged(_where(store, records.REGISTER), str(error)) from None
    return records.parse_founded(_where(store, records.REGISTER), data)


def found(store: Store, env: Environment, cluster_id: bytes | None = None) -> Founded:
    """Make a store the register of a cluster, or return what it is already; the caller compares (``check_same``).

    ``cluster_id``: the cluster it is to belong to; None: a new one. Of two that found it at once one wins, and both are told the
    same. Raises ReplicationError where it cannot be reached, Corruption.
    """
    founded = look(store)
    if founded is not None:
        return founded
    wanted = Founded(cluster_id or env.random_bytes(16), records.new_id(env.random_bytes))
    data = records.encode_founded(wanted, records.new_token(env.random_bytes))
    if _create_once(store, records.REGISTER, data):
        return wanted
    founded = look(store)
    if founded is None:
        raise _unavailable(store.url, f"{records.REGISTER} was created and is gone")
    return founded


def check_same(identity: Identity, founded: Founded) -> None:
    """Raise OpenRefused unless a node and a register belong to one cluster, and the node to no other register of this kind."""
    if founded.cluster_id != identity.cluster_id:
        raise OpenRefused(
            f"the register belongs to cluster {founded.cluster_id.hex()}, the node to cluster {identity.cluster_id.hex()}",
            "name the register of the node's own cluster with --register; each cluster has an address of its own",
        )
    kind = kind_of(founded)
    if identity.register.startswith(KIND_PREFIX) and identity.register != kind:
        raise OpenRefused(
            f"the node belongs to the register {identity.register.removeprefix(KIND_PREFIX)}, this one is {founded.id}",
            "name the register that the node was made with; a copy of it, or one made anew, is another one",
        )


def kind_of(founded: Founded) -> str:
    """Return what the identity of a node says of this register."""
    return f"{KIND_PREFIX}{founded.id}"


class StoreRegister:
    """The register in a store; ``founded`` is what the store must be, as the node's identity or ``found`` says."""

    def __init__(self, store: Store, founded: Founded, env: Environment) -> None:
        self.id = founded.id
        self.url = store.url
        self.founded = founded
        self._store = store
        self._random_bytes = env.random_bytes
        self._whole: dict[int, EpochRecord] = {}
        """Epochs that have begun: nothing of them changes any more."""
        self._notes: dict[int, PolicyNote] = {}

    @property
    def kind(self) -> str:
        """What the identity of a node says of this register."""
        return kind_of(self.founded)

    def check(self) -> None:
        """Raise ReplicationError unless this register is what lies at the address now."""
        at_hand = look(self._store)
        if at_hand is None:
            raise _unavailable(self.url, "there is no register; a folder may not be mounted")
        if at_hand != self.founded:
            raise ReplicationError(
                Code.REGISTER_UNAVAILABLE,
                f"at {self.url} lies the register {at_hand.id} of cluster {at_hand.cluster_id.hex()}, not {self.id}",
                "name the address of the register that the cluster was made with",
            )

    # Epochs

    def records(self) -> list[EpochRecord]:
        """Return all epochs, oldest first; see ``Register``."""
        self.check()
        listed = self._listed(records.EPOCHS)
        numbers = sorted(number for name in listed if (number := records.parse_claim_name(name)) is not None)
        found = [record for number in numbers if (record := self._epoch(number)) is not None]
        if len(found) < len(numbers):
            number = min(set(numbers) - {record.epoch.number for record in found})
            raise records.damaged(_where(self._store, records.claim_name(number)), "it is listed and cannot be found")
        following = (numbers[-1] if numbers else 0) + 1
        while following <= records.MAX_NUMBER and (record := self._epoch(following)) is not None:
            found.append(record)
            following += 1
        return found

    def claim(self, epoch: Epoch, node: NodeRecord, now_ms: int) -> None:
        """Claim an epoch; see ``Register``."""
        claim = Claim(epoch, node, now_ms)
        self._create(records.claim_name(epoch.number), lambda token: records.encode_claim(self.id, claim, token))

    def record_branch(self, epoch: Epoch, branch: Position) -> None:
        """Record where an epoch begins; see ``Register``. Raises ReplicationError (FENCED) where somebody else claimed it."""
        self._require_claim(epoch)
        name = records.branch_name(epoch.number)
        self._create(name, lambda token: records.encode_branch(self.id, epoch, branch, token))

    def record_begun(self, epoch: Epoch) -> None:
        """Record that the epoch's first segment is durable; see ``record_branch``."""
        self._require_claim(epoch)
        self._create(records.begun_name(epoch.number), lambda token: records.encode_begun(self.id, epoch, token))

    # Nodes

    def nodes(self) -> list[NodeRecord]:
        """Return the nodes that have joined; see ``Register``."""
        joined = []
        for name in self._listed(records.NODES):
            node = records.parse_node_name(name)
            data = self._read(name) if node is not None else None
            if node is not None and data is not None:
                joined.append(records.parse_node(_where(self._store, name), data, self.id, node))
        return joined

    def join(self, node: NodeRecord) -> None:
        """Write where a node is spoken to; see ``Register``."""
        name, data = records.node_name(node.name), records.encode_node(self.id, node)
        self.check()
        with _reachable(self.url):
            for number in range(_TRIES):
                try:
                    held: Held | None = self._store.held(name)
                    if held is not None and held.data == data:
                        return
                    self._store.replace(name, data, held.token if held is not None else None)
                    return
                except (ReplaceConflict, StoreUnavailable):
                    if number == _TRIES - 1:
                        raise

    # Notes

    def notes(self) -> list[PolicyNote]:
        """Return what was noted about the policy; see ``Register``."""
        noted = []
        for name in self._listed(records.NOTES):
            number = records.parse_note_name(name)
            if number is None:
                continue
            if number not in self._notes:
                data = self._read(name)
                if data is None:
                    raise records.damaged(_where(self._store, name), "it is listed and cannot be found")
                self._notes[number] = records.parse_note(_where(self._store, name), data, self.id, number)
            noted.append(self._notes[number])
        return noted

    def add_note(self, note: PolicyNote) -> None:
        """Add a note; see ``Register``."""
        self._create(records.note_name(note.number), lambda token: records.encode_note(self.id, note, token))

    def close(self) -> None:
        """Let go of the store's connections. Twice does no harm."""
        self._store.close()

    # Reading and writing

    def _epoch(self, number: int) -> EpochRecord | None:
        """Return an epoch, None where nobody claimed it. What a listing lacks may be there all the same."""
        if number in self._whole:
            return self._whole[number]
        data = self._read(records.claim_name(number))
        if data is None:
            return None
        where = _where(self._store, records.claim_name(number))
        epoch, node, claimed_ms = records.parse_claim(where, data, self.id, number)
        begun, branch = False, None  # read in this order: whoever writes them at this moment writes the branch first
        if (data := self._read(name := records.begun_name(number))) is not None:
            begun = records.parse_begun(_where(self._store, name), data, self.id, epoch)
        if (data := self._read(name := records.branch_name(number))) is not None:
            branch = records.parse_branch(_where(self._store, name), data, self.id, epoch)
        if begun and branch is None:
            raise records.damaged(
                _where(self._store, records.branch_name(number)), "the epoch has begun, but the record is missing"
            )
        record = EpochRecord(epoch, node.node_id, claimed_ms, branch, begun, node.name)
        if begun:
            self._whole[number] = record
        return record

    def _require_claim(self, epoch: Epoch) -> None:
        name = records.claim_name(epoch.number)
        data = self._read(name)
        if data is None:
            raise records.damaged(_where(self._store, name), "the claim is missing")
        claimed = records.parse_claim(_where(self._store, name), data, self.id, epoch.number)
        if claimed.epoch != epoch:
            raise ReplicationError(
                Code.FENCED,
                f"epoch {epoch.number} belongs to {claimed.node.name or claimed.node.node_id or 'another node'}",
                "see who is primary with: kvctl cluster history",
            )

    def _create(self, name: str, encode: Callable[[bytes], bytes]) -> None:
        data = encode(records.new_token(self._random_bytes))
        self.check()
        if not _create_once(self._store, name, data):
            raise FileExistsError(f"{self.url}: {name} exists already")

    def _listed(self, prefix: str) -> list[str]:
        with _reachable(self.url):
            return [info.name for info in self._store.list(prefix)]

    def _read(self, name: str) -> bytes | None:
        with _reachable(self.url):
            try:
                return self._store.read(name, limit=records.MAX_RECORD_BYTES)
            except ObjectMissing:
                return None
            except ValueError as error:
                raise records.damaged(_where(self._store, name), str(error)) from None


def _create_once(store: Store, name: str, data: bytes) -> bool:
    """Create an object, and say whether it is there by this very call. Raises ReplicationError where that is not known."""
    with _reachable(store.url):
        for number in range(_TRIES):
            try:
                store.create(name, [data])
                return True
            except ObjectExists:  # perhaps by this call: a try whose answer was lost, here or inside the store's client
                break
            except StoreUnavailable:
                if number == _TRIES - 1:
                    raise
        for number in range(_TRIES):
            try:
                return store.read(name, limit=records.MAX_RECORD_BYTES) == data
            except ValueError:
                return False
            except StoreUnavailable:
                if number == _TRIES - 1:
                    raise
    raise AssertionError("every try ends the loop or is followed by another")


@contextmanager
def _reachable(url: str) -> Iterator[None]:
    """Say in terms of the register what the store answers."""
    try:
        yield
    except ObjectMissing as error:
        raise records.damaged(f"{url}/{error.name}", "it is missing") from None
    except StoreError as error:
        reason = error.message.removeprefix("the archive ").removeprefix(url).removeprefix(" ")
        raise _unavailable(url, reason.removeprefix("cannot be reached: ").removeprefix("refuses: "), error.hint) from error


def _unavailable(url: str, reason: str, hint: str = "") -> ReplicationError:
    return ReplicationError(
        Code.REGISTER_UNAVAILABLE,
        f"the register {url} cannot be used: {reason}",
        hint or "see that it is up and reachable, and try again; until then no node becomes primary",
    )


def _where(store: Store, name: str) -> str:
    return f"{store.url}/{name}"
