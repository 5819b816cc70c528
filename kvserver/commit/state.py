"""The newest state: the memtable and what is derived from the system's own rows. Live commits and replay go through it alike."""

from __future__ import annotations

from typing import NamedTuple

from kvserver.base.errors import UnknownNamespace
from kvserver.base.types import CREATION_REVISION, DEFAULT_NAMESPACE, FIRST_NAMESPACE, SYSTEM_NAMESPACE
from kvserver.storage.memtable import Memtable
from kvserver.wal.commit_record import EFFECTS, ONE_LENGTH, PUT, Effect, decode_commit, unpack_one

_NAMESPACE_ROW = b"namespace/"
_NEXT_ID_ROW = b"next-namespace-id"


class NamespaceEntry(NamedTuple):
    """One namespace of the catalogue."""

    name: str
    id: int
    create_revision: int


class State:
    """Memtable and catalogue; the event loop owns both."""

    def __init__(self) -> None:
        self.memtable = Memtable()
        self.namespaces = {"": NamespaceEntry("", DEFAULT_NAMESPACE, CREATION_REVISION)}
        self.next_namespace_id = FIRST_NAMESPACE

    def namespace_id(self, name: str, revision: int) -> int:
        """Return the id of a namespace that exists at the revision. Raises UnknownNamespace."""
        entry = self.namespaces.get(name)
        if entry is None or entry.create_revision > revision:
            raise UnknownNamespace(name)
        return entry.id

    def creation_effects(self, name: str) -> list[Effect]:
        """Return the effects of creating a namespace: its row, and the next id, so that no id is ever used twice."""
        number = self.next_namespace_id
        row = Effect(PUT, SYSTEM_NAMESPACE, _NAMESPACE_ROW + name.encode(), number.to_bytes(4, "little"))
        counter = Effect(PUT, SYSTEM_NAMESPACE, _NEXT_ID_ROW, (number + 1).to_bytes(4, "little"))
        return [row, counter]

    def apply(self, effects: list[Effect], revision: int) -> None:
        """Insert one commit."""
        self.memtable.apply(effects, revision)
        for effect in effects:
            if effect.namespace == SYSTEM_NAMESPACE:
                self._apply_system_row(effect, revision)

    def _apply_system_row(self, effect: Effect, revision: int) -> None:
        if effect.key.startswith(_NAMESPACE_ROW):
            name = effect.key[len(_NAMESPACE_ROW) :].decode()
            self.namespaces[name] = NamespaceEntry(name, int.from_bytes(effect.value, "little"), revision)
        elif effect.key == _NEXT_ID_ROW:
            self.next_namespace_id = int.from_bytes(effect.value, "little")

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
            self.memtable.put_run(namespace, keys, values, next_revision - len(keys))
            keys.clear()
            values.clear()
