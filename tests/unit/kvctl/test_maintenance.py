"""flush, checkpoint and namespace drop: what they print, how long they wait, what they ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.fake_server import FakeServer

CHAIN = bytes(range(16)).hex()


@pytest.fixture
def team(kvctl: Any) -> None:
    """Makes a namespace with two keys."""
    assert kvctl("namespace", "create", "team/a").exit_code == 0
    for key in ("k1", "k2"):
        assert kvctl("-n", "team/a", "put", key, "v").exit_code == 0


def test_flush_forms(kvctl: Any) -> None:
    kvctl("put", "k", "v")
    assert kvctl("flush").out == b"everything up to revision 2 is in tables\n"
    assert kvctl("flush", "-o", "json").json == {"flushed_revision": 2, "epoch": 1}
    assert kvctl("flush", "-o", "raw").out == b"2\n"


def test_checkpoint_forms(kvctl: Any) -> None:
    kvctl("put", "k", "v")
    assert kvctl("checkpoint", "/backup/my kv").out.decode().splitlines() == [
        "checkpoint    /backup/my kv",
        "epoch         1",
        "revision      2",
        f"chain         {CHAIN}",
        "tables        6.7 MiB in 3 files",
        "open it with  kvserver serve --data-dir '/backup/my kv'",
    ]
    assert kvctl("checkpoint", "/backup/kv", "-o", "json").json == {
        "target_dir": "/backup/kv",
        "epoch": 1,
        "revision": 2,
        "chain": CHAIN,
        "table_files": 3,
        "table_bytes": 7_000_000,
    }
    assert kvctl("checkpoint", "/backup/kv", "-o", "raw").out == b"2\n"


def test_checkpoint_wants_an_absolute_path(kvctl: Any, fake: FakeServer) -> None:
    for wrong in ("backup", "./backup", ""):
        refused = kvctl("checkpoint", wrong)
        assert refused.exit_code == 2
        assert "absolute path on the node's disk" in refused.err
    assert fake.requests == []


def test_a_target_that_is_in_use(kvctl: Any, fake: FakeServer) -> None:
    fake.refuse_next("Checkpoint", "TARGET_UNUSABLE", "/backup/kv is not empty", "name another folder")
    refused = kvctl("checkpoint", "/backup/kv")
    assert refused.exit_code == 4
    assert refused.err.splitlines() == [
        "error: /backup/kv is not empty [TARGET_UNUSABLE]",
        "hint: name another folder",
    ]


def test_they_wait_minutes_but_look_for_the_node_for_seconds(
    kvctl: Any, offline: Any, fake: FakeServer, absent_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kvclient

    waited: list[float] = []
    for name in ("flush", "checkpoint"):
        real = getattr(kvclient.Client, name)

        def noting(client: Any, *arguments: Any, real: Any = real, timeout_s: float) -> Any:
            waited.append(timeout_s)
            return real(client, *arguments, timeout_s=timeout_s)

        monkeypatch.setattr(kvclient.Client, name, noting)
    assert kvctl("flush").exit_code == 0
    assert kvctl("--timeout", "7s", "flush").exit_code == 0
    assert kvctl("checkpoint", "/backup/kv").exit_code == 0
    assert kvctl("checkpoint", "/backup/kv", "--timeout", "20m").exit_code == 0
    assert waited == [300, 7, 300, 1200]
    assert [name for name, _ in fake.requests[:2]] == ["Status", "Flush"]
    assert offline("-E", absent_endpoint, "flush").exit_code == 3
    assert len(waited) == 4


@pytest.mark.parametrize(("method", "command"), [("Flush", ("flush",)), ("Checkpoint", ("checkpoint", "/backup/kv"))])
def test_no_answer_in_time_does_not_mean_that_it_is_not_done(
    kvctl: Any, fake: FakeServer, method: str, command: tuple[str, ...]
) -> None:
    release = fake.hold(method)
    late = kvctl("--timeout", "300ms", *command, "-o", "json")
    release.set()
    assert (late.exit_code, late.error["code"]) == (3, "DEADLINE")
    assert "may still be at it" in late.error["hint"]


def test_a_node_that_is_not_serving_says_so_itself(kvctl: Any, fake: FakeServer) -> None:
    for _ in range(20):  # more often than a client sends again what was refused
        fake.refuse_next("Flush", "NOT_SERVING", "it is stopping", "ask another node")
    assert kvctl("flush", "-o", "json").error["hint"] == "ask another node"


@pytest.mark.usefixtures("team")
def test_drop_forms(kvctl: Any, fake: FakeServer) -> None:
    assert kvctl("namespace", "drop", "team/a", "--yes").out == b"dropped the namespace team/a with 2 keys (6 B) (revision 5)\n"
    assert kvctl("-n", "team/a", "get", "k1", "-o", "json").error["code"] == "UNKNOWN_NAMESPACE"
    kvctl("namespace", "create", "team/a")
    assert kvctl("namespace", "drop", "team/a", "-y", "-o", "json").json == {
        "name": "team/a",
        "id": 3,
        "create_revision": 6,
        "keys": 0,
        "size_bytes": 0,
        "revision": 7,
        "epoch": 1,
    }
    kvctl("namespace", "create", "other")
    assert kvctl("namespace", "drop", "other", "--yes", "-o", "raw").out == b"9\n"


@pytest.mark.usefixtures("team")
@pytest.mark.parametrize(
    ("typed", "dropped"), [("team/a\n", True), ("team\n", False), ("y\n", False), ("yes\n", False), ("\n", False), ("", False)]
)
def test_drop_wants_the_name_typed(
    kvctl: Any, on_a_terminal: Callable[[str], None], fake: FakeServer, typed: str, dropped: bool
) -> None:
    on_a_terminal(typed)
    asked = kvctl("namespace", "drop", "team/a")
    assert "This deletes 2 keys (6 B) and their history, for good." in asked.err
    assert ("team/a" not in fake.store.namespaces) is dropped
    assert (asked.exit_code == 0) is dropped


@pytest.mark.usefixtures("team")
def test_drop_without_a_terminal_wants_to_be_told(kvctl: Any, fake: FakeServer) -> None:
    refused = kvctl("namespace", "drop", "team/a", "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (1, "NOT_CONFIRMED")
    assert refused.error["hint"] == "say that you mean it with --yes, or see what would go with --dry-run"
    assert "team/a" in fake.store.namespaces


@pytest.mark.parametrize("yes", [(), ("--yes",)])
def test_drop_of_what_is_not_there_or_must_stay(kvctl: Any, fake: FakeServer, yes: tuple[str, ...]) -> None:
    unknown = kvctl("namespace", "drop", "nowhere", *yes, "-o", "json")
    assert (unknown.exit_code, unknown.error["code"]) == (4, "UNKNOWN_NAMESPACE")
    asked = len(fake.requests)
    default = kvctl("namespace", "drop", "", *yes, "-o", "json")
    assert (default.exit_code, default.error["code"], len(fake.requests)) == (2, "USAGE", asked)
    assert list(fake.store.namespaces) == [""]
