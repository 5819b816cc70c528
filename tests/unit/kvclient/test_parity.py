"""Both clients have the same calls, with the same parameters and the same words."""

from __future__ import annotations

import inspect
import re

from kvclient import AsyncClient, Client


def public(kind: type) -> dict[str, object]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def same_words(annotation: object) -> str:
    return str(annotation).replace("AsyncIterator", "Iterator")


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
        if inspect.isfunction(member) and name not in ("scan", "history", "forget_session"):
            assert inspect.iscoroutinefunction(member), name
            assert not inspect.iscoroutinefunction(vars(Client)[name]), name


def test_every_call_takes_a_limit_of_time() -> None:
    for name, member in public(Client).items():
        if inspect.isfunction(member) and name not in ("close", "forget_session"):
            assert "timeout_s" in inspect.signature(member).parameters, name


def test_the_private_halves_correspond() -> None:
    helpers = re.compile(r"_[a-z]")
    blocking = {name for name in vars(Client) if helpers.match(name)}
    waiting = {name for name in vars(AsyncClient) if helpers.match(name)}
    assert blocking - waiting == {"_open_pipeline", "_closed_or"}
    assert waiting - blocking == {"_cancelled_by_close"}
