"""``kvctl cluster``: what the nodes are doing, which epochs there were, and the policy by which writes are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands.cluster_access import connect, rule, safe
from kvctl.commands.cluster_policy import policy
from kvctl.failures import EXIT_UNHEALTHY, as_ctl_error, report, warn
from kvctl.settings import Settings, command_options
from kvctl.times import shown_moment, shown_span
from kvctl.watching import keep_looking, watch_options

if TYPE_CHECKING:
    from kvclient import ClusterHistory, ClusterNode, ClusterStatus, EpochEntry, PolicyNote

_FIRST_FIELDS = (
    *("name", "address", "role", "state", "epoch", "durable_revision", "applied_revision", "lag_ms", "lag_revisions"),
)
_FIELDS = (
    *_FIRST_FIELDS,
    *("lag_bytes", "visible_revision", "heard_revision", "heard_ms", "promised_epoch", "follows", "primary"),
    *("reachable", "error", "reason", "is_self", "is_member", "node_id", "server_version"),
)
_TEXTS = frozenset({"name", "address", "role", "state", "reachable", "error", "reason", "is_self", "is_member"})
"""What is known also of a node that cannot be reached; of everything else there is no figure then."""


_WELL = ("PRIMARY", "STREAMING")
"""States of which the table gives no reason."""


@click.group(cls=Group)
def cluster() -> None:
    """See what the nodes of a cluster are doing, and say how well a write is kept.

    Any node answers; it asks the others.

    \b
    Examples:
      kvctl cluster status
      kvctl cluster status -w
      kvctl cluster history
      kvctl cluster policy set --members n1,n2,n3 --write-quorum 2
    """


cluster.add_command(policy)


@cluster.command(short_help="Show what every node is doing.")
@watch_options
@click.option("--check", is_flag=True, help="End with 5 unless every node answers and nothing needs attention.")
@command_options
@click.pass_obj
def status(settings: Settings, watch: bool, interval: float, check: bool) -> int:
    """Show what every node is doing, how far each is, and what needs somebody's attention.

    The node that is asked (*) asks the others; one that does not answer is shown with the reason, which is no error of
    this command unless --check is given. Of several endpoints the first one that answers is asked.

    \b
    Examples:
      kvctl cluster status
      kvctl -E db1:7400,db2:7400,db3:7400 cluster status -w
      kvctl cluster status --check -o json
    """
    if watch and check:
        raise click.UsageError("--check and --watch exclude each other")
    if watch:
        keep_looking(lambda: _look(settings), interval)
    found = _ask(settings)
    _show(settings, found)
    return EXIT_UNHEALTHY if check and _needs_attention(found) else 0


def _ask(settings: Settings) -> ClusterStatus:
    with connect(settings) as asked:
        return asked.status()


def _look(settings: Settings) -> Callable[[], object]:
    """Return what shows what there is to show now; that no node answers is what one watches for, and no reason to end."""
    try:
        return functools.partial(_show, settings, _ask(settings))
    except click.UsageError:
        raise
    except Exception as error:
        return functools.partial(report, as_ctl_error(error), as_json=settings.as_json)


def _needs_attention(found: ClusterStatus) -> bool:
    return bool(found.warnings) or found.primary is None or not all(node.reachable for node in found.nodes)


def _show(settings: Settings, found: ClusterStatus) -> None:
    if settings.as_json:
        for node in found.nodes:
            output.write_json(node_fields(node))
        _warn(settings, found)
    elif settings.output == "raw":
        for node in found.nodes:
            fields = node_fields(node)
            output.write_line("\t".join(_raw(fields[name]) for name in _FIRST_FIELDS))
        _warn(settings, found)
    else:
        _show_to_people(found)


def _warn(settings: Settings, found: ClusterStatus) -> None:
    for warning in found.warnings:
        warn("CLUSTER", warning, as_json=settings.as_json)


def node_fields(node: ClusterNode) -> dict[str, Any]:
    """Return a node as JSON fields; of one that cannot be reached all figures are null."""
    known = {name: getattr(node, name) for name in _FIELDS if node.reachable or name in _TEXTS}
    fields: dict[str, Any] = {name: known.get(name) for name in _FIELDS}
    if not node.reachable:
        fields["role"], fields["state"] = "unknown", "UNREACHABLE"
    return fields


def _raw(value: Any) -> str:
    return "-" if value is None else safe(str(value))


def _show_to_people(found: ClusterStatus) -> None:
    head = ("NAME", "ADDRESS", "ROLE", "STATE", "EPOCH", "DURABLE", "APPLIED", "BEHIND", "LAG", "MEMBER")
    output.write_table(head, [_row(node) for node in found.nodes])
    for node in found.nodes:
        if node.reachable and node.reason and node.state not in _WELL:
            output.write_line(f"{safe(node.name)}: {safe(node.reason)}")
    output.write_pairs([("policy", rule(found.policy)), ("register", safe(found.register_url) or "that of the node itself")])
    for warning in found.warnings:
        output.write_line(f"warning: {safe(warning)}")
    for node in found.nodes:
        if not node.reachable and not found.warnings:
            output.write_line(f"{safe(node.name)}: {safe(node.error)}")


def _row(node: ClusterNode) -> tuple[str, ...]:
    name = safe(node.name) + ("*" if node.is_self else "")
    member = "yes" if node.is_member else "-"
    if not node.reachable:
        return (name, safe(node.address), "unknown", "UNREACHABLE", *"-----", member)
    figures = (str(node.epoch), str(node.durable_revision), str(node.applied_revision))
    is_primary = node.role == "primary"
    lag = ("-", "-") if is_primary else (f"{node.lag_revisions:,}", shown_span(node.lag_ms))
    return (name, safe(node.address), safe(node.role), safe(node.state), *figures, *lag, member)


@cluster.command(short_help="List the epochs.")
@command_options
@click.pass_obj
def history(settings: Settings) -> None:
    """List who was primary when, oldest first, and when the policy's quorum was given up and returned to.

    \b
    Examples:
      kvctl cluster history
      kvctl cluster history -o json
    """
    with connect(settings) as asked:
        found = asked.history()
    events = _events(found)
    if settings.as_json:
        for event in events:
            output.write_json(event)
    elif settings.output == "raw":
        for event in events:
            names = ("event", "time_ms", "epoch", "node", "began_revision", "reason")
            output.write_line("\t".join(_raw(event.get(name)) for name in names))
    else:
        head = ("WHEN", "EVENT", "EPOCH", "NODE", "WHAT")
        output.write_table(head, [_event_row(event) for event in events])


def _events(found: ClusterHistory) -> list[dict[str, Any]]:
    """Return epochs and notes in the order in which they came to be: notes behind the claim of their epoch."""
    epochs = [((entry.epoch, 0, entry.claimed_ms), _epoch_fields(entry)) for entry in found.epochs]
    notes = [((note.epoch, 1, note.time_ms), _note_fields(note)) for note in found.notes]
    return [fields for _, fields in sorted([*epochs, *notes], key=lambda pair: pair[0])]


def _epoch_fields(entry: EpochEntry) -> dict[str, Any]:
    return {
        "event": "epoch",
        "time_ms": entry.claimed_ms,
        "epoch": entry.epoch,
        "epoch_nonce": f"{entry.epoch_nonce:016x}",
        "node": entry.node,
        "node_id": entry.node_id,
        "parent_epoch": entry.parent_epoch,
        "began_revision": entry.began_revision,
        "chain": entry.chain.hex(),
        "begun": entry.begun,
    }


def _note_fields(note: PolicyNote) -> dict[str, Any]:
    event = "degraded" if note.degraded else "returned"
    return {"event": event, "time_ms": note.time_ms, "epoch": note.epoch, "node": note.node, "reason": note.reason}


def _event_row(event: dict[str, Any]) -> tuple[str, ...]:
    return (shown_moment(event["time_ms"]), event["event"], str(event["epoch"]), safe(event["node"]) or "-", _what(event))


def _what(event: dict[str, Any]) -> str:
    if event["event"] != "epoch":
        return safe(event["reason"]) or "-"
    if event["began_revision"] is None:
        return "claimed, and not begun: nothing was acknowledged under it"
    if not event["parent_epoch"]:
        return "begins with the store"
    began = f"begins behind revision {event['began_revision']} of epoch {event['parent_epoch']}"
    return began if event["begun"] else f"{began}; nothing was written under it yet"
