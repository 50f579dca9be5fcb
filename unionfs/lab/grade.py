"""All checks of a lab: each in a process of its own with a time limit, then points.

Used by `unionfs lab check`. What a student's file prints is shown beside the result; what it does to its process is
gone with that. Gradescope's format: https://gradescope-autograders.readthedocs.io/en/latest/specs/
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from unionfs.lab.checks import Check, collect
from unionfs.lab.ladder import Lab

PATIENCE = 30.0
"""Seconds for one check, unless another limit is given."""
_GRACE = 10.0
"""Seconds for a check to clear up after itself, when it has taken too long."""
_MOST_OUTPUT = 4000


class Result(NamedTuple):
    """`score` is 0 or the check's points; `output` says what is wrong; `printed` is what the student's file printed."""

    check: Check
    score: int
    output: str
    printed: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.score == self.check.points


def checks_of(lab: Lab) -> list[Check]:
    return collect(lab.path / "checks.py")


def run(lab: Lab, directory: Path, number: int, check: Check, patience: float = PATIENCE) -> Result:
    """One check of a student's directory."""
    started = time.monotonic()
    read, write = os.pipe()
    command = [
        sys.executable,
        "-P",
        "-m",
        "unionfs.lab.child",
        str(lab.number),
        str(directory),
        str(number),
        str(write),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        pass_fds=[write], start_new_session=True,
    )  # fmt: skip
    os.close(write)
    try:
        printed, _ = process.communicate(timeout=patience)
        late = False
    except subprocess.TimeoutExpired:
        process.terminate()  # the child raises an exception of that, and undoes what it made
        try:
            printed, _ = process.communicate(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            _end(process.pid)
            printed, _ = process.communicate()
        late = True
    finally:
        _end(process.pid)
    with open(read, "rb") as file:
        told = file.read()
    return _result(check, told, printed, process.returncode, time.monotonic() - started, patience if late else None)


def _end(group: int) -> None:
    """The check and what it started in its session."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _result(check: Check, told: bytes, printed: bytes, status: int, seconds: float, limit: float | None) -> Result:
    words = printed.decode("utf-8", "replace")[-_MOST_OUTPUT:].rstrip()
    if limit is not None:
        return Result(check, 0, f"it took longer than {limit:g} seconds: does a loop not end?", words, seconds)
    try:
        answer = json.loads(told.splitlines()[-1])
    except (IndexError, ValueError):
        return Result(check, 0, f"the process ended with status {status} before it was done", words, seconds)
    return Result(check, check.points if answer["passed"] else 0, answer["output"], words, seconds)


def as_gradescope(results: list[Result]) -> dict[str, Any]:
    """Gradescope's results.json."""
    return {
        "score": sum(result.score for result in results),
        "execution_time": round(sum(result.seconds for result in results), 2),
        "tests": [
            {
                "name": result.check.name, "score": result.score, "max_score": result.check.points,
                "status": "passed" if result.passed else "failed",
                "output": "\n".join(part for part in (result.check.words, result.output, result.printed) if part),
            }
            for result in results
        ],
    }  # fmt: skip
