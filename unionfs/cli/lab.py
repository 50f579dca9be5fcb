"""`unionfs lab`: the ladder of labs, and the grader of what students write.

Loaded by `main.py`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from unionfs.cli import table
from unionfs.cli.command import Command, shown
from unionfs.errors import UnionfsError
from unionfs.lab import grade, ladder
from unionfs.lab.grade import Result
from unionfs.lab.ladder import NEEDS, Lab


def _directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", nargs="?", default=".", metavar="DIR", help="where the lab was started; here")


# --- list, start


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _list(arguments: argparse.Namespace) -> None:
    found = ladder.labs()
    points = [sum(check.points for check in grade.checks_of(lab)) for lab in found]
    if arguments.json:
        told = [
            {"number": lab.number, "title": lab.title, "minutes": lab.minutes, "points": most, "needs": list(lab.needs)}
            for lab, most in zip(found, points, strict=True)
        ]
        print(json.dumps(told, indent=1))
        return
    rows = [
        (lab.number, lab.title, lab.minutes, most, ", ".join(NEEDS[need] for need in lab.needs) or "nothing")
        for lab, most in zip(found, points, strict=True)
    ]
    table.show((">lab", "title", ">minutes", ">points", "needs"), rows)


def _start_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("number", type=int, metavar="N", help="which lab, as unionfs lab list has them")
    parser.add_argument("directory", metavar="DIR", help="a directory that is not there yet, or is empty")


def _start(arguments: argparse.Namespace) -> None:
    lab = ladder.start(arguments.number, arguments.directory)
    place = shown(arguments.directory)
    print(f"Lab {lab.number}: {lab.title}, about {lab.minutes} minutes.")
    print(f"Read {place}/README.md (or README.ru.md), write {place}/{lab.file}, then: unionfs lab check {place}")


# --- check, hint, solution


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _directory(parser)
    add = parser.add_argument
    add("--json", action="store_true", help="as Gradescope's results.json")
    add("--limit", type=_seconds, default=grade.PATIENCE, metavar="SECONDS", help="for each check (30)")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError(f"{text} is no time limit: it must be above 0, in seconds")
    return value


def _check(arguments: argparse.Namespace) -> int:
    lab, directory = ladder.of(arguments.directory), Path(arguments.directory)
    if not (directory / lab.file).is_file():
        hint = f"unionfs lab start {lab.number} in another directory gives it anew"
        raise UnionfsError(shown(str(directory / lab.file)), "is not there", hint)
    _refuse(lab)
    results = []
    for number, check in enumerate(grade.checks_of(lab)):
        results.append(grade.run(lab, directory.resolve(), number, check, arguments.limit))
        if not arguments.json:
            _show(results[-1])
    score, most = sum(result.score for result in results), sum(result.check.points for result in results)
    if arguments.json:
        print(json.dumps(grade.as_gradescope(results), indent=1))
    else:
        after = "" if score == most else "   (unionfs lab hint gives a hint)"
        print(f"\n{score} of {most} points{after}")
    return 0 if score == most else 1


def _refuse(lab: Lab) -> None:
    """Without what a lab needs, every check would fail for the wrong reason."""
    for need in lab.needs:
        is_there = os.geteuid() == 0 and (need == "root" or os.access("/dev/fuse", os.R_OK | os.W_OK))
        if not is_there:
            raise UnionfsError(
                f"lab {lab.number}", f"needs {NEEDS[need]}", "sudo unionfs lab check, in a virtual machine"
            )


def _show(result: Result) -> None:
    mark = "ok  " if result.passed else "FAIL"
    print(f"{mark} {result.score}/{result.check.points}  {result.check.name}: {result.check.words}", flush=True)
    for text in (result.output, result.printed and f"it printed:\n{result.printed}"):
        if text and not result.passed:
            print("\n".join(f"         {line}" for line in text.splitlines()))


def _hint(arguments: argparse.Namespace) -> None:
    print(ladder.next_hint(arguments.directory))


def _solution(arguments: argparse.Namespace) -> None:
    lab = ladder.of(arguments.directory)
    print((lab.path / "solution" / lab.file).read_text(encoding="utf-8"), end="")


COMMANDS = {
    "lab list": Command("The labs, what they need, and how long they take.", _list_arguments, _list),
    "lab start": Command(
        "Begin a lab: its page and the file to be written, in a directory of one's own.", _start_arguments, _start
    ),
    "lab check": Command(
        "Check what was written: points for each check, and for one that fails the smallest case that shows it, with "
        "what the kernel's overlayfs does there. Exit status 1 while points are missing.",
        _check_arguments,
        _check,
        "The student's file runs in a process of its own for each check, with a time limit; it is not contained\n"
        "otherwise: check the work of strangers in a virtual machine, or in a container.\n",
    ),
    "lab hint": Command("The next hint; the last one again when there are no more.", _directory, _hint),
    "lab solution": Command("Print a solution.", _directory, _solution),
}
