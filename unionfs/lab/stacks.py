"""Small stacks of layers, as they stand in a lab's checks and in the quiz: written down, made on disk, drawn, shown.

A *sheet* is one layer: path -> what is there. A stack is sheets, the topmost first. What can be there:

    "text"      a regular file with that content        DIR         a directory
    WHITEOUT    the name is deleted                      OPAQUE      an opaque directory
    REDIRECT + "name"   a directory that goes on below under that name

`cases` counts stacks from the smallest up, so that the first one on which two programs differ is a smallest one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

DIR, WHITEOUT, OPAQUE, REDIRECT = "<directory>", "<whiteout>", "<opaque>", "<redirect>"
_UNLISTED = "is found, and not listed"
Sheet = dict[str, str]
Stack = Sequence[Sheet]
Shown = dict[str, str]
"""What a tree shows: path -> "directory", or a file's content in quotes."""


def is_directory(what: str) -> bool:
    return what in (DIR, OPAQUE) or what.startswith(REDIRECT)


def make(stack: Stack, place: Path, dialect: str = "aufs") -> list[Path]:
    """The layers as directories 0, 1, ... in `place`; their paths, the topmost first. `dialect`: how marks are
    written; overlay needs root, or a user namespace."""
    made = []
    for index, sheet in enumerate(stack):
        layer = place / str(index)
        layer.mkdir(parents=True)
        for path, what in sheet.items():
            (layer / path).parent.mkdir(parents=True, exist_ok=True)
            _mark(layer / path, what, dialect)
        made.append(layer)
    return made


def _mark(path: Path, what: str, dialect: str) -> None:
    if is_directory(what):
        path.mkdir(exist_ok=True)
    if what == WHITEOUT and dialect == "overlay":
        os.mknod(path, stat.S_IFCHR, 0)
    elif what == WHITEOUT:
        path.with_name(f".wh.{path.name}").touch()
    elif what == OPAQUE and dialect == "overlay":
        os.setxattr(path, _overlay("opaque"), b"y")
    elif what == OPAQUE:
        (path / ".wh..wh..opq").touch()
    elif what.startswith(REDIRECT) and dialect == "overlay":
        os.setxattr(path, _overlay("redirect"), os.fsencode(what.removeprefix(REDIRECT)))
    elif what.startswith(REDIRECT):
        (path / ".wh..wh..redirect").symlink_to(what.removeprefix(REDIRECT))
    elif not is_directory(what):
        path.write_text(what)


def _overlay(name: str) -> str:
    return f"{'trusted' if os.geteuid() == 0 and _owns_the_machine() else 'user'}.overlay.{name}"


def _owns_the_machine() -> bool:
    """Whether this is the first user namespace: in another one trusted attributes cannot be set."""
    with open("/proc/self/uid_map") as file:
        return file.read().split()[:3] == ["0", "0", "4294967295"]


def cases(sheets: Sequence[Sheet], layers: int) -> Iterator[Stack]:
    """All stacks of one to `layers` of these sheets, the smallest first."""
    found = [stack for count in range(1, layers + 1) for stack in product(sheets, repeat=count)]
    return iter(sorted(found, key=lambda stack: (sum(map(len, stack)), len(stack))))


def draw(stack: Stack) -> str:
    """As `ls -R` of each layer would show it, a line a layer."""
    lines = []
    for index, sheet in enumerate(stack):
        names = [_drawn(path, what) for path, what in sheet.items()]
        lines.append(f"  layer {index}   {'   '.join(names) or '(empty)'}")
    return "\n".join(lines)


def _drawn(path: str, what: str) -> str:
    if what == WHITEOUT:
        return os.path.join(os.path.dirname(path), f".wh.{os.path.basename(path)}")
    if what == OPAQUE:
        return f"{path}/ (opaque)"
    if what.startswith(REDIRECT):
        return f"{path}/ (redirect: {what.removeprefix(REDIRECT)})"
    return f"{path}/" if what == DIR else f"{path}={what!r}"


def shown_by(union: Any, asked: Iterable[str] = ()) -> Shown:
    """What a `unionfs.Union` shows: all that it lists, and of the paths `asked` those that it finds besides."""
    found: Shown = {}
    waiting = [""]
    while waiting:
        path = waiting.pop()
        for entry in union.scandir(path):
            child = os.path.join(path, os.fsdecode(entry.name))
            if stat.S_ISDIR(union.stat(child).mode):
                found[child] = "directory"
                waiting.append(child)
            else:
                found[child] = repr(union.read_bytes(child).decode())
    for path in asked:
        if path not in found and union.exists(path):
            found[path] = _UNLISTED
    return dict(sorted(found.items()))


def shown_at(root: Path) -> Shown:
    """The same of a directory."""
    found: Shown = {}
    for where, directories, names in os.walk(root):
        below = os.path.relpath(where, root)
        for name in directories:
            found[os.path.normpath(os.path.join(below, name))] = "directory"
        for name in names:
            found[os.path.normpath(os.path.join(below, name))] = repr(Path(where, name).read_text())
    return dict(sorted(found.items()))


def told(shown: Shown | None) -> str:
    """In one line."""
    if shown is None:
        return "(it could not be asked: that takes root, or user namespaces)"
    parts = [
        f"{path}/" if what == "directory" else f"{path} ({what})" if what == _UNLISTED else f"{path}={what}"
        for path, what in shown.items()
    ]
    return "   ".join(parts) or "nothing"
