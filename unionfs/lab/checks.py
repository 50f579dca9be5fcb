"""What the checks of a lab are written with: `@check(points)`, `Wrong`, the student's code and the project's own.

A lab's checks.py is loaded by `child.py`, in a process of its own for each check. Each function with `@check(points)`
is one: its docstring says what it looks at, and it raises `Wrong`, whose text is what the student reads, with the
smallest case that shows the fault. Any other exception is told with its line in the student's file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, NamedTuple

from unionfs.lab import kernel
from unionfs.lab.stacks import Shown, Stack, draw, make, shown_by, told


class Wrong(Exception):
    """What is wrong, in words."""


class Check(NamedTuple):
    name: str
    words: str
    points: int
    run: Callable[[Student], None]


class Student(NamedTuple):
    """`directory` is the student's. `module` holds what their file defines; with a lab that replaces a module of the
    union it is that module. `Union` is unionfs.Union with the student's code in it, `TrueUnion` without."""

    directory: Path
    module: ModuleType
    Union: Any
    TrueUnion: Any


_found: list[Check] = []


def check(points: int) -> Callable[[Callable[[Student], None]], Callable[[Student], None]]:
    def add(function: Callable[[Student], None]) -> Callable[[Student], None]:
        words = " ".join((function.__doc__ or "").split())
        _found.append(Check(function.__name__.replace("_", " "), words, points, function))
        return function

    return add


def collect(path: Path) -> list[Check]:
    """The checks of a file, in its order."""
    _found.clear()
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "checks", "__file__": str(path)})
    return list(_found)


# --- comparing


@contextmanager
def union_of(union: Any, stack: Stack, writable: bool = False) -> Iterator[Any]:
    """A union over a stack that is made for it, in a directory that goes with it. `writable`: the topmost sheet is the
    upper; else all of them are only read. The directory is the union's attribute `place`."""
    with TemporaryDirectory(prefix="unionfs-lab-") as name:
        layers = make(stack, Path(name))
        if writable:
            (Path(name) / "work").mkdir()
            layout = {"lower": layers[1:], "upper": layers[0], "work": Path(name) / "work"}
        else:
            layout = {"lower": layers}
        with union(**layout) as made:
            made.place = Path(name)
            yield made


def show(union: Any, stack: Stack) -> Shown:
    """What a class of unions shows of a stack."""
    with union_of(union, stack) as made:
        return shown_by(made, [path for sheet in stack for path in sheet])


def compare(student: Student, stacks: Iterable[Stack], count: int = 2000) -> None:
    """The student's union and the project's must show the same of each of the first `count` stacks, the smallest
    first. Raises Wrong with the first that they differ on, and what the kernel's overlayfs says of it."""
    for stack, _ in zip(stacks, range(count), strict=False):
        right = show(student.TrueUnion, stack)
        try:
            mine = show(student.Union, stack)
        except OSError as error:
            raise differ(stack, f"fails: {error.strerror or error}", right) from error
        except Exception as error:
            error.add_note(f"It was asked about:\n{draw(stack)}")
            raise
        if mine != right:
            raise differ(stack, f"shows    {told(mine)}", right)


def differ(stack: Stack, mine: str, right: Shown) -> Wrong:
    return Wrong(
        f"the smallest case that goes wrong, topmost layer first:\n{draw(stack)}\n"
        f"yours {mine}\nshould show    {told(right)}\nthe kernel's overlayfs shows    {told(kernel.show(stack))}"
    )


def expect(what: str, found: object, wanted: object) -> None:
    """Raises Wrong unless they are equal."""
    if found != wanted:
        raise Wrong(f"{what}: yours {_short(found)}, should be {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
