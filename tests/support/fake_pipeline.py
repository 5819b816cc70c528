"""The fake server's streams of frames: every operation of a frame is carried out, and may fail, as a call of its own would.

A thread for each stream takes frames as they come; an answer that the test holds back keeps neither later frames from
being carried out nor their answers from being sent before it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc

from kvproto.v1 import kv_pb2
from support.fake_errors import EndOfCall, failure_of
from support.fake_store import FakeError

if TYPE_CHECKING:
    from support.fake_server import FakeServer

_OVER = EndOfCall("OK")

Operations = list[tuple[str, Any]]
"""Operations by the names of the calls that they stand for, and those calls' requests."""


class FakePipeline:
    """One stream."""

    def __init__(self, fake: FakeServer, frames: Iterator[kv_pb2.PipelineRequest], context: grpc.ServicerContext) -> None:
        self.fake = fake
        self.store = fake.store
        self._frames = frames
        self._context = context
        self._ready: queue.SimpleQueue[kv_pb2.PipelineResponse | EndOfCall] = queue.SimpleQueue()

    def answers(self) -> Iterator[kv_pb2.PipelineResponse]:
        """Bring the answers, in the order in which they may be told, and end the call as the test wants it."""
        self._context.add_callback(lambda: self._ready.put(_OVER))
        threading.Thread(target=self._take_all, name="fake-frames", daemon=True).start()
        while not isinstance(item := self._ready.get(), EndOfCall):
            yield item
        if item is not _OVER:
            item.end(self._context)

    def _take_all(self) -> None:
        """Carry out frame by frame; the thread's whole life."""
        end = _OVER
        try:
            for number, frame in enumerate(self._frames, 1):
                self._take(frame)
                if number == self.fake.pipeline_breaks_after:
                    end = EndOfCall("UNAVAILABLE", "Socket closed")
                    break
        except EndOfCall as asked_for:
            end = asked_for
        except Exception as error:  # the client is gone, unless it is a fault of this server
            end = EndOfCall("INTERNAL", repr(error))
        self._ready.put(end)

    def _take(self, frame: kv_pb2.PipelineRequest) -> None:
        """Carry a frame out, and answer it when the test lets it be answered."""
        self.fake.frames.append(frame)
        if self.fake.pipeline_mute:
            return
        operations = operations_of(frame)
        with self.store.lock:
            answer = self._remembered(frame, operations)
        wanted = [answer] if self.fake.pipeline_answers is None else list(self.fake.pipeline_answers(frame, answer))
        held = self.fake.held({method for method, _ in operations})
        if not held:
            self._send(wanted)
            return
        threading.Thread(target=self._send_later, args=(wanted, held), name="fake-held", daemon=True).start()

    def _send(self, answers: list[kv_pb2.PipelineResponse]) -> None:
        for answer in answers:
            self._ready.put(answer)

    def _send_later(self, answers: list[kv_pb2.PipelineResponse], held: list[threading.Event]) -> None:
        for event in held:
            event.wait(30)
        self._send(answers)

    # -- one frame ------------------------------------------------------------------------------------------------

    def _remembered(self, frame: kv_pb2.PipelineRequest, operations: Operations) -> kv_pb2.PipelineResponse:
        """Answer a frame that comes again as it was answered; operations of mixed frames are remembered one by one."""
        if not frame.HasField("idempotency"):
            return self._carry_out(frame, operations)
        name = (frame.idempotency.client_id, frame.idempotency.number)
        kept = self.store.answers.get(name)
        if kept is None or self.fake.node.takes_no_writes:
            answer = self._carry_out(frame, operations)
            if not answer.rejected:
                self.store.answers[name] = answer
            return answer
        self.fake.repeated.append(frame)
        again = kv_pb2.PipelineResponse()
        again.CopyFrom(kept)
        again.frame_id = frame.frame_id
        again.header.CopyFrom(self.fake.header(kept.header.revision))
        return again

    def _carry_out(self, frame: kv_pb2.PipelineRequest, operations: Operations) -> kv_pb2.PipelineResponse:
        answer = kv_pb2.PipelineResponse(frame_id=frame.frame_id, reached=frame.durability or self.fake.reached)
        try:
            self.fake.fail_if_asked("Pipeline")
            self.store.check_namespace(frame.namespace)
            self.fake.node.check_frame(frame)
            if frame.WhichOneof("operations") in ("gets", "mixed"):
                self.store.read_revision(0, frame.session)
            elif frame.WhichOneof("operations") is None:
                raise FakeError("INVALID_FIELD", "the frame has no operations")
        except FakeError as error:
            answer.rejected = True
            answer.failures.append(failure_of(0, error))
            answer.header.CopyFrom(self.fake.header(self.store.visible))
            return answer
        refusals = [self._refusal(method, request) for method, request in operations]  # before anything is carried out
        outcomes = [self._outcome(operation, refused) for operation, refused in zip(operations, refusals, strict=True)]
        revision = self._fill_in(answer, frame, outcomes)
        answer.header.CopyFrom(self.fake.header(revision or self.store.visible))
        return answer

    def _refusal(self, method: str, request: Any) -> FakeError | None:
        """Note an operation; return why it is refused, if the test wants it to be. Raises EndOfCall."""
        try:
            self.fake.arrive(method, request, None)
        except FakeError as error:
            return error
        return self.fake.pipeline_failures.get(getattr(request, "key", b""))

    def _outcome(self, operation: tuple[str, Any], refused: FakeError | None) -> Any:
        """Carry one operation out; return what the store says, or why it is refused."""
        if refused is not None:
            return refused
        method, request = operation
        key = getattr(request, "idempotency", None)
        name = (key.client_id, key.number) if key is not None and key.client_id else None
        if name in self.store.answers:
            self.fake.repeated.append(request)
            return self.store.answers[name]
        try:
            outcome = getattr(self.store, method.lower())(request)
            if name is not None:
                self.store.answers[name] = outcome
            return outcome
        except FakeError as error:
            return error

    def _fill_in(self, answer: kv_pb2.PipelineResponse, frame: kv_pb2.PipelineRequest, outcomes: list[Any]) -> int:
        """Write the outcomes into the answer; return the last revision that was made, 0 if none was."""
        revisions: list[int] = []
        kind = frame.WhichOneof("operations")
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, FakeError):
                answer.failures.append(failure_of(index, outcome))
            revision, deleted, kv = _parts_of(outcome)
            if revision:
                revisions.append(revision)
            if kind == "gets":
                _add_row(answer.gets, kv or kv_pb2.KeyValue())
            elif kind == "mixed":
                answer.results.add(revision=revision, deleted=deleted, kv=kv)
            elif kind == "deletes" and not isinstance(outcome, FakeError) and not deleted:
                answer.absent.append(index)
        answer.commits = len(revisions)
        if revisions and kind != "mixed":
            answer.first_revision = revisions[0]
        return max(revisions, default=0)


