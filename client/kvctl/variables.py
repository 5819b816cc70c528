"""The environment variables of kvctl, and a look at what else of theirs is set.

A variable says where to, how long or in which form; never what is written or destroyed, nor how safely. What does that has
to stand on the command line, where whoever reads the line sees it.
"""

from __future__ import annotations

import os

PREFIX = "KVCTL_"
NAMES = frozenset(
    f"{PREFIX}{name}"
    for name in ("ENDPOINT", "TIMEOUT", "NAMESPACE", "OUTPUT", "READ_FROM", "HEX", "FORMAT", "INTERVAL", "DATA_DIR", "ARCHIVE")
)
"""Every variable that an option takes."""


def unknown_variables() -> list[str]:
    """Return the names that begin like kvctl's own variables and are none of them, in order."""
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in NAMES)


def silence_grpc() -> None:
    """Keep gRPC's own log off standard error, which programs read, unless somebody asks for it. Before gRPC is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def nearest(name: str) -> str:
    """Return the variable that was probably meant; empty where none is near."""
    import difflib

    return next(iter(difflib.get_close_matches(name, sorted(NAMES), n=1, cutoff=0.8)), "")
