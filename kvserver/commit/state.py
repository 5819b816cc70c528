"""The newest state: the view and what is derived from the system's own rows. Live commits and replay go through it alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kvserver.base.errors import UnknownNamespace
from kvserver.base.policy import ASYNC, Policy, decode_policy, encode_policy
from kvserver.base.types import CREATION_REVISION, DEFAULT_NAMESPACE, FIRST_NAMESPACE, SYSTEM_NAMESPACE
from kvserver.commit.idempotency import ROWS as IDEMPOTENCY_ROWS
from kvserver.commit.idempotency import Answers
from kvserver.storage.memtable import Memtable
from kvserver.storage.resolve import DROPPED_ROW
from kvserver.storage.rows import data_span, decode_version, key_of
from kvserver.storage.tables import Row
from kvserver.storage.view import View
from kvserver.wal.commit_record import DELETE, EFFECTS, ONE_LENGTH, PUT, Effect, decode_commit, unpack_one

_NAMESPACE_ROW = b"namespace/"
_NEXT_ID_ROW = b"next-namespace-id"
_OLDEST_ROW = b"oldest-readable-revision"
_POLICY_ROW = b"policy"

CATALOGUE_SPAN = data_span(SYSTEM_NAMESPACE, b"", b"")
"""Where the tables hold the system's own rows."""


class NamespaceEntry(NamedTuple):
    """One namespace of the catalogue."""

    name: str
    id: int
    create_revision: int
    drop_revision: int = 0
    """The commit that dropped it; 0: it exists."""

    def exists_at(self, revision: int) -> bool:
        """Say whether it exists at a revision."""
        return self.create_revision <= revision and not 0 < self.drop_revision <= revision


