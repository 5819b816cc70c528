"""What nodes tell each other, as messages and back: ``kvserver.replication.messages`` against ``replication.proto``.

Whoever speaks here may be anybody who can reach the port. So everything on the way in is checked: lengths of ids, what must be
there, what a number can be. What does not fit is refused as INVALID_FIELD with the field's name, in answers as in requests.
"""

from __future__ import annotations

from typing import Any

from kvproto.v1 import replication_pb2 as pb
from kvserver.base.types import NO_EPOCH, Epoch
from kvserver.replication.messages import (
    Accepted,
    Ack,
    CheckpointPart,
    Chunk,
    Description,
    Diverged,
    Envelope,
    Gone,
    HashAt,
    Hello,
    NodeIdentity,
    Promised,
    ShippedMarks,
)
from kvserver.replication.tail_compression import MAX_CHUNK_BYTES, ChunkCompressor, ChunkDecompressor
from kvserver.service.replication_values import (
    check_place,
    from_end,
    from_epoch,
    from_epochs,
    from_identity,
    from_position,
    require,
    revision,
    sha256,
    shown,
    text,
    to_end,
    to_epoch,
    to_epochs,
    to_identity,
    to_position,
)
from kvserver.service.validation import invalid_field

MAX_REASON = 4096
MAX_COMPRESSIONS = 16

MAX_CHUNK_MESSAGE_BYTES = MAX_CHUNK_BYTES + 64 * 1024
"""The longest message with a chunk: one frame of the log can be longer than a message of a client's call may be."""

# -- Describe, Promise -----------------------------------------------------------------------------------------------------

_SAME_IN_DESCRIPTION = {
    "role": "role",
    "state": "state",
    "reason": "reason",
    "applied": "applied_revision",
    "visible": "visible_revision",
    "heard": "heard_revision",
    "heard_ms": "heard_ms",
    "follows": "follows",
    "primary": "primary",
    "server_version": "server_version",
    "lag_revisions": "lag_revisions",
    "lag_ms": "lag_ms",
    "lag_bytes": "lag_bytes",
}
"""Fields of a description that are the same in the message, by the message's name."""


def to_description(described: Description) -> pb.DescribeResponse:
    """Return a description as a message."""
    same: dict[str, Any] = {theirs: getattr(described, ours) for ours, theirs in _SAME_IN_DESCRIPTION.items()}
    return pb.DescribeResponse(
        identity=to_identity(described.identity),
        epoch=to_epoch(described.epoch),
        promised=to_epoch(described.promised),
        end=to_end(described.end),
        **same,
    )


def from_description(message: pb.DescribeResponse) -> Description:
    """Return the description of a message."""
    require(message, "identity", "description")
    require(message, "end", "description")
    same: dict[str, Any] = {ours: getattr(message, theirs) for ours, theirs in _SAME_IN_DESCRIPTION.items()}
    for name in ("role", "state", "follows", "primary", "server_version"):
        text(same[name], name)
    same["reason"] = shown(same["reason"], MAX_REASON)
    for name in ("applied", "visible", "heard"):
        revision(same[name], f"{name}_revision")
    return Description(
        identity=from_identity(message.identity, "identity"),
        epoch=from_epoch(message.epoch, "epoch"),
        promised=from_epoch(message.promised, "promised"),
        end=from_end(message.end, "end"),
        **same,
    )


def to_promised(promised: Promised) -> pb.PromiseResponse:
    """Return the answer to a promise asked for as a message."""
    return pb.PromiseResponse(
        promised=promised.promised,
        identity=to_identity(promised.identity),
        end=to_end(promised.end),
        highest=to_epoch(promised.highest),
        complete=promised.complete,
        heard_revision=promised.heard,
    )


def from_promised(message: pb.PromiseResponse) -> Promised:
    """Return the answer of a message."""
    require(message, "identity", "promise")
    require(message, "end", "promise")
    return Promised(
        promised=message.promised,
        identity=from_identity(message.identity, "identity"),
        end=from_end(message.end, "end"),
        highest=from_epoch(message.highest, "highest"),
        complete=message.complete,
        heard=revision(message.heard_revision, "heard_revision"),
    )


def to_promise_request(epoch: Epoch, candidate: NodeIdentity) -> pb.PromiseRequest:
    """Return what a candidate asks for as a message."""
    return pb.PromiseRequest(candidate=to_identity(candidate), epoch=to_epoch(epoch))


