"""Errors carry a code for programs, a message for people and what to do next."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from kvserver.base import errors
from kvserver.base.errors import (
    Code,
    ConditionFailed,
    Corruption,
    DeadlinePassed,
    KvError,
    NamespaceExists,
    NotServing,
    OpenRefused,
    OutcomeUnknown,
    UnknownNamespace,
)

EXAMPLES = [
    UnknownNamespace("orders"),
    NamespaceExists("orders"),
    ConditionFailed(b"key", 7, "if_absent", 7),
    OutcomeUnknown(),
    DeadlinePassed("too late"),
    NotServing(),
    Corruption(Path("/data/x"), 4096, "it is damaged"),
    OpenRefused("it is in use", "stop the other server"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_says_what_and_what_next(error: KvError) -> None:
    assert isinstance(error.code, Code)
    assert str(error) == error.message != ""
    assert error.hint
    with pytest.raises(KvError):
        raise error


def test_every_class_stands_in_the_tree_of_the_module() -> None:
    tree = errors.__doc__ or ""
    direct = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if KvError in kind.__bases__}
    assert direct
    assert all(kind.__name__ in tree for kind in direct)


def test_a_failed_condition_shows_what_was_found() -> None:
    found = ConditionFailed(b"key", 7, "if_absent", 9)
    assert (found.key, found.mod_revision, found.depends_on) == (b"key", 7, 9)
    assert "its newest version is of revision 7" in found.message
    assert "it does not exist" in ConditionFailed(b"key", 0, "if_revision=3", 9).message


def test_a_long_key_is_not_printed_whole() -> None:
    assert len(ConditionFailed(b"k" * 8192, 7, "if_absent", 7).message) < 300


def test_corruption_names_file_offset_and_command() -> None:
    error = Corruption(Path("/data/wal/x"), 4096, "it is damaged")
    assert error.message == "/data/wal/x: damaged at offset 4096: it is damaged"
    assert (error.path, error.offset, error.what) == (Path("/data/wal/x"), 4096, "it is damaged")
    assert "kvctl wal verify" in error.hint
