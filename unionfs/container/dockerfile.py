"""Dockerfiles: from text to instructions.

Called by `build.py`. Pure functions. Known are FROM, RUN, COPY, ADD (of local files), ENV, WORKDIR, USER, CMD,
ENTRYPOINT, EXPOSE, VOLUME, LABEL, ARG and STOPSIGNAL; another instruction is an error that names it and its line.
Source: docker's Dockerfile reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from unionfs.errors import UnionfsError, did_you_mean
from unionfs.image.changes import INSTRUCTIONS

KNOWN = ("FROM", "RUN", "COPY", "ADD", "ARG", *INSTRUCTIONS)
_EXPANDED = ("FROM", "COPY", "ADD", "ENV", "EXPOSE", "LABEL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR")
_ESCAPE = re.compile(r"^\s*#\s*escape\s*=\s*(\S)\s*$", re.IGNORECASE)
_DIRECTIVE = re.compile(r"^\s*#\s*\w+\s*=")
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)")
_VARIABLE = re.compile(r"\\(\$)|\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^}]*))?\})")


class Instruction(NamedTuple):
    """One instruction: its line, its name in capitals, its flags (--from=x), and the rest as it stands."""

    line: int
    name: str
    flags: tuple[tuple[str, str], ...]
    rest: str

    @property
    def text(self) -> str:
        flags = " ".join(f"--{name}={value}" for name, value in self.flags)
        return " ".join(filter(None, (self.name, flags, self.rest)))


def parse(text: str, name: str = "Dockerfile") -> list[Instruction]:
    """The instructions of a Dockerfile. Raises UnionfsError, naming file and line."""
    found = [_instruction(line, words, name) for line, words in _lines(text, name)]
    if not found:
        raise UnionfsError(name, "has no instructions", "it begins with FROM IMAGE")
    first = next((one for one in found if one.name != "ARG"), found[0])
    if first.name != "FROM":
        raise _wrong(name, first.line, f"{first.name} before FROM", "it begins with FROM IMAGE")
    return found


def _lines(text: str, name: str) -> Iterator[tuple[int, str]]:
    """Numbers and instructions, continued lines joined, remarks left out."""
    escape, begun, start, head = "\\", "", 0, True
    for number, line in enumerate(text.splitlines(), 1):
        found = _ESCAPE.match(line) if head else None
        head = head and bool(_DIRECTIVE.match(line))
        if found:
            escape = found[1]
        if line.lstrip().startswith("#") or (begun and not line.strip()):
            continue
        start = start if begun else number
        if line.rstrip().endswith(escape):
            begun += line.rstrip()[:-1]
            continue
        whole, begun = begun + line, ""
        if _HEREDOC.search(whole) and whole.split(None, 1)[0].upper() in ("RUN", "COPY", "ADD"):
            raise _wrong(name, start, "here-documents are not supported", "write a file, or use && between commands")
        if whole.strip():
            yield start, whole.strip()
    if begun.strip():
        yield start, begun.strip()


def _instruction(line: int, words: str, name: str) -> Instruction:
    word, _, rest = words.partition(" ")
    upper = word.upper()
    if upper not in KNOWN:
        hint = did_you_mean(upper, KNOWN) or f"known are {', '.join(KNOWN)}"
        raise _wrong(name, line, f"unknown instruction: {word}", hint)
    flags = []
    rest = rest.strip()
    while upper in ("FROM", "RUN", "COPY", "ADD") and rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        key, _, value = flag.removeprefix("--").partition("=")
        flags.append((key, value))
        rest = rest.strip()
    if not rest and upper not in ("CMD", "ENTRYPOINT"):
        raise _wrong(name, line, f"{upper} needs an argument", "")
    return Instruction(line, upper, tuple(flags), rest)


def expand(instruction: Instruction, variables: Mapping[str, str]) -> Instruction:
    """Its variables replaced, where docker replaces them: $NAME, ${NAME}, ${NAME:-default}, ${NAME:+other}."""
    if instruction.name not in _EXPANDED:
        return instruction
    fill = _filler(variables)
    flags = tuple((key, fill(value)) for key, value in instruction.flags)
    return instruction._replace(rest=fill(instruction.rest), flags=flags)


def _filler(variables: Mapping[str, str]) -> Callable[[str], str]:
    def one(found: re.Match[str]) -> str:
        if found[1]:
            return "$"
        name, how, other = found[2] or found[3], found[4] or "", found[5] or ""
        value = variables.get(name)
        is_set = value is not None and (bool(value) or not how.startswith(":"))
        if how.endswith("-"):
            return value if is_set and value is not None else other
        if how.endswith("+"):
            return other if is_set else ""
        return value or ""

    return lambda text: _VARIABLE.sub(one, text)


def _wrong(name: str, line: int, why: str, hint: str) -> UnionfsError:
    return UnionfsError(f"{name}, line {line}", why, hint)
