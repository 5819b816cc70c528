"""The rules of style hold for every file of the project, and each rule catches what it is there to catch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import pytest

from kvproto.v1 import errors_pb2
from kvserver.base.errors import Code
from tidy.contract_rules import code_differences, describe, uncommented
from tidy.rules import MAX_FILE_LINES, MAX_FUNCTION_LINES, RULES, Rule
from tidy.sources import ROOT, Source, read_sources

# Spelt in two parts, because this file keeps the rules too.
_TO_DO = "TO" + "DO"
_MACHINE = "/wo" + "rk/main"
_DOCUMENT = "docs" + "/of-nothing.md"
_RECORD = "docs" + "/adr/9999"

_IN_WAL = "kvserver/wal/log.py"


class Case(NamedTuple):
    """A file that breaks a rule and its like that keeps it."""

    rule: str
    offender: Source
    innocent: Source


def _case(rule: str, offender: str, innocent: str, *, path: str = _IN_WAL, innocent_path: str = "") -> Case:
    return Case(rule, Source(path, offender), Source(innocent_path or path, innocent))


def _allowed_at(rule: str, path: str, *texts: str) -> list[Case]:
    """Each text breaks the rule in the log's code and keeps it at the path."""
    return [_case(rule, text, text, innocent_path=path) for text in texts]


def _function(lines: int) -> str:
    return "def f() -> None:\n" + "    g()\n" * (lines - 1)


CASES = [
    _case("file length", "x = 1\n" * (MAX_FILE_LINES + 1), "x = 1\n" * MAX_FILE_LINES),
    _case("function length", _function(MAX_FUNCTION_LINES + 1), _function(MAX_FUNCTION_LINES)),
    _case(
        "function length",
        "class C:\n    async " + _function(MAX_FUNCTION_LINES + 1).replace("\n", "\n    ").rstrip(" "),
        _function(3),
    ),
    _case("module docstring", "import re\n", '"""What it is for."""\n'),
    _case("module docstring", '"""helpers"""\n', '"""What it is for:\n\n    a table\n"""\n', path="tests/x.py"),
    _case("public docstrings", "def f(): ...\n", 'def f():\n    """Does it."""\n'),
    _case("public docstrings", "class C: ...\n", "class _C: ...\n", path="client/kvclient/x.py"),
    _case(
        "public docstrings",
        'class C:\n    """It."""\n    async def f(self): ...\n',
        'class C:\n    """It."""\n    def _f(self): ...\n    def __len__(self): ...\n',
    ),
    _case("unfinished", f"# {_TO_DO}: more\n", "# That is all.\n"),
    _case("unfinished", f"{_TO_DO} list\n", "list\n", path="README.md"),
    _case("machine paths", f"cd {_MACHINE}\n", "cd kvserver/work/main\n", path="README.md"),
    _case("machine paths", f'P = "{_MACHINE}"\n', 'P = "/srv/kv"\n'),
    _case("document paths", f'"""See ``{_DOCUMENT}``."""\n', f'"""See ``https://x.org/{_DOCUMENT}``."""\n'),
    _case("document paths", f"# {_RECORD}\n", "# record 9999\n", path="Makefile"),
    *_allowed_at("print", "client/kvctl/main.py", "print(1)\n", "show = print\n"),
    *_allowed_at(
        "environment",
        "kvserver/server/config.py",
        "import os\nos.environ['A']\n",
        "import os as o\no.getenv('A')\n",
        "from os import environ\n",
    ),
    _case("environment", "import os\nos.environ\n", "import os\nos.getpid()\n", path="client/kvctl/main.py"),
    *_allowed_at(
        "clock",
        "kvserver/base/clock.py",
        "import time\n",
        "from time import monotonic as m\n",
        "import datetime\ndatetime.datetime.now()\n",
        "def f():\n    from datetime import datetime as d\n    d.utcnow()\n",
    ),
    _case(
        "clock",
        "from datetime import date\ndate.today()\n",
        "import datetime\ndatetime.date.fromtimestamp(0)\n",
    ),
    *_allowed_at(
        "disk",
        "kvserver/base/fs.py",
        "open('x')\n",
        "import os\nos.pwrite(1, b'', 0)\n",
        "from os import fsync as f\n",
        "import os\nsync = os.fsync\n",
        "import shutil\n",
        "p.write_text('')\n",
        "p.read_bytes()\n",
        "p.parent.mkdir(parents=True)\n",
        "p.rename(q)\n",
        "p.unlink()\n",
        "p.open('rb')\n",
        "p.open()\n",
        "p.exists()\n",
    ),
    _case("disk", "import os\nos.unlink(p)\n", "import os\nfs.rename(p, q)\nfs.open(p)\nfs.exists(p)\nos.getpid()\n"),
    _case("disk", "p.replace(q)\n", "s.replace(a, b)\ndataclasses.replace(s, a=1)\n"),
    *_allowed_at("file names", "kvserver/base/paths.py", 'x = f"{n:08x}.wal"\n', "x = b'prepared-1'\n"),
    _case("file names", "name.endswith('.torn')\n", '"""A ``.wal`` file."""\n"""one.torn"""\nx = "wal.seal"\n'),
    _case("file names", "x = '1.wal'\n", "x = 'kvserver.wal'\nx = 'kvctl wal verify'\n"),
    *_allowed_at(
        "stubs",
        "kvserver/service/kv.py",
        "from kvproto.v1 import kv_pb2\n",
        "import kvproto.v1.kv_pb2_grpc\n",
        "from kvproto.v1.kv_pb2 import GetRequest\n",
        "import kvproto.v1 as v\nv.kv_pb2.GetRequest()\n",
    ),
    *_allowed_at("owner of google_crc32c", "kvserver/base/coding.py", "import google_crc32c\n"),
    *_allowed_at("owner of sortedcontainers", "kvserver/storage/memtable.py", "from sortedcontainers import SortedDict\n"),
    *_allowed_at("owner of obstore", "kvserver/archive/s3_store.py", "from obstore.store import S3Store\n"),
    *_allowed_at("owner of rocksdict", "kvserver/storage/rocks.py", "from rocksdict import Rdict\n", "import rocksdict as r\n"),
]