def from_promise_request(message: pb.PromiseRequest) -> tuple[Epoch, NodeIdentity]:
    """Return what a candidate asks for, of a message."""
    require(message, "candidate", "promise")
    epoch = from_epoch(message.epoch, "epoch")
    if epoch == NO_EPOCH:
        raise invalid_field("epoch", "is missing; nobody can promise to obey none")
    return epoch, from_identity(message.candidate, "candidate")


# -- Follow: what a follower sends -----------------------------------------------------------------------------------------


def to_hello(hello: Hello) -> pb.FollowRequest:
    """Return a hello as a message."""
    return pb.FollowRequest(
        hello=pb.FollowHello(
            identity=to_identity(hello.identity),
            promised=to_epoch(hello.promised),
            end=to_end(hello.end),
            epochs=to_epochs(hello.epochs),
            compressions=hello.compressions,
            only_log=hello.only_log,
        )
    )


def from_hello(request: pb.FollowRequest) -> Hello:
    """Return the hello of the first request."""
    if request.WhichOneof("kind") != "hello":
        raise invalid_field("kind", "is no hello; the first request of a follower is one")
    message = request.hello
    require(message, "identity", "hello")
    require(message, "end", "hello")
    if len(message.compressions) > MAX_COMPRESSIONS:
        raise invalid_field("hello.compressions", f"are {len(message.compressions)}; at most {MAX_COMPRESSIONS} can be named")
    end = from_end(message.end, "hello.end")
    if not end.position.chain:
        raise invalid_field("hello.end.position", "is nowhere; a node without a store fetches a copy of one first")
    return Hello(
        identity=from_identity(message.identity, "hello.identity"),
        promised=from_epoch(message.promised, "hello.promised"),
        end=end,
        epochs=from_epochs(message.epochs, "hello.epochs"),
        compressions=tuple(text(name, "hello.compressions") for name in message.compressions),
        only_log=message.only_log,
    )


def to_ack(ack: Ack) -> pb.FollowRequest:
    """Return an acknowledgement as a message."""
    epoch, received, durable, applied, durable_bytes = ack
    return pb.FollowRequest(
        ack=pb.FollowAck(
            epoch=to_epoch(epoch),
            received_revision=received,
            durable_revision=durable,
            applied_revision=applied,
            durable_bytes=durable_bytes,
        )
    )


def from_ack(request: pb.FollowRequest) -> Ack:
    """Return the acknowledgement of a later request."""
    if request.WhichOneof("kind") != "ack":
        raise invalid_field("kind", "is no acknowledgement; after the hello a follower sends nothing else")
    message = request.ack
    return Ack(
        epoch=from_epoch(message.epoch, "ack.epoch"),
        received=revision(message.received_revision, "ack.received_revision"),
        durable=revision(message.durable_revision, "ack.durable_revision"),
        applied=revision(message.applied_revision, "ack.applied_revision"),
        durable_bytes=revision(message.durable_bytes, "ack.durable_bytes"),
    )


# -- Follow: what a follower is sent ---------------------------------------------------------------------------------------


def to_envelope(envelope: Envelope, compressor: ChunkCompressor) -> pb.FollowResponse:
    """Return a message of a shipper; its chunk compressed as was agreed."""
    marks, body = envelope
    message = pb.FollowResponse(
        epoch=to_epoch(marks.epoch),
        durable_revision=marks.durable,
        visible_revision=marks.visible,
        archived_revision=marks.archived,
        time_ms=marks.time_ms,
        primary=marks.primary,
        pending_bytes=marks.pending_bytes,
        hash_point=marks.hash_point,
        held_by_all_revision=marks.held_by_all,
    )
    match body:
        case Chunk(segment_id, offset, data):
            packed, raw_length = compressor.compress(data)
            message.chunk.MergeFrom(pb.LogChunk(segment_id=segment_id, offset=offset, data=packed, raw_length=raw_length))
        case Accepted(segment_id, offset, epochs, compression):
            accepted = pb.FollowAccepted(segment_id=segment_id, offset=offset, epochs=to_epochs(epochs), compression=compression)
            message.accepted.MergeFrom(accepted)
        case Gone(oldest, archived):
            message.gone.MergeFrom(pb.FollowGone(oldest_revision=oldest, archived_revision=archived))
        case Diverged(common, epoch, epochs):
            diverged = pb.FollowDiverged(common=to_position(common), epoch=to_epoch(epoch), epochs=to_epochs(epochs))
            message.diverged.MergeFrom(diverged)
        case HashAt(at_revision, content_hash):
            message.hash.MergeFrom(pb.ContentHashAt(revision=at_revision, hash=content_hash))
    return message


