"""`unionfs explore`: a union, a container or an image as a page in a browser.

Loaded by `main.py`.
"""

from __future__ import annotations

import argparse
import errno
import webbrowser

from unionfs.cli.command import Command, shown
from unionfs.cli.target import asked_at, find_any
from unionfs.errors import UnionfsError
from unionfs.explore.server import Server
from unionfs.explore.view import Subject


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("place", metavar="DIR|UPPER|CONTAINER|IMAGE", help="a mounted union, an upper layer, a container or an image")
    add("--port", type=int, default=0, metavar="N", help="listen there; any that is free by default")
    add("--open", action="store_true", help="show the page in this user's browser")


def subject_of(place: str) -> Subject:
    """What a word names. Raises UnionfsError."""
    target = find_any(place)
    roles = [target.role(index) for index in range(len(target.layers))]
    return Subject(place, target.open, roles, asked_at(target), target.made_by)


def _explore(arguments: argparse.Namespace) -> None:
    subject = subject_of(arguments.place)
    try:
        server = Server(subject, arguments.port)
    except (OSError, OverflowError) as error:
        why = "is taken" if getattr(error, "errno", 0) == errno.EADDRINUSE else str(error).lower()
        raise UnionfsError(f"port {arguments.port}", why, "leave --port out: a free one is chosen") from error
    print(f"{shown(arguments.place)}: {server.url}\nFor this machine's own browser; Ctrl-C ends it.", flush=True)
    if arguments.open:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()


COMMANDS = {
    "explore": Command(
        "Show a union, a container or an image in a browser: its layers as shelves, the merged tree, how a lookup goes "
        "through the layers, whiteouts, the blocks of a file that was copied up in part, what each layer takes and "
        "what of that nothing shows; and, of a mount, what is asked of it, live.",
        _arguments,
        _explore,
        "It listens on loopback (127.0.0.1) alone, and answers who has the address with its token. Nothing is\n"
        "changed, and nothing is fetched from elsewhere. From another machine: ssh -L. The same facts on a\n"
        "terminal: unionfs layers, unionfs which, unionfs blocks, unionfs trace.\n",
    )
}
