"""The ladder of labs: which there are, what a student gets, which hint comes next.

Used by `unionfs lab` and by the grader. A lab is a folder of docs/labs/, which a symbolic link beside this file makes a
part of the package:

    README.md, README.ru.md    the page: the idea, the task, how to check, what to measure, questions
    lab.toml                   title, minutes, needs, the student's `file`, what it `replaces`, hints
    starter/  solution/        the student's files as they begin, and as they may end
    checks.py                  the checks, see checks.py of this folder

A student's directory is a copy of starter/ with the page, and .lab.json, which says which lab it is and how many hints
were read.
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from unionfs.errors import UnionfsError

MARKER = ".lab.json"
_LABS = Path(__file__).parent / "labs"
NEEDS = {
    "root": "root",
    "fuse": "root and /dev/fuse",
    "passthrough": "root, and a kernel that passes FUSE files through (Linux 6.9)",
}


class Lab(NamedTuple):
    """`file` is the student's; `replaces` the module whose definitions it takes the place of, "" for none; `methods`
    the class of that module whose methods its functions become; `needs` are keys of `NEEDS`."""

    number: int
    path: Path
    title: str
    minutes: int
    file: str
    replaces: str
    methods: str
    needs: tuple[str, ...]
    hints: tuple[str, ...]

    @property
    def page(self) -> Path:
        return self.path / "README.md"


def labs() -> list[Lab]:
    """All, in order. Raises UnionfsError when they are not installed."""
    folders = sorted(path.parent for path in _LABS.glob("*/lab.toml"))
    if not folders:
        hint = "run it in a checkout of the sources, or install the package anew"
        raise UnionfsError("labs", f"are not installed: nothing in {_LABS}", hint)
    return [_read(folder) for folder in folders]


def _read(folder: Path) -> Lab:
    with open(folder / "lab.toml", "rb") as file:
        told = tomllib.load(file)
    return Lab(
        int(folder.name[:2]), folder, told["title"], told["minutes"], told["file"], told.get("replaces", ""),
        told.get("methods", ""), tuple(told.get("needs", ())), tuple(told["hints"]),
    )  # fmt: skip


def find(number: int) -> Lab:
    """Raises UnionfsError."""
    known = {lab.number: lab for lab in labs()}
    if number not in known:
        raise UnionfsError(f"lab {number}", f"there are labs {min(known)} to {max(known)}", "unionfs lab list")
    return known[number]


def start(number: int, directory: str) -> Lab:
    """Give a student the lab in a new directory, or an empty one. Raises UnionfsError."""
    lab, place = find(number), Path(directory)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UnionfsError(directory, "is there already, and not empty", "name another directory")
    try:
        place.mkdir(parents=True, exist_ok=True)
        shutil.copytree(lab.path / "starter", place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for page in lab.path.glob("README*.md"):
            shutil.copy(page, place)
        _write(place, {"lab": number, "hints": 0})
    except OSError as error:
        raise UnionfsError(directory, (error.strerror or str(error)).lower(), "name another directory") from error
    return lab


def of(directory: str) -> Lab:
    """The lab that was started in a directory. Raises UnionfsError."""
    return find(int(_marker(directory)["lab"]))


def next_hint(directory: str) -> str:
    """One more each time, and the last again. Raises UnionfsError."""
    marker, lab = _marker(directory), of(directory)
    given = min(int(marker["hints"]) + 1, len(lab.hints))
    _write(Path(directory), {**marker, "hints": given})
    return f"hint {given} of {len(lab.hints)}: {lab.hints[given - 1]}"


def _marker(directory: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(Path(directory, MARKER).read_text())
        return {"lab": int(found["lab"]), "hints": int(found["hints"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = f"unionfs lab start N {directory}" if directory != "." else "unionfs lab start N DIR"
        raise UnionfsError(directory, f"is no lab that was started: no {MARKER} that can be read", hint) from error


def _write(place: Path, marker: dict[str, Any]) -> None:
    aside = place / f"{MARKER}.{os.getpid()}"
    aside.write_text(json.dumps(marker))
    aside.rename(place / MARKER)
