"""Calls that may take minutes: the node is looked for quickly, waited for long, and a missing answer is not called a failure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvctl.failures import as_ctl_error
from kvctl.progress import Spinner
from kvctl.settings import Settings

if TYPE_CHECKING:
    from kvclient import Client

STILL_AT_IT = "the node may still be at it, and ends it without you; see how far it is with: kvctl status"


@contextlib.contextmanager
def long_call(settings: Settings, title: str, hint: str = STILL_AT_IT, *, endpoint: str | None = None) -> Iterator[Client]:
    """Connect for a call that may take minutes, show that it is under way, and say by a hint what a missing answer means."""
    import kvclient

    with settings.connect(endpoint=endpoint) as kv:
        kv.status()  # a node that is not there is found out in seconds
        try:
            with Spinner(title):
                yield kv
        except (kvclient.Timeout, kvclient.Unavailable) as error:
            told = as_ctl_error(error)
            if not error.from_server:
                told.hint = hint
            raise told from error
