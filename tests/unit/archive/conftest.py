"""What all tests of the archive share: no failpoint stays armed, and a small store to back up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvserver.base import failpoints
from kvserver.commit.requests import Put
from support.archived_store import ArchivedStore


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.disarm_all()


@pytest.fixture
def kept() -> ArchivedStore:
    """A store with three commits, the last of them a second younger."""
    kept = ArchivedStore()
    kept.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"))
    kept.group(Put(1, b"a", b"3"))
    return kept
