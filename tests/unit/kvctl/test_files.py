"""Files: compressed or not, cut or damaged, and output that appears whole or not at all."""

from __future__ import annotations

import gzip
import os
import stat
import threading
from pathlib import Path

import pytest
import zstandard

from kvctl.failures import CtlError
from kvctl.files import InputFile, OutputFile, read_value


def content(path: Path) -> bytes:
    source = InputFile(str(path))
    try:
        return b"".join(source.chunks())
    finally:
        source.close()


def test_input_plain_compressed_and_in_several_frames(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    path = tmp_path / "in"
    for stored in (
        data,
        zstandard.compress(data),
        zstandard.compress(data[:1000]) + zstandard.compress(b"") + zstandard.compress(data[1000:]),
    ):
        path.write_bytes(stored)
        assert content(path) == data
    for short in (b"", b"{", b"ab\n"):
        path.write_bytes(short)
        assert content(path) == short


@pytest.mark.parametrize("cut", [1, 5, 100, 1000])
def test_cut_compressed_input_is_an_error(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "in.zst"
    path.write_bytes(zstandard.compress(os.urandom(5_000))[:-cut])
    with pytest.raises(CtlError, match="it is not whole") as caught:
        content(path)
    assert caught.value.fields == {"offset": path.stat().st_size}


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_compressed_input_that_ends_in_its_first_bytes(tmp_path: Path, length: int) -> None:
    path = tmp_path / "in.zst"
    path.write_bytes(zstandard.compress(b"data")[:length])
    with pytest.raises(CtlError, match="it is not whole"):
        content(path)


def test_damaged_compressed_input_is_an_error(tmp_path: Path) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    stored = bytearray(compressor.compress(b"hello " * 1000))
    stored[-1] ^= 1
    path = tmp_path / "in.zst"
    for bad in (bytes(stored), zstandard.compress(b"x") + b"garbage"):
        path.write_bytes(bad)
        with pytest.raises(CtlError, match="damaged zstd data behind byte"):
            content(path)
    path.write_bytes(b"not compressed\n")
    with pytest.raises(CtlError, match="not compressed with zstd"):
        content(path)


def test_another_compression_is_named(tmp_path: Path) -> None:
    path = tmp_path / "in.gz"
    path.write_bytes(gzip.compress(b"data"))
    with pytest.raises(CtlError, match="compressed with gzip") as caught:
        content(path)
    assert "zcat" in caught.value.hint


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst"])
def test_output_appears_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with OutputFile(str(path)) as sink:
        for number in range(1000):
            sink.write(b"%d\n" % number)
        assert path.read_bytes() == b"before"
    assert content(path).split() == [b"%d" % number for number in range(1000)]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    if name.endswith(".zst"):
        assert zstandard.get_frame_parameters(path.read_bytes()).has_checksum


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst"])
def test_output_that_fails_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), OutputFile(str(path)) as sink:
        sink.write(b"part\n")
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    with OutputFile(str(tmp_path / "link")) as sink:
        sink.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"after"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    with OutputFile(str(path)) as sink:
        sink.write(b"data")
    reader.join(20)
    assert read == [b"data"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("size", "read"), [(0, 0), (9, 9), (10, 10), (11, 11), (1000, 11)])
def test_a_value_is_read_no_further_than_it_may_be_long(tmp_path: Path, size: int, read: int) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"x" * size)
    assert len(read_value(str(path), 10)) == read
