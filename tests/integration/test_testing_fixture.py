"""kvserver.testing gives its users real servers: on free ports, isolated, restartable, gone at the end, loud when they fail."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import select
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvclient import AsyncClient, Client, Timeout, Unavailable
from kvserver.testing import Server, ServerFailed, running_server

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = "kvserver.testing.plugin"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as started:
        yield started


@pytest.fixture
def users(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project of a user's, whose pytest knows our plugin and no other, however this environment was installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester


def run(users: pytest.Pytester) -> pytest.RunResult:
    return users.runpytest_subprocess("-p", PLUGIN, "-p", "no:cacheprovider", timeout=PATIENCE_S * 3)


@contextlib.contextmanager
def watched(pid: int) -> Iterator[select.poll]:
    """Give what can wait for the end of a process that is not our child."""
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        yield ended
    finally:
        os.close(descriptor)


# -- an archive --------------------------------------------------------------------------------------------------------


def test_a_server_may_have_an_archive_beside_its_data_or_where_the_test_says(tmp_path: Path) -> None:
    with running_server(data_dir=tmp_path / "data", archive=True) as server, server.client() as kv:
        assert server.archive_dir == tmp_path / "data-archive"
        assert kv.archive_status().url == server.archive_url == (tmp_path / "data-archive").as_uri()
    with running_server(archive=tmp_path / "a folder") as server, server.client() as kv:
        kv.put(b"k", b"v")
        kv.archive_now()
        server.kill()
        server.start()
        assert kv.archive_status().url == (tmp_path / "a folder").as_uri()
    assert list((tmp_path / "a folder").rglob("*.kva"))
    with running_server() as server, server.client() as kv:
        assert (server.archive_dir, server.archive_url, kv.status().archive_url) == (None, "", "")


# -- without pytest ----------------------------------------------------------------------------------------------------


def test_a_server_serves_and_leaves_nothing_behind() -> None:
    with running_server() as server:
        with server.client() as kv:
            kv.put(b"k", b"v")
            assert kv.get(b"k") is not None
        assert server.running
        assert (server.data_dir / "IDENTITY").exists()
        assert server.http_address == "off"
    assert not server.running
    assert not server.data_dir.parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_kill_keeps_what_was_acknowledged_and_the_address() -> None:
    with running_server() as server, server.client() as kv:
        address, first = server.address, server.pid
        written = kv.put(b"k", b"v")
        server.kill()
        assert not server.running
        with pytest.raises(Unavailable), server.client() as other:
            other.get(b"k")
        server.start()
        assert (server.address, server.pid != first) == (address, True)
        with server.client() as other:
            entry = other.get(b"k")
            assert entry is not None
            assert entry.mod_revision == written.revision
            assert other.status().epoch == 2
        text = "\n".join(server.log())
        assert text.count("\nready ") == 2, "the log holds both lives"
        assert "everything acknowledged is on disk" not in text, "it was killed, not stopped"
        assert server.log(1) == server.log()[-1:]
        assert server.log(0) == []


def test_a_restart_ends_it_in_order() -> None:
    with running_server() as server:
        server.restart()
        assert server.running
        assert sum("everything acknowledged is on disk" in line for line in server.log()) == 1
        server.stop()
        server.stop()
        server.kill()
        assert not server.running
        with pytest.raises(ServerFailed, match=r"does not run(.|\n)*everything acknowledged is on disk"):
            server.check_running()
        server.start()
        server.check_running()
        with pytest.raises(RuntimeError, match="runs already"):
            server.start()


def test_a_paused_server_answers_late() -> None:
    with running_server() as server, server.client() as kv:
        kv.put(b"k", b"v")
        with server.paused(), pytest.raises(Timeout):
            kv.get(b"k", timeout_s=0.2)
        assert kv.get(b"k", timeout_s=PATIENCE_S) is not None
        with server.paused():
            server.kill()


def test_flags_and_a_folder_of_ones_own_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    with running_server("--name", "n1", "--http", "127.0.0.1:0", data_dir=folder) as server:
        with server.client() as kv:
            assert kv.status().node == "n1"
        with urllib.request.urlopen(f"http://{server.http_address}/readyz", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
    assert (folder / "IDENTITY").exists(), "a folder that was named is kept"
    with pytest.raises(ValueError, match="data_dir="):
        Server(["--data-dir=x"], folder)


def test_settings_of_the_testers_environment_do_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVSERVER_NAME", "leaked")
    with running_server() as server, server.client() as kv:
        assert kv.status().node != "leaked"
    with running_server(environment={"KVSERVER_NAME": "meant"}) as server, server.client() as kv:
        assert kv.status().node == "meant"


def test_modules_in_the_testers_folder_do_not_stand_in_for_the_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kvserver.py").write_text("raise SystemExit('the wrong kvserver')\n")
    (tmp_path / "uvloop.py").write_text("raise SystemExit('the wrong uvloop')\n")
    monkeypatch.chdir(tmp_path)
    with running_server() as server:
        assert server.running


# -- isolation ---------------------------------------------------------------------------------------------------------


def test_tests_on_one_server_do_not_see_each_other(server: Server) -> None:
    with server.isolated("one") as one, server.isolated("one") as other, one.client() as kv, other.client() as others:
        kv.put(b"k", b"v")
        assert others.get(b"k") is None
        assert [row.name for row in kv.list_namespaces() if row.name] == sorted([one.namespace, other.namespace])
    with server.client() as kv:
        assert [row.name for row in kv.list_namespaces()] == [""], "nothing is left of them"


async def test_a_node_has_both_clients(server: Server) -> None:
    with server.isolated() as node, node.client(timeout_s=9.0) as kv:
        async with node.async_client() as waiting, server.async_client(node.namespace) as same:
            await waiting.put(b"k", b"v")
            assert (kv.get(b"k"), await same.get(b"k")) == (await waiting.get(b"k"),) * 2
            assert (type(kv), type(waiting)) == (Client, AsyncClient)


@pytest.mark.parametrize("label", ["test_x[a b-ü]", "x" * 500, ""])
def test_any_label_makes_a_name(server: Server, label: str) -> None:
    with server.isolated(label) as node, node.client() as kv:
        assert kv.count() == 0


def test_a_namespace_that_its_test_dropped_and_a_server_that_it_killed_are_no_trouble() -> None:
    with running_server() as server:
        with server.isolated() as node, node.client() as kv:
            kv.drop_namespace(node.namespace)
        with server.isolated() as node:
            server.kill()


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"did not start: it ended with exit code 2\b(.|\n)*--no-such-flag"):
        with running_server("--no-such-flag"):
            pytest.fail("it started")
    with running_server(data_dir=tmp_path), pytest.raises(ServerFailed, match=r"exit code 1\b(.|\n)*in use"):
        with running_server(data_dir=tmp_path):
            pytest.fail("two servers on one folder")


def test_a_server_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    server = Server([], tmp_path, start_timeout_s=0.001)
    with pytest.raises(ServerFailed, match=r"not ready within 0.001 s, and was killed"):
        server.start()
    assert not server.running


def test_missing_packages_of_the_server_are_named(tmp_path: Path) -> None:
    (tmp_path / "rocksdict.py").write_text("raise ModuleNotFoundError(name='rocksdict')\n")
    with pytest.raises(ServerFailed, match=r"pip install 'kvserver\[server\]'"):
        with running_server(environment={"PYTHONPATH": str(tmp_path)}):
            pytest.fail("it started")


def test_a_server_that_does_not_end_in_order_is_told_of() -> None:
    with running_server(environment={"KVSERVER_FAILPOINTS": "engine.close.before_final_sync=kill"}) as server:
        with pytest.raises(ServerFailed, match="ended with exit code -9 when it was asked to stop"):
            server.stop()
        assert not server.running


def test_one_that_was_never_started_says_so(tmp_path: Path) -> None:
    server = Server([], tmp_path)
    server.kill()
    server.stop()
    assert not server.running
    with pytest.raises(RuntimeError, match="never started"):
        _ = server.pid


STARTS_AND_VANISHES = """
import os, sys
from pathlib import Path
from kvserver.testing import Server
server = Server([], Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.readline()
os._exit(0)
"""


def test_no_server_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTS_AND_VANISHES, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tester:
        assert tester.stdin is not None
        assert tester.stdout is not None
        pid = int(tester.stdout.readline())
        with watched(pid) as ended:
            assert ended.poll(0) == [], "it serves as long as its tester is there"
            tester.send_signal(signal.SIGKILL)
            assert ended.poll(PATIENCE_S * 1000), "the server is still there"


# -- with pytest -------------------------------------------------------------------------------------------------------

ISOLATED_TESTS = """
import pytest

PIDS = set()

@pytest.mark.parametrize("number", range(3))
def test_alone(kvserver_node, kvserver_shared, number):
    PIDS.add(kvserver_shared.pid)
    with kvserver_node.client() as kv:
        assert kv.put(b"k", b"v", if_absent=True)
        assert [entry.key for entry in kv.scan()] == [b"k"]

def test_that_it_was_one_server(kvserver_shared):
    assert PIDS == {kvserver_shared.pid}
    with kvserver_shared.client() as kv:
        assert [row.name for row in kv.list_namespaces()] == [""]
        assert kv.status().node == "theirs"

@pytest.fixture(scope="session")
def kvserver_flags():
    return ["--name", "theirs"]
"""

CRASH_TESTS = """
from pathlib import Path

FOLDERS = []

def test_a_crash(start_kvserver, tmp_path):
    server = start_kvserver("--memtable-mb", "1")
    other = start_kvserver(data_dir=tmp_path / "other")
    assert server.pid != other.pid
    with server.client(wait_for_ready=True) as kv:
        revision = kv.put(b"k", b"v").revision
        server.kill()
        server.start()
        assert kv.get(b"k").mod_revision == revision
    FOLDERS.append(server.data_dir)

def test_that_nothing_is_left():
    (folder,) = FOLDERS
    assert not folder.exists()
"""

FAILING_TESTS = """
import os, signal

def test_wrong(kvserver_node):
    with kvserver_node.client() as kv:
        assert kv.get(b"k") == "wrong"

def test_refused(start_kvserver):
    start_kvserver("--segment-mb", "1")

def test_loses_the_server(kvserver_node, kvserver_shared):
    os.kill(kvserver_shared.pid, signal.SIGKILL)
    kvserver_shared.kill()

def test_goes_on(kvserver_node):
    with kvserver_node.client() as kv:
        kv.put(b"k", b"v")
"""


def test_users_tests_share_a_server_and_do_not_meet(users: pytest.Pytester) -> None:
    users.makepyfile(ISOLATED_TESTS)
    run(users).assert_outcomes(passed=4)


def test_users_tests_crash_servers_of_their_own(users: pytest.Pytester) -> None:
    users.makepyfile(CRASH_TESTS)
    run(users).assert_outcomes(passed=2)


def test_a_failing_test_shows_what_its_server_said(users: pytest.Pytester) -> None:
    users.makepyfile(FAILING_TESTS)
    result = run(users)
    result.assert_outcomes(failed=2, passed=2, errors=1)
    text = result.stdout.str()
    wrong, _, rest = text.partition("test_refused")
    assert "kvserver at 127.0.0.1:" in wrong
    assert "ready listen=" in wrong, "the log of the server is part of the report"
    assert "argument --segment-mb" in rest
    assert "process.py" not in rest, "where the package gave up is not the user's concern"
    assert "does not run: it ended by itself" in text


def test_the_plugin_costs_next_to_nothing_where_it_is_not_used() -> None:
    code = (
        f"import sys, pytest, {PLUGIN}; print([name for name in ('grpc', 'kvclient', 'google.protobuf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert ast.literal_eval(done.stdout) == []


def test_the_package_works_without_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import kvserver.testing as t; print([hasattr(t, n) for n in t.__all__])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, set(ast.literal_eval(done.stdout))) == (0, {True}), done.stderr


def test_pytest_finds_the_plugin_by_itself() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        entry_points = tomllib.load(file)["project"].get("entry-points", {})
    assert entry_points.get("pytest11") == {"kvserver": PLUGIN}
    plugin = importlib.import_module(PLUGIN)
    assert {"kvserver_node", "start_kvserver", "kvserver_shared", "kvserver_flags"} <= vars(plugin).keys()
