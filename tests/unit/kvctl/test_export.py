"""export: the forms that it saves, what it says of them, and that each is read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvctl.binary import MAGIC
from support.fake_server import FakeServer

PAIRS = {bytes([number, 255 - number]): bytes(range(number, 256)) for number in range(256)}


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.zst", "all.kvd", "all.kvd.zst"])
@pytest.mark.parametrize("more", [(), ("--with-revisions",), ("--hex",)])
def test_any_bytes_survive_export_and_import(
    kvctl: Any, fake: FakeServer, fill: Any, tmp_path: Path, name: str, more: tuple[str, ...]
) -> None:
    fill(PAIRS)
    out = tmp_path / name
    told = kvctl("export", str(out), *more, "-o", "json").json
    assert (told["exported"], told["format"]) == (256, "binary" if ".kvd" in name else "lines")
    assert told["revision"] == fake.store.visible
    fake.store.rows.clear()
    assert kvctl("import", str(out)).exit_code == 0
    assert {key: chain[-1].value for (_, key), chain in fake.store.rows.items()} == PAIRS


def test_the_format_is_chosen_by_name_or_option(kvctl: Any, fill: Any, tmp_path: Path) -> None:
    fill({b"k": b"v"})
    for name, more, is_binary in (
        ("a.kvd", (), True),
        ("a.jsonl", (), False),
        ("a.jsonl", ("--format", "binary"), True),
        ("a.kvd", ("--format", "lines"), False),
    ):
        assert kvctl("export", str(tmp_path / name), *more).exit_code == 0
        assert (tmp_path / name).read_bytes().startswith(MAGIC) is is_binary
    assert kvctl("export", "--format", "binary").out.startswith(MAGIC)


def test_forms_of_lines(kvctl: Any, fill: Any) -> None:
    fill({b"k": b"v", b"\xff": b"\xfe"})
    assert kvctl("export").out == b'{"key": "k", "value": "v"}\n{"key_b64": "/w==", "value_b64": "/g=="}\n'
    assert kvctl("export", "--hex", "--prefix", "ff").out == b'{"key_hex": "ff", "value_hex": "fe"}\n'
    with_revisions = kvctl("export", "--with-revisions", "--prefix", "k").json
    assert with_revisions == {"key": "k", "value": "v", "create_revision": 2, "mod_revision": 2, "version": 1}


def test_forms_of_the_result(kvctl: Any, fill: Any, tmp_path: Path) -> None:
    fill({b"k": b"v"})
    out = tmp_path / "out"
    assert kvctl("export", str(out)).out.startswith(f"exported 1 record (27 B) of revision 2 to {out} in ".encode())
    assert kvctl("export", str(out), "-o", "raw").out == b"1\n"


def test_one_revision_is_saved_and_named(kvctl: Any, fake: FakeServer, fill: Any, tmp_path: Path) -> None:
    fill({b"a": b"1", b"b": b"2"})
    told = kvctl("export", str(tmp_path / "out"), "--revision", "2", "-o", "json").json
    assert (told["exported"], told["revision"]) == (1, 2)
    assert fake.last("Scan").revision == 2
    kvctl("export", str(tmp_path / "out"))
    assert fake.last("Scan").revision == 3, "the newest one, by its number"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("name", ["lines", "binary"])
def test_a_full_disk_is_an_error(fake: FakeServer, fill: Any, name: str) -> None:
    fill({b"a": b"1"})
    command = [sys.executable, "-m", "kvctl", "-E", fake.endpoint, "export", "-", "--format", name]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"error: standard output: No space left on device [FILE_ERROR]\n"
