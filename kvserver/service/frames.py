"""What frames of all kinds have in common: an answer that waits for several tickets, its header, its failures, its size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kvproto.v1 import kv_pb2
from kvserver.base.errors import Code, InvalidRequest, KvError
from kvserver.base.limits import FOUND_BYTES
from kvserver.base.types import WITHHELD, Version
from kvserver.commit.ticket import Ticket
from kvserver.service import convert

ROW_BYTES = 32
"""What a version costs in an answer beside its key and value."""


class PendingFrame:
    """The answer to a frame that was carried out; it may be told when all its tickets may."""

    __slots__ = ("_build", "_callback", "_missing", "_tickets")

    def __init__(self, tickets: Sequence[Ticket[Any]], build: Callable[[], kv_pb2.PipelineResponse]) -> None:
        self._tickets = tickets
        self._build = build
        self._missing = 0
        self._callback: Callable[[], None] | None = None

    @property
    def newest(self) -> Ticket[Any] | None:
        """Return the ticket of the last operation; None where there is none."""
        return self._tickets[-1] if self._tickets else None

    def on_done(self, callback: Callable[[], None]) -> None:
        """Have the callback called when the answer may be told; at once if it may be told already."""
        missing = [ticket for ticket in self._tickets if not ticket.done]
        if not missing:
            callback()
            return
        self._missing = len(missing)
        self._callback = callback
        for ticket in missing:
            ticket.on_done(self._one_done)

    def _one_done(self) -> None:
        self._missing -= 1
        if not self._missing and self._callback is not None:
            callback, self._callback = self._callback, None  # it holds this frame: each would keep the other, and all keys, alive
            callback()

    def response(self) -> kv_pb2.PipelineResponse:
        """Return the answer. Only when it may be told."""
        return self._build()


class FrameContext:
    """One frame: what its answer needs to be made."""

    __slots__ = ("_answers", "_frame_id", "memory")

    def __init__(self, frame_id: int, answers: convert.Answers) -> None:
        self._frame_id = frame_id
        self._answers = answers
        self.memory = False
        """Its writes are answered before they are durable."""

    def answer(
        self,
        depends_on: int = 0,
        failures: Iterable[tuple[int, KvError]] = (),
        first_revision: int = 0,
        commits: int = 0,
    ) -> kv_pb2.PipelineResponse:
        """Return an answer with its header; ``depends_on`` is the highest revision that it shows something of."""
        failed = sorted(failures, key=_place)
        for _, error in failed:
            depends_on = max(depends_on, error.depends_on)
        return kv_pb2.PipelineResponse(
            header=self._answers.header(depends_on),
            frame_id=self._frame_id,
            reached=self._answers.reached(depends_on),
            first_revision=first_revision,
            commits=commits,
            failures=convert.failures(failed),
        )

    def rejection(self, error: KvError) -> kv_pb2.PipelineResponse:
        """Return the answer to a frame of which nothing was carried out."""
        response = self.answer(failures=[(0, error)])
        response.rejected = True
        return response


def fits(versions: Sequence[Version | None]) -> bool:
    """Say whether all versions fit into one answer, and none was withheld; it looks at columns, not at each."""
    room = FOUND_BYTES - ROW_BYTES * len(versions)
    found = [version for version in versions if version]
    if not found:
        return True
    keys, values, _, mod_revisions, _ = zip(*found, strict=True)
    return room >= sum(map(len, keys)) + sum(map(len, values)) and 0 not in mod_revisions


def within_budget(
    rows: Iterable[tuple[int, Version | None]], failed: list[tuple[int, KvError]]
) -> list[tuple[int, Version | None]]:
    """Return the rows that fit into one answer; the others become failures, which are appended."""
    room = FOUND_BYTES
    kept = []
    for row in rows:
        place, version = row
        if version is not None:
            room -= len(version.key) + len(version.value) + ROW_BYTES
            if room < 0 or version is WITHHELD:
                failed.append((place, _answer_full()))
                continue
        kept.append(row)
    return kept


def as_it_is(outcome: Any) -> Any:
    """Return the outcome of a ticket whose answer is made later, together with others'."""
    return outcome


def _place(failure: tuple[int, KvError]) -> int:
    return failure[0]


def _answer_full() -> InvalidRequest:
    return InvalidRequest(
        Code.FRAME_TOO_LARGE, f"the values found exceed the {FOUND_BYTES} bytes of one answer", "read fewer keys a frame"
    )
