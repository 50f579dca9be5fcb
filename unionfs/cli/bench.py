"""`unionfs bench`: the benchmark suite, which is a program of its own beside the package.

Loaded by `main.py`. The suite is not imported: it needs root and other union filesystems to tell much, and none of it
is needed to mount. It is found in a checkout, or where an installed package has its data, and gets all words as they
are: its help, its options and its failures are its own.
"""

from __future__ import annotations

import argparse
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from typing import NoReturn

from unionfs.cli.command import Command
from unionfs.errors import UnionfsError

_PROGRAM = "suite.py"


def _bench(arguments: argparse.Namespace) -> NoReturn:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, find(), *arguments.words])


def find() -> str:
    """The suite's path. Raises UnionfsError when it was not installed."""
    places = list(_places())
    for place in places:
        path = os.path.join(place, _PROGRAM)
        if os.path.isfile(path):
            return path
    raise UnionfsError(
        "bench", f"the benchmarks are not installed: no {_PROGRAM} in {', '.join(places)}",
        "run it in a checkout of the sources, or install the package anew",
    )  # fmt: skip


def _places() -> Iterator[str]:
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    yield os.path.join(checkout, "benchmarks")
    for prefix in (sysconfig.get_path("data"), site.getuserbase()):
        yield os.path.join(prefix, "share", "unionfs", "benchmarks")


COMMANDS = {
    "bench": Command(
        "The whole comparison: union filesystems side by side, row by row.",
        lambda parser: None,
        _bench,
        takes_words=True,
    )
}
