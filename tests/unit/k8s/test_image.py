"""The Dockerfile keeps its promises as far as they can be read from it: no engine is there to build the image with."""

from __future__ import annotations

import compileall
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

import kvserver
from kvserver.server import config
from unit.k8s.dockerfile import Instruction, Stage, in_context, parse

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@functools.cache
def _stages() -> list[Stage]:
    return parse(DOCKERFILE.read_text())


@functools.cache
def _context() -> set[str]:
    """The files that a build would see; the largest folders that it must not see are stood for by a file each."""
    skipped = {".venv", ".venv-newest", ".git", "data"}
    found = [f"{name}/secret" for name in sorted(skipped)]
    for folder, names, files in os.walk(ROOT):
        relative = Path(folder).relative_to(ROOT)
        if relative == Path():
            names[:] = [name for name in names if name not in skipped]
        found += [(relative / file).as_posix() for file in files]
    return in_context(found, (ROOT / ".dockerignore").read_text())


def test_both_stages_begin_from_the_same_pinned_image() -> None:
    build, final = _stages()
    assert build.name == "build" and not final.name
    assert build.image == final.image, "the virtual environment refers to the interpreter that made it"
    name, _, tag = build.image.partition(":")
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert name == "python" and re.fullmatch(r"3\.\d+-slim-[a-z]+", tag), "latest is not a version"
    assert required == ">=" + tag.partition("-")[0]


def test_it_is_not_root_and_has_a_number() -> None:
    final = _stages()[-1]
    user, group = final.one("USER").text.split(":")
    assert user.isdecimal() and group.isdecimal() and int(user) >= 10_000
    assert [one.name for one in final.instructions].index("USER") > max(
        number for number, one in enumerate(final.instructions) if one.name in ("RUN", "COPY")
    ), "the software would belong to the user that runs it"
    assert f"install -d -o {user} -g {group} -m 0700 /data" in " ".join(one.text for one in final.all("RUN"))
    assert not any("--chown" in one.text for one in final.all("COPY"))


def test_sigterm_reaches_the_server_and_what_it_is_told_is_understood() -> None:
    final = _stages()[-1]
    for name in ("ENTRYPOINT", "CMD", "VOLUME"):
        assert final.one(name).text.startswith("["), f"{name}: a shell in between swallows signals"
    entry, command = final.one("ENTRYPOINT").words(), final.one("CMD").words()
    assert entry == ["/opt/kvserver/bin/kvserver"]
    told = config.parse(command, {})
    assert told.http is not None
    assert str(told.data_dir.parent) in final.one("VOLUME").words()
    assert final.one("EXPOSE").words() == [str(told.listen.port), str(told.http.port)]
    assert {told.listen.host, told.http.host} == {"0.0.0.0"}
    health = final.one("HEALTHCHECK").text
    assert f"'127.0.0.1', {told.http.port}" in health and "'/livez'" in health
    assert not any(word.startswith("KVSERVER_") for word in final.one("ENV").words()), "it would win over a file, unseen"


def test_the_environment_is_made_for_a_root_that_cannot_be_written() -> None:
    build, final = _stages()
    settings = dict(word.split("=", 1) for word in final.one("ENV").words())
    assert settings["PYTHONDONTWRITEBYTECODE"] == "1"
    assert settings["PATH"].startswith("/opt/kvserver/bin:"), "kubectl exec finds kvctl there"
    compiled = " ".join(one.text for one in (*build.all("RUN"), *final.all("RUN")))
    assert compiled.count("compileall") == 2
    assert (
        "/opt/kvserver/lib" in compiled and f"/usr/local/lib/python{final.image[len('python:') :].partition('-')[0]}" in compiled
    )


def test_only_locked_versions_are_installed_and_the_tools_stay_behind() -> None:
    build, final = _stages()
    installs = [part for one in build.all("RUN") for part in one.text.split("&&") if "pip" in part and " install " in part]
    assert len(installs) == 2
    assert all("--constraint requirements.lock" in part for part in installs)
    assert "[server,s3]" in installs[-1] and "--without-pip /opt/kvserver" in " ".join(one.text for one in build.all("RUN"))
    (copied,) = final.all("COPY")
    assert copied.options() == {"from": "build"} and copied.words() == ["/opt/kvserver", "/opt/kvserver"]
    assert not any(word in one.text for one in final.all("RUN") for word in ("pip", "apt-get", "curl"))


def test_the_locked_versions_name_all_that_the_server_needs() -> None:
    """A requirement that is missing from the lock would be installed in whatever version is newest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["server"], "hatchling"]
    locked = {_normal(line.partition("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines()[1:]}
    assert {_normal(re.split(r"[><=\[]", one)[0]) for one in needed} <= locked


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    context = _context()
    copied = [source for one in _stages()[0].all("COPY") for source in one.words()[:-1]]
    for source in copied:
        assert any(path == source or path.startswith(f"{source}/") for path in context), f"{source} is not in the build's context"
    strangers = {path for path in context if path.partition("/")[0] not in copied}
    assert not strangers, "in the context for nothing"
    assert not [path for path in context if re.search(r"__pycache__|\.pyc$|egg-info|\.env", path)]


def test_the_wheel_has_all_that_it_is_made_of() -> None:
    """What pyproject.toml refers to is copied."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = build["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for path in (*packages, build["project"]["readme"]):
        assert any(name == path or name.startswith(f"{path}/") for name in _context()), path


