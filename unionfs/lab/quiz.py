"""Questions about layers, without an end: what is in the upper after some commands, and what does `ls` show?

Used by `unionfs quiz`. A question is made by chance from a seed: two lower layers, an empty upper, and commands, which
are carried out by the union itself (`unionfs.Union`, default dialect), so its answers are the core's. The same seed
gives the same questions. After the simulators of "Operating Systems: Three Easy Pieces".
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from unionfs.lab.stacks import DIR, OPAQUE, WHITEOUT, Sheet, make, shown_by
from unionfs.union.union import Union

_FILES, _DIRECTORIES = ("a", "b", "c"), ("d", "e")


class Step(NamedTuple):
    """One command, the names in the upper after it, marks included, and what the union shows then, as `find` would."""

    command: str
    upper: list[str]
    shown: list[str]


class Question(NamedTuple):
    """`lowers` are the lower layers, the topmost first; `steps` begin from an empty upper."""

    lowers: list[Sheet]
    steps: list[Step]


def questions(seed: int, commands: int = 3) -> Iterator[Question]:
    """Without an end."""
    dice = random.Random(seed)
    while True:
        yield _question(dice, commands)


def _question(dice: random.Random, commands: int) -> Question:
    bottom = _sheet(dice, {})
    lowers = [_sheet(dice, bottom), bottom]
    with TemporaryDirectory(prefix="unionfs-quiz-") as name:
        upper, *below = make([{}, *lowers], Path(name))
        (Path(name) / "work").mkdir()
        steps: list[Step] = []
        with Union(lower=below, upper=upper, work=Path(name) / "work") as union:
            while len(steps) < commands:
                command, run = _command(dice, union)
                try:
                    run()
                except OSError:
                    continue  # refused: no command for a question
                steps.append(Step(command, _names(upper), _shown(union)))
    return Question(lowers, steps)


def _sheet(dice: random.Random, below: Sheet) -> Sheet:
    """A layer of few names, which hides some of those of the layer `below`."""
    sheet: Sheet = {}
    for directory in _DIRECTORIES:
        if dice.random() < 0.6:
            sheet[directory] = OPAQUE if directory in below and dice.random() < 0.2 else DIR
    paths = [*_FILES, *(f"{directory}/{name}" for directory in sheet for name in _FILES[:2])]
    for path in paths:
        if dice.random() < 0.5:
            sheet[path] = WHITEOUT if path in below and dice.random() < 0.6 else "text"
    return sheet or {"a": "text"}


def _command(dice: random.Random, union: Union) -> tuple[str, Callable[[], object]]:
    """A command as a shell has it, and what carries it out. It may be refused."""
    files, directories = _paths(union)
    file, directory = dice.choice(files or ["a"]), dice.choice(directories or ["d"])
    new = os.path.join(dice.choice(["", *directories]), dice.choice(_FILES))
    kind = dice.choice(("write", "write", "rm", "rm", "mv", "rm -r", "mkdir", "chmod", "mv directory"))
    if kind == "write":
        return f"echo x >> {new}", lambda: _append(union, new)
    if kind == "rm":
        return f"rm {file}", lambda: union.unlink(file)
    if kind == "mv":
        return f"mv -T {file} {new}", lambda: union.rename(file, new) if file != new else union.stat("no such name")
    if kind == "rm -r":
        return f"rm -r {directory}", lambda: _remove(union, directory)
    if kind == "mkdir":
        made = dice.choice(_DIRECTORIES)
        return f"mkdir {made}", lambda: union.mkdir(made)
    if kind == "chmod":
        return f"chmod 600 {file}", lambda: union.chmod(file, 0o600)
    target = dice.choice(("d", "e", "f"))
    return f"mv -T {directory} {target}", lambda: _move(union, directory, target)


def _append(union: Union, path: str) -> None:
    with union.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
        file.pwrite(b"x\n", 0)


def _move(union: Union, source: str, target: str) -> None:
    if source == target:
        raise FileExistsError
    union.rename(source, target)


def _remove(union: Union, directory: str) -> None:
    """rm -r, of a directory without others in it."""
    for name in union.listdir(directory):
        union.unlink(f"{directory}/{name}")
    union.rmdir(directory)


def _paths(union: Union) -> tuple[list[str], list[str]]:
    shown = shown_by(union)
    directories = [path for path, what in shown.items() if what == "directory"]
    return [path for path in shown if path not in directories], directories


def _shown(union: Union) -> list[str]:
    return [f"{path}/" if what == "directory" else path for path, what in shown_by(union).items()]


def _names(upper: Path) -> list[str]:
    found = []
    for where, directories, files in os.walk(upper):
        below = os.path.relpath(where, upper)
        found += [os.path.normpath(os.path.join(below, name)) + "/" for name in directories]
        found += [os.path.normpath(os.path.join(below, name)) for name in files]
    return sorted(found)
