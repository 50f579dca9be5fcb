""".dockerignore: what of a build's context is not copied.

Called by builds. A line is a pattern of a path in the context; ** matches any number of directories; a line that begins
with ! takes back what lines before it left out. Source: docker's documentation of build contexts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

_FILE = ".dockerignore"


class Ignore:
    def __init__(self, context: str, lines: Sequence[str]) -> None:
        self._context = os.path.realpath(context)
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in lines:
            word = line.strip()
            if word and not word.startswith("#"):
                taken_back = word.startswith("!")
                pattern = os.path.normpath(word.lstrip("!").strip().lstrip("/"))
                self._rules.append((taken_back, re.compile(_expression(pattern))))

    @classmethod
    def read(cls, context: str) -> Ignore:
        """The rules of a context; none where it has no such file."""
        try:
            with open(os.path.join(context, _FILE), encoding="utf-8") as file:
                return cls(context, file.read().splitlines())
        except FileNotFoundError:
            return cls(context, ())

    def wants(self, path: str) -> bool:
        """Whether a path, relative to the context, is copied."""
        wanted = True
        for taken_back, pattern in self._rules:
            if pattern.match(path):
                wanted = taken_back
        return wanted or (any(taken_back for taken_back, _ in self._rules) and self._may_hold(path))

    def _may_hold(self, path: str) -> bool:
        """A directory below which something was taken back is walked."""
        place = os.path.join(self._context, path)
        return os.path.isdir(place) and not os.path.islink(place)

    def wanted_below(self, source: str) -> Callable[[str], bool]:
        """The same for paths that are relative to a directory of the context."""
        base = os.path.relpath(source.removesuffix("/."), self._context)
        return lambda path: self.wants(os.path.normpath(os.path.join(base, path)))


def _expression(pattern: str) -> str:
    """A regular expression for a pattern, and for all that is below what it matches."""
    text, rest = "", pattern
    while rest:
        if rest.startswith("**/"):
            text, rest = text + "(?:.*/)?", rest[3:]
        elif rest.startswith("**"):
            text, rest = text + ".*", rest[2:]
        elif rest[0] == "*":
            text, rest = text + "[^/]*", rest[1:]
        elif rest[0] == "?":
            text, rest = text + "[^/]", rest[1:]
        elif rest[0] == "[" and "]" in rest:
            inner, _, rest = rest[1:].partition("]")
            text += f"[{inner}]"
        else:
            text, rest = text + re.escape(rest[0]), rest[1:]
    return f"^{text}(?:/.*)?$"
