"""``--dry-run`` and ``--yes``: what would go is counted, and nothing goes unless it is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.fake_server import FakeServer

WRITES = {"Put", "Delete", "Write", "Compact", "DropNamespace", "CreateNamespace", "Pipeline"}


@pytest.fixture
def full(fill: Any, kvctl: Any, fake: FakeServer) -> None:
    """Fills a store: five keys, of which two begin with ``p/``, and a namespace of two."""
    fill({b"a": b"1", b"p/1": b"1", b"p/2": b"1", b"r": b"1", b"z": b"1"})
    kvctl("namespace", "create", "team")
    for key in ("k1", "k2"):
        kvctl("-n", "team", "put", key, "v")
    fake.requests.clear()


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("arguments", "count", "said"),
    [
        (("del", "a"), 1, "would delete 1 key 'a'; nothing was deleted"),
        (("del", "absent"), 0, "would delete 0 keys 'absent'; nothing was deleted"),
        (("del", "a", "--if-revision", "2"), 1, "would delete 1 key 'a'; nothing was deleted"),
        (("del", "--prefix", "p/"), 2, "would delete 2 keys with the prefix 'p/'; nothing was deleted"),
        (("del", "--range", "b", "s"), 3, "would delete 3 keys from 'b' to 's'; nothing was deleted"),
        (("del", "--range", "", ""), 5, "would delete 5 keys (all there are in the namespace); nothing was deleted"),
        (("del", "--prefix", "p/", "--yes"), 2, "would delete 2 keys with the prefix 'p/'; nothing was deleted"),
        (("-n", "team", "del", "--prefix", ""), 2, "would delete 2 keys (all there are in the namespace); nothing was deleted"),
        (("namespace", "drop", "team"), 2, "would drop the namespace team with 2 keys; nothing was dropped"),
        (("namespace", "drop", "team", "--yes"), 2, "would drop the namespace team with 2 keys; nothing was dropped"),
    ],
)
def test_what_would_be_deleted(kvctl: Any, fake: FakeServer, arguments: tuple[str, ...], count: int, said: str) -> None:
    rows = {place: list(chain) for place, chain in fake.store.rows.items()}
    assert kvctl(*arguments, "--dry-run").out.decode() == said + "\n"
    told = kvctl(*arguments, "--dry-run", "-o", "json").json
    assert (told["dry_run"], told["would_delete"]) == (True, count)
    assert kvctl(*arguments, "--dry-run", "-o", "raw").out == b"%d\n" % count
    assert not WRITES & {name for name, _ in fake.requests}
    assert rows == fake.store.rows


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(
    ("arguments", "count", "said"),
    [
        (("4",), 3, "would give up 3 revisions, 1 to 3; revisions from 4 on could still be read; nothing was given up"),
        (("--keep", "2"), 7, "would give up 7 revisions, 1 to 7; revisions from 8 on could still be read; nothing was given up"),
        ((), 8, "would give up 8 revisions, 1 to 8; revisions from 9 on could still be read; nothing was given up"),
        (("1",), 0, "would give up nothing: revisions before 1 are gone already"),
    ],
)
def test_what_would_be_given_up(kvctl: Any, fake: FakeServer, arguments: tuple[str, ...], count: int, said: str) -> None:
    assert kvctl("compact", *arguments, "--dry-run").out.decode() == said + "\n"
    told = kvctl("compact", *arguments, "--dry-run", "-o", "json").json
    assert told == {"dry_run": True, "oldest_readable_revision": 1, "would_become": count + 1, "would_give_up": count}
    assert kvctl("compact", *arguments, "--dry-run", "-o", "raw").out == b"%d\n" % count
    assert {name for name, _ in fake.requests} == {"Status"}


@pytest.mark.usefixtures("full")
def test_a_dry_run_fails_where_the_deed_would(kvctl: Any, fake: FakeServer) -> None:
    for arguments, exit_code, code in (
        (("del", "a", "--if-revision", "9"), 7, "CONDITION_FAILED"),
        (("del", "absent", "--if-revision", "9"), 7, "CONDITION_FAILED"),
        (("compact", "99"), 4, "FUTURE_REVISION"),
        (("namespace", "drop", "absent"), 4, "UNKNOWN_NAMESPACE"),
        (("-n", "absent", "del", "--prefix", "p"), 4, "UNKNOWN_NAMESPACE"),
    ):
        real = kvctl(*arguments, "--yes", "-o", "json") if "--if-revision" not in arguments else kvctl(*arguments, "-o", "json")
        dry = kvctl(*arguments, "--dry-run", "-o", "json")
        assert (dry.exit_code, dry.error["code"]) == (real.exit_code, real.error["code"]) == (exit_code, code)
    assert kvctl("del", "a", "--if-revision", "9", "--dry-run", "-o", "json").error["mod_revision"] == 2


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("target", [("--prefix", ""), ("--range", "", "")])
def test_everything_is_deleted_only_where_it_is_meant(
    kvctl: Any, fake: FakeServer, on_a_terminal: Callable[[str], None], target: tuple[str, ...]
) -> None:
    refused = kvctl("del", *target, "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (1, "NOT_CONFIRMED")
    assert "--dry-run" in refused.error["hint"]
    on_a_terminal("n\n")
    asked = kvctl("del", *target)
    assert "Delete 5 keys (all there are in the namespace)?" in asked.err
    assert kvctl("scan", "--count-only", "-o", "raw").out == b"5\n"
    assert kvctl("del", *target, "--yes").out == b"deleted 5 keys\n"


@pytest.mark.usefixtures("full")
def test_keys_of_a_namespace_are_counted(kvctl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue's figure is that of the last flush, and may be another one."""
    import kvclient

    rows = [kvclient.Namespace("", 1, 1, 0, 0), kvclient.Namespace("team", 2, 7, 99, 999)]
    monkeypatch.setattr(kvclient.Client, "list_namespaces", lambda self: rows)
    told = kvctl("namespace", "drop", "team", "--dry-run", "-o", "json").json
    assert (told["keys"], told["would_delete"]) == (99, 2)
