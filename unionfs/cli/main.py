"""The command `unionfs`: which command is meant, and what becomes of its failure.

The entry point of the package (`unionfs`, `python -m unionfs`). It loads the module of the one command that is run,
because a mount should be there in the blink of an eye: this is the door through which that import goes.

Exit status: 0 done; 1 it failed, the reason is on standard error; 2 the command line is wrong; 130 interrupted. The
helper of mount(8) answers as mount(8) does: 1 wrong usage, 32 the mount failed.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from unionfs import __version__
from unionfs.cli.command import Command, Parser, UsageError, run, shown, told
from unionfs.errors import UnionfsError, did_you_mean

INTERRUPTED = 130
READER_GONE = 141


class Place(NamedTuple):
    """In which module of this package a command is, and its line in the overview; without one it is not shown."""

    module: str
    summary: str = ""


PLACES = {
    "mount": Place("mount", "merge directories and mount the result"),
    "umount": Place("mount", "unmount a union and wait for its daemon's end"),
    "layers": Place("inspect", "the stack, and what each layer adds, changes, deletes"),
    "which": Place("inspect", "which layer gives a file, and what it hides"),
    "diff": Place("inspect", "what the upper layer changes: A, C, D"),
    "blocks": Place("blocks", "which blocks of a file are copied up"),
    "settle": Place("blocks", "complete the files that were copied up in part"),
    "apply": Place("keep", "keep the changes: write them into a lower layer or a new directory"),
    "discard": Place("keep", "drop the changes: empty the upper layer"),
    "stats": Place("stats", "what a mount's daemon was asked, did and holds"),
    "doctor": Place("doctor", "what this machine can do, and how to mend it"),
    "bench": Place("bench", "measure this and other union filesystems, side by side"),
    "completion": Place("completion", "completion for bash, zsh or fish"),
    "mount.fuse.unionfs": Place("mount"),
}

EXAMPLES = """\
examples:
  mkdir upper work merged
  unionfs mount merged -o lowerdir=/etc:/usr/share,upperdir=upper,workdir=work
  unionfs diff merged
  unionfs umount merged

"unionfs COMMAND --help" says more of each. The manual: man unionfs
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = _run(list(sys.argv[1:] if words is None else words))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes standard output once more
        return READER_GONE
    except (KeyboardInterrupt, EOFError):  # the second: the end of input, where a question was asked
        return INTERRUPTED
    except (UnionfsError, OSError) as error:
        failure = told(error)
        tell(failure)
        return failure.exit_status


def tell(failure: UnionfsError) -> None:
    """`unionfs: what: why`, and the next step on a line of its own; for several faults, each."""
    for line in str(failure).split("\n"):
        print(shown(line if line.startswith(" ") else f"unionfs: {line}"), file=sys.stderr)


def _run(words: list[str]) -> int:
    if not words:
        overview().print_help(sys.stderr)
        return UsageError.exit_status
    if words[0].startswith("-"):
        overview().parse(words[:1])
    name = words[0]
    if name not in PLACES:
        known = [known for known, place in PLACES.items() if place.summary]
        raise UsageError(name, "there is no such command", did_you_mean(name, known) or "unionfs --help lists them")
    return run(name, load(name), words[1:])


def load(name: str) -> Command:
    """The command of that name; its module is imported now."""
    commands: dict[str, Command] = importlib.import_module(f"unionfs.cli.{PLACES[name].module}").COMMANDS
    return commands[name]


def overview() -> Parser:
    """The parser of `unionfs` itself: its help lists the commands."""
    listed = {name: place.summary for name, place in PLACES.items() if place.summary}
    table = "\n".join(f"  {name:<12}{summary}" for name, summary in listed.items())
    parser = Parser(
        prog="unionfs",
        usage="unionfs COMMAND [ARGUMENT...]",
        description="A union filesystem: several directories seen as one, writable through the topmost.\n\n"
        f"commands:\n{table}",
        epilog=EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"unionfs {__version__}", help="show the version")
    return parser
