"""``kvctl register``: the place where epochs are claimed, moved without a server."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from kvctl import output
from kvctl.command import Group
from kvctl.commands.archive_access import server_code
from kvctl.commands.cluster_access import safe
from kvctl.commands.folders import standing_still
from kvctl.confirmation import confirm
from kvctl.failures import CtlError
from kvctl.settings import Settings, command_options


@click.group(cls=Group)
def register() -> None:
    """Look after the register: where epochs are claimed, so that there are no two primaries.

    \b
    Examples:
      kvctl register move --data-dir /srv/kv --to file:///mnt/shared/register
    """


@register.command(short_help="Move a stopped node's register to a place that others see.")
@click.option(
    "--data-dir",
    required=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    envvar="KVCTL_DATA_DIR",
    show_envvar=True,
    help="The data folder of the node, which is stopped.",
)
@click.option(
    "--to", "url", required=True, metavar="URL", help="The new place: file:///DIR or s3://BUCKET/PREFIX, with nothing in it."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be moved; nothing is written.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@command_options
@click.pass_obj
def move(settings: Settings, data_dir: Path, url: str, dry_run: bool, yes: bool) -> None:
    """Move the register of a stopped node, which was alone so far, to a place that other nodes can see.

    Every epoch that was claimed is claimed there too, and the node's identity names the new register from then on: the node
    serves with --register URL only, and others can follow it. There is no way back. It is asked before, unless --yes is
    given; without a terminal --yes must be. Interrupted, it is begun again with the same line.

    \b
    Examples:
      kvctl register move --data-dir /srv/kv --to file:///mnt/shared/register
      kvctl register move --data-dir /srv/kv --to s3://cluster/register --yes -o json
    """
    with server_code("register move"):
        from kvserver.base.environment import Environment
        from kvserver.base.fs import OsFileSystem
        from kvserver.base.paths import DataPaths
        from kvserver.engine.identity import read_identity
        from kvserver.replication.open_register import find_register, move_register, open_register

        env, paths = Environment(fs=OsFileSystem()), DataPaths(data_dir.resolve())
        with standing_still(paths.root):
            identity = read_identity(env, paths)
        if identity is None:
            raise CtlError("NOT_A_DATA_DIR", f"{paths.root} holds no store", "name the folder given to kvserver serve --data-dir")
        if dry_run:
            there = find_register(url, env)
            _tell_dry_run(settings, paths.root, identity.register, url, len(there.records()) if there is not None else 0)
            return
        question = f"Have {safe(str(paths.root))} use the register at {safe(url)} from now on, for good?"
        confirm(question, "nothing was moved", yes=yes)
        target = open_register(url, env, identity.cluster_id)
        try:
            move_register(env, paths, target)
            epochs = len(target.records())
        finally:
            target.close()
    _tell(settings, paths.root, target.url, target.id, epochs)


def _tell_dry_run(settings: Settings, root: Path, register: str, url: str, epochs: int) -> None:
    if settings.as_json:
        told = {"data_dir": str(root), "register": register, "register_url": url, "epochs_there": epochs}
        output.write_json({"dry_run": True, **told})
    elif settings.output == "raw":
        output.write_line(register)
    else:
        there = f"holds {output.counted(epochs, 'epoch')} already" if epochs else "holds nothing yet"
        output.write_line(
            f"the register of {safe(str(root))}, of kind {safe(register)}, would move to {safe(url)}, which {there}"
        )


def _tell(settings: Settings, root: Path, url: str, register_id: str, epochs: int) -> None:
    serve = f"kvserver serve --data-dir {shlex.quote(str(root))} --register {shlex.quote(url)}"
    if settings.as_json:
        told = {"data_dir": str(root), "register_url": url, "register_id": register_id, "epochs": epochs, "serve": serve}
        output.write_json(told)
    elif settings.output == "raw":
        output.write_line(register_id)
    else:
        output.write_line(f"{output.counted(epochs, 'epoch')} moved to {safe(url)}")
        output.write_line(f"serve it with: {safe(serve)}")
