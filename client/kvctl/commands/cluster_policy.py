"""``kvctl cluster policy``: how many members must have a write before it is acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands.cluster_access import connect, rule
from kvctl.confirmation import confirm
from kvctl.progress import Spinner
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import Policy


@click.group(cls=Group, short_help="Show and change the policy.")
def policy() -> None:
    """Show and change how many members must have synced a write before it is acknowledged.

    Without a quorum (asynchronous) the primary alone does; what it had not sent on is lost with its disk. With a quorum of W
    of M members, the primary included, writes wait until W of them have it: also when that takes for ever.

    \b
    Examples:
      kvctl cluster policy get
      kvctl cluster policy set --members n1,n2,n3 --write-quorum 2
      kvctl cluster policy degrade --reason 'n2 and n3 are without power'
      kvctl cluster policy return
    """


@policy.command(short_help="Show the policy.")
@command_options
@click.pass_obj
def get(settings: Settings) -> None:
    """Show the policy, as the node knows it.

    \b
    Examples:
      kvctl cluster policy get
      kvctl cluster policy get -o json
    """
    with connect(settings) as asked:
        found = asked.policy()
    if settings.as_json:
        output.write_json(policy_fields(found))
    elif settings.output == "raw":
        output.write_pairs([(name, _raw(value)) for name, value in policy_fields(found).items()], raw=True)
    else:
        output.write_pairs(
            [("policy", rule(found)), ("set by", f"revision {found.revision}" if found.revision else "nobody yet")]
        )


def policy_fields(found: Policy) -> dict[str, Any]:
    """Return a policy as JSON fields."""
    return {
        "write_quorum": found.write_quorum,
        "members": list(found.members),
        "degraded": found.degraded,
        "revision": found.revision,
    }


def _raw(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


@policy.command("set", short_help="Change the policy.")
@click.option("--members", metavar="NAME,NAME,...", help="The members that count, the primary among them, by their names.")
@click.option("--write-quorum", type=click.IntRange(min=1), metavar="W", help="How many of them must have synced a write.")
@click.option("--async", "asynchronous", is_flag=True, help="No quorum: the primary alone acknowledges.")
@click.option("--dry-run", is_flag=True, help="Only say what would hold instead of what.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def set_(settings: Settings, members: str | None, write_quorum: int | None, asynchronous: bool, dry_run: bool, yes: bool) -> None:
    """Change the policy by a commit, which both the old and the new quorum must have.

    Where fewer nodes would keep a write than now, it is asked before, unless --yes is given; without a terminal --yes must
    be. The primary does it; any node may be named where it knows the primary.

    \b
    Examples:
      kvctl cluster policy set --members n1,n2,n3 --write-quorum 2
      kvctl cluster policy set --members n1,n2 --write-quorum 2 --dry-run
      kvctl cluster policy set --async --yes
    """
    quorum, names = _wanted(members, write_quorum, asynchronous)
    from kvclient import Policy

    wanted = Policy(quorum, names)
    with connect(settings) as asked:
        before = asked.policy()
        if dry_run:
            _tell_dry_run(settings, before, wanted)
            return
        if quorum < before.write_quorum:
            question = f"Let {rule(wanted)} hold instead of {rule(before)}?"
            confirm(question, "the policy was not changed", yes=yes)
        with Spinner("waiting for the old and the new quorum"):
            done = asked.set_policy(quorum, names)
    if settings.as_json:
        fields = {"write_quorum": quorum, "members": list(names), "revision": done.revision, "epoch": done.epoch}
        output.write_json(fields)
    elif settings.output == "raw":
        output.write_line(str(done.revision))
    else:
        output.write_line(f"policy: {rule(wanted)} (revision {done.revision})")


def _wanted(members: str | None, write_quorum: int | None, asynchronous: bool) -> tuple[int, tuple[str, ...]]:
    """Return the policy that the command line names; refuse one that says nothing, or too much."""
    if asynchronous:
        if members is not None or write_quorum is not None:
            raise click.UsageError("--async excludes --members and --write-quorum")
        return 0, ()
    if members is None or write_quorum is None:
        raise click.UsageError("give --members and --write-quorum, or --async")
    names = tuple(name.strip() for name in members.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise click.UsageError(f"--members takes different names with commas between, not {members!r}")
    if write_quorum > len(names):
        raise click.UsageError(f"a write quorum of {write_quorum} can never be met by {output.counted(len(names), 'member')}")
    return write_quorum, names


def _tell_dry_run(settings: Settings, before: Policy, wanted: Policy) -> None:
    if settings.as_json:
        fields = {"write_quorum": wanted.write_quorum, "members": list(wanted.members)}
        output.write_json({"dry_run": True, **fields, "instead_of": policy_fields(before)})
    elif settings.output == "raw":
        output.write_line(str(wanted.write_quorum))
    else:
        output.write_pairs([("would hold", rule(wanted)), ("instead of", rule(before))])


@policy.command(short_help="Acknowledge without the quorum, for now.")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the register for those who read it later.")
@click.option("--dry-run", is_flag=True, help="Only say which policy would be waited for no more.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def degrade(settings: Settings, reason: str, dry_run: bool, yes: bool) -> None:
    """Have the primary acknowledge writes alone from now on, until 'return'; what it alone has can be lost with it.

    It is written to the register before it takes effect. It is asked before, unless --yes is given; without a terminal
    --yes must be.

    \b
    Examples:
      kvctl cluster policy degrade --reason 'n2 and n3 are without power'
      kvctl cluster policy degrade --yes -o json
    """
    with connect(settings) as asked:
        if dry_run:
            before = asked.policy()
            fields = {"dry_run": True, **policy_fields(before)}
            _tell_done(settings, fields, f"would be waited for no more: {rule(before)}; nothing was changed")
            return
        confirm("Acknowledge writes that only the primary has?", "the policy holds as before", yes=yes)
        asked.degrade(reason)
    _tell_done(settings, {"degraded": True, "reason": reason}, "degraded: writes are acknowledged by the primary alone")


@policy.command("return", short_help="Return to the quorum.")
@command_options
@click.pass_obj
def return_(settings: Settings) -> None:
    """Return to the policy's quorum after 'degrade', once it has caught up.

    \b
    Examples:
      kvctl cluster policy return
      kvctl cluster policy return --timeout 1m
    """
    with connect(settings) as asked, Spinner("waiting until the quorum has caught up"):
        asked.end_degrade()
    _tell_done(settings, {"degraded": False}, "the policy's quorum is waited for again")


def _tell_done(settings: Settings, fields: dict[str, Any], sentence: str) -> None:
    if settings.as_json:
        output.write_json(fields)
    elif settings.output == "raw":
        output.write_line(str(fields["degraded"]).lower())
    else:
        output.write_line(sentence)
