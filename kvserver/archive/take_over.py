"""A restored folder that becomes the old cluster, not a fork of it: who it is, which epochs are gone, and the old node's fence.

The next start of the folder claims an epoch above every one that the archive has heard of, because all of those are claimed here.
And the newest epoch's manifest is closed: whoever still writes to it, on a machine that was thought to be lost, is refused from
then on. What it acknowledges afterwards is in no archive; that is why a fork is the rule, and this is asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvserver.archive.catalog import Catalog, read_catalog
from kvserver.archive.errors import no_plan
from kvserver.archive.manifest import EpochManifest
from kvserver.archive.manifest_chain import given_up_below
from kvserver.archive.names import ArchiveNames
from kvserver.archive.store import Store
from kvserver.base.environment import Environment
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.identity_file import create_identity, parse_identity
from kvserver.base.paths import DataPaths
from kvserver.base.register import NodeRecord, Register
from kvserver.base.types import Epoch, Identity, Position


class NewNode(NamedTuple):
    """The node that takes over."""

    name: str
    register: Callable[[FileSystem, DataPaths], Register]
    """Where it claims its epochs."""
    register_kind: str


def check_take_over(store: Store, cluster_id: bytes, revision: int) -> None:
    """Raise RevisionError (NO_RESTORE_PLAN) where going on from a revision would give known names and marks another meaning.

    What was given up and what a point names are told by revision alone. Behind a revision that the cluster is set back to, the
    same numbers are given out again: a point would name commits that it was never meant for, and what is new would count as
    given up. A fork has a prefix of its own, where neither can happen.
    """
    floor = given_up_below(store, ArchiveNames(cluster_id))
    if revision + 1 < floor:
        what = f"revision {revision} cannot be taken over from: retention has given up what lies below revision {floor - 1}"
        raise no_plan(what, "restore it without --take-over, as a store of its own")
    for point in read_catalog(store, cluster_id).points:
        if point.revision > revision:
            what = (
                f"revision {revision} cannot be taken over from: the point {point.name} names revision {point.revision} behind it"
            )
            hint = f"delete the point with: kvctl archive point delete {point.name}; or restore without --take-over"
            raise no_plan(what, hint)


def take_over(env: Environment, store: Store, paths: DataPaths, cluster_id: bytes, position: Position, node: NewNode) -> None:
    """Make a folder that stands at a position a node of the cluster, and fence the old one. May be done again after a crash.

    Raises ArchiveFenced where a newer primary has taken the cluster over meanwhile, Corruption, StoreError, OSError.
    """
    catalog = read_catalog(store, cluster_id)
    identity = _identity(env, paths, cluster_id, node)
    epoch = _claim(env, node.register(env.fs, paths), identity, catalog, position)
    if not catalog.epochs:
        return
    newest = catalog.epochs[-1]
    names = ArchiveNames(cluster_id)
    manifest = EpochManifest.open(store, names, newest.epoch, newest.branch, node.name, env.clock)
    manifest.close(epoch, position)


def _identity(env: Environment, paths: DataPaths, cluster_id: bytes, node: NewNode) -> Identity:
    if env.fs.exists(paths.identity):
        return parse_identity(paths, read_file(env.fs, paths.identity))
    return create_identity(env, paths, node.name, node.register_kind, cluster_id)


def _claim(env: Environment, register: Register, identity: Identity, catalog: Catalog, position: Position) -> Epoch:
    """Claim every epoch that was ever heard of, so that none of their numbers is used again, and one above them."""
    heard = {position.epoch.number: position.epoch}
    for link in catalog.line:
        heard[link.part.epoch.number] = link.part.epoch
    for part in catalog.epochs:
        heard[part.epoch.number] = part.epoch
    mine = {record.epoch.number: record.epoch for record in register.records()}
    for part in catalog.epochs:
        if part.closing is not None and part.closing.by not in mine.values():
            heard.setdefault(part.closing.by.number, part.closing.by)
    now_ms = env.clock.now_ms()
    for number in sorted(heard.keys() - mine.keys() - {0}):
        register.claim(heard[number], NodeRecord("", "", ""), now_ms)
    newest = max(heard)
    if mine and max(mine) > newest:
        return mine[max(mine)]  # claimed by an attempt before this one
    epoch = Epoch(max(newest, *mine, 0) + 1, env.random_id())
    register.claim(epoch, NodeRecord(identity.node_name, identity.node_id, ""), now_ms)
    return epoch
