"""One workload, four pipelines: overlap and grouping change when things happen, never what is answered or kept."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvserver.base.errors import ConditionFailed, KvError
from kvserver.base.options import PipelineOptions
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Batch, CreateNamespace, Delete, DeleteSpan, Mutation, Put, PutRun, ReadRun, Request
from kvserver.storage.ranges import KeySpan, prefix_span
from support.memfs import MemoryFileSystem
from support.stores import TIGHT, content, histories, open_store, settle, submit

VARIANTS = [(True, True), (True, False), (False, True), (False, False)]
"""(overlap, grouping)."""

keys = st.sampled_from([b"a", b"ab", b"b", b"c"])
values = st.binary(max_size=3)
namespaces = st.sampled_from([1, 1, 1, 2])
conditions = st.one_of(st.none(), st.none(), st.integers(0, 12))
puts = st.builds(Put, namespaces, keys, values, conditions)
deletes = st.builds(Delete, namespaces, keys, conditions)
spans = st.builds(DeleteSpan, namespaces, st.one_of(keys.map(prefix_span), st.builds(KeySpan, keys, keys)))
mutations: st.SearchStrategy[Mutation] = st.one_of(puts, deletes, puts, spans)
columns = st.lists(st.tuples(keys, values), min_size=1, max_size=4)
requests: st.SearchStrategy[Request] = st.one_of(
    puts,
    deletes,
    spans,
    st.builds(Batch, st.lists(mutations, max_size=3)),
    st.builds(lambda ns, rows: PutRun(ns, [key for key, _ in rows], [value for _, value in rows]), namespaces, columns),
    st.builds(ReadRun, namespaces, st.lists(keys, min_size=1, max_size=3)),
    st.builds(CreateNamespace, st.sampled_from(["n", "m"])),
)
steps = st.lists(st.tuples(requests, st.booleans(), st.integers(0, 2)), max_size=25)
"""Requests, whether each wants to be answered from memory, and how many turns the log does behind it."""


def told(ticket: AnyTicket) -> Any:
    """Return an answer in a form that can be compared."""
    try:
        return ticket.answer()
    except ConditionFailed as error:
        return (error.code, error.key, error.mod_revision)
    except KvError as error:
        return (error.code, error.message)


def run(workload: list[tuple[Request, bool, int]], overlap: bool, grouping: bool) -> tuple[list[Any], Any, Any]:
    """Return all answers, the content at every revision, and the content after a restart."""
    disk = MemoryFileSystem()
    wal = dataclasses.replace(TIGHT, grouping=grouping)
    database = open_store(disk, wal, PipelineOptions(overlap=overlap))
    tickets = []
    for request, memory, turns in workload:
        tickets.append(submit(database, request, memory))
        database.marks.check()
        for _ in range(turns):
            database.run_log_once()
            database.marks.check()
    settle(database)
    assert all(ticket.done for ticket in tickets)
    past = histories(database)
    disk.kill()
    restarted = open_store(disk, wal, seed=1)
    assert histories(restarted) == past
    return [told(ticket) for ticket in tickets], past, content(restarted)


examples = 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_answers_and_content_are_the_same_with_and_without_overlap_and_grouping(
    workload: list[tuple[Request, bool, int]],
) -> None:
    reference, *others = (run(workload, overlap, grouping) for overlap, grouping in VARIANTS)
    for other in others:
        assert other == reference
    global examples
    examples += 1
    if examples % 8 == 0:  # stores and their disks are circles of few objects and many bytes; by itself it comes after a gigabyte
        gc.collect()
