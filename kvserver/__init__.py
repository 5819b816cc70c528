"""A replicated key-value service for data that must not be lost, spoken to over gRPC.

The floors, from the bottom up, and what each of them owns: ``docs/architecture.md``.
"""

from __future__ import annotations

import importlib.metadata

UNKNOWN_VERSION = "0+unknown"
"""What ``__version__`` says where the code runs without having been installed."""


def _installed_version() -> str:
    try:
        return importlib.metadata.version("kvserver")
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN_VERSION


__version__ = _installed_version()