@functools.cache
def _sources() -> list[Source]:
    return read_sources()


def _rule(name: str) -> Rule:
    return next(rule for rule in RULES if rule.name == name)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    offences = [offence for source in _sources() for offence in rule.offences(source)]
    assert not offences, "\n" + "\n".join(offences)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_an_offender_and_files_to_judge(rule: Rule) -> None:
    assert any(case.rule == rule.name for case in CASES), "add a case that shows what the rule catches"
    assert any(rule.applies(source) for source in _sources()), "the rule's scope names no file; correct it"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_rule_catches_its_offender_and_spares_its_like(case: Case) -> None:
    rule = _rule(case.rule)
    offences = rule.offences(case.offender)
    assert offences
    assert all(offence.startswith(f"{case.offender.path}:") and rule.fix in offence for offence in offences)
    assert rule.offences(case.innocent) == []


def test_relative_imports_are_seen_by_their_full_name() -> None:
    source = Source("client/kvclient/sub/x.py", "from . import a\nfrom ..b import c\nfrom .. import kv_pb2\n")
    assert [use.name for _, use in source.imports] == ["kvclient.sub.a", "kvclient.b.c", "kvclient.kv_pb2"]


def test_files_are_found() -> None:
    paths = {source.path for source in _sources()}
    assert {"Makefile", "pyproject.toml", "kvserver/base/fs.py", "protos/kvproto/v1/kv.proto"} <= paths
    assert not [path for path in paths if path.startswith((".venv", ".git/", "data/")) or path.endswith("_pb2.py")]


def test_a_sentence_stands_above_every_part_of_the_contract() -> None:
    messages = uncommented(describe(ROOT / "protos"))
    assert not messages, "\n" + "\n".join(messages)


def test_parts_of_a_contract_without_a_sentence_are_caught(tmp_path: Path) -> None:
    (tmp_path / "bare.proto").write_text(
        'syntax = "proto3";\n\nservice S {\n  rpc R(M) returns (M);\n}\n\nenum E {\n  ZERO = 0;\n}\n\n'
        "message M {\n  int32 f = 1;\n  oneof o {\n    int32 g = 2;\n  }\n  message N {}\n  optional int32 h = 3;\n"
        "  // Too far above.\n\n  map<string, int32> i = 4;\n  // no sentence\n  int32 j = 5;\n"
        "  // Well described.\n  int32 k = 6;\n  int32 l = 7; // Behind is not above.\n}\n"
    )
    found = {message.partition(": the ")[2].partition(" has ")[0] for message in uncommented(describe(tmp_path))}
    fields = {f"field M.{name}" for name in "fghijl"}
    assert found == {"service S", "rpc S.R", "enum E", "enum value E.ZERO", "message M", "message M.N", "oneof M.o"} | fields


def test_codes_are_those_of_the_contract() -> None:
    differences = code_differences({code.name: code.value for code in Code}, dict(errors_pb2.ErrorCode.items()))
    assert not differences, "\n" + "\n".join(differences)


def test_codes_that_differ_are_caught() -> None:
    contract = {"UNSPECIFIED": 0, "A": 1, "B": 2, "C": 3}
    assert [text.split()[0] for text in code_differences({"A": 1, "B": 3, "D": 4}, contract)] == ["B", "C", "D"]
    assert code_differences({"A": 1, "B": 2, "C": 3}, contract) == []
