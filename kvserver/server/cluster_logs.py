"""The sentences of what happens between the nodes of a cluster; see ``kvserver.server.logs``. An alarm is an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from kvserver.base import cluster_events, replication_events, shipping_events
from kvserver.base.events import Event

Sentence = tuple[int | Callable[[Any], int], Callable[[Any], str]]
"""The level of an event, or what tells it, and what makes its sentence."""

_BAD_STATES = frozenset({"WAL_GONE", "DIVERGED", "FENCED"})


def _state_level(event: replication_events.StateChanged) -> int:
    """Return how grave it is that a follower went there: what somebody has to mend is an error."""
    if event.new == "FAILED":
        return logging.ERROR
    return logging.WARNING if event.new in _BAD_STATES else logging.INFO


def _state(event: replication_events.StateChanged) -> str:
    way = event.new if event.old == event.new else f"{event.old} -> {event.new}"
    return f"follower: {way}: {event.why}"


def _quorum_changed(event: cluster_events.QuorumChanged) -> str:
    if event.degraded:
        return f"the quorum is given up, writes are acknowledged by the primary alone: {event.reason}"
    return "the quorum is waited for again"


def _suffix_lost(event: replication_events.SuffixLost) -> str:
    lost = f"revisions {event.first_revision} to {event.last_revision} of this node"
    kept = f"kept in {event.kept_in}, read them with: kvctl wal dump" if event.kept_in else "none of them are in the log any more"
    partly = event.kept_from_revision > event.first_revision
    behind = f" (from revision {event.kept_from_revision} on)" if partly else ""
    return f"{lost} are no part of history any more, the cluster went on without them: {kept}{behind}"


def _slot_lost(event: shipping_events.SlotLost) -> str:
    why = f"{event.held_bytes} bytes are above --slot-max-mb" if event.max_bytes else "it was gone before it could be held"
    return f"the log from revision {event.hold_revision} on is not held for {event.name} any more: {why}"


CLUSTER_SENTENCES: Mapping[type[Event], Sentence] = {
    cluster_events.PartChanged: (
        logging.INFO,
        lambda e: f"part: {e.old} -> {e.new}, epoch {e.epoch}: {e.why or 'as it was asked to'}",
    ),
    cluster_events.QuorumChanged: (logging.WARNING, _quorum_changed),
    cluster_events.QuorumLost: (logging.ERROR, lambda e: f"writes wait for the quorum: {e.missing or 'nobody says why'}"),
    cluster_events.QuorumMet: (logging.INFO, lambda e: "the quorum is met again"),
    cluster_events.AcknowledgementSuspect: (
        logging.ERROR,
        lambda e: f"the acknowledgement of {e.node} contradicts what was heard under its name before ({e.what})",
    ),
    cluster_events.ContentCompared: (
        logging.INFO,
        lambda e: f"the content at revision {e.revision} is equal to the primary's, {e.sha256}",
    ),
    cluster_events.ContentDiffers: (
        logging.ERROR,
        lambda e: (
            f"the content at revision {e.revision} is not equal to the primary's: {e.mine} here, {e.theirs} there, "
            f"{e.times} times in a row"
        ),
    ),
    replication_events.StateChanged: (_state_level, _state),
    replication_events.CopyFetched: (
        logging.INFO,
        lambda e: f"fetched a copy from {e.source}: revision {e.revision}, {e.files} files, {e.bytes} bytes, {e.seconds:.1f} s",
    ),
    replication_events.CopySent: (
        logging.INFO,
        lambda e: f"sent a copy to {e.node}: revision {e.revision}, {e.files} files, {e.bytes} bytes, {e.seconds:.1f} s",
    ),
    replication_events.ArchiveCaughtUp: (
        logging.INFO,
        lambda e: (
            f"took revisions {e.from_revision} to {e.upto_revision} from the archive: {e.segments} segments, {e.bytes} bytes, "
            f"{e.seconds:.1f} s"
        ),
    ),
    replication_events.SuffixLost: (logging.ERROR, _suffix_lost),
    replication_events.LogRewound: (
        logging.WARNING,
        lambda e: (
            f"went back to revision {e.revision} of epoch {e.epoch}; {e.lost_revisions} revisions were given up"
            + (f"; the tables come from the base at revision {e.base_revision}" if e.base_revision else "")
        ),
    ),
    replication_events.RewindBaseKept: (logging.INFO, lambda e: f"keeps a base to go back to, at revision {e.revision}"),
    replication_events.RewindBaseFailed: (logging.WARNING, lambda e: f"no base to go back to: {e.reason}"),
    replication_events.ChunkNotTaken: (
        logging.WARNING,
        lambda e: f"what {e.source} sent was not taken, {e.times} times in a row: {e.reason}",
    ),
    shipping_events.FollowerConnected: (
        logging.INFO,
        lambda e: f"ships to {e.name} at {e.address} from revision {e.revision} on, compression {e.compression}",
    ),
    shipping_events.FollowerDisconnected: (
        logging.INFO,
        lambda e: f"ships to {e.name} no more, at revision {e.revision}: {e.why}",
    ),
    shipping_events.FollowerRefused: (logging.WARNING, lambda e: f"ships nothing to {e.name} [{e.code}]: {e.why}"),
    shipping_events.FollowerForked: (
        logging.ERROR,
        lambda e: f"ALARM: {e.name} has other bytes than this node within one epoch: {e.what}",
    ),
    shipping_events.TwoPrimariesMet: (
        logging.ERROR,
        lambda e: (
            f"ALARM: epoch {e.number} has the nonce {e.nonce_here:016x} here and {e.nonce_there:016x} at {e.name}: "
            "the nodes do not claim their epochs in the same register"
        ),
    ),
    shipping_events.FollowerWentBack: (
        logging.ERROR,
        lambda e: (
            f"ALARM: {e.name} acknowledged revision {e.acknowledged_revision} and has only {e.revision}; it counts for nothing "
            "until it has that again"
        ),
    ),
    shipping_events.SlotLost: (logging.WARNING, _slot_lost),
    shipping_events.SlotDropped: (logging.INFO, lambda e: f"the slot of {e.name} was dropped; nothing is held for it"),
    shipping_events.SlotsNotWritten: (
        logging.WARNING,
        lambda e: f"what is held for whom cannot be written down, which is tried again: {e.reason}",
    ),
}
