"""Paths into a config, as in `$.evaluate.metrics[0].use`, and the line of the user's file that each stands on.

`tomllib` and `json` give values without lines, so the text is walked a second time. The walk trusts the syntax: it runs
only on text that the standard library has already parsed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable

ROOT = "$"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LAST = re.compile(r"(\.[A-Za-z0-9_-]+|\.\"(?:[^\"\\]|\\.)*\"|\[\d+\])$")
_PLAIN_VALUE = re.compile(r"[^,\]}\n#]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_LONG_STRING = {
    '"""': re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    "'''": re.compile(r"'''.*?'{3,5}", re.DOTALL),
}
_STRING = {'"': re.compile(r'"(?:[^"\\]|\\.)*"'), "'": re.compile(r"'[^']*'")}


def child(where: str, key: str | int) -> str:
    """Return the path of `key` below `where`; a key that TOML would quote is quoted."""
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if _BARE.fullmatch(key) else f"{where}.{json.dumps(key, ensure_ascii=False)}"


def parent(where: str) -> str:
    """Return the path of what holds `where`; the root holds itself."""
    return _LAST.sub("", where) or ROOT


def toml_lines(text: str) -> dict[str, int]:
    """Return the line of every key, table and array element of valid TOML; the first line is 1."""
    walk = _Walk(text, separator="=", decode=lambda raw: str(tomllib.loads(f"k = {raw}")["k"]))
    walk.document()
    return walk.lines


def json_lines(text: str) -> dict[str, int]:
    """Return the line of every key and array element of valid JSON; the first line is 1."""
    walk = _Walk(text, separator=":", decode=json.loads)
    walk.skip_blank()
    walk.value(ROOT)
    return walk.lines


class _Walk:
    """One pass over the text. Inline TOML and JSON differ only in the separator and in the escapes of a quoted key."""

    def __init__(self, text: str, *, separator: str, decode: Callable[[str], str]) -> None:
        self.text = text
        self.separator = separator
        self.decode = decode
        self.at = 0
        self.lines: dict[str, int] = {}
        self._arrays: dict[str, int] = {}
        self._counted_to, self._line = 0, 1

    def document(self) -> None:
        prefix = ROOT
        while self.skip_blank():
            if self.text.startswith("[[", self.at):
                prefix = self._header(width=2)
            elif self.text[self.at] == "[":
                prefix = self._header(width=1)
            else:
                self._pair(prefix)

    def value(self, where: str) -> None:
        for quotes, pattern in (_LONG_STRING if self.separator == "=" else {}).items():
            if self.text.startswith(quotes, self.at):
                self._take(pattern)
                return
        first = self.text[self.at]
        if first in _STRING:
            self._take(_STRING[first])
        elif first == "[":
            self._elements("]", lambda index: self._element(child(where, index)))
        elif first == "{":
            self._elements("}", lambda _: self._pair(where))
        else:
            self._take(_PLAIN_VALUE)

    def skip_blank(self) -> bool:
        """Move past white space, newlines and comments; False at the end of the text."""
        self._take(_BLANK)
        return self.at < len(self.text)

    def _header(self, width: int) -> str:
        self.at += width
        line, keys = self._current_line(), self._key()
        self.skip_blank()
        self.at += width
        where = ROOT
        for depth, key in enumerate(keys, 1):
            where = child(where, key)
            self.lines.setdefault(where, line)
            if depth == len(keys) and width == 2:
                self._arrays[where] = self._arrays.get(where, -1) + 1
            if where in self._arrays:  # a header below an array of tables means the newest of them
                where = child(where, self._arrays[where])
                self.lines.setdefault(where, line)
        return where

    def _pair(self, where: str) -> None:
        line = self._current_line()
        for key in self._key():
            where = child(where, key)
            self.lines.setdefault(where, line)
        self.skip_blank()
        self.at += len(self.separator)
        self.skip_blank()
        self.value(where)

    def _element(self, where: str) -> None:
        self.lines[where] = self._current_line()
        self.value(where)

    def _elements(self, closing: str, read: Callable[[int], None]) -> None:
        self.at += 1
        index = 0
        while self.skip_blank() and self.text[self.at] != closing:
            read(index)
            index += 1
            self.skip_blank()
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def _key(self) -> list[str]:
        keys = []
        while True:
            self.skip_blank()
            pattern = _STRING.get(self.text[self.at])
            keys.append(self.decode(self._take(pattern)) if pattern else self._take(_BARE))
            self.skip_blank()
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise AssertionError(f"text that was parsed before cannot be walked at offset {self.at}")
        self.at = match.end()
        return match.group()

    def _current_line(self) -> int:
        self._line += self.text.count("\n", self._counted_to, self.at)
        self._counted_to = self.at
        return self._line
