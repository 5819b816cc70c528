"""What the commands about a cluster have in common: the way to a node, and a few words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvctl.bytes_form import printable
from kvctl.settings import Settings

if TYPE_CHECKING:
    from kvclient import ClusterClient, Policy


def connect(settings: Settings, endpoint: str | None = None) -> ClusterClient:
    """Return a client of the cluster's administration; it connects when it is first used."""
    from kvclient import ClusterClient

    try:
        return ClusterClient(settings.endpoint if endpoint is None else endpoint, settings.limit_s)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def one_endpoint(settings: Settings, command: str) -> str:
    """Return the endpoint of a command that is about the node named: there must be one, or nobody knows which is meant."""
    if len(settings.endpoints) > 1:
        raise click.UsageError(f"{command} is about one node: name that with -E HOST:PORT, and no other")
    return settings.endpoints[0]


def rule(policy: Policy) -> str:
    """Return a policy for people."""
    if not policy.write_quorum:
        return "asynchronous: a write is acknowledged when the primary has synced it"
    degraded = "; DEGRADED: not waited for at the moment" if policy.degraded else ""
    return f"{policy.write_quorum} of {', '.join(safe(name) for name in policy.members)}{degraded}"


def safe(text: str) -> str:
    """Return a text of a node's in which nothing can speak to the terminal."""
    return printable(text.encode())
