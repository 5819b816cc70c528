"""Both clients have the same calls, with the same parameters and the same words."""

from __future__ import annotations

import inspect
import re
from typing import Any
from unittest.mock import call

from kvclient import (
    NO_SESSION,
    AsyncClient,
    Client,
    Delete,
    DeletePrefix,
    DeleteRange,
    Durability,
    Put,
    Retry,
)
from kvclient._async_connection import AsyncConnection
from kvclient._connection import Connection
from support.fake_server import FakeServer


def public(kind: type) -> dict[str, object]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def same_words(annotation: object) -> str:
    return str(annotation).replace("AsyncGenerator", "Generator").replace(", None]", "]").replace(", None]", "]")


def test_the_same_names() -> None:
    assert list(public(Client)) == list(public(AsyncClient))


def test_the_same_parameters_results_and_docstrings() -> None:
    names = ["__init__", *public(Client)]
    for name in names:
        blocking, waiting = vars(Client)[name], vars(AsyncClient)[name]
        assert type(blocking) is type(waiting), name
        assert inspect.getdoc(blocking) == inspect.getdoc(waiting), name
        if isinstance(blocking, property):
            continue
        first, second = inspect.signature(blocking), inspect.signature(waiting)
        assert first.parameters == second.parameters, name
        assert same_words(first.return_annotation) == same_words(second.return_annotation), name


def test_everything_that_waits_is_a_coroutine() -> None:
    for name, member in public(AsyncClient).items():
        if inspect.isfunction(member) and name not in ("scan", "history", "create_backup", "forget_session"):
            assert inspect.iscoroutinefunction(member), name
            assert not inspect.iscoroutinefunction(vars(Client)[name]), name


def test_every_call_takes_a_limit_of_time() -> None:
    for name, member in public(Client).items():
        if inspect.isfunction(member) and name not in ("close", "forget_session"):
            assert "timeout_s" in inspect.signature(member).parameters, name


def private(kind: type) -> set[str]:
    return {name for name in vars(kind) if re.match(r"_[a-z]", name)}


def test_the_private_halves_correspond() -> None:
    assert private(Client) == private(AsyncClient)
    assert {*public(Connection)} - {*public(AsyncConnection)} == set()
    assert {*public(AsyncConnection)} - {*public(Connection)} == {"cancelled_by_close"}


CALLS: dict[str, list[Any]] = {
    "get": [
        call(b"k"),
        call(bytearray(b"k")),
        call(b"k", revision=1),
        call(b"k", session=NO_SESSION),
        call("text"),
        call(7),
        call(b""),
    ],
    "put": [
        call(b"k", b"v"),
        call(bytearray(b"k"), memoryview(b"v")),
        call(b"k", b"v", durability=Durability.MEMORY),
        call(b"k", b"v", durability=Durability.LOCAL),
        call(b"k2", b"v", if_absent=True),
        call(b"k", b"v", if_revision=3),
        call(b"k", b"v", if_revision=-1),
        call("text", b"v"),
        call(b"k", None),
        call(b"k", bytes(5_000_000)),
        call(b"k", b"v", timeout_s=-1.0),
    ],
    "delete": [call(b"k"), call(b"k", if_revision=9), call(b"k", durability=Durability.MEMORY), call(None)],
    "delete_range": [call(b"a", b"b"), call(b"b", b"a"), call(b"a", b"b", durability=Durability.MEMORY)],
    "delete_prefix": [call(b"a"), call(b"a", durability=Durability.REPLICATED), call("a")],
    "write": [
        call([Put(b"k", b"v", if_revision=0), Delete(b"x"), DeletePrefix(b"p"), DeleteRange(b"a", b"b")]),
        call([Put(b"k", b"v", namespace="nowhere")], durability=Durability.MEMORY),
        call([]),
    ],
    "put_many": [call([(b"a", b"1"), (b"b", b"2")]), call([]), call([(b"", b"v")]), call([("a", b"v")]), call([1])],
    "get_many": [call([b"a", b"b", b"a"]), call([]), call([b""]), call(["a"])],
    "scan": [call(), call(b"a", reverse=True), call(b"a", start=b"b"), call(start=b"a", end=b"b", limit=1, keys_only=True)],
    "count": [call(), call(b"a", revision=2)],
    "history": [call(b"a", limit=3), call(b"a", before_revision=2)],
    "sync": [call(), call(2, Durability.LOCAL)],
    "status": [call()],
    "create_namespace": [call("n"), call("n"), call("\udcff")],
    "list_namespaces": [call()],
    "drop_namespace": [call("n"), call("n")],
    "compact": [call(2), call()],
    "flush": [call()],
    "checkpoint": [call("/backup"), call("relative")],
    "archive_status": [call()],
    "archive_now": [call()],
    "create_backup": [call(), call(timeout_s=-1.0)],
    "content_hash": [call()],
    "forget_session": [call()],
    "close": [call(), call()],
}
"""At least one use of each call, right ones and wrong ones."""


async def outcome(client: Any, name: str, arguments: Any) -> Any:
    """Return what a call gave, or the error in all that programs and people see of it."""
    try:
        given = getattr(client, name)(*arguments.args, **arguments.kwargs)
        if inspect.isawaitable(given):
            return await given
        if inspect.isasyncgen(given):
            return [item async for item in given]
        return list(given) if inspect.isgenerator(given) else given
    except Exception as error:
        return type(error), getattr(error, "code", ""), str(error), getattr(error, "hint", "")


async def everything(kind: type) -> tuple[list[Any], list[Any]]:
    """Make every call of a fresh client to a fresh server; return what came of each, and what was sent."""
    with FakeServer() as fake:
        client = kind(fake.endpoint, retry=Retry(attempts=1))
        outcomes = [(name, await outcome(client, name, use)) for name, uses in CALLS.items() for use in uses]
        await outcome(client, "close", call())
        return outcomes, [*fake.requests, *fake.frames]


async def test_both_send_the_same_and_make_the_same_of_the_answers() -> None:
    assert set(CALLS) == {name for name, member in public(Client).items() if inspect.isfunction(member)}
    blocking, waiting = await everything(Client), await everything(AsyncClient)
    for one, other in zip(blocking[0], waiting[0], strict=True):
        assert one == other
    for one, other in zip(blocking[1], waiting[1], strict=True):
        assert one == other
