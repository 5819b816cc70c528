"""The store in object storage: what it makes of wrong credentials, of servers that fail or talk nonsense, of foreign objects."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Iterator

import pytest

from kvserver.archive import s3_store
from kvserver.archive.open_store import open_store
from kvserver.archive.s3_store import ONE_PUT_BYTES, S3Store
from kvserver.archive.store import MAX_HELD_BYTES, ObjectExists, ObjectInfo, ObjectMissing, StoreRefused, StoreUnavailable
from kvserver.base.errors import Code, Corruption
from kvserver.base.limits import MIB
from support.s3_server import S3Server, s3_server
from support.s3_stand_in import OK, Reply, StandIn, failed

SECRET = "do-not-show-this"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    server = StandIn()
    for name, value in S3Server(server.endpoint).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setitem(s3_store._RETRIES, "backoff", {"init_backoff": datetime.timedelta(milliseconds=1)})
    yield server
    server.stop()


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    running.make_bucket("archive")
    return running


CALLS: dict[str, Callable[[S3Store], object]] = {
    "create": lambda store: store.create("a", [b"x"]),
    "create large": lambda store: store.create("a", [bytes(ONE_PUT_BYTES), b"x"]),
    "read": lambda store: store.read("a"),
    "stream": lambda store: list(store.stream("a")),
    "length": lambda store: store.length("a"),
    "list": lambda store: list(store.list("")),
    "folders": lambda store: store.folders(""),
    "delete": lambda store: store.delete("a"),
    "held": lambda store: store.held("a"),
    "replace": lambda store: store.replace("a", b"x", None),
    "replace again": lambda store: store.replace("a", b"x", '"tag"'),
}


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest) -> Callable[[S3Store], object]:
    return CALLS[request.param]


# Who, and where


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch"), (403, "AccessDenied"), (401, "Unauthorized")],
)
def test_wrong_credentials_are_refused_with_what_to_set(
    stand_in: StandIn, call: Callable[[S3Store], object], status: int, code: str
) -> None:
    stand_in.replies = [failed(status, code)]
    with pytest.raises(StoreRefused, match="credentials do not allow this") as caught:
        call(S3Store("archive", "kv"))
    assert caught.value.code is Code.ARCHIVE_UNAVAILABLE
    assert "s3://archive/kv" in caught.value.message and SECRET not in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_a_server_that_checks_who_asks_refuses_a_stranger(s3: S3Server, call: Callable[[S3Store], object]) -> None:
    store = S3Store("archive", "stranger")
    with s3.checking_credentials(), pytest.raises(StoreRefused) as caught:
        call(store)
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.hint


def test_without_credentials_it_says_which_to_set(monkeypatch: pytest.MonkeyPatch, stand_in: StandIn) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(StoreRefused, match="no credentials") as caught:
        S3Store("archive", "").read("a")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_a_server_that_is_not_there_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, stand_in: StandIn, call: Callable[[S3Store], object]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match=r"s3://archive/kv cannot be reached: .*127\.0\.0\.1:1") as caught:
        call(S3Store("archive", "kv"))
    assert caught.value.hint


@pytest.mark.parametrize(("name", "value"), [("AWS_ALLOW_HTTP", "false"), ("AWS_ENDPOINT_URL", "127.0.0.1:9000")])
def test_an_endpoint_that_cannot_be_used_is_refused(
    monkeypatch: pytest.MonkeyPatch, stand_in: StandIn, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreRefused, match="its endpoint cannot be used") as caught:
        S3Store("archive", "kv").read("a")
    assert "AWS_ALLOW_HTTP=true" in caught.value.hint


@pytest.mark.parametrize(("name", "value"), [("AWS_ALLOW_HTTP", "perhaps"), ("AWS_CHECKSUM_ALGORITHM", "crc2")])
def test_a_variable_that_cannot_be_used_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreRefused, match=f"it cannot be set up: .*{value}") as caught:
        S3Store("archive", "kv")
    assert "AWS_" in caught.value.hint


def test_a_bucket_that_is_not_there_is_said(s3: S3Server) -> None:
    for name in ("create", "read", "stream", "list", "folders", "held", "replace"):
        with pytest.raises(StoreRefused, match="s3://nowhere refuses: there is no such bucket"):
            CALLS[name](S3Store("nowhere", ""))


def test_without_the_library_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "kvserver.archive.s3_store")
    with pytest.raises(StoreRefused, match="not installed") as caught:
        open_store("s3://bucket/prefix")
    assert caught.value.hint == "install it with: pip install 'kvserver[s3]'"


# Servers that fail


@pytest.mark.parametrize(
    ("status", "code"), [(500, "InternalError"), (503, "SlowDown"), (502, "x"), (429, "TooMany"), (408, "RequestTimeout")]
)
def test_what_may_pass_is_unavailable(stand_in: StandIn, call: Callable[[S3Store], object], status: int, code: str) -> None:
    stand_in.replies = [failed(status, code)]
    with pytest.raises(StoreUnavailable, match=f"{status}"):
        call(S3Store("archive", "kv"))


@pytest.mark.parametrize(
    ("status", "code"), [(400, "AuthorizationHeaderMalformed"), (301, "PermanentRedirect"), (405, "MethodNotAllowed")]
)
def test_what_will_not_pass_is_refused(stand_in: StandIn, call: Callable[[S3Store], object], status: int, code: str) -> None:
    stand_in.replies = [failed(status, code)]
    with pytest.raises(StoreRefused) as caught:
        call(S3Store("archive", "kv"))
    assert "AWS_REGION" in caught.value.hint


@pytest.mark.parametrize(
    "body", [b"", b"<html>sign in</html>", b"\x00\xff" * 50, b"<ListBucketResult><Contents><Key>a</Key>", b"{}"]
)
def test_nonsense_in_place_of_a_listing_is_an_error_by_name(stand_in: StandIn, body: bytes) -> None:
    stand_in.replies = [Reply(200, body)]
    for name in ("list", "folders"):
        with pytest.raises((StoreUnavailable, StoreRefused)):
            CALLS[name](S3Store("archive", "kv"))


def test_a_server_that_answers_anything_is_not_taken_for_an_empty_store(stand_in: StandIn) -> None:
    """A portal, or the console of a storage instead of the storage: a page with status 200 reads as a listing of nothing."""
    stand_in.replies = [OK._replace(body=b"<html>sign in</html>")]
    for name in ("list", "folders"):
        with pytest.raises(StoreRefused, match="does not speak S3") as caught:
            CALLS[name](S3Store("archive", "kv"))
        assert "AWS_ENDPOINT_URL" in caught.value.hint


def test_an_empty_store_is_asked_once_whether_it_is_one(stand_in: StandIn) -> None:
    stand_in.replies = [listing(), Reply(404), listing()]
    store = S3Store("archive", "kv")
    for _ in range(3):
        assert list(store.list("")) == []
    assert stand_in.asked == ["GET", "HEAD", "GET", "GET"]


def test_a_server_that_recovers_is_asked_again(stand_in: StandIn) -> None:
    stand_in.replies = [failed(500, "InternalError"), failed(503, "SlowDown"), OK._replace(body=b"data")]
    assert S3Store("archive", "kv").read("a") == b"data"
    assert stand_in.asked == ["GET"] * 3


def test_a_create_whose_answer_was_lost_ends_as_one_that_exists(stand_in: StandIn) -> None:
    """It took effect, the answer was an error, and the repetition found the object there: the caller reads it back."""
    stand_in.replies = [failed(500, "InternalError"), failed(412, "PreconditionFailed"), OK]
    with pytest.raises(ObjectExists):
        S3Store("archive", "kv").create("a", [b"x"])
    assert stand_in.asked == ["PUT", "PUT", "HEAD"]


@pytest.mark.parametrize("token", [None, '"tag"'])
def test_a_replacement_is_never_repeated(stand_in: StandIn, token: str | None) -> None:
    stand_in.replies = [failed(500, "InternalError"), OK]
    with pytest.raises(StoreUnavailable):
        S3Store("archive", "kv").replace("a", b"x", token)
    assert stand_in.asked == ["PUT"]


def test_a_conflict_of_two_creators_of_which_none_has_won_yet_may_be_tried_again(stand_in: StandIn) -> None:
    stand_in.replies = [failed(409, "ConditionalRequestConflict"), Reply(404)]
    with pytest.raises(StoreUnavailable, match="another writer creates a at this moment"):
        S3Store("archive", "kv").create("a", [b"x"])


def test_a_storage_that_creates_twice_is_refused(stand_in: StandIn) -> None:
    with pytest.raises(StoreRefused, match="let a be created twice") as caught:
        S3Store("archive", "kv").create("a", [b"x"])
    assert "If-None-Match" in caught.value.hint


def test_a_storage_that_creates_once_is_asked_to_prove_it_once(stand_in: StandIn) -> None:
    stand_in.replies = [OK, failed(412, "PreconditionFailed"), OK]
    store = S3Store("archive", "kv")
    assert [store.create("a", [b"x"]), store.create("b", [b"xy"])] == [1, 2]
    assert stand_in.asked == ["PUT", "PUT", "PUT"]


def test_an_object_that_ends_too_early_is_not_taken_for_whole(stand_in: StandIn) -> None:
    stand_in.replies = [OK._replace(body=b"only this", length=5000)]
    for name in ("read", "stream", "held"):
        with pytest.raises(StoreUnavailable):
            CALLS[name](S3Store("archive", "kv"))


def test_a_store_that_vanishes_in_the_middle_of_a_stream_says_so(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store("archive", "vanishing")
    store.create("a", [bytes(MIB)] * 10)
    stream = store.stream("a")
    for _ in range(8):
        next(stream)
    monkeypatch.setattr(store, "_client", s3_store._client("nowhere", "", {"max_retries": 0}))
    with pytest.raises(StoreRefused, match="no such bucket"):
        next(stream)
    monkeypatch.undo()


def test_a_limit_refuses_before_anything_is_fetched(stand_in: StandIn) -> None:
    stand_in.replies = [OK._replace(length=10**15)]
    with pytest.raises(ValueError, match="a would bring 1000000000000000 bytes; 1000 are allowed"):
        S3Store("archive", "kv").read("a", limit=1000)
    stand_in.replies = [OK._replace(length=MAX_HELD_BYTES + 1)]
    with pytest.raises(Corruption, match="16777217 bytes; 16777216 are allowed"):
        S3Store("archive", "kv").held("a")


def test_a_server_without_tags_cannot_hold_anything(stand_in: StandIn) -> None:
    stand_in.replies = [Reply(200, b"data", (("Last-Modified", "Sat, 21 Nov 2026 10:00:00 GMT"),))]
    for name in ("held", "replace"):
        with pytest.raises((StoreRefused, StoreUnavailable), match=r"(?i)etag"):
            CALLS[name](S3Store("archive", "kv"))


# Listings


def listing(*keys: str) -> Reply:
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified><ETag>t</ETag><Size>1</Size></Contents>"
        for key in keys
    )
    return Reply(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode())


def test_a_listing_without_order_is_refused(stand_in: StandIn) -> None:
    stand_in.replies = [listing("kv/a", "kv/c", "kv/b")]
    with pytest.raises(StoreRefused, match="it lists b behind c"):
        list(S3Store("archive", "kv").list(""))
    stand_in.replies = [listing("kv/a", "kv/a")]
    with pytest.raises(StoreRefused, match="it lists a behind a"):
        list(S3Store("archive", "kv").list(""))


def test_foreign_names_are_left_out_and_impossible_ones_are_said(s3: S3Server) -> None:
    store = S3Store("archive", "foreign")
    store.create("a/b", [b"x"])
    for key in ("foreign/a/ü", "foreign/a/b c", "foreign/.hidden", "foreign/a/k%2Fz", "foreign2/x", "foreign", "other"):
        s3.put_foreign("archive", key, b"theirs")
    assert list(store.list("")) == [ObjectInfo("a/b", 1)]
    assert list(store.folders("")) == ["a/"]
    s3.put_foreign("archive", "foreign/a//z", b"theirs")
    with pytest.raises(StoreRefused, match=r"something that is not ours lies there: .*foreign/a//z") as caught:
        list(store.list(""))
    assert "remove it" in caught.value.hint
    assert list(S3Store("archive", "foreign/a/sub").list("")) == []


# Large objects


def test_memory_does_not_grow_with_the_object(s3: S3Server) -> None:
    alive = most = 0

    class Part(bytes):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def parts() -> Iterator[bytes]:
        nonlocal alive, most
        for _ in range(80):
            alive += 1
            most = max(most, alive)
            yield Part(MIB)

    assert S3Store("archive", "large").create("a", parts()) == 80 * MIB
    assert ONE_PUT_BYTES // MIB <= most <= 3 * ONE_PUT_BYTES // MIB


def test_of_two_large_uploads_the_first_wins_and_nothing_is_left(s3: S3Server) -> None:
    """The other one begins and ends while this one uploads: only the copy to the name can tell."""
    first, second = S3Store("archive", "two"), S3Store("archive", "two")

    def parts(byte: bytes) -> Iterator[bytes]:
        for number in range(20):
            if (byte, number) == (b"1", 19):
                assert second.create("a", parts(b"2")) == 20 * MIB
            yield byte * MIB

    with pytest.raises(ObjectExists):
        first.create("a", parts(b"1"))
    assert first.read("a", 0, 3) == b"222"
    assert b".writing" not in s3.request("GET", "/archive?list-type=2&prefix=two/")


def test_a_large_upload_to_a_name_that_is_taken_is_not_begun(s3: S3Server) -> None:
    store = S3Store("archive", "taken")
    store.create("a", [b"x"])
    drawn = []

    def parts() -> Iterator[bytes]:
        for number in range(30):
            drawn.append(number)
            yield bytes(MIB)

    with pytest.raises(ObjectExists):
        store.create("a", parts())
    assert len(drawn) == ONE_PUT_BYTES // MIB + 1


def test_a_large_upload_that_fails_leaves_no_object(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store("archive", "failing")

    def parts() -> Iterator[bytes]:
        yield bytes(ONE_PUT_BYTES + 1)
        raise KeyError("the source")

    with pytest.raises(KeyError, match="the source"):
        store.create("a", parts())
    with pytest.raises(ObjectMissing):
        store.length("a")
    assert b"failing" not in s3.request("GET", "/archive?list-type=2&prefix=failing/").partition(b"</Prefix>")[2]
    assert b"<Upload>" not in s3.request("GET", "/archive?uploads")


def test_uploads_that_crashed_writers_left_are_removed_a_day_later(s3: S3Server) -> None:
    from moto.s3.models import s3_backends

    store = S3Store("archive", "left")
    for name, age in (("old", datetime.timedelta(days=1, minutes=1)), ("young", datetime.timedelta(hours=23))):
        s3.put_foreign("archive", f"left/.writing/{name}", b"x")
        (key,) = (key for key in _keys(s3_backends) if key.name == f"left/.writing/{name}")
        key.last_modified -= age
    store.create("small", [b"x"])
    assert len([key for key in _keys(s3_backends) if key.name.startswith("left/.writing/")]) == 2
    store.create("large", [bytes(ONE_PUT_BYTES), b"x"])
    assert [key.name for key in _keys(s3_backends) if key.name.startswith("left/.writing/")] == ["left/.writing/young"]
    assert [info.name for info in store.list("")] == ["large", "small"]


def _keys(backends: object) -> list:  # type: ignore[type-arg]
    return [key for backend in backends["123456789012"].values() for key in backend.buckets["archive"].keys.values()]  # type: ignore[index]
