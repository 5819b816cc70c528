"""``kvctl repl``: who is shipped the log, and what is held for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands.cluster_access import connect, safe
from kvctl.confirmation import confirm
from kvctl.failures import EXIT_NOT_FOUND, CtlError
from kvctl.settings import Settings, command_options
from kvctl.times import shown_span

if TYPE_CHECKING:
    from kvclient import Slot

_FIELDS = (
    *("name", "address", "connected", "state", "received_revision", "durable_revision", "applied_revision"),
    *("lag_bytes", "hold_revision", "held_bytes", "max_bytes", "silent_ms", "node_id"),
)


@click.group(cls=Group)
def repl() -> None:
    """Look after the log as it is shipped to followers.

    \b
    Examples:
      kvctl repl slots
      kvctl repl drop n3
    """


@repl.command(short_help="List who is shipped the log.")
@command_options
@click.pass_obj
def slots(settings: Settings) -> None:
    """List the followers that the node ships its log to, how far each is, and what is held for it.

    A follower that is away has the log kept for it, up to a number of bytes; beyond that it has to fetch from the archive.

    \b
    Examples:
      kvctl repl slots
      kvctl -E db1:7400 repl slots -o json
    """
    with connect(settings) as asked:
        found = asked.slots()
    if settings.as_json:
        for slot in found:
            output.write_json(slot_fields(slot))
    elif settings.output == "raw":
        for slot in found:
            output.write_line("\t".join(safe(str(value)) for value in slot_fields(slot).values()))
    elif not found:
        output.write_line("the node ships its log to nobody")
    else:
        head = ("NAME", "ADDRESS", "STATE", "DURABLE", "APPLIED", "BEHIND", "HELD", "OF", "HEARD")
        output.write_table(head, [_row(slot) for slot in found])


def slot_fields(slot: Slot) -> dict[str, Any]:
    """Return a slot as JSON fields."""
    return {name: getattr(slot, name) for name in _FIELDS}


def _row(slot: Slot) -> tuple[str, ...]:
    held = f"{output.sized(slot.held_bytes)} from {slot.hold_revision}" if slot.hold_revision else "nothing"
    heard = f"{shown_span(slot.silent_ms)} ago" if slot.silent_ms else "now"
    figures = (str(slot.durable_revision), str(slot.applied_revision), output.sized(slot.lag_bytes))
    return (safe(slot.name), safe(slot.address), safe(slot.state), *figures, held, output.sized(slot.max_bytes), heard)


@repl.command(short_help="Let go of what is held for a follower.")
@click.argument("name", metavar="NAME")
@click.option("--dry-run", is_flag=True, help="Only say what is held for it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def drop(settings: Settings, name: str, dry_run: bool, yes: bool) -> None:
    """Let go of the log that is held for follower NAME, which will not come back.

    If it does come back, it fetches what it lacks from the archive, or a new copy. It is asked before, unless --yes is given;
    without a terminal --yes must be.

    \b
    Examples:
      kvctl repl drop n3 --dry-run
      kvctl repl drop n3
      kvctl repl drop n3 --yes -o json
    """
    with connect(settings) as asked:
        slot = next((slot for slot in asked.slots() if slot.name == name), None)
        if slot is None:
            message = f"the node at {settings.endpoint} ships its log to no {name!r}"
            raise CtlError("NO_SUCH_SLOT", message, "see: kvctl repl slots", EXIT_NOT_FOUND)
        if not dry_run:
            held = f"{output.sized(slot.held_bytes)} of the log are held for {safe(name)}"
            confirm(f"{held}. Let go of them?", "nothing was dropped", yes=yes)
            asked.drop_slot(name)
    if settings.as_json:
        told: dict[str, Any] = {"dry_run": True, "would_drop": name} if dry_run else {"dropped": name}
        output.write_json({**told, "held_bytes": slot.held_bytes, "hold_revision": slot.hold_revision})
    elif settings.output == "raw":
        output.write_line(str(slot.held_bytes))
    else:
        verb = "would let go" if dry_run else "let go"
        output.write_line(f"{verb} of {output.sized(slot.held_bytes)} of the log that are held for {safe(name)}")
