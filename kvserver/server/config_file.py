"""The configuration file: TOML with the settings as keys, at the top or in their sections; and what is in force, as such a file.

A mistake in it ends the start. All mistakes are named at once, with the line where it can be found (``tomllib`` keeps none),
and, for a key that is not known, with the nearest one that is.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kvserver.base.fs import FileSystem, opened
from kvserver.base.limits import MIB
from kvserver.server.flags import OFF, SECTIONS, SETTINGS, Setting

MAX_BYTES = 1 * MIB
"""No configuration is longer; something that was named by mistake is not read whole."""

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_WANTED = {str: "a string", int: "a whole number", bool: "true or false"}
_HELD = {str: "a string", int: "a whole number", bool: "true or false", float: "a fraction", list: "an array", dict: "a table"}


class BadConfigFile(Exception):
    """The file cannot be used; the text names every mistake, one a line."""


class Told(NamedTuple):
    """The value of a setting in force, and who said so: flag, environment, file or default."""

    value: Any
    source: str


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that was probably meant; None where none is near."""
    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


def read(fs: FileSystem, name: str) -> dict[str, Any]:
    """Return the values that the file sets, by the setting's name. Raises BadConfigFile."""
    try:
        with opened(fs.open(Path(name).absolute())) as file:
            raw = file.pread(MAX_BYTES + 1, 0)
    except (OSError, ValueError) as error:
        raise BadConfigFile(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > MAX_BYTES:
        raise BadConfigFile(f"{name}: longer than {MAX_BYTES} bytes, this is no configuration")
    try:
        text = raw.decode()
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise BadConfigFile(f"{name}: not text in UTF-8 (at byte {error.start})") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadConfigFile(f"{name}: not TOML: {error}") from error
    reading = _Reading(name, text)
    reading.take_all(content)
    if reading.mistakes:
        raise BadConfigFile("\n".join(reading.mistakes))
    return reading.values


class _Reading:
    """One file on its way from what TOML says to values."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._lines = text.splitlines()
        self.values: dict[str, Any] = {}
        self.mistakes: list[str] = []

    def take_all(self, content: Mapping[str, Any]) -> None:
        for key, held in content.items():
            if key in SECTIONS and (isinstance(held, dict) or key not in _BY_NAME):
                if isinstance(held, dict):
                    for inner, value in held.items():
                        self._take(key, inner, value)
                else:
                    self._mistake("", key, f'"{key}" is a section, not a key: write [{key}]')
            elif isinstance(held, dict) and _spelled(key) not in _BY_NAME:
                near = nearest(key, SECTIONS)
                hint = f"did you mean [{near}]?" if near else f"there are {', '.join(f'[{known}]' for known in SECTIONS)}"
                self._mistake("", key, f"unknown section [{key}]; {hint}")
            else:
                self._take("", key, held)

    def _take(self, section: str, key: str, held: Any) -> None:
        name, where = _spelled(key), f" in [{section}]" if section else ""
        setting = _BY_NAME.get(name)
        if setting is None:
            self._mistake(section, key, f'unknown key "{key}"{where}; {_meant(section, name)}')
        elif section not in ("", setting.section):
            self._mistake(section, key, f'"{key}" belongs in [{setting.section}], not in [{section}]')
        elif name in self.values:
            self._mistake(section, key, f'"{key}"{where} is set twice')
        elif type(held) is not setting.kind:
            found = _HELD.get(type(held), "a date or time")
            self._mistake(section, key, f'"{key}"{where} must be {_WANTED[setting.kind]}, not {found}')
        else:
            try:
                self.values[name] = setting.read(str(held))
            except argparse.ArgumentTypeError as error:
                self._mistake(section, key, f'"{key}"{where}: {error}')

    def _mistake(self, section: str, key: str, what: str) -> None:
        line = self._line_of(section, key)
        self.mistakes.append(f"{self._name}:{line}: {what}" if line else f"{self._name}: {what}")

    def _line_of(self, section: str, key: str) -> int | None:
        """Return the number of the line that begins with the key in the section; None where it is written in another way."""
        quoted = rf"""["']?{re.escape(key)}["']?\s*"""
        current = ""
        for number, line in enumerate(self._lines, 1):
            header = re.match(r"""\s*\[\[?\s*["']?([^\]"'.]*?)["']?\s*[\].]""", line)
            if header:
                current = header[1]
                if not section and current == key:
                    return number
            elif current == section and re.match(rf"\s*{quoted}[=.]", line):
                return number
        return None


def _spelled(key: str) -> str:
    """Return a key as the table of settings spells it; files may write underscores."""
    return key.replace("_", "-")


def _meant(section: str, name: str) -> str:
    """Return what to say of a key that is not known: the nearest one of its section, else of the others."""
    here = [setting.name for setting in SETTINGS if section in ("", setting.section)]
    near = nearest(name, here)
    if near is not None:
        return f'did you mean "{near}"?'
    near = nearest(name, _BY_NAME)
    if near is not None:
        return f'did you mean "{near}" in [{_BY_NAME[near].section}]?'
    return "kvserver serve --help lists them all"


def render(told: Mapping[str, Told]) -> str:
    """Return the settings in force as a configuration file, each with its source behind it."""
    lines: list[str] = []
    for section in SECTIONS:
        lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        for setting in SETTINGS:
            if setting.section == section:
                value, source = told[setting.name]
                lines.append(f"{setting.name} = {_literal(setting, value)}  # {source}")
    return "\n".join(lines)


def _literal(setting: Setting, value: Any) -> str:
    """Return a value as TOML. What is no UTF-8 in a path cannot be written there, and is shown as a question mark."""
    if setting.kind is bool:
        return "true" if value else "false"
    if setting.kind is int:
        return str(value)
    text = OFF if value is None else str(value).encode("utf-8", "replace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
