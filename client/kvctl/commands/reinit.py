"""``kvctl reinit``: have a follower throw its copy away and fetch a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.command import Command
from kvctl.commands.cluster_access import connect, one_endpoint, safe
from kvctl.confirmation import confirm
from kvctl.failures import EXIT_NOT_FOUND, EXIT_REFUSED, EXIT_UNREACHABLE, CtlError
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import ClusterNode, ClusterStatus


@click.command(cls=Command)
@click.argument("node", required=False, metavar="[NODE]")
@click.option("--dry-run", is_flag=True, help="Only say which node would begin anew, and what it has.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def reinit(settings: Settings, node: str | None, dry_run: bool, yes: bool) -> None:
    """Have a follower throw its copy away and fetch a new one: the node that -E names, or the one of name NODE.

    For a follower that cannot go on by itself. The node serves nothing until it has the new copy. A primary is refused. It is
    asked before, unless --yes is given; without a terminal --yes must be.

    \b
    Examples:
      kvctl -E db3:7400 reinit
      kvctl reinit n3
      kvctl reinit n3 --yes -o json
    """
    endpoint = settings.endpoint if node is not None else one_endpoint(settings, "reinit")
    with connect(settings, endpoint) as asked:
        chosen = _chosen(asked.status(), node, endpoint)
    if chosen.role == "primary":
        message = f"{chosen.name} is the primary: nobody has what it would throw away"
        raise CtlError("IS_PRIMARY", message, "promote another node first: kvctl -E FOLLOWER promote", EXIT_REFUSED)
    if not dry_run:
        question = f"Have {safe(chosen.name)} throw away its copy, of revision {chosen.durable_revision}, and fetch a new one?"
        confirm(question, "nothing was thrown away", yes=yes)
        with connect(settings, endpoint if chosen.is_self else chosen.address) as follower:
            follower.reinit()
    _tell(settings, chosen, dry_run)


def _chosen(found: ClusterStatus, name: str | None, endpoint: str) -> ClusterNode:
    """Return the node that is meant, and raise CtlError where it is not there."""
    for node in found.nodes:
        if node.is_self if name is None else node.name == name:
            if not node.reachable:
                raise CtlError("UNAVAILABLE", f"{node.name} cannot be reached: {node.error}", "", EXIT_UNREACHABLE)
            return node
    wanted = f"no node {name!r}" if name is not None else "nothing of itself"
    raise CtlError("NO_SUCH_NODE", f"the node at {endpoint} knows {wanted}", "see: kvctl cluster status", EXIT_NOT_FOUND)


def _tell(settings: Settings, node: ClusterNode, dry_run: bool) -> None:
    if settings.as_json:
        told = {"dry_run": True, "would_reinit": node.name} if dry_run else {"reinit": node.name}
        output.write_json({**told, "address": node.address, "durable_revision": node.durable_revision})
    elif settings.output == "raw":
        output.write_line(node.name)
    elif dry_run:
        output.write_line(
            f"{safe(node.name)} at {safe(node.address)} would throw away its copy, of revision {node.durable_revision}"
        )
    else:
        output.write_line(f"{safe(node.name)} begins anew; see how far it is with: kvctl cluster status -w")
