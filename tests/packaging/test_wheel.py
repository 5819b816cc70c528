"""The built wheel holds the five packages and nothing else, and its base install is the SDK and kvctl."""

from __future__ import annotations

import email.message
import email.parser
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "kvserver": ROOT / "kvserver",
    "kvproto": ROOT / "protos" / "kvproto",
    "kvclient": ROOT / "client" / "kvclient",
    "kvctl": ROOT / "client" / "kvctl",
    "kvbench": ROOT / "client" / "kvbench",
}
SERVER_ONLY = {
    "sortedcontainers",
    "google-crc32c",
    "grpcio-health-checking",
    "grpcio-reflection",
    "prometheus-client",
    "rocksdict",
    "uvloop",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.parser.BytesParser().parsebytes(archive.read(name))


@pytest.fixture(scope="module")
def base_install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The folders that hold the wheel's content and what the base install requires, and nothing more."""
    target, dependencies = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("dependencies")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run([*command, "--target", target, wheel], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    (distribution,) = importlib.metadata.distributions(path=[str(target)])
    for name in _required(distribution.requires or [], set()):
        _link(importlib.metadata.distribution(name), dependencies)
    return [str(target), str(dependencies)]


def _required(requirements: list[str], seen: set[str]) -> Iterator[str]:
    """Yield the names of the distributions that are required, directly or not, extras left out."""
    for requirement in map(Requirement, requirements):
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        yield name
        yield from _required(importlib.metadata.requires(name) or [], seen)


def _link(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    for file in distribution.files or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            link = folder / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(str(distribution.locate_file(file))))


def _run(base_install: list[str], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code that sees the base install and the standard library, neither this environment nor the checkout."""
    prepare = f"import sys; sys.path[:0] = {base_install!r}\n"
    command = [sys.executable, "-I", "-S", "-c", prepare + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=base_install[0])


def _files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if not re.match(r"kvserver-[^/]+\.dist-info/", name)]


def test_only_the_five_packages_are_importable(wheel: Path) -> None:
    assert {name.partition("/")[0] for name in _files(wheel)} == set(FOLDERS)


def test_every_module_is_inside_and_typed(wheel: Path) -> None:
    wanted = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.suffix in {".py", ".pyi", ".proto"} or path.name == "py.typed"
    }
    assert {f"{package}/py.typed" for package in FOLDERS} <= wanted
    assert set(_files(wheel)) == wanted


def test_the_licence_is_inside(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith("/LICENSE")]


def test_the_base_install_requires_nothing_of_the_server(metadata: email.message.Message) -> None:
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    base = {canonicalize_name(requirement.name) for requirement in requirements if requirement.marker is None}
    server = {
        canonicalize_name(requirement.name)
        for requirement in requirements
        if requirement.marker and requirement.marker.evaluate({"extra": "server"})
    }
    assert server == SERVER_ONLY
    assert base == {"grpcio", "protobuf", "googleapis-common-protos", "click", "rich", "zstandard"}


def test_the_base_install_brings_the_commands_and_the_fixture(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        lines = archive.read(name).decode().split("\n")
    commands = {"kvserver = kvserver.__main__:main", "kvctl = kvctl.main:main", "kvbench = kvbench.main:main"}
    assert {*commands, "[pytest11]", "kvserver = kvserver.testing.plugin"} <= set(lines)


def test_the_five_packages_import_without_the_server_extra(base_install: list[str]) -> None:
    code = f"import {', '.join(FOLDERS)}, kvclient, kvproto.v1.kv_pb2_grpc\n"
    code += f"for name in {sorted(FOLDERS)!r}: assert sys.modules[name].__file__.startswith(sys.path[0]), name\n"
    code += "import importlib.util\nprint(importlib.util.find_spec('sortedcontainers'), kvserver.__version__)\n"
    done = _run(base_install, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["None", importlib.metadata.version("kvserver")]


def test_kvctl_runs_without_the_server_extra(base_install: list[str]) -> None:
    done = _run(base_install, "sys.argv[0] = 'kvctl'; from kvctl.main import main; sys.exit(main())", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: kvctl" in done.stdout


def test_kvserver_without_its_extra_names_the_command_that_installs_it(base_install: list[str]) -> None:
    done = _run(base_install, "from kvserver.__main__ import main; sys.exit(main())", "serve")
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'kvserver[server]'\n")
    assert done.stderr.count("\n") == 1


def test_the_wheel_names_no_place_on_the_machine_that_built_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            assert os.fsencode(str(ROOT)) not in archive.read(name), name
