"""The command ``kvserver``: hands over to the server, or says what to install where its packages are missing.

The base install is the SDK and kvctl; what only the server needs comes with the extra ``kvserver[server]``.
"""

from __future__ import annotations

import importlib
import sys

SERVER_MODULES = (
    "sortedcontainers",
    "google_crc32c",
    "grpc_health",
    "grpc_reflection",
    "prometheus_client",
    "rocksdict",
    "uvloop",
)
"""The modules that the extra ``server`` brings; a test compares them with ``pyproject.toml``."""


def _missing_modules() -> list[str]:
    missing = []
    for name in SERVER_MODULES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A module that is there but lacks something of its own is another fault, and must be seen as such.
            if error.name != name:
                raise
            missing.append(name)
    return missing


def main() -> int:
    """Run the server's command line; return the exit code, 1 where the extra ``server`` is not installed."""
    missing = _missing_modules()
    if missing:
        print(
            f"kvserver: the server's own packages are missing ({', '.join(missing)}); "
            "install them with: pip install 'kvserver[server]'",
            file=sys.stderr,
        )
        return 1
    # Not before the check above: the server's modules import the packages of the extra.
    import kvserver.server.main

    return kvserver.server.main.main()


if __name__ == "__main__":
    sys.exit(main())
