"""``kvctl del``: a key, a prefix or a range; a large range in parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.failures import CtlError, as_ctl_error
from kvctl.settings import Settings, command_options

if TYPE_CHECKING:
    from kvclient import BatchResult, Client, DeleteResult, Entry

PART_KEYS = 5_000
PART_BYTES = 1024 * 1024
"""A part ends at so many keys or bytes of keys, well inside what one commit may hold."""


@click.command()
@click.argument("key", required=False)
@click.option("--prefix", metavar="P", help="Delete the keys that begin with P.")
@click.option("--range", "bounds", nargs=2, metavar="A B", help="Delete the keys from A, included, to B, excluded.")
@click.option("--if-revision", type=click.IntRange(min=0), metavar="N", help="Only if KEY's newest version is of N.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a prefix or range is deleted.")
@command_options
@click.pass_obj
def delete(
    settings: Settings,
    key: str | None,
    prefix: str | None,
    bounds: tuple[str, str] | None,
    if_revision: int | None,
    yes: bool,
) -> None:
    """Delete KEY, a prefix or a range, and print how many keys that were. A key that is not there is no error.

    On a terminal a prefix or range is deleted only after a question, unless --yes is given. A range of more keys than
    one commit may hold is deleted in several commits, of what was there at the beginning.

    \b
    Examples:
      kvctl del greeting
      kvctl del greeting --if-revision 7
      kvctl del --prefix tmp/ --yes
      kvctl del --range a b
    """
    if sum(target is not None for target in (key, prefix, bounds)) != 1:
        raise click.UsageError("give one of KEY, --prefix and --range")
    if if_revision is not None and key is None:
        raise click.UsageError("--if-revision goes with a KEY")
    with settings.connect() as kv:
        if key is not None:
            done = kv.delete(os.fsencode(key), if_revision=if_revision)
            _tell(settings, done, done.deleted, commits=min(done.deleted, 1))
            return
        target = _Target(prefix, bounds)
        if not yes and sys.stdin.isatty():
            _ask(kv, target)
        _delete_many(settings, kv, target)


class _Target:
    """A prefix or a range, in the forms in which the SDK takes it."""

    def __init__(self, prefix: str | None, bounds: tuple[str, str] | None) -> None:
        self.prefix = None if prefix is None else os.fsencode(prefix)
        self.start, self.end = (os.fsencode(bound) for bound in bounds or ("", ""))

    def count(self, kv: Client) -> int:
        return kv.count(self.prefix, start=self.start, end=self.end)

    def keys(self, kv: Client) -> Iterator[Entry]:
        return kv.scan(self.prefix, start=self.start, end=self.end, keys_only=True)

    def delete(self, kv: Client) -> DeleteResult:
        return kv.delete_range(self.start, self.end) if self.prefix is None else kv.delete_prefix(self.prefix)

    def __str__(self) -> str:
        if self.prefix is not None:
            return f"with the prefix '{output.printable(self.prefix)}'"
        return f"from '{output.printable(self.start)}' to '{output.printable(self.end)}'"


def _ask(kv: Client, target: _Target) -> None:
    """Return if the user agrees; end the command otherwise."""
    keys = output.counted(target.count(kv), "key")
    if not click.confirm(f"Delete {keys} {target}?", err=True):
        raise CtlError("NOT_CONFIRMED", "nothing was deleted")


def _delete_many(settings: Settings, kv: Client, target: _Target) -> None:
    """Delete in one commit or, where that is too large, in parts."""
    from kvclient import InvalidRequestError

    try:
        done = target.delete(kv)
    except InvalidRequestError as error:
        if error.code not in ("RANGE_TOO_LARGE", "COMMIT_TOO_LARGE"):
            raise
    else:
        _tell(settings, done, done.deleted, commits=min(done.deleted, 1))
        return
    _delete_in_parts(settings, kv, target)


def _delete_in_parts(settings: Settings, kv: Client, target: _Target) -> None:
    from kvclient import Delete

    deleted = commits = 0
    last: BatchResult | None = None
    try:
        for part in _parts(entry.key for entry in target.keys(kv)):
            last = kv.write([Delete(key) for key in part])
            deleted += last.deleted
            commits += 1
    except Exception as error:
        told = as_ctl_error(error)
        told.message = f"{told.message} (after {output.counted(deleted, 'key')} had been deleted)"
        told.fields["deleted"] = deleted
        raise told from error
    assert last is not None  # a range that is too large has keys
    _tell(settings, last, deleted, commits)


def _parts(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Group keys into parts that fit a commit."""
    part: list[bytes] = []
    size = 0
    for key in keys:
        if part and (len(part) >= PART_KEYS or size + len(key) > PART_BYTES):
            yield part
            part, size = [], 0
        part.append(key)
        size += len(key)
    if part:
        yield part


def _tell(settings: Settings, done: DeleteResult | BatchResult, deleted: int, commits: int) -> None:
    if settings.as_json:
        output.write_json(
            {
                "deleted": deleted,
                "commits": commits,
                "revision": done.revision,
                "epoch": done.epoch,
                "reached": done.reached.value,
            }
        )
    elif settings.output == "raw":
        output.write_line(str(deleted))
    else:
        within = f" in {commits:,} commits" if commits > 1 else ""
        output.write_line(f"deleted {output.counted(deleted, 'key')}{within}")
