"""An S3-compatible object storage on loopback (moto's server), and how a process is told where it is.

    with s3_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        server.make_bucket("archive")
        open_store("s3://archive/prefix")

It runs on a thread of this process and keeps its objects in memory; processes that the test starts reach it as well.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote

from moto.server import ThreadedMotoServer


class S3Server:
    """A running server."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def environment(self) -> dict[str, str]:
        """Return the variables by which whoever uses S3 finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket; no harm where it is there."""
        self.request("PUT", f"/{bucket}")

    def put_foreign(self, bucket: str, key: str, data: bytes) -> None:
        """Put an object under any key at all, as another program might."""
        self.request("PUT", f"/{bucket}/{quote(key, safe='/.')}", data)

    @contextlib.contextmanager
    def checking_credentials(self) -> Iterator[None]:
        """Refuse everybody for a while; otherwise everybody is let in, whatever the credentials."""
        self.request("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.request("POST", "/moto-api/reset-auth", b"inf")

    def request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        """Send one request, not signed, and return what is answered. Raises HTTPError."""
        request = urllib.request.Request(self.endpoint + path, data, {"Content-Type": "application/octet-stream"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())


def _judged_one_at_a_time(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Carry out conditional requests one after the other: moto looks first and puts then, so that of two creators both won."""
    lock = threading.Lock()

    def call(environ: dict[str, object], start_response: object) -> Iterable[bytes]:
        conditional = environ["REQUEST_METHOD"] != "GET" and {"HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"} & environ.keys()
        with lock if conditional else contextlib.nullcontext():
            return app(environ, start_response)

    return call


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server on a port that is free; its objects are gone at the end."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    assert server._server is not None
    server._server.app = _judged_one_at_a_time(server._server.app)
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()
