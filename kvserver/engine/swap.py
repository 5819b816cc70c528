"""Puts a copy of the store, or a shorter log and older tables, in the place of what a data folder holds: all of it or nothing.

    incoming/   the copy: whole and durable before anything else happens
    SWAP        written then: from now on the copy is the store, whatever still has to be moved
    replaced/   what was there before, each part moved out just before its successor moves in

A name is moved in two renames. After the first it is in ``replaced`` alone, after the second ``incoming`` does not have it any
more, and that is how a run that goes on after a crash knows what was done. Both folders are synced after each rename, so that a
loss of power undoes at most the last one. The marker goes when all parts are in their places; what was replaced goes after it.

Only the log, the tables and the record of their origin are ever exchanged. Who the node is, what it has promised, its epochs,
whom it ships to and what it keeps of lost histories stay where they are: a copy of another node's store makes no other node of
this one.

The marker names the parts, because a rewind exchanges the log, and the tables only where they hold more. ``finish_swap`` is
the first thing that is done in a folder whose lock is held, before anything in it is read: in between, tables and log may be of
two different histories.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, create_once, read_file, remove_tree
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import decode_record, encode_record

_STORE = "kvserver swap"
_HINT = "keep a copy of the folder; then remove all in it but IDENTITY, PROMISE and lost/, and let the node fetch its store anew"


def swap_names(paths: DataPaths) -> tuple[str, ...]:
    """Return the names of all that can be exchanged: the log, the tables, the record of their origin."""
    return paths.wal.name, paths.tables.name, paths.origin.name


def discard_incoming(env: Environment, paths: DataPaths) -> None:
    """Remove a copy that was not finished; one that is taking its place stays. Raises OSError."""
    if not env.fs.exists(paths.swap) and env.fs.exists(paths.incoming):
        remove_tree(env.fs, paths.incoming)
        env.fs.sync_dir(paths.root)


def begin_swap(env: Environment, paths: DataPaths, names: Sequence[str]) -> None:
    """Decide that what is called so in ``incoming`` takes the place of what there is. Durable on return.

    All of it is whole and synced. Raises FileNotFoundError where a part is missing, FileExistsError where a swap that began
    before did not end, OSError; then nothing is decided.
    """
    fs = env.fs
    for name in names:
        if name not in swap_names(paths):
            raise ValueError(f"{name} is not exchanged")
        if not fs.exists(paths.incoming / name):
            raise FileNotFoundError(f"{paths.incoming / name} is missing")
    if fs.exists(paths.swap):
        raise FileExistsError(f"{paths.swap} is there: what it began did not end")
    remove_tree(fs, paths.replaced)
    fs.sync_dir(paths.incoming)
    fs.sync_dir(paths.root)
    create_once(fs, paths.swap, paths.swap_temporary, encode_record({"store": _STORE, "names": list(names)}))
    failpoints.hit("swap.after_marker")


def finish_swap(env: Environment, paths: DataPaths) -> bool:
    """Carry a swap to its end that was decided; say whether there was one. The folder's lock is held, and nothing in it open.

    Raises Corruption where the marker does not check or a part is missing, OSError; then it can be called again.
    """
    fs = env.fs
    if not fs.exists(paths.swap):
        _remove_replaced(fs, paths)  # the marker went, and then the machine stopped
        return False
    names = _marked(fs, paths)
    fs.make_dir(paths.replaced)
    for name in names:
        _exchange(fs, paths, name)
    missing = [name for name in names if not fs.exists(paths.root / name)]
    if missing:
        raise Corruption(paths.swap, 0, f"{missing[0]} was to take its place and is neither there nor in incoming/", _HINT)
    remove_tree(fs, paths.incoming)
    fs.remove(paths.swap)
    fs.sync_dir(paths.root)
    failpoints.hit("swap.after_unmarked")
    _remove_replaced(fs, paths)
    return True


def _exchange(fs: FileSystem, paths: DataPaths, name: str) -> None:
    """Move one part out and its successor in; nothing where that was done before."""
    coming, place = paths.incoming / name, paths.root / name
    if not fs.exists(coming):
        return
    if fs.exists(place):
        fs.rename(place, paths.replaced / name)
        fs.sync_dir(paths.replaced)
        fs.sync_dir(paths.root)
    failpoints.hit("swap.after_out")
    fs.rename(coming, place)
    fs.sync_dir(paths.root)
    fs.sync_dir(paths.incoming)
    failpoints.hit("swap.after_in")


def _marked(fs: FileSystem, paths: DataPaths) -> list[str]:
    fields = decode_record(paths.swap, read_file(fs, paths.swap))
    names = fields.get("names")
    known = swap_names(paths)
    if fields.get("store") != _STORE or not isinstance(names, list) or not all(name in known for name in names):
        raise Corruption(paths.swap, 0, "it is not the record of a swap", _HINT)
    return names


def _remove_replaced(fs: FileSystem, paths: DataPaths) -> None:
    if fs.exists(paths.replaced):
        remove_tree(fs, paths.replaced)
        fs.sync_dir(paths.root)