class State:
    """View and catalogue; the event loop owns both."""

    def __init__(self, view: View | None = None) -> None:
        self.view = view or View()
        self.namespaces = {"": NamespaceEntry("", DEFAULT_NAMESPACE, CREATION_REVISION)}
        self.dropped: dict[int, NamespaceEntry] = {}
        """The dropped namespaces, by number: nothing is written to them, and their rows give their space back."""
        self.next_namespace_id = FIRST_NAMESPACE
        self.answers = Answers()
        """What became of writes that carried an idempotency key."""
        self._oldest = [(0, CREATION_REVISION)]
        """The newest commits that gave history up, each with the oldest revision that it left readable."""
        self._policies = [ASYNC]
        """Oldest first."""
        self.on_policy: Callable[[], None] = lambda: None
        """Called when the commit of a policy is being applied."""

    @property
    def memtable(self) -> Memtable:
        """Return the memtable that takes the newest commits."""
        return self.view.active

    # -- the catalogue --------------------------------------------------------------------------------------------

    def namespace_id(self, name: str, revision: int) -> int:
        """Return the id of a namespace that exists at the revision. Raises UnknownNamespace."""
        entry = self.namespaces.get(name)
        if entry is not None and entry.exists_at(revision):
            return entry.id
        for dropped in self.dropped.values():  # its drop, or that of another of its name, may not be visible yet
            if dropped.name == name and dropped.exists_at(revision):
                return dropped.id
        raise UnknownNamespace(name)

    def namespaces_at(self, revision: int) -> list[NamespaceEntry]:
        """Return the namespaces that exist at a revision, by name."""
        entries = (*self.namespaces.values(), *self.dropped.values())
        return sorted((entry for entry in entries if entry.exists_at(revision)), key=lambda entry: entry.name)

    def require_live(self, namespace: int, revision: int | None = None) -> None:
        """Raise UnknownNamespace where the namespace was dropped (None: visibly or not) up to a revision.

        For who asks of the newest state, it may be told when the drop is visible.
        """
        entry = self.dropped.get(namespace)
        if entry is not None and (revision is None or entry.drop_revision <= revision):
            error = UnknownNamespace(entry.name)
            error.depends_on = entry.drop_revision
            raise error

    def creation_effects(self, name: str) -> list[Effect]:
        """Return the effects of creating a namespace: its row, and the next id, so that no id is ever used twice."""
        number = self.next_namespace_id
        row = Effect(PUT, SYSTEM_NAMESPACE, _NAMESPACE_ROW + name.encode(), number.to_bytes(4, "little"))
        counter = Effect(PUT, SYSTEM_NAMESPACE, _NEXT_ID_ROW, (number + 1).to_bytes(4, "little"))
        return [row, counter]

    def drop_effects(self, entry: NamespaceEntry) -> list[Effect]:
        """Return the effects of dropping a namespace: its row goes, and a mark stays that its keys are to be removed."""
        row = Effect(DELETE, SYSTEM_NAMESPACE, _NAMESPACE_ROW + entry.name.encode(), b"")
        mark = Effect(PUT, SYSTEM_NAMESPACE, DROPPED_ROW + entry.id.to_bytes(4, "big"), entry.name.encode())
        return [row, mark]

    # -- history --------------------------------------------------------------------------------------------------

    def oldest_readable(self, revision: int) -> int:
        """Return the oldest revision that can be read at, as the commits up to a revision have it."""
        return next((oldest for commit, oldest in reversed(self._oldest) if commit <= revision), self._oldest[0][1])

    @property
    def newest_compaction(self) -> tuple[int, int]:
        """Return the newest commit that gave history up, visible or not, and the oldest revision that it left readable."""
        return self._oldest[-1]

    @staticmethod
    def compaction_effects(oldest: int) -> list[Effect]:
        """Return the effects of giving up what is older than a revision."""
        return [Effect(PUT, SYSTEM_NAMESPACE, _OLDEST_ROW, oldest.to_bytes(8, "little"))]

    # -- the policy -----------------------------------------------------------------------------------------------

    @property
    def newest_policy(self) -> Policy:
        """Return the policy that the newest commit of one set, visible or not."""
        return self._policies[-1]

    def policies_at(self, visible: int) -> list[Policy]:
        """Return the policies that must hold for what is not visible yet, oldest first: the one in force at the visible
        revision, and each that a later commit set, for as long as that is not visible itself. A change needs both quorums.

        At an open everything behind the tables counts as later, so whatever was in force when it was written must hold.
        """
        later = next((place for place, policy in enumerate(self._policies) if policy.revision > visible), len(self._policies))
        return self._policies[max(0, later - 1) :]

    def needs_quorum(self, visible: int) -> bool:
        """Say whether any of these policies names a quorum."""
        return any(policy.write_quorum for policy in self.policies_at(visible))

    def forget_policies(self, visible: int) -> None:
        """Forget the policies that do not matter any more once a revision is visible."""
        self._policies = self.policies_at(visible)

    @staticmethod
    def policy_effects(policy: Policy) -> list[Effect]:
        """Return the effects of setting a policy."""
        return [Effect(PUT, SYSTEM_NAMESPACE, _POLICY_ROW, encode_policy(policy))]

    # -- changing -------------------------------------------------------------------------------------------------

    def apply(self, effects: list[Effect], revision: int) -> None:
        """Insert one commit."""
        self.view.active.apply(effects, revision)
        for effect in effects:
            if effect.namespace == SYSTEM_NAMESPACE:
                self._apply_system_row(effect.key, effect.value if effect.op == PUT else None, revision)

    def load(self, rows: Iterable[Row]) -> None:
        """Take in the system's own rows as the tables hold them."""
        for row_key, row in rows:
            stored = decode_version(row)
            self._apply_system_row(key_of(row_key), stored.value, stored.mod_revision)

    def _apply_system_row(self, key: bytes, value: bytes | None, revision: int) -> None:
        if key.startswith(IDEMPOTENCY_ROWS):
            self.answers.apply(key, value, revision)
        elif key.startswith(_NAMESPACE_ROW) and value is not None:
            name = key[len(_NAMESPACE_ROW) :].decode()
            self.namespaces[name] = NamespaceEntry(name, int.from_bytes(value, "little"), revision)
        elif key.startswith(DROPPED_ROW) and value is not None:
            name, number = value.decode(), int.from_bytes(key[len(DROPPED_ROW) :], "big")
            entry = self.namespaces.get(name)
            if entry is not None and entry.id == number:
                del self.namespaces[name]
            else:  # loaded from the tables: it went, or another of its name came, before the store was opened
                entry = NamespaceEntry(name, number, CREATION_REVISION)
            self.dropped[number] = entry._replace(drop_revision=revision)
        elif key == _NEXT_ID_ROW and value is not None:
            self.next_namespace_id = int.from_bytes(value, "little")
        elif key == _OLDEST_ROW and value is not None:
            self._oldest = [*self._oldest[-4096:], (revision, int.from_bytes(value, "little"))]
        elif key == _POLICY_ROW and value is not None:
            self._policies.append(decode_policy(value, revision))
            self.on_policy()

    def replay_group(self, first_revision: int, count: int, payload: bytes) -> None:
        """Insert the commits of one group. Raises ValueError where the payload does not parse to exactly ``count``.

        Runs of one-put commits, nearly all there is, are collected and inserted by the same fast path as live ones.
        """
        at, end, revision = 0, len(payload), first_revision
        last = first_revision + count - 1
        keys: list[bytes] = []
        values: list[bytes] = []
        run_namespace = SYSTEM_NAMESPACE
        while at + ONE_LENGTH <= end:
            length, kind, flags, effects, op, effect_flags, key_length, value_length, namespace = unpack_one(payload, at)
            value_at = at + ONE_LENGTH + key_length
            stop = at + length
            plain = effects == 1 and op == PUT and not effect_flags and not flags and kind == EFFECTS
            if not plain or not namespace or stop != value_at + value_length or stop > end:
                self._insert_run(run_namespace, keys, values, revision)
                one, stop = decode_commit(payload, at, end)
                self.apply(one, revision)
                revision += 1
            else:
                if namespace != run_namespace:
                    self._insert_run(run_namespace, keys, values, revision)
                    run_namespace = namespace
                keys.append(payload[at + ONE_LENGTH : value_at])
                values.append(payload[value_at:stop])
                revision += 1
            at = stop
        self._insert_run(run_namespace, keys, values, revision)
        if at != end or revision - 1 != last:
            raise ValueError(f"the group holds {revision - first_revision} commits, not {count}, or has a rest")

    def _insert_run(self, namespace: int, keys: list[bytes], values: list[bytes], next_revision: int) -> None:
        """Insert the collected run, whose last commit is the one before ``next_revision``, and begin a new one."""
        if keys:
            self.view.active.put_run(namespace, keys, values, next_revision - len(keys))
            keys.clear()
            values.clear()
