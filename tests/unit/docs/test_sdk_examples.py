"""The examples of docs/sdk.md and of the clients' docstrings do what they show, and nothing public goes without one."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import kvclient
import kvserver.testing
from kvclient import _channel, _errors, _retry
from kvserver.testing import Server, running_server
from unit.docs.documents import ROOT, in_code, section

pytest_plugins = ["pytester"]

DOCUMENT = "docs/sdk.md"
DOCUMENTED = "127.0.0.1:7400"
NOBODY = "127.0.0.1:7399"
BACKUP = "/backup/"

_OF_THE_CLIENT = {"UNAVAILABLE", "UNEXPECTED_STATUS", "CLIENT_CLOSED", "MANY_FAILED"}
"""Codes that no server sends."""


class Example(NamedTuple):
    """A piece of Python: where it stands, and what it says."""

    place: str
    source: str

    @property
    def shown(self) -> list[str]:
        """What it says that it prints: the comment behind each print."""
        return re.findall(r"^\s*print\(.*\)  # (.+)$", self.source, re.MULTILINE)

    @property
    def for_pytest(self) -> bool:
        return "def test_" in self.source


def of_document(text: str, name: str) -> list[Example]:
    """Return the Python blocks of a document, by the line on which they begin."""
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Example(f"{name}:{text.count(chr(10), 0, block.start(1)) + 1}", block[1]) for block in blocks]


def of_docstring(thing: Any, name: str) -> list[Example]:
    """Return the indented blocks of a docstring."""
    text = inspect.getdoc(thing) or ""
    blocks = re.finditer(r"(?:^    .*\n(?:\n(?=    ))?)+", text + "\n", re.MULTILINE)
    return [Example(name, textwrap.dedent(block[0])) for block in blocks]


PAGE = of_document((ROOT / DOCUMENT).read_text(), "sdk.md")
CLIENTS = (kvclient.Client, kvclient.AsyncClient)
DOCSTRINGS = [
    *of_docstring(kvserver.testing, "kvserver.testing"),
    *of_docstring(kvclient, "kvclient"),
    *(example for kind in CLIENTS for example in of_docstring(kind, kind.__name__)),
    *(
        example
        for kind in CLIENTS
        for name, member in vars(kind).items()
        if not name.startswith("_")
        for example in of_docstring(member, f"{kind.__name__}.{name}")
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(archive=True) as started:
        yield started


@pytest.fixture
def nobody() -> Iterator[str]:
    """An endpoint on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def kv(server: Server, nobody: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[kvclient.Client]:
    """A client of a namespace of its own, to which clients of the documented endpoint are led too.

    What an example makes beside it (namespaces) is gone afterwards.
    """
    with server.client() as admin, server.isolated("example") as node:
        before = {row.name for row in admin.list_namespaces()}

        def led(endpoints: Any, namespace: str) -> tuple[Any, str]:
            text = endpoints if isinstance(endpoints, str) else ",".join(endpoints)
            here = DOCUMENTED in text and not namespace
            return text.replace(DOCUMENTED, server.address).replace(NOBODY, nobody), node.namespace if here else namespace

        class Client(kvclient.Client):
            def __init__(self, endpoints: Any, namespace: str = "", **options: Any) -> None:
                super().__init__(*led(endpoints, namespace), **options)

        class AsyncClient(kvclient.AsyncClient):
            def __init__(self, endpoints: Any, namespace: str = "", **options: Any) -> None:
                super().__init__(*led(endpoints, namespace), **options)

        monkeypatch.setattr(kvclient, "Client", Client)
        monkeypatch.setattr(kvclient, "AsyncClient", AsyncClient)
        with Client(DOCUMENTED) as client:
            yield client
        for row in admin.list_namespaces():
            if row.name not in before:
                admin.drop_namespace(row.name)


def run(example: Example, **names: Any) -> None:
    """Run an example, which may wait at its top level, as in the REPL of asyncio."""
    compiled = compile(example.source, example.place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(compiled, {"__name__": "example", **names})
    if inspect.iscoroutine(result):
        asyncio.run(result)


@pytest.mark.parametrize("example", [one for one in PAGE if not one.for_pytest], ids=lambda example: example.place)
def test_an_example_prints_what_it_shows(
    example: Example, kv: kvclient.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.shown, "an example shows what comes of it"
    run(example._replace(source=example.source.replace(BACKUP, f"{tmp_path}/")), kv=kv)
    assert capsys.readouterr().out.splitlines() == example.shown


@pytest.mark.parametrize("example", [one for one in DOCSTRINGS if not one.for_pytest], ids=lambda example: example.place)
def test_an_example_of_a_docstring_runs(example: Example, kv: kvclient.Client) -> None:
    run(example, kv=kv, Client=kvclient.Client, AsyncClient=kvclient.AsyncClient)


@pytest.mark.parametrize("example", [one for one in (*PAGE, *DOCSTRINGS) if one.for_pytest], ids=lambda example: example.place)
def test_an_example_for_pytest_passes(example: Example, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the environment may have been installed before the entry point
    pytester.makepyfile(example.source)
    plugins = ("-p", "kvserver.testing.plugin", "-p", "pytest_asyncio.plugin", "-o", "asyncio_mode=auto")
    result = pytester.runpytest_subprocess(*plugins, "-p", "no:cacheprovider", timeout=90)
    result.assert_outcomes(passed=example.source.count("def test_"))


# -- nothing is left out -----------------------------------------------------------------------------------------------


def used_names() -> set[str]:
    """Return every name and attribute that an example of the page uses, beside importing it."""
    nodes = [node for example in PAGE for node in ast.walk(ast.parse(example.source))]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_every_public_name_is_in_an_example() -> None:
    assert not set(kvclient.__all__) - used_names()


def test_every_call_of_a_client_is_in_an_example() -> None:
    assert not {name for name in vars(kvclient.Client) if not name.startswith("_")} - used_names()


def test_every_name_in_code_that_looks_like_a_class_is_public() -> None:
    prose = re.sub(r"^```.*?^```$", "", (ROOT / DOCUMENT).read_text(), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([A-Z]\w*[a-z]\w*)`", prose)) - {"TypeError", "None", "ServerFailed"}
    assert not named - set(kvclient.__all__)


def test_the_table_of_errors_is_that_of_the_code() -> None:
    rows = {in_code(row["class"])[0]: set(in_code(row["codes"])) for row in section(DOCUMENT, "Errors").table()}
    classes = {name for name in kvclient.__all__ if is_error(getattr(kvclient, name))}
    assert rows.keys() == classes - {"KvClientError"}
    told = {code: name for name, codes in rows.items() for code in codes}
    assert told.keys() == _errors._CLASS_OF.keys() | _OF_THE_CLIENT
    assert {code: told[code] for code in _errors._CLASS_OF} == {code: kind.__name__ for code, kind in _errors._CLASS_OF.items()}


def is_error(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, kvclient.KvClientError)


def test_an_error_stands_behind_the_class_that_it_is_one_of() -> None:
    order = [in_code(row["class"])[0] for row in section(DOCUMENT, "Errors").table()]
    for place, name in enumerate(order):
        (base, *_) = getattr(kvclient, name).__bases__
        assert base is kvclient.KvClientError or base.__name__ in order[:place], name


def test_the_levels_are_all_explained() -> None:
    rows = section(DOCUMENT, "What a write that returned means").table()
    assert [in_code(row["level"])[0] for row in rows] == [level.name for level in kvclient.Durability]


def test_what_is_repeated_is_what_the_code_repeats() -> None:
    told = {name for line in section(DOCUMENT, "Retries").lines for name in in_code(line) if name in _errors._CLASS_OF}
    assert told == _retry.REFUSALS | {"DISK_FULL"}


def test_the_timeouts_are_those_of_the_code() -> None:
    text = "\n".join(section(DOCUMENT, "Timeouts").lines)
    assert f": {_channel.DEFAULT_TIMEOUT_S:g} seconds" in text
    long = "`flush` and `checkpoint`,\n`archive_now` and `content_hash`"
    assert f"{_channel.LONG_TIMEOUT_S:g} seconds for {long}" in text


def test_every_call_and_fixture_of_the_testing_package_is_named() -> None:
    text = "\n".join(section(DOCUMENT, "Testing").lines)
    told = set(re.findall(r"`(\w+)", text))
    assert {name for name in dir(Server) if not name.startswith("_")} <= told
    assert {"kvserver_node", "start_kvserver", "kvserver_flags", "running_server", "ServerFailed"} <= told


# -- the tests can fail ------------------------------------------------------------------------------------------------


def test_examples_are_found() -> None:
    assert len(PAGE) > 20
    assert [one.place for one in DOCSTRINGS][:2] == ["kvserver.testing", "kvserver.testing"]
    assert {"kvclient", "Client", "AsyncClient"} <= {one.place for one in DOCSTRINGS}


def test_a_block_knows_its_line_and_what_it_shows() -> None:
    (one,) = of_document("# A\n\n```python\nprint(1)  # 1\nif x:\n    print(2)  # two\n```\n```sh\nls\n```\n", "a")
    assert (one.place, one.shown, one.for_pytest) == ("a:4", ["1", "two"], False)


def test_a_docstring_is_taken_apart() -> None:
    def documented() -> None:
        """Does it.

            a = 1

            b = a

        More words:

            c = 2
        """

    assert [one.source for one in of_docstring(documented, "d")] == ["a = 1\n\nb = a\n", "c = 2\n"]


def test_an_example_that_waits_or_raises_is_noticed() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Example("x", "import asyncio\nawait asyncio.sleep(0)\n1 / 0\n"))


def test_an_annotation_is_looked_at() -> None:
    with pytest.raises(NameError):
        run(Example("x", "a: Nothing = 1\n"))
