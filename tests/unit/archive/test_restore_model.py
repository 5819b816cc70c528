"""Random histories, restored to every single revision: what opens is what the model says, now and at every past revision."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvserver.base.errors import Code, RevisionError
from kvserver.base.options import TableOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import Version
from kvserver.commit.requests import (
    Batch,
    CompactHistory,
    CreateNamespace,
    Delete,
    DeleteSpan,
    DropNamespace,
    Put,
    PutRun,
    Request,
)
from kvserver.engine.database import Database
from kvserver.storage.content_hash import ContentHash, content_hash
from kvserver.storage.ranges import EVERYTHING
from support.archived_store import ArchivedStore, all_of
from support.model import Model

KEYS = [b"a", b"a\0", b"b", b"c" * 40]
NAMES = ["one", "two"]
Content = dict[tuple[str, bytes], Version]


def random_request(rng: random.Random, model: Model) -> Request:
    """Return something that may be asked of a store; it may be refused."""
    namespace, key = rng.choice(model.live_namespaces), rng.choice(KEYS)
    value = rng.randbytes(rng.choice((0, 3, 60)))
    match rng.randrange(20):
        case 0:
            return CreateNamespace(rng.choice(NAMES))
        case 1:
            return DropNamespace(rng.choice(NAMES))
        case 2:
            return CompactHistory(rng.randrange(1, model.revision + 1))
        case 3 | 4 | 5:
            return Delete(namespace, key)
        case 6:
            return DeleteSpan(namespace, EVERYTHING)
        case 7:
            return Put(namespace, key, value, if_revision=0)
        case 8 | 9:
            row = model.rows.get((namespace, key))
            return Put(namespace, key, value, if_revision=row.mod_revision if row else 0)
        case 10 | 11:
            return Batch([Put(namespace, b"a", value), Delete(namespace, b"b"), Put(namespace, b"c", value)])
        case 12:
            return PutRun(namespace, [key, b"run", key], [value, b"", b"again"])
        case _:
            return Put(namespace, key, value)


def expected_at(model: Model, revision: int, seen_from: int) -> Content:
    """Return what a store that stands at ``seen_from`` shows at a revision: of namespaces that exist where it stands."""
    names = {number: name for name, number in model.namespaces_at(seen_from).items()}
    return {
        (names[namespace], key): Version(key, row.value, row.create_revision, row.mod_revision, row.version)
        for (namespace, key), row in model.rows_at(revision).items()
        if namespace in names
    }


class Told:
    """What a random history was, and what the live store's hash was now and then."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kept = ArchivedStore(tables=TableOptions(bucket_revisions=4), seed=seed)
        self.model = Model()
        self.hashes: dict[int, ContentHash] = {}

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            match self.rng.randrange(12):
                case 0:
                    self.kept.restart()
                case 1:
                    self.kept.archive(seal=self.rng.random() < 0.7)
                case 2:
                    self.kept.backup()
                case 3 | 4:
                    self.note_hash()
                case _:
                    self.write()
        self.kept.archive()
        self.note_hash()

    def note_hash(self) -> None:
        found = self.kept.hash()
        self.hashes[found.revision] = found

    def write(self) -> None:
        """Write a group: several requests that are carried out in their order, or one."""
        reader = self.kept.database.reader
        group: list[Request] = []
        for _ in range(self.rng.randrange(1, 5)):
            request = random_request(self.rng, self.model)
            if group and reader.needs_tables(request):
                break
            group.append(request)
            self.model.apply(request)
            if reader.needs_tables(request) or isinstance(request, CreateNamespace | DropNamespace):
                break
        self.kept.group(*group)
        assert self.kept.database.marks.visible == self.model.revision

    def check(self, copy: Database, revision: int) -> None:
        """Check all that a restored store shows."""
        model = self.model
        assert copy.marks.visible == revision
        assert all_of(copy) == expected_at(model, revision, revision)
        oldest = model.oldest_readable(revision)
        assert copy.oldest_readable == oldest
        for past in {oldest, *(self.rng.randrange(oldest, revision + 1) for _ in range(4))}:
            assert all_of(copy, past) == expected_at(model, past, revision), past
        if oldest > 1:
            with pytest.raises(RevisionError) as refused:
                copy.reading_at(oldest - 1, None).answer()
            assert refused.value.code is Code.COMPACTED
        if revision in self.hashes:
            assert content_hash(copy._tables).sha256 == self.hashes[revision].sha256


@pytest.mark.parametrize("seed", range(6))
def test_every_revision_of_a_random_history_is_restored_as_it_was(seed: int) -> None:
    told = Told(seed)
    told.go_on(40)
    inside = 0
    for revision in range(2, told.model.revision + 1):
        plan = told.kept.plan(revision)
        inside += plan.position is None
        copy = told.kept.restored(revision)
        told.check(copy, revision)
        copy.close()
    assert inside, "none lay inside a frame"
    assert len(told.hashes) > 1


@pytest.mark.parametrize("seed", range(3))
def test_small_jobs_lead_to_the_same(seed: int) -> None:
    told = Told(100 + seed)
    told.go_on(30)
    for number, job_bytes in enumerate((1, 100, 1000)):
        target = Path(f"/small/{number}")
        done = told.kept.restore(told.model.revision, target, job_bytes=job_bytes, ahead_bytes=1, workers=2)
        copy = told.kept.open_copy(target)
        told.check(copy, told.model.revision)
        assert done.revision == told.model.revision
        copy.close()


@pytest.mark.parametrize("seed", range(4))
def test_forks_of_forks_are_restored_through_the_stores_before_them(seed: int) -> None:
    """A fork parts at any revision, also inside a frame; later it is restored to revisions before and behind that."""
    told = Told(200 + seed)
    told.go_on(20)
    for generation in range(2):
        parting = told.rng.randrange(2, told.model.revision + 1)
        target = fork_folder(seed, generation)
        told.kept.restore(parting, target)
        told.kept.database.close()
        fork_seed = 1000 + 100 * seed + 50 * generation
        fork = ArchivedStore(told.kept.fs, told.kept.store, DataPaths(target), fork_seed, TableOptions(bucket_revisions=4))
        told.kept, told.model = fork, _cut(told.model, parting)
        told.hashes = {revision: one for revision, one in told.hashes.items() if revision <= parting}
        told.go_on(12)
    for revision in range(2, told.model.revision + 1):
        copy = told.kept.restored(revision)
        told.check(copy, revision)
        copy.close()


def fork_folder(seed: int, generation: int) -> Path:
    return Path(f"/forks/{seed}-{generation}")


def _cut(model: Model, revision: int) -> Model:
    """Return the model of a store that parts at a revision."""
    cut = Model()
    cut.rows = model.rows_at(revision)
    cut.commits = model.commits[: revision - 1]
    cut.namespaces = dict(model.namespaces_at(revision))
    cut._catalogues = [one for one in model._catalogues if one[0] <= revision]
    cut._oldest = [one for one in model._oldest if one[0] <= revision]
    highest = max(number for _, held in cut._catalogues for number in held.values())
    cut.next_namespace_id = max(2, highest + 1)
    return cut
