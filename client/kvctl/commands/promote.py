"""``kvctl promote``: make a follower the primary, step by step before one's eyes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from kvctl import output
from kvctl.command import Command
from kvctl.commands.cluster_access import connect, one_endpoint, safe
from kvctl.confirmation import can_ask, confirm
from kvctl.failures import as_ctl_error
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import ClusterStatus, PromotionStep

_MAY_GO_ON = "the node may still become primary; see: kvctl cluster status"


@click.command(cls=Command)
@click.option("--dry-run", is_flag=True, help="Only say what would happen; nothing is claimed or promised.")
@click.option("--accept-loss", is_flag=True, help="Go on although writes that were acknowledged may be lost.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def promote(settings: Settings, dry_run: bool, accept_loss: bool, yes: bool) -> None:
    """Make the node that -E names the primary.

    It claims a new epoch in the register, has the members promise to refuse lower ones, fetches what they have and it has
    not, and begins to take writes. The old primary, if it is there, takes no more: what it alone had is kept aside when it
    comes back, and reported as a range of revisions.

    A node that lacks what the policy acknowledged is refused; --accept-loss has it go on all the same. On a terminal it is
    asked before, unless --yes is given. Without a terminal --accept-loss needs --yes. --timeout bounds the wait for the next
    step (5m unless given), not the whole.

    \b
    Examples:
      kvctl promote -E db2:7400 --dry-run
      kvctl -E db2:7400 promote
      kvctl -E db2:7400 promote --accept-loss --yes -o json
    """
    endpoint = one_endpoint(settings, "promote")
    with connect(settings, endpoint) as asked:
        if not dry_run and not yes and (accept_loss or can_ask()):
            found = asked.status()
            loss = " Writes that were acknowledged may be lost." if accept_loss else ""
            confirm(f"{_question(found, endpoint)}{loss}", "nothing was promoted", yes=yes)
        import kvclient

        last: PromotionStep | None = None
        try:
            steps = asked.promote(dry_run=dry_run, accept_loss=accept_loss, timeout_s=settings.long_limit_s)
            with contextlib.closing(steps) as taken:
                for last in taken:
                    _tell_step(settings, last, dry_run)
        except (kvclient.Timeout, kvclient.Unavailable) as error:
            told = as_ctl_error(error)
            if not error.from_server and last is not None and not dry_run:
                told.hint = _MAY_GO_ON
            raise told from error
    assert last is not None  # the client raises where the stream ends without an outcome
    _tell_outcome(settings, last, dry_run)


def _question(found: ClusterStatus, endpoint: str) -> str:
    """Return what is asked: which node, and instead of whom."""
    own = next((node.name for node in found.nodes if node.is_self), endpoint)
    primary = found.primary
    if primary is None:
        return f"Make {safe(own)} the primary? No other one can be reached."
    if primary.is_self:
        return f"{safe(own)} is the primary already. Have it begin a new epoch?"
    return f"Make {safe(own)} the primary instead of {safe(primary.name)}, which answers?"


def _tell_step(settings: Settings, step: PromotionStep, dry_run: bool) -> None:
    """Tell a step when it is taken: whoever waits sees where it stands."""
    if settings.as_json:
        output.write_json(_fields(step, dry_run))
    elif settings.output != "raw" and step.message:
        output.write_line(f"{safe(step.step):<10}{safe(step.message)}")
    import sys

    sys.stdout.flush()


def _fields(step: PromotionStep, dry_run: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"dry_run": True} if dry_run else {}
    told.update(step=step.step, message=step.message, done=step.done)
    if step.done:
        told.update(epoch=step.epoch, revision=step.revision, lost_from=step.lost_from, lost_upto=step.lost_upto)
    return told


def _tell_outcome(settings: Settings, last: PromotionStep, dry_run: bool) -> None:
    if settings.as_json:
        return
    if settings.output == "raw":
        output.write_line(str(last.epoch))
        return
    would = "would begin" if dry_run else "begins"
    output.write_line(f"epoch {last.epoch} {would} behind revision {last.revision}")
    output.write_line(_loss(last, dry_run))
    if dry_run:
        output.write_line("nothing was changed")


def _loss(last: PromotionStep, dry_run: bool) -> str:
    if not last.lost_from:
        return "nothing that was acknowledged is lost, as far as was heard"
    verb = "might be lost" if dry_run else "may be lost"
    if last.lost_upto < last.lost_from:
        return f"what was acknowledged behind revision {last.lost_from - 1} {verb}; nobody has heard of any such write"
    known = f"revisions {last.lost_from} to {last.lost_upto} {verb}"
    return f"{known}: they were heard of and are not here; the old primary keeps them aside when it comes back"
