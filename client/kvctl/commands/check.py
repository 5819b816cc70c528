"""``kvctl check``: what a store holds, as one number that can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands.archive_access import server_code
from kvctl.failures import EXIT_UNHEALTHY, CtlError, as_ctl_error
from kvctl.long_call import long_call
from kvctl.progress import Spinner
from kvctl.settings import Settings, command_options
from kvctl.times import shown_span

if TYPE_CHECKING:
    from kvclient import ContentHash

_ENDED = "nothing of it goes on at the node; allow more time, for instance with: kvctl --timeout 30m check hash"


@click.group(cls=Group)
def check() -> None:
    """Compare what stores hold.

    \b
    Examples:
      kvctl check hash
      kvctl -E db1:7400,db2:7400 check hash
      kvctl check hash --data-dir data/restored
    """


class _Found(NamedTuple):
    """What hashing one store brought: the fields that are told of it, or why there is no hash."""

    source: str
    fields: dict[str, Any]
    error: CtlError | None


@check.command(name="hash", short_help="Hash all that a store holds.")
@click.option(
    "--data-dir",
    "folders",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Instead of a node: a stopped node's folder, a checkpoint or a restored folder. May be given several times.",
)
@command_options
@click.pass_obj
def hash_(settings: Settings, folders: tuple[Path, ...]) -> int:
    """Hash everything that the newest revision holds: equal for equal content, however it came to be.

    The hash covers every key of every namespace, its value, its revisions and its version. It takes about as long as
    reading all of it; writes go on meanwhile. Of several endpoints each is asked; exit code 5 where stores at the same
    revision differ. --timeout is 5m unless given.

    \b
    Examples:
      kvctl check hash
      kvctl check hash -o raw
      kvctl -E db1:7400,db2:7400 check hash
      kvctl check hash --data-dir data/restored --data-dir data/copy
    """
    if folders:
        found = [_of_folder(folder) for folder in folders]
    else:
        found = [_of_node(settings, endpoint) for endpoint in settings.endpoints]
    if len(found) == 1 and found[0].error is not None:
        raise found[0].error
    _tell(settings, found)
    return _judge(found)


def _of_node(settings: Settings, endpoint: str) -> _Found:
    """Ask a node."""
    try:
        with long_call(settings, f"hashing what {endpoint} holds", _ENDED, endpoint=endpoint) as kv:
            done = kv.content_hash(timeout_s=settings.long_limit_s)
    except click.UsageError:
        raise
    except Exception as error:
        return _Found(endpoint, {}, as_ctl_error(error))
    return _Found(endpoint, _fields(done), None)


def _fields(done: ContentHash) -> dict[str, Any]:
    return {
        "epoch": done.epoch,
        "revision": done.revision,
        "chain": done.chain.hex(),
        "sha256": done.sha256.hex(),
        "keys": done.keys,
        "took_ms": done.took_ms,
    }


def _of_folder(folder: Path) -> _Found:
    """Hash the tables of a folder on which no server runs."""
    import time

    source = str(folder)
    try:
        with server_code("check hash"), Spinner(f"hashing what {folder} holds"):
            from kvctl.commands.folders import log_end, standing_still
            from kvserver.archive.hash_main import hash_folder

            root = folder.resolve()
            with standing_still(root):
                began = time.monotonic()
                found = hash_folder(root)
                took_ms = round((time.monotonic() - began) * 1000)
                end = log_end(root)
    except CtlError as error:
        return _Found(source, {}, error)
    if end > found.revision:
        message = f"{folder}: its tables end at revision {found.revision}, its log goes on to {end}"
        hint = "start the node, and then: kvctl flush; or ask it while it runs: kvctl check hash"
        return _Found(source, {}, CtlError("NOT_FLUSHED", message, hint))
    position = found.position
    return _Found(
        source,
        {
            "epoch": position.epoch.number if position is not None else 0,
            "revision": found.revision,
            "chain": position.chain.hex() if position is not None else "",
            "sha256": found.sha256.hex(),
            "keys": found.keys,
            "took_ms": took_ms,
        },
        None,
    )


def _tell(settings: Settings, found: list[_Found]) -> None:
    if settings.as_json:
        for one in found:
            told = one.fields if one.error is None else {"error": one.error.document()}
            output.write_json({"source": one.source, **told})
        return
    if settings.output == "raw":
        for one in found:
            if one.error is None:
                output.write_line(one.fields["sha256"])
        return
    rows = [_row(one) for one in found if one.error is None]
    if rows:
        output.write_table(("STORE", "EPOCH", "REVISION", "KEYS", "TOOK", "HASH"), rows)
    for one in found:
        if one.error is not None:
            output.write_line(f"{one.source}: {one.error.message} [{one.error.code}]")


def _row(one: _Found) -> tuple[str, ...]:
    told = one.fields
    figures = (str(told["epoch"]), str(told["revision"]), f"{told['keys']:,}", shown_span(told["took_ms"]))
    return (one.source, *figures, told["sha256"])


def _judge(found: list[_Found]) -> int:
    """Return the exit code: that of the first store without a hash, 5 where two differ; raise where they cannot be compared."""
    first_error = next((one.error for one in found if one.error is not None), None)
    if first_error is not None:
        return first_error.exit_code
    hashes: dict[int, set[str]] = {}
    for one in found:
        hashes.setdefault(one.fields["revision"], set()).add(one.fields["sha256"])
    if any(len(of_one) > 1 for of_one in hashes.values()):
        return EXIT_UNHEALTHY
    if len(hashes) > 1:
        revisions = ", ".join(map(str, sorted(hashes)))
        hint = "hash them again while nothing is written"
        raise CtlError("NOT_COMPARABLE", f"the stores are at different revisions ({revisions}), so this compares nothing", hint)
    return 0
