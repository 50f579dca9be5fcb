"""`unionfs stats`: what the daemon of a mounted union did, and what it holds.

Loaded by `main.py`. It asks the mount, by the virtual attribute user.unionfs.stats of its root, and changes nothing.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
from typing import Any

from unionfs.cli import table
from unionfs.cli.command import Command, shown
from unionfs.cli.target import find
from unionfs.errors import UnionfsError

STATS = b"user.unionfs.stats"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="DIR", help="where a union is mounted")
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _stats(arguments: argparse.Namespace) -> None:
    found = _ask(arguments.place)
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        _show(found)


def _ask(place: str) -> Any:
    point = find(place).mountpoint
    if point is None:
        raise UnionfsError(place, "is not mounted, and only a mount counts", "name the place of a mount")
    try:
        return json.loads(os.getxattr(point, STATS))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        raise UnionfsError(shown(point), "its daemon counts nothing", "the native engine does") from error


def _show(found: Any) -> None:
    ids, path = found["backing_ids"], found["data_path"]
    why = f" ({found['why']})" if found["why"] else ""
    coherent = " (coherent)" if found["coherent"] and path == "passthrough" else ""
    rows = [
        ("data path", f"{path}{why}{coherent}"),
        ("scheduling", found["scheduling"]),
        ("copy-ups", f"{found['copy_ups']}, {table.size(found['copied_bytes'])} of data"),
        ("nodes known to the kernel", f"{found['nodes']}, {found['former_nodes']} of them former ones"),
        ("open files and directories", found["open_handles"]),
        ("files kept open", found["open_files"]),
        ("backing ids", f"{ids['live']} live, {ids['opened']} opened, {ids['closed']} closed"),
    ]
    table.show(("what", "count"), rows)
    print()
    requests = sorted(found["requests"].items(), key=lambda item: -item[1])
    table.show(("request", f"{table.RIGHT}count"), requests)


COMMANDS = {
    "stats": Command(
        "What the daemon of a mounted union was asked and did since it started, and what it holds: requests by kind, "
        "copy-ups, how file data goes, files that the kernel reads by itself.",
        _arguments,
        _stats,
        "An id is that of a file that the kernel reads and writes by itself. One that is not open keeps its id\n"
        "until the kernel forgets it, at most 16,384 of them. A former node is a lower file that somebody opened\n"
        "before it was copied up, and still reads.",
    )
}
