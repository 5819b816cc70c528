"""Checksums and hashes are the ones that the format names."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.coding import chain_hash, crc32c


def test_crc32c_gives_the_published_check_values() -> None:
    assert crc32c(0, b"123456789") == 0xE3069283
    assert crc32c(0, bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(0, b"\xff" * 32) == 0x62A8AB43
    assert crc32c(0, bytes(range(32))) == 0x46DD794E
    assert crc32c(0, b"") == 0


@given(st.binary(), st.binary())
def test_crc32c_goes_on_where_it_stopped(one: bytes, two: bytes) -> None:
    assert crc32c(crc32c(0, one), two) == crc32c(0, one + two)


@given(st.lists(st.binary()))
def test_a_chain_hash_is_the_begin_of_sha_256_over_the_parts(parts: list[bytes]) -> None:
    assert chain_hash(*parts) == hashlib.sha256(b"".join(parts)).digest()[:16]
