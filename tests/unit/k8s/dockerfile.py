"""Dockerfiles and what ``.dockerignore`` leaves of a folder, as far as ours use them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction, its continued lines joined."""

    name: str
    text: str

    def words(self) -> list[str]:
        """Return what follows: the elements of the exec form, else the words that are no options."""
        if self.text.startswith("["):
            words: list[str] = json.loads(self.text)
            return words
        return [word for word in self.text.split() if not word.startswith("--")]

    def options(self) -> dict[str, str]:
        """Return the options before the rest: ``--from=build``."""
        found = {}
        for word in self.text.split():
            if not word.startswith("--"):
                break
            name, _, value = word[2:].partition("=")
            found[name] = value
        return found


class Stage(NamedTuple):
    """What begins with a FROM: the image it starts from, its name, its instructions."""

    image: str
    name: str
    instructions: list[Instruction]

    def all(self, name: str) -> list[Instruction]:
        """Return the instructions of a name, in order."""
        return [one for one in self.instructions if one.name == name]

    def one(self, name: str) -> Instruction:
        """Return the only instruction of a name."""
        (found,) = self.all(name)
        return found


def parse(text: str) -> list[Stage]:
    """Return the stages, with the arguments before the first FROM put into the images' names."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, rest = line.strip().partition(" ")
        assert name.isupper() and rest, f"no instruction: {line}"
        instruction = Instruction(name, rest.strip())
        if name == "FROM":
            image, _, stage = instruction.text.partition(" AS ")
            stages.append(Stage(re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], image), stage, []))
        elif stages:
            stages[-1].instructions.append(instruction)
        else:
            assert name == "ARG", f"{name} before FROM"
            key, _, value = instruction.text.partition("=")
            arguments[key] = value
    return stages


def in_context(paths: Iterable[str], ignore: str) -> set[str]:
    """Return those of the paths (relative, of files) that a build sees. The last pattern that fits a path decides."""
    rules = []
    for line in ignore.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            rules.append((pattern.startswith("!"), _expression(pattern.lstrip("!").strip("/"))))
    seen = set()
    for path in paths:
        parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
        kept = True
        for keeps, expression in rules:
            if any(expression.fullmatch(one) for one in parents):
                kept = keeps
        if kept:
            seen.add(path)
    return seen


def _expression(pattern: str) -> re.Pattern[str]:
    parts = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(parts.get(token) or re.escape(token) for token in tokens))