def operations_of(frame: kv_pb2.PipelineRequest) -> Operations:
    """Return the operations of a frame as the calls that they stand for."""
    given: dict[str, Any] = {"namespace": frame.namespace}
    writes = {**given, "durability": frame.durability}
    if frame.HasField("session"):
        given["session"] = frame.session
    match frame.WhichOneof("operations"):
        case "gets":
            return [("Get", kv_pb2.GetRequest(key=key, **given)) for key in frame.gets.keys]
        case "puts":
            pairs = zip(frame.puts.keys, frame.puts.values, strict=True)
            return [("Put", kv_pb2.PutRequest(key=key, value=value, **writes)) for key, value in pairs]
        case "deletes":
            return [("Delete", kv_pb2.DeleteRequest(key=key, **writes)) for key in frame.deletes.keys]
    found: Operations = []
    for operation in frame.mixed.operations:
        name = operation.WhichOneof("kind") or "write"
        request = type(getattr(operation, name))(**(given if name == "get" else writes))
        request.MergeFrom(getattr(operation, name))
        found.append((name.capitalize(), request))
    return found


def _parts_of(outcome: Any) -> tuple[int, int, kv_pb2.KeyValue | None]:
    """Return the revision made, the keys deleted and the version found by one operation."""
    match outcome:
        case FakeError():
            return 0, 0, None
        case int():
            return outcome, 0, None
        case (int(revision), int(deleted)):
            return revision, deleted, None
        case (int(revision), int(), int(deleted)):
            return revision, deleted, None
        case (_, kv):
            return 0, 0, kv
    raise AssertionError(f"not an outcome: {outcome!r}")


def _add_row(columns: kv_pb2.GetColumnsResult, kv: kv_pb2.KeyValue) -> None:
    columns.values.append(kv.value)
    columns.mod_revisions.append(kv.mod_revision)
    columns.create_revisions.append(kv.create_revision)
    columns.versions.append(kv.version)
