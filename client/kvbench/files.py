"""Files with results and pages: whether they could be written, before a run; writing and reading them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from kvctl.failures import CtlError

FORMAT = 1
"""The version of a result's JSON; it is raised when a field changes its meaning or goes."""


def refuse_unusable_files(out_json: str | None, out_html: str | None, fsync_dir: str) -> None:
    """Raise click.UsageError for an output file that could not be written after the run, and for a folder without room."""
    for name, path in (("--out-json", out_json), ("--out-html", out_html)):
        if path is not None:
            refuse_unusable_output(name, path)
    if out_json is not None and out_html is not None and Path(out_json).resolve() == Path(out_html).resolve():
        raise click.UsageError(f"--out-json and --out-html both name {out_json}; give each a file of its own")
    if not Path(fsync_dir).is_dir():
        raise click.UsageError(f"--fsync-dir {fsync_dir}: there is no such folder; create it, or name one that exists")
    if not os.access(fsync_dir, os.W_OK):
        raise click.UsageError(f"--fsync-dir {fsync_dir}: it cannot be written to; name a folder that you may write to")


def refuse_unusable_output(option: str, name: str) -> None:
    """Raise click.UsageError for an output file that could not be written."""
    path = Path(name)
    folder = path.parent
    if not folder.is_dir():
        raise click.UsageError(f"{option} {path}: there is no folder {folder}; create it first: mkdir -p {folder}")
    if path.is_dir():
        raise click.UsageError(f"{option} {path}: that is a folder; name a file in it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise click.UsageError(f"{option} {path}: it cannot be written; name a file that you may write")


def read_result(name: str) -> dict[str, Any]:
    """Return a result from a file; raise CtlError where there is none in it."""
    try:
        found: Any = json.loads(Path(name).read_bytes())
    except ValueError as error:
        raise CtlError(
            "BAD_INPUT", f"{name} is no JSON: {error}", "name a file that 'kvbench run --out-json' has written"
        ) from error
    version = found.get("kvbench") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(version, int):
        raise CtlError("BAD_INPUT", f"{name} is no result of kvbench", "name a file that 'kvbench run --out-json' has written")
    if version != FORMAT:
        hint = "use the kvbench that wrote it, or measure again"
        raise CtlError("BAD_INPUT", f"{name} has format {version}; this kvbench reads format {FORMAT}", hint)
    return found


def write_file(name: str, text: str) -> None:
    """Write a file as UTF-8; raise CtlError where that fails."""
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CtlError(
            "FILE_ERROR", f"{name} could not be written: {error.strerror}", "was the disk full, or the folder removed?"
        ) from error
