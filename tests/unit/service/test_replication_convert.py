"""What nodes tell each other survives the wire; what no node says is refused by the name of the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvproto.v1 import replication_pb2 as pb
from kvserver.base.errors import Code, InvalidRequest, ReplicationError
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd, Position
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
from kvserver.service import replication_convert as convert
from kvserver.service.replication_values import MAX_REVISION, MAX_SEGMENT_BYTES

CHAIN = bytes(range(16))
EPOCH = Epoch(7, 0xFEDCBA9876543210)
POSITION = Position(EPOCH, 123, CHAIN)
END = LogEnd(POSITION, 0xABCDEF0123456789, 5000)
IDENTITY = NodeIdentity(CHAIN, "b", "node-b", "b:7400", "folder:x")
EPOCHS = [(Epoch(1, 11), Position(NO_EPOCH, 1, CHAIN)), (EPOCH, Position(Epoch(1, 11), 99, CHAIN))]
MARKS = ShippedMarks(EPOCH, 9, 8, 7, 1_750_000_000_000, "a:7400", 12345, 6)


def over_the_wire(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize(
    "body",
    [
        None,
        Accepted(5, 0, EPOCHS, "zstd"),
        Gone(17, 16),
        Diverged(POSITION, EPOCH, EPOCHS),
        Chunk(5, 4096, b"some bytes, " * 100),
        Chunk(5, 0, bytes(MAX_CHUNK_BYTES)),
        HashAt(6, bytes(32)),
    ],
)
def test_envelopes(body: Any, compression: str) -> None:
    envelope = Envelope(MARKS, body)
    message = over_the_wire(convert.to_envelope(envelope, ChunkCompressor(compression)))
    assert convert.from_envelope(message, ChunkDecompressor(compression)) == envelope


def test_the_largest_chunk_fits_its_message() -> None:
    marks = MARKS._replace(primary="p" * 255)
    message = convert.to_envelope(Envelope(marks, Chunk(1 << 63, 1 << 31, bytes(MAX_CHUNK_BYTES))), ChunkCompressor("none"))
    assert message.ByteSize() <= convert.MAX_CHUNK_MESSAGE_BYTES


def test_hellos_and_acknowledgements() -> None:
    hello = Hello(IDENTITY, EPOCH, END, EPOCHS, ("zstd", "none"), True)
    assert convert.from_hello(over_the_wire(convert.to_hello(hello))) == hello
    tables = hello._replace(end=LogEnd(POSITION, 0, 0), promised=NO_EPOCH, epochs=[], compressions=(), only_log=False)
    assert convert.from_hello(over_the_wire(convert.to_hello(tables))) == tables
    ack = Ack(EPOCH, 5, 4, 3, 1 << 40)
    assert convert.from_ack(over_the_wire(convert.to_ack(ack))) == ack


def test_descriptions() -> None:
    described = Description(
        IDENTITY, "follower", "STREAMING", "because", EPOCH, EPOCH, END, 3, 2, 9, 1, "a:1", "a:1", "0.1.0", 6, 5, 4
    )
    assert convert.from_description(over_the_wire(convert.to_description(described))) == described
    nowhere = described._replace(end=LogEnd(Position(NO_EPOCH, 0, b""), 0, 0), epoch=NO_EPOCH)
    assert convert.from_description(over_the_wire(convert.to_description(nowhere))) == nowhere


def test_a_reason_is_for_people_and_never_refused() -> None:
    described = Description(IDENTITY, "none", "FAILED", "a\nb" * 5000, EPOCH, EPOCH, END, 0, 0, 0, 0, "", "", "")
    shown = convert.from_description(over_the_wire(convert.to_description(described))).reason
    assert shown.startswith("a ba b")
    assert len(shown) == convert.MAX_REASON


def test_promises() -> None:
    promised = Promised(True, IDENTITY, END, EPOCH, False, 99)
    assert convert.from_promised(over_the_wire(convert.to_promised(promised))) == promised
    assert convert.from_promise_request(over_the_wire(convert.to_promise_request(EPOCH, IDENTITY))) == (EPOCH, IDENTITY)


@pytest.mark.parametrize(
    "part",
    [
        CheckpointPart("a.sst", b"data", total_files=2, total_bytes=9),
        CheckpointPart("a.sst", b"", bytes(32)),
        CheckpointPart("", b"", position=POSITION, epochs=tuple(EPOCHS)),
    ],
)
def test_parts(part: CheckpointPart) -> None:
    assert convert.from_part(over_the_wire(convert.to_part(part))) == part


# -- what no node says -------------------------------------------------------------------------------------------------


def hello_message() -> pb.FollowRequest:
    return convert.to_hello(Hello(IDENTITY, EPOCH, END, EPOCHS))


def _set(path: str, value: Any) -> Callable[[Any], None]:
    """Set a field; a value of None clears it."""

    def change(message: Any) -> None:
        *above, name = path.split(".")
        for step in above:
            message = message[int(step)] if step.isdigit() else getattr(message, step)
        if value is None:
            message.ClearField(name)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (_set("hello", None), "kind"),
        (_set("hello.identity", None), "hello.identity"),
        (_set("hello.end", None), "hello.end"),
        (_set("hello.end.position", None), "hello.end.position"),
        (_set("hello.identity.cluster_id", b"short"), "hello.identity.cluster_id"),
        (_set("hello.identity.name", "n" * 256), "hello.identity.name"),
        (_set("hello.identity.name", "two\nlines"), "hello.identity.name"),
        (_set("hello.identity.address", "\x1b[2J"), "hello.identity.address"),
        (_set("hello.promised.number", 1 << 32), "hello.promised.number"),
        (_set("hello.promised.nonce", 0), "hello.promised"),
        (_set("hello.promised.number", 0), "hello.promised"),
        (_set("hello.end.position.chain", b"short"), "hello.end.position.chain"),
        (_set("hello.end.position.chain", b""), "hello.end.position.chain"),
        (_set("hello.end.position.revision", MAX_REVISION + 1), "hello.end.position.revision"),
        (_set("hello.end.offset", MAX_SEGMENT_BYTES + 1), "hello.end.offset"),
        (_set("hello.end.segment_id", 0), "hello.end.offset"),
        (_set("hello.epochs.0.began", None), "hello.epochs.began"),
        (_set("hello.epochs.0.epoch", None), "hello.epochs.epoch"),
        (_set("hello.epochs.0.epoch.number", 8), "hello.epochs"),
        (_set("hello.epochs.0.began.revision", 100), "hello.epochs"),
        (_set("hello.compressions", ["x"] * 17), "hello.compressions"),
        (_set("hello.compressions", ["x" * 300]), "hello.compressions"),
    ],
)
def test_hellos_that_no_node_says(change: Callable[[Any], None], field: str) -> None:
    message = hello_message()
    change(message)
    with pytest.raises(InvalidRequest, match=field) as caught:
        convert.from_hello(message)
    assert caught.value.code is Code.INVALID_FIELD


def test_a_node_without_a_store_cannot_follow() -> None:
    message = convert.to_hello(Hello(IDENTITY, NO_EPOCH, LogEnd(Position(NO_EPOCH, 0, b""), 0, 0), []))
    with pytest.raises(InvalidRequest, match="nowhere"):
        convert.from_hello(message)


def test_a_second_hello_is_no_acknowledgement() -> None:
    with pytest.raises(InvalidRequest, match="kind"):
        convert.from_ack(hello_message())
    with pytest.raises(InvalidRequest, match=r"ack\.durable_revision"):
        convert.from_ack(pb.FollowRequest(ack=pb.FollowAck(durable_revision=1 << 63)))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.FollowResponse(chunk=pb.LogChunk(offset=0, data=b"x")), "chunk"),
        (pb.FollowResponse(chunk=pb.LogChunk(segment_id=1)), "chunk"),
        (pb.FollowResponse(chunk=pb.LogChunk(segment_id=1, offset=1 << 40, data=b"x")), "chunk.offset"),
        (pb.FollowResponse(accepted=pb.FollowAccepted(offset=5000)), "accepted.segment_id"),
        (pb.FollowResponse(diverged=pb.FollowDiverged()), "diverged.common"),
        (pb.FollowResponse(hash=pb.ContentHashAt(revision=1, hash=b"short")), "hash.hash"),
        (pb.FollowResponse(visible_revision=1 << 63), "visible_revision"),
        (pb.FollowResponse(primary="\n"), "primary"),
        (pb.FollowResponse(epoch=pb.EpochId(number=1)), "epoch"),
    ],
)
def test_answers_that_no_node_gives(message: pb.FollowResponse, field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        convert.from_envelope(message, ChunkDecompressor("zstd"))


def test_a_chunk_that_claims_too_much_is_never_unpacked() -> None:
    message = pb.FollowResponse(chunk=pb.LogChunk(segment_id=1, data=b"x", raw_length=MAX_CHUNK_BYTES + 1))
    with pytest.raises(ReplicationError):
        convert.from_envelope(message, ChunkDecompressor("zstd"))


@pytest.mark.parametrize(
    ("conversion", "message"),
    [
        (convert.from_description, pb.DescribeResponse()),
        (convert.from_promised, pb.PromiseResponse()),
        (convert.from_promise_request, pb.PromiseRequest()),
        (convert.from_promise_request, pb.PromiseRequest(candidate=pb.NodeIdentity(name="c"))),
        (convert.from_checkpoint_request, pb.FetchCheckpointRequest()),
        (convert.from_part, pb.FetchCheckpointResponse(sha256=b"short")),
        (convert.from_part, pb.FetchCheckpointResponse(file="\0")),
    ],
)
def test_what_is_missing_is_said(conversion: Callable[[Any], Any], message: Any) -> None:
    with pytest.raises(InvalidRequest):
        conversion(message)
