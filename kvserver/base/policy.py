"""The policy: how well a commit is kept before it is shown and acknowledged. A row of the system's own namespace.

Either the primary alone decides (``ASYNC``), or W of M named members must have synced a commit; the primary is one of them
where it is named. The row, of fixed layout:

    version (u8, 1), write quorum (u8), number of members (u8), then for each member: length (u8), name (ASCII)

Names stand in the order of their bytes, so that equal policies are equal rows. Nothing follows. A quorum of 0 has no members.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

from kvserver.base.errors import Code, InvalidRequest

MAX_MEMBERS = 15

MEMBER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
"""What a node may be called."""

_VERSION = 1
_HINT = "for instance: kvctl cluster policy set --members n1,n2,n3 --write-quorum 2; or --async"


class Policy(NamedTuple):
    """What must hold before a commit is shown."""

    write_quorum: int
    """So many members must have synced it; 0: the primary alone decides."""
    members: tuple[str, ...]
    """The names that count, in the order of their bytes."""
    revision: int = 0
    """The commit that set it; 0: it was never set."""

    @property
    def promise_quorum(self) -> int:
        """Return how many members must promise to obey a new epoch, so that no quorum of the old one is left: M - W + 1."""
        return len(self.members) - self.write_quorum + 1 if self.write_quorum else 0

    def is_same_rule(self, other: Policy) -> bool:
        """Say whether the two ask for the same, whichever commits set them."""
        return self[:2] == other[:2]

    def __str__(self) -> str:
        """Return the rule as people say it."""
        if not self.write_quorum:
            return "asynchronous"
        return f"{self.write_quorum} of {len(self.members)} ({', '.join(self.members)})"


ASYNC = Policy(0, ())
"""What holds until a policy is set."""


def make_policy(write_quorum: int, members: Iterable[str]) -> Policy:
    """Return the policy with its members in order. Raises InvalidRequest where no cluster could meet it, or it says nothing."""
    names = tuple(sorted(members))
    for name in names:
        if not MEMBER_NAME.fullmatch(name):
            raise _refused(f"{name[:64]!r} cannot be the name of a member: 1 to 63 letters, digits, '.', '_' and '-'")
    for name, following in itertools.pairwise(names):
        if name == following:
            raise _refused(f"member {name!r} is named twice; each counts once")
    if len(names) > MAX_MEMBERS:
        raise _refused(f"{len(names)} members are named; at most {MAX_MEMBERS} can be")
    if not write_quorum and names:
        raise _refused(f"{len(names)} members are named with a write quorum of 0, which counts nobody")
    if write_quorum < 0 or write_quorum > len(names):
        raise _refused(f"a write quorum of {write_quorum} out of {len(names)} members can never be met")
    return Policy(write_quorum, names)


def encode_policy(policy: Policy) -> bytes:
    """Return the row of a policy. Raises InvalidRequest where it is none."""
    made = make_policy(policy.write_quorum, policy.members)
    names = b"".join(bytes((len(name),)) + name.encode("ascii") for name in made.members)
    return bytes((_VERSION, made.write_quorum, len(made.members))) + names


def decode_policy(row: bytes, revision: int) -> Policy:
    """Return the policy of a row that a commit wrote. Raises ValueError where it is not exactly one."""
    if len(row) < 3:
        raise ValueError(f"a policy's row of {len(row)} bytes is cut off in its head")
    version, write_quorum, count = row[:3]
    if version != _VERSION:
        raise ValueError(f"a policy's row of version {version} is not known to this version")
    names = []
    at = 3
    for _ in range(count):
        length = row[at] if at < len(row) else 0
        name = row[at + 1 : at + 1 + length]
        if not length or len(name) < length:
            raise ValueError("a policy's row is cut off in its members")
        names.append(name.decode("latin-1"))
        at += 1 + length
    if at != len(row):
        raise ValueError("a policy's row is longer than its members")
    if names != sorted(names):
        raise ValueError("the members in a policy's row are out of order")
    try:
        return make_policy(write_quorum, names)._replace(revision=revision)
    except InvalidRequest as error:
        raise ValueError(f"a policy's row does not hold a policy: {error.message}") from error


def _refused(what: str) -> InvalidRequest:
    return InvalidRequest(Code.INVALID_FIELD, f"the policy cannot be set: {what}", _HINT)
