"""The files of the project as the rules of style see them: text, syntax tree, and the full names that the code uses."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
UNLISTED_FOLDERS = frozenset({"data", "build", "dist", "__pycache__", "node_modules"})


class Use(NamedTuple):
    """A full dotted name, such as ``os.environ.get``, and the line that uses it."""

    line: int
    name: str


class Source:
    """One text file: its path relative to the project's root, and what is in it."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text

    @property
    def is_python(self) -> bool:
        return self.path.endswith(".py")

    @functools.cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @functools.cached_property
    def package(self) -> list[str]:
        """The parts of the package that the module lies in; relative imports start from it."""
        parts = self.path.removeprefix("client/").removeprefix("protos/").split("/")
        return parts[:-1]

    @functools.cached_property
    def imports(self) -> list[tuple[str, Use]]:
        """Every import, wherever it stands: the name it binds and what it stands for."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.append((alias.asname or alias.name, Use(node.lineno, alias.name)))
            elif isinstance(node, ast.ImportFrom):
                origin = self._origin(node)
                for alias in node.names:
                    found.append((alias.asname or alias.name, Use(node.lineno, f"{origin}.{alias.name}")))
        return found

    def _origin(self, node: ast.ImportFrom) -> str:
        above = self.package[: len(self.package) - node.level + 1] if node.level else []
        return ".".join([*above, *([node.module] if node.module else [])])

    @functools.cached_property
    def uses(self) -> list[Use]:
        """What is imported and every attribute chain that begins with it, aliases resolved."""
        bound = {name: use.name for name, use in self.imports if "." not in name}
        # ``import a.b`` binds ``a``.
        bound |= {name.partition(".")[0]: name.partition(".")[0] for name, _ in self.imports if "." in name}
        found = [use for _, use in self.imports]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute | ast.Name):
                root, _, rest = _chain(node).partition(".")
                if root in bound:
                    found.append(Use(node.lineno, f"{bound[root]}.{rest}" if rest else bound[root]))
        return found

    def uses_of(self, *names: str) -> Iterator[Use]:
        """Yield, once a line, the uses of these names and of what lies below them."""
        seen = set()
        for use in self.uses:
            if use.line not in seen and any(use.name == name or use.name.startswith(f"{name}.") for name in names):
                seen.add(use.line)
                yield use


def _chain(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        above = _chain(node.value)
        return f"{above}.{node.attr}" if above else ""
    return ""


def _listed_files() -> list[str]:
    """Return what git tracks or would track; without git, what lies in the folder."""
    # A hook or a worktree that runs this sets variables that would point git elsewhere.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return sorted(_walked_files())
    return sorted({name for name in done.stdout.decode().split("\0") if name})


def _walked_files() -> Iterator[str]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in UNLISTED_FOLDERS and (name[0] != "." or name == ".ci")]
        yield from ((Path(folder) / name).relative_to(ROOT).as_posix() for name in files)


def read_sources() -> list[Source]:
    """Return every text file of the project, the generated stubs left out."""
    sources = []
    for path in _listed_files():
        if path.endswith(GENERATED_SUFFIXES) or not (ROOT / path).is_file():
            continue
        data = (ROOT / path).read_bytes()
        if b"\0" in data:
            continue
        try:
            sources.append(Source(path, data.decode()))
        except UnicodeDecodeError:
            continue  # compressed samples and the like
    return sources