def test_labels_name_the_version() -> None:
    label = _stages()[-1].one("LABEL").text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'version="{kvserver.__version__}"' in label and f'licenses="{project["license"]}"' in label


def test_an_unchecked_module_runs_without_its_time_stamp(tmp_path: Path) -> None:
    """Layers of an image change the times of files: compiled code that is compared with them would be compiled at each start."""
    source = tmp_path / "module.py"
    source.write_text("VALUE = 1\n")
    assert compileall.compile_dir(tmp_path, quiet=1, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    source.write_text("VALUE = 2\n")
    done = subprocess.run(
        [sys.executable, "-c", "import module; print(module.VALUE)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr
    runs = [one.text for stage in _stages() for one in stage.all("RUN") if "compileall" in one.text]
    assert all("--invalidation-mode unchecked-hash" in text for text in runs)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not there: scripts/k8s_tools.sh installs it")
def test_hadolint_has_nothing_to_say() -> None:
    assert HADOLINT is not None
    command = [HADOLINT, "--no-color", "--failure-threshold", "style", str(DOCKERFILE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


# -- the tools of these tests -----------------------------------------------------------------------------------------


def test_a_dockerfile_is_read() -> None:
    text = 'ARG A=x:1\n# no\nFROM ${A} AS b\nRUN a \\\n  # no\n  && b\nFROM x\nCOPY --from=b /c /d\nCMD ["e", "f g"]\n'
    first, second = parse(text)
    assert (first.image, first.name, first.one("RUN").text.split()) == ("x:1", "b", ["a", "&&", "b"])
    assert second.one("COPY") == Instruction("COPY", "--from=b /c /d")
    assert second.one("CMD").words() == ["e", "f g"]


@pytest.mark.parametrize(
    ("ignore", "seen"),
    [
        ("", {"a", "b/c.py", "b/d/c.pyc", "e.md"}),
        ("*\n!b\n**/*.pyc", {"b/c.py"}),
        ("# a\nb/d\n*.md", {"a", "b/c.py"}),
        ("*\n!b/d", {"b/d/c.pyc"}),
        ("!a\n*", set()),
    ],
)
def test_what_is_ignored(ignore: str, seen: set[str]) -> None:
    assert in_context(["a", "b/c.py", "b/d/c.pyc", "e.md"], ignore) == seen


BREAKS: list[tuple[Callable[..., None], str, str]] = [
    (test_both_stages_begin_from_the_same_pinned_image, "python:3.11-slim-bookworm\n\n", "python:latest\n\n"),
    (test_both_stages_begin_from_the_same_pinned_image, "FROM ${BASE}\nLABEL", "FROM python:3.12-slim-bookworm\nLABEL"),
    (test_it_is_not_root_and_has_a_number, "USER 65532:65532", "USER nobody:nogroup"),
    (test_it_is_not_root_and_has_a_number, "USER 65532:65532", "USER 0:0"),
    (test_it_is_not_root_and_has_a_number, "-m 0700 /data", "-m 0700 /srv"),
    (
        test_sigterm_reaches_the_server_and_what_it_is_told_is_understood,
        'ENTRYPOINT ["/opt/kvserver/bin/kvserver"]',
        "ENTRYPOINT kvserver",
    ),
    (test_sigterm_reaches_the_server_and_what_it_is_told_is_understood, '"/data/node"', '"/srv/node"'),
    (test_sigterm_reaches_the_server_and_what_it_is_told_is_understood, "'127.0.0.1', 7480", "'127.0.0.1', 7481"),
    (test_sigterm_reaches_the_server_and_what_it_is_told_is_understood, "PYTHONUNBUFFERED=1", "KVSERVER_HTTP=off"),
    (test_the_environment_is_made_for_a_root_that_cannot_be_written, "/usr/local/lib/python3.11", "/usr/local/lib/python3.10"),
    (test_only_locked_versions_are_installed_and_the_tools_stay_behind, "install --constraint requirements.lock", "install"),
    (test_the_build_sees_what_it_copies_and_nothing_else, "COPY client ./client", "COPY client tests ./client"),
    (test_the_build_sees_what_it_copies_and_nothing_else, "COPY client ./client\n", ""),
    (test_labels_name_the_version, 'version="0.1.0"', 'version="0.0.9"'),
    (test_an_unchecked_module_runs_without_its_time_stamp, "--invalidation-mode unchecked-hash /opt", "/opt"),
]


@pytest.mark.parametrize(("check", "old", "new"), BREAKS)
def test_the_check_catches(
    check: Callable[..., None], old: str, new: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = DOCKERFILE.read_text()
    assert old in text
    monkeypatch.setattr(sys.modules[__name__], "_stages", lambda: parse(text.replace(old, new)))
    with pytest.raises((AssertionError, ValueError, SystemExit)):
        check(tmp_path) if "tmp_path" in check.__code__.co_varnames else check()
