"""``kvctl del``: a key, a prefix or a range; a large range in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from kvctl import output
from kvctl.bytes_form import BytesForm
from kvctl.command import Command
from kvctl.confirmation import can_ask, confirm
from kvctl.failures import EXIT_CONDITION, CtlError, as_ctl_error
from kvctl.progress import ProgressBar
from kvctl.settings import Settings, key_options

if TYPE_CHECKING:
    from kvclient import BatchResult, Client, DeleteResult, Entry

PART_KEYS = 5_000
PART_BYTES = 1024 * 1024
"""A part ends at so many keys or bytes of keys, well inside what one commit may hold."""


@click.command(cls=Command)
@click.argument("key", required=False)
@click.option("--prefix", metavar="P", help="Delete the keys that begin with P.")
@click.option("--range", "bounds", nargs=2, metavar="A B", help="Delete the keys from A, included, to B, excluded.")
@click.option("--if-revision", type=click.IntRange(min=0), metavar="N", help="Only if KEY's newest version is of N.")
@click.option("--dry-run", is_flag=True, help="Only say how many keys would be deleted.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a prefix or range is deleted.")
@key_options
@click.pass_obj
def delete(
    settings: Settings,
    key: str | None,
    prefix: str | None,
    bounds: tuple[str, str] | None,
    if_revision: int | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Delete KEY, a prefix or a range, and print how many keys that were. A key that is not there is no error.

    On a terminal a prefix or range is deleted only after a question, unless --yes is given. A range of more keys than
    one commit may hold is deleted in several commits, of what was there at the beginning.

    \b
    Examples:
      kvctl del greeting
      kvctl del greeting --if-revision 7
      kvctl del --prefix tmp/ --dry-run
      kvctl del --prefix tmp/ --yes
      kvctl del --range a b
    """
    if sum(target is not None for target in (key, prefix, bounds)) != 1:
        raise click.UsageError("give one of KEY, --prefix and --range")
    if if_revision is not None and key is None:
        raise click.UsageError("--if-revision goes with a KEY")
    if key is not None:
        _delete_key(settings, settings.form.parse_key(key), if_revision, dry_run)
        return
    target = _Target(settings.form, prefix, bounds)
    with settings.connect() as kv:
        if dry_run:
            _tell_dry_run(settings, target.count(kv), str(target))
            return
        # What was deleted can still be read in the past, so that a script need not say that it means it; but everything
        # is what a variable that is not set comes to.
        if not yes and (target.is_everything or can_ask()):
            keys = output.counted(target.count(kv), "key")
            confirm(f"Delete {keys} {target}?", "nothing was deleted", yes=False)
        _delete_many(settings, kv, target)


class _Target:
    """A prefix or a range, in the forms in which the SDK takes it."""

    def __init__(self, form: BytesForm, prefix: str | None, bounds: tuple[str, str] | None) -> None:
        self._form = form
        self.prefix = None if prefix is None else form.parse(prefix, "--prefix")
        self.start, self.end = form.parse_range(*(bounds or ("", "")), ("A", "B"))

    @property
    def is_everything(self) -> bool:
        return not (self.prefix or self.start or self.end)

    def count(self, kv: Client) -> int:
        return kv.count(self.prefix, start=self.start, end=self.end)

    def keys(self, kv: Client) -> Iterator[Entry]:
        return kv.scan(self.prefix, start=self.start, end=self.end, keys_only=True)

    def delete(self, kv: Client) -> DeleteResult:
        return kv.delete_range(self.start, self.end) if self.prefix is None else kv.delete_prefix(self.prefix)

    def __str__(self) -> str:
        if self.is_everything:
            return "(all there are in the namespace)"
        if self.prefix is not None:
            return f"with the prefix '{self._form.shown(self.prefix)}'"
        return f"from '{self._form.shown(self.start)}' to '{self._form.shown(self.end)}'"


def _delete_key(settings: Settings, key: bytes, if_revision: int | None, dry_run: bool) -> None:
    """Delete one key, or say whether it would be."""
    with settings.connect() as kv:
        if not dry_run:
            done = kv.delete(key, if_revision=if_revision)
            _tell(settings, done, done.deleted, commits=min(done.deleted, 1))
            return
        found = kv.get(key)
    name = f"key '{settings.form.shown(key)}'"
    newest = found.mod_revision if found is not None else 0
    if if_revision not in (None, newest):
        message = f"{name} is at revision {newest}, not {if_revision}"
        raise CtlError("CONDITION_FAILED", message, "", EXIT_CONDITION, mod_revision=newest)
    _tell_dry_run(settings, int(found is not None), f"'{settings.form.shown(key)}'")


def _tell_dry_run(settings: Settings, count: int, target: str) -> None:
    if settings.as_json:
        output.write_json({"dry_run": True, "would_delete": count})
    elif settings.output == "raw":
        output.write_line(str(count))
    else:
        output.write_line(f"would delete {output.counted(count, 'key')} {target}; nothing was deleted")


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
        with ProgressBar("deleting", None, "key") as bar:
            for part in _parts(entry.key for entry in target.keys(kv)):
                last = kv.write([Delete(key) for key in part])
                deleted += last.deleted
                commits += 1
                bar.show(deleted, deleted)
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
