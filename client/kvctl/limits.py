"""The limits of the service that kvctl knows, to name what is beyond them before anything is sent.

They are part of the contract and never become smaller; a test keeps them equal to the server's.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_KEY_BYTES = 8 * 1024
MAX_VALUE_BYTES = 1024 * 1024
MAX_COMMIT_MUTATIONS = 10_000


class Excess(NamedTuple):
    """What is beyond a limit: the code with which a server refuses it, and a sentence."""

    code: str
    message: str


def excess_of(key_bytes: int, value_bytes: int) -> Excess | None:
    """Return what is wrong with a key and a value of these sizes; None where nothing is."""
    if not key_bytes:
        return Excess("EMPTY_KEY", "the key is empty; a key has at least one byte")
    if key_bytes > MAX_KEY_BYTES:
        return Excess("KEY_TOO_LARGE", f"the key has {key_bytes} bytes; a key may have {MAX_KEY_BYTES}")
    if value_bytes > MAX_VALUE_BYTES:
        return Excess("VALUE_TOO_LARGE", f"the value has {value_bytes} bytes; a value may have {MAX_VALUE_BYTES}")
    return None
