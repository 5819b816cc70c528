"""The rules of style that no other tool checks, each one small function, a scope and the fix that its message names."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator

from tidy.sources import ROOT, Source

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70

Finding = tuple[int, str]
"""A line number and what is wrong there."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule: which files it is about, what breaks it, and what to do then."""

    name: str
    applies: Callable[[Source], bool]
    check: Callable[[Source], Iterator[Finding]]
    fix: str

    def offences(self, source: Source) -> list[str]:
        """Return a message for each place of the file that breaks the rule."""
        if not self.applies(source):
            return []
        return [f"{source.path}:{line}: {what}. Fix: {self.fix}" for line, what in self.check(source)]


def _everywhere(source: Source) -> bool:
    return True


def _python(source: Source) -> bool:
    return source.is_python


def _within(*folders: str, but: tuple[str, ...] = ()) -> Callable[[Source], bool]:
    """Python files below the folders, those whose path begins with one of ``but`` left out."""

    def applies(source: Source) -> bool:
        return source.is_python and source.path.startswith(folders) and not source.path.startswith(but)

    return applies


def file_length(source: Source) -> Iterator[Finding]:
    if len(source.lines) > MAX_FILE_LINES:
        yield MAX_FILE_LINES + 1, f"the file has {len(source.lines)} lines, {MAX_FILE_LINES} are allowed"


def function_length(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, Function):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {length} lines, {MAX_FUNCTION_LINES} are allowed"


def _is_sentence(docstring: str | None) -> bool:
    paragraph = (docstring or "").strip().partition("\n\n")[0]
    return re.search(r"[.:?!][)\"'`]*$", paragraph) is not None


def module_docstring(source: Source) -> Iterator[Finding]:
    if not _is_sentence(ast.get_docstring(source.tree)):
        yield 1, "the module's docstring is missing or does not begin with a sentence"