def from_envelope(message: pb.FollowResponse, decompressor: ChunkDecompressor) -> Envelope:
    """Return the envelope of a message; its chunk decompressed."""
    marks = ShippedMarks(
        epoch=from_epoch(message.epoch, "epoch"),
        durable=revision(message.durable_revision, "durable_revision"),
        visible=revision(message.visible_revision, "visible_revision"),
        archived=revision(message.archived_revision, "archived_revision"),
        time_ms=message.time_ms,
        primary=text(message.primary, "primary"),
        pending_bytes=message.pending_bytes,
        hash_point=revision(message.hash_point, "hash_point"),
        held_by_all=revision(message.held_by_all_revision, "held_by_all_revision"),
    )
    match message.WhichOneof("kind"):
        case "chunk":
            return Envelope(marks, _from_chunk(message.chunk, decompressor))
        case "accepted":
            return Envelope(marks, _from_accepted(message.accepted))
        case "gone":
            oldest = revision(message.gone.oldest_revision, "gone.oldest_revision")
            return Envelope(marks, Gone(oldest, revision(message.gone.archived_revision, "gone.archived_revision")))
        case "diverged":
            return Envelope(marks, _from_diverged(message.diverged))
        case "hash":
            content_hash = sha256(message.hash.hash, "hash.hash")
            return Envelope(marks, HashAt(revision(message.hash.revision, "hash.revision"), content_hash))
    return Envelope(marks)


def _from_chunk(message: pb.LogChunk, decompressor: ChunkDecompressor) -> Chunk:
    if not message.segment_id or not message.data:
        raise invalid_field("chunk", "is of no segment, or empty")
    check_place(message.segment_id, message.offset, "chunk")
    return Chunk(message.segment_id, message.offset, decompressor.decompress(message.data, message.raw_length))


def _from_accepted(message: pb.FollowAccepted) -> Accepted:
    if not message.segment_id:
        raise invalid_field("accepted.segment_id", "is missing")
    check_place(message.segment_id, message.offset, "accepted")
    epochs = from_epochs(message.epochs, "accepted.epochs")
    return Accepted(message.segment_id, message.offset, epochs, text(message.compression, "accepted.compression") or "none")


def _from_diverged(message: pb.FollowDiverged) -> Diverged:
    require(message, "common", "diverged")
    require(message, "epoch", "diverged")
    common = from_position(message.common, "diverged.common")
    return Diverged(common, from_epoch(message.epoch, "diverged.epoch"), from_epochs(message.epochs, "diverged.epochs"))


# -- FetchCheckpoint -------------------------------------------------------------------------------------------------------


def from_checkpoint_request(message: pb.FetchCheckpointRequest) -> NodeIdentity:
    """Return who asks for a copy."""
    require(message, "identity", "checkpoint")
    return from_identity(message.identity, "identity")


def to_part(part: CheckpointPart) -> pb.FetchCheckpointResponse:
    """Return a piece of a copy as a message."""
    message = pb.FetchCheckpointResponse(
        file=part.file,
        data=part.data,
        sha256=part.sha256,
        total_files=part.total_files,
        total_bytes=part.total_bytes,
        epochs=to_epochs(part.epochs),
    )
    if part.position is not None:
        message.position.MergeFrom(to_position(part.position))
    return message


def from_part(message: pb.FetchCheckpointResponse) -> CheckpointPart:
    """Return the piece of a copy of a message. The name is the receiver's to parse."""
    return CheckpointPart(
        file=text(message.file, "file"),
        data=message.data,
        sha256=sha256(message.sha256, "sha256") if message.sha256 else b"",
        total_files=message.total_files,
        total_bytes=message.total_bytes,
        position=from_position(message.position, "position") if message.HasField("position") else None,
        epochs=tuple(from_epochs(message.epochs, "epochs")),
    )
