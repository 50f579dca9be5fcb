"""Volumes: directories that outlive containers, and are shared by them.

Called by `create.py`, `roots.py` and the command `volume`. A volume is $ROOT/volumes/NAME/_data and a row; which
containers use it, running or not, is in the table container_volumes. An anonymous volume is one that was made for a
container: it goes with the last container that is removed with its volumes. It promises: the directory is there before
the row, and goes after it; two processes that make the same volume get the same one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from unionfs.container.names import is_name, new_id
from unionfs.container.spec import BIND, VOLUME, Mount
from unionfs.errors import UnionfsError, did_you_mean
from unionfs.image.database import Database
from unionfs.linux import files

DATA = "_data"


class Volume(NamedTuple):
    """`users` are the names of the containers that have it."""

    name: str
    anonymous: bool
    created: float
    labels: dict[str, str]
    path: str
    users: tuple[str, ...]


def check_name(name: str) -> str:
    """Raises UnionfsError for what can be no volume's name."""
    if not is_name(name):
        only = 'only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed'
        why = f'"{name}" includes invalid characters for a local volume name, {only}'
        raise UnionfsError(f"create {name}", why, "for a directory of the host, give an absolute path")
    return name


def prepare_bind(mount: Mount) -> Mount:
    """A bind's source is made by -v where it is missing; by --mount that is an error."""
    if mount.kind != BIND or os.path.lexists(mount.source):
        return mount
    if not mount.creates:
        raise UnionfsError(f"bind source path does not exist: {mount.source}", "", f"mkdir -p {mount.source}")
    os.makedirs(mount.source, 0o755)
    return mount


class Volumes:
    def __init__(self, database: Database) -> None:
        self.database = database

    def path(self, name: str) -> str:
        return self.database.path("volumes", name, DATA)

    # Making

    def create(self, name: str | None = None, labels: Mapping[str, str] | None = None) -> str:
        """Its name; one that is there already is fine. Raises UnionfsError."""
        chosen = check_name(name) if name else new_id()
        with self.database.writing() as connection:
            self._enter(connection, chosen, name is None, labels or {})
        return chosen

    def attach(self, connection: sqlite3.Connection, container: str, mounts: Sequence[Mount]) -> list[Mount]:
        """In the transaction that makes a container: its volumes are made where they are missing, and are its own from
        now on. The mounts, anonymous volumes with the names that they got."""
        done = []
        for mount in mounts:
            if mount.kind == VOLUME:
                name = check_name(mount.source) if mount.source else new_id()
                self._enter(connection, name, not mount.source, {})
                connection.execute("INSERT OR IGNORE INTO container_volumes VALUES (?, ?)", (container, name))
                mount = mount._replace(source=name)
            done.append(mount)
        return done

    def _enter(self, connection: sqlite3.Connection, name: str, anonymous: bool, labels: Mapping[str, str]) -> None:
        if connection.execute("SELECT 1 FROM volumes WHERE name=?", (name,)).fetchone():
            return
        os.makedirs(self.path(name), 0o755, exist_ok=True)
        row = (name, int(anonymous), time.time(), json.dumps(dict(labels)))
        connection.execute("INSERT INTO volumes VALUES (?, ?, ?, ?)", row)

    # Looking

    def all(self) -> list[Volume]:
        """By name."""
        return [self._volume(row) for row in self.database.rows("SELECT * FROM volumes ORDER BY name")]

    def find(self, name: str) -> Volume:
        """Raises UnionfsError."""
        row = self.database.row("SELECT * FROM volumes WHERE name=?", name)
        if row is None:
            known = [row["name"] for row in self.database.rows("SELECT name FROM volumes WHERE NOT anonymous")]
            hint = did_you_mean(name, known) or "unionfs volume ls lists them"
            raise UnionfsError(f"no such volume: {name}", "", hint)
        return self._volume(row)

    def _volume(self, row: sqlite3.Row) -> Volume:
        query = (
            "SELECT containers.name FROM container_volumes JOIN containers ON container = id WHERE volume=? ORDER BY 1"
        )
        users = tuple(user[0] for user in self.database.rows(query, row["name"]))
        labels = json.loads(row["labels"])
        return Volume(row["name"], bool(row["anonymous"]), row["created"], labels, self.path(row["name"]), users)

    # Removing

    def remove(self, name: str) -> None:
        """Raises UnionfsError when a container has it, or there is none."""
        volume = self.find(name)
        with self.database.writing() as connection:
            query = "SELECT container FROM container_volumes WHERE volume=?"
            ids = [row[0][:12] for row in connection.execute(query, (name,))]
            if ids:
                raise UnionfsError(
                    f"remove {name}", f"volume is in use - [{', '.join(ids)}]",
                    f"remove what uses it first: unionfs rm {' '.join(volume.users)}",
                )  # fmt: skip
            aside = self._strike_out(connection, name)
        clear(aside)

    def _strike_out(self, connection: sqlite3.Connection, name: str) -> str:
        """Its row, and its directory aside within the transaction, so that a volume made anew with its name is an empty
        one, and what a crash leaves is in tmp/."""
        connection.execute("DELETE FROM volumes WHERE name=?", (name,))
        aside = self.database.aside()
        try:
            os.rename(os.path.dirname(self.path(name)), aside)
        except FileNotFoundError:
            pass  # somebody removed it by hand
        return aside

    def release(self, connection: sqlite3.Connection, container: str) -> list[str]:
        """In the transaction that removes a container: its anonymous volumes that no other has are struck out. Their
        directories, aside, to be cleared when it is done."""
        query = (
            "SELECT name FROM volumes WHERE anonymous "
            "AND name IN (SELECT volume FROM container_volumes WHERE container=?) "
            "AND name NOT IN (SELECT volume FROM container_volumes WHERE container<>?) ORDER BY name"
        )
        names = [row[0] for row in connection.execute(query, (container, container))]
        connection.execute("DELETE FROM container_volumes WHERE container=?", (container,))
        return [self._strike_out(connection, name) for name in names]

    def unused(self, named: bool) -> list[Volume]:
        """Those that no container has: anonymous ones, or with `named` all."""
        return [volume for volume in self.all() if not volume.users and (named or volume.anonymous)]


def clear(aside: str) -> None:
    """Remove what was put aside; what cannot be removed now is in tmp/, for `clean`."""
    with suppress(OSError):
        files.remove_tree(os.fsencode(aside))
