"""The limits that kvctl knows are those of the server."""

from __future__ import annotations

import pytest

from kvctl import limits
from kvserver.base import limits as server


def test_limits_are_the_servers() -> None:
    names = [name for name in vars(limits) if name.isupper()]
    assert len(names) == 3
    for name in names:
        assert getattr(limits, name) == getattr(server, name)


@pytest.mark.parametrize(
    ("key_bytes", "value_bytes", "code"),
    [
        (0, 0, "EMPTY_KEY"),
        (1, 0, None),
        (limits.MAX_KEY_BYTES, limits.MAX_VALUE_BYTES, None),
        (limits.MAX_KEY_BYTES + 1, 0, "KEY_TOO_LARGE"),
        (1, limits.MAX_VALUE_BYTES + 1, "VALUE_TOO_LARGE"),
    ],
)
def test_what_is_beyond_them(key_bytes: int, value_bytes: int, code: str | None) -> None:
    excess = limits.excess_of(key_bytes, value_bytes)
    assert (excess.code if excess is not None else None) == code
