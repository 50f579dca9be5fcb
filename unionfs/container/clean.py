"""Clean: take away what killed processes left in the state, and nothing else.

Called by `doctor --clean`. What is not in the database is nobody's (see image/database.py): containers half made or
half removed, bridges that nobody is on, files aside in tmp/ whose process is gone, and layers, blobs, containers' and
volumes' directories without a row. What is young may be about to be entered by a process that lives, and stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress

from unionfs.container import roots, wiring
from unionfs.container.state import Containers
from unionfs.errors import UnionfsError
from unionfs.image.database import Database
from unionfs.linux import files, namespaces

_YOUNG_SECONDS = 600


def clean(database: Database, young_seconds: float = _YOUNG_SECONDS) -> list[str]:
    """Remove it, and say what went, a line each."""
    gone = []
    for record in Containers(database).abandoned():
        with suppress(UnionfsError):
            roots.remove(database, record, volumes=True)
            gone.append(f"container {record.name} ({record.status})")
    gone += [f"bridge {name}" for name in wiring.tidy(database)]
    for path in _rubbish(database, time.time() - young_seconds):
        files.remove_tree(os.fsencode(path))
        gone.append(os.path.relpath(path, database.root))
    return gone


def _rubbish(database: Database, before: float) -> Iterator[str]:
    for name in os.listdir(database.path("tmp")):
        pid = name.partition("-")[0]
        if not (pid.isdecimal() and namespaces.start_time(int(pid))):
            yield database.path("tmp", name)
    for folder, query in _KNOWN.items():
        known = {row[0].removeprefix("sha256:") for row in database.rows(query)}
        path = database.path(*folder.split("/"))
        for name in os.listdir(path) if os.path.isdir(path) else ():
            place = os.path.join(path, name)
            if name not in known and os.lstat(place).st_ctime < before:
                yield place


_KNOWN = {
    "containers": "SELECT id FROM containers",
    "volumes": "SELECT name FROM volumes",
    "layers": "SELECT diff_id FROM layers",
    "layers-overlay": "SELECT diff_id FROM layers",
    "blobs/sha256": "SELECT blob FROM layers UNION SELECT id FROM images UNION SELECT manifest FROM images",
}
"""Folder of the state: what names in it are somebody's."""
