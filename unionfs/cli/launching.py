"""What the commands around containers and images share: a user who is not root, the user's terminal, words for others.

Imported by their modules; it loads little.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from unionfs.container import rootless
from unionfs.container.attach import Detached
from unionfs.errors import UnionfsError


def rooted(act: Callable[[argparse.Namespace], int | None]) -> Callable[[argparse.Namespace], int | None]:
    """A command's function, carried out as root of a user namespace where the user is not root."""

    def run(arguments: argparse.Namespace) -> int | None:
        rootless.enter()
        return act(arguments)

    return run


def command_of(arguments: argparse.Namespace) -> list[str]:
    """The words behind IMAGE or CONTAINER, without a "--" before them."""
    words: list[str] = arguments.words
    return words[1:] if words[:1] == ["--"] else words


def needs_terminal() -> None:
    """Raises UnionfsError: -t and -i pass a terminal's keys on, and this is none."""
    if not os.isatty(0):
        raise UnionfsError("the input device is not a TTY", "", "leave -t out where standard input is a pipe or a file")


def attached(session: Callable[[], int]) -> int:
    """The exit status of a session; 0 when the user left it by ctrl-p ctrl-q."""
    try:
        return session()
    except Detached:
        print("read escape sequence", file=sys.stderr)
        return 0