def _public_definitions(body: list[ast.stmt], above: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield above + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _public_definitions(node.body, f"{above}{node.name}.")


def _needs_no_docstring(node: Function | ast.ClassDef) -> bool:
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    return bool(decorators & {"overload", "setter", "deleter"})


def public_docstrings(source: Source) -> Iterator[Finding]:
    for name, node in _public_definitions(source.tree.body):
        if not _is_sentence(ast.get_docstring(node)) and not _needs_no_docstring(node):
            yield node.lineno, f"the docstring of {name} is missing or does not begin with a sentence"


_UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def unfinished(source: Source) -> Iterator[Finding]:
    for number, line in enumerate(source.lines, 1):
        if match := _UNFINISHED.search(line):
            yield number, f"{match[0]} says that something is not finished"


_MACHINE_PATH = re.compile(r"(?<![\w.~-])/(work|root|home/\w+|Users/\w+)/")


def machine_paths(source: Source) -> Iterator[Finding]:
    for number, line in enumerate(source.lines, 1):
        if match := _MACHINE_PATH.search(line):
            yield number, f"{match[0]} is a path of one machine"


_DOCUMENT = re.compile(r"(?<![\w./-])(docs/[\w./-]*\w\.md\b|docs/adr/\d{4}\b)")


def document_paths(source: Source) -> Iterator[Finding]:
    for number, line in enumerate(source.lines, 1):
        for match in _DOCUMENT.finditer(line):
            pattern = match[0] if match[0].endswith(".md") else f"{match[0]}*.md"
            if not any(ROOT.glob(pattern)):
                yield number, f"there is no document {match[0]}"


def printing(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id == "print":
            yield node.lineno, "this module may not print"


def environment(source: Source) -> Iterator[Finding]:
    for use in source.uses_of("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"):
        yield use.line, f"{use.name} reads the environment"


_TODAY = ("datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today")


def clocks(source: Source) -> Iterator[Finding]:
    for use in source.uses_of("time", *_TODAY):
        yield use.line, f"{use.name} is a door to time"


_DISK_MODULES = ("io.open", "io.FileIO", "codecs.open", "shutil", "tempfile", "mmap", "fcntl", "glob", "fileinput")
_DISK_CALLS = (
    *("open", "fdopen", "read", "write", "pread", "pwrite", "preadv", "pwritev", "sendfile", "copy_file_range"),
    *("sync", "fsync", "fdatasync", "truncate", "ftruncate", "posix_fallocate"),
    *("rename", "renames", "replace", "unlink", "remove", "link", "symlink"),
    *("mkdir", "makedirs", "rmdir", "removedirs", "listdir", "scandir", "walk"),
    *("stat", "lstat", "fstat", "statvfs", "access", "chmod", "chown", "utime"),
)
_PATH_METHODS = frozenset(
    {
        *("write_text", "write_bytes", "read_text", "read_bytes", "touch"),
        *("unlink", "symlink_to", "hardlink_to", "mkdir", "rmdir", "iterdir", "rglob"),
    }
)
# ``FileSystem`` has methods of these names too; those of ``Path`` are told from them by how they are called.
_PATH_METHODS_WITHOUT_ARGUMENT = frozenset({"exists", "is_file", "is_dir", "stat", "open"})
_PATH_METHODS_WITH_ONE_ARGUMENT = frozenset({"rename", "replace"})


def _is_path_method(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    name, arguments = call.func.attr, len(call.args) + len(call.keywords)
    if name == "open" and call.args and isinstance(call.args[0], ast.Constant):
        return True
    return (
        name in _PATH_METHODS
        or (name in _PATH_METHODS_WITHOUT_ARGUMENT and arguments == 0)
        or (name in _PATH_METHODS_WITH_ONE_ARGUMENT and arguments == 1 and not call.keywords)
    )


def disk(source: Source) -> Iterator[Finding]:
    for use in source.uses_of(*_DISK_MODULES, *(f"os.{name}" for name in _DISK_CALLS)):
        yield use.line, f"{use.name} is a door to disk"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id == "open":
            yield node.lineno, "open is a door to disk"
        elif isinstance(node, ast.Call) and _is_path_method(node):
            yield node.lineno, f"{ast.unparse(node.func)}() is a door to disk"


_FILE_NAME = re.compile(r"\.(wal|torn)(?!\w)|prepared-")
_MODULE_NAME = re.compile(r"kvserver(\.\w+)+")


def file_names(source: Source) -> Iterator[Finding]:
    bare = {id(node.value) for node in ast.walk(source.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in bare:
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if _FILE_NAME.search(text) and not _MODULE_NAME.fullmatch(text):
                yield node.lineno, f"{text[:40]!r} spells a file name"


def stubs(source: Source) -> Iterator[Finding]:
    seen = set()
    for use in source.uses:
        if re.search(r"_pb2(_grpc)?(\.|$)", use.name) and use.line not in seen:
            seen.add(use.line)
            yield use.line, f"{use.name} is a generated stub"


def _import_of(module: str) -> Callable[[Source], Iterator[Finding]]:
    def check(source: Source) -> Iterator[Finding]:
        for _, use in source.imports:
            if use.name == module or use.name.startswith(f"{module}."):
                yield use.line, f"{module} is imported outside its owner"

    return check


_SHIPPED = ("kvserver/", "client/")
_PRINTERS = ("client/kvctl/", "client/kvbench/", "kvserver/__main__.py", "kvserver/server/main.py")
_STUB_USERS = ("kvserver/service/", "kvserver/transport/", "client/kvclient/")

RULES = (
    Rule("file length", _python, file_length, "split the file by what its parts do"),
    Rule("function length", _python, function_length, "give its steps functions of their own"),
    Rule("module docstring", _python, module_docstring, "say in a sentence what the module is for"),
    Rule("public docstrings", _within(*_SHIPPED), public_docstrings, "say in a sentence what it does, or hide it"),
    Rule("unfinished", _everywhere, unfinished, "finish it, or open an issue and say here what holds today"),
    Rule(
        "machine paths",
        _everywhere,
        machine_paths,
        "write one relative to the project, or such as /srv/kv",
    ),
    Rule("document paths", _everywhere, document_paths, "write the document, or name the one that is meant"),
    Rule(
        "print",
        _within(*_SHIPPED, "protos/", but=_PRINTERS),
        printing,
        "emit an event, or return the text",
    ),
    Rule(
        "environment",
        _within(*_SHIPPED, "protos/", but=("kvserver/server/config.py", "kvserver/testing/", "client/kvctl/variables.py")),
        environment,
        "take it as an option: kvserver/server/config.py reads the environment, kvctl has click's envvar",
    ),
    Rule(
        "clock",
        _within("kvserver/", but=("kvserver/base/clock.py",)),
        clocks,
        "be handed a Clock (kvserver/base/clock.py) and ask that",
    ),
    Rule(
        "disk",
        _within("kvserver/", but=("kvserver/base/fs.py", "kvserver/testing/")),
        disk,
        "be handed a FileSystem (kvserver/base/fs.py) and ask that",
    ),
    Rule(
        "file names",
        _within("kvserver/", but=("kvserver/base/paths.py",)),
        file_names,
        "let kvserver/base/paths.py make the name or parse it",
    ),
    Rule(
        "stubs",
        _within(*_SHIPPED, but=_STUB_USERS),
        stubs,
        "convert in kvserver/service or kvclient and pass plain values on",
    ),
    Rule(
        "owner of google_crc32c",
        _within(*_SHIPPED, but=("kvserver/base/coding.py",)),
        _import_of("google_crc32c"),
        "use the checksum of kvserver/base/coding.py",
    ),
    Rule(
        "owner of sortedcontainers",
        _within(*_SHIPPED, but=("kvserver/storage/",)),
        _import_of("sortedcontainers"),
        "keep what is sorted in kvserver/storage",
    ),
    Rule(
        "owner of obstore",
        _within(*_SHIPPED, but=("kvserver/archive/s3_store.py",)),
        _import_of("obstore"),
        "ask the Store that kvserver/archive/open_store.py opens",
    ),
    Rule(
        "owner of rocksdict",
        _within(*_SHIPPED, but=("kvserver/storage/rocks.py",)),
        _import_of("rocksdict"),
        "use the tables of kvserver/storage/tables.py, of which kvserver/storage/rocks.py is one kind",
    ),
)
