"""What is known of each container: its row in the database, and whether that is still true.

Used by all of this floor. A container's status and who answers for it:

    creating    the process that creates it; nothing of it is shown yet
    created     nobody
    starting    its monitor, which mounts and sets up
    running     its monitor, until the container ends
    exited      nobody
    removing    the process that removes it

A status whose process is gone (another boot, or no process of that pid and start time) is not true any more: `settled`
says what is, and writes it down. So a crash of anything is seen by the next command that looks.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from unionfs.container.spec import Spec
from unionfs.errors import UnionfsError, did_you_mean
from unionfs.image.database import Database
from unionfs.linux import files, namespaces

CREATING, CREATED, STARTING, RUNNING, EXITED, REMOVING = (
    "creating", "created", "starting", "running", "exited", "removing",
)  # fmt: skip
OWNED = (CREATING, STARTING, RUNNING, REMOVING)
KILLED = 137
_SHORTEST_PREFIX = 1


class Record(NamedTuple):
    """A row of `containers`, see image/database.py."""

    id: str
    name: str
    image: str | None
    spec: Spec
    created: float
    status: str
    owner: int
    owner_start: int
    boot: str
    pid: int
    pid_start: int
    started: float
    finished: float
    exit_code: int
    error: str

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def is_running(self) -> bool:
        return self.status == RUNNING


def open_process(record: Record, name: str = "", flags: int = os.O_RDONLY) -> int:
    """A pidfd of the container's first process (pidfd_open(2)), or a descriptor of /proc/PID/`name`; never of another
    process that has its number now. Raises UnionfsError when it has ended."""
    descriptor = -1
    with suppress(ProcessLookupError, FileNotFoundError):
        if record.is_running:
            path = f"/proc/{record.pid}/{name}"
            descriptor = os.open(path, flags | os.O_CLOEXEC) if name else os.pidfd_open(record.pid)
    if descriptor < 0 or namespaces.start_time(record.pid) != record.pid_start:
        if descriptor >= 0:
            os.close(descriptor)
        raise UnionfsError(f"container {record.name}", "is not running", f"unionfs start {record.name}")
    return descriptor


def boot_id() -> str:
    return files.boot_id().decode().strip()


def record_of(row: sqlite3.Row) -> Record:
    fields = {name: row[name] for name in row.keys()}
    return Record(**{**fields, "spec": Spec.from_json(row["spec"])})


class Containers:
    """The containers of one state directory. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def directory(self, container: str, *names: str) -> str:
        """A path in the directory of the container with this id."""
        return self.database.path("containers", container, *names)

    # Finding

    def find(self, name: str) -> Record:
        """By name, id, or the beginning of an id that no other has. Raises UnionfsError."""
        word = name.removeprefix("/")
        by_name = self.database.row("SELECT * FROM containers WHERE name = ? OR id = ?", word, word)
        if by_name is not None:
            return self.settled(record_of(by_name))
        is_prefix = bool(word) and not word.strip("0123456789abcdef")
        rows = self.database.rows("SELECT * FROM containers WHERE id GLOB ?", word + "*") if is_prefix else []
        if len(rows) == 1:
            return self.settled(record_of(rows[0]))
        if rows:
            hint = "give more of the id, or the name"
            raise UnionfsError(f"container {name}", f"{len(rows)} ids begin like that", hint)
        known = [row["name"] for row in self.database.rows("SELECT name FROM containers")]
        hint = did_you_mean(word, known) or "unionfs ps -a lists them"
        raise UnionfsError(f"no such container: {name}", "", hint)

    def all(self) -> list[Record]:
        """Newest first, as they are now; what is being created or has just gone is left out."""
        rows = self.database.rows("SELECT * FROM containers ORDER BY created DESC, id")
        records = []
        for row in rows:
            with suppress(LookupError):
                record = self.settled(record_of(row))
                if record.status not in (CREATING, REMOVING):
                    records.append(record)
        return records

    def get(self, container: str) -> Record:
        """By its whole id. Raises LookupError."""
        row = self.database.row("SELECT * FROM containers WHERE id = ?", container)
        if row is None:
            raise LookupError(container)
        return record_of(row)

    # Truth

    def is_owned(self, record: Record) -> bool:
        """Whether the process that answers for the status lives."""
        if record.boot != boot_id():
            return False
        return record.owner_start != 0 and namespaces.start_time(record.owner) == record.owner_start

    def settled(self, record: Record) -> Record:
        """As it is now: a status that nobody answers for any more is put right."""
        if record.status not in OWNED or self.is_owned(record):
            return record
        with self.database.writing() as connection:
            row = connection.execute("SELECT * FROM containers WHERE id = ?", (record.id,)).fetchone()
            if row is None:
                return record
            record = record_of(row)
            if record.status not in OWNED or self.is_owned(record):
                return record
            if record.status in (CREATING, REMOVING):
                return record  # of no use to anybody: see `abandoned`
            error = "its monitor was killed" if record.boot == boot_id() else "the machine was restarted"
            connection.execute(
                "UPDATE containers SET status=?, finished=?, exit_code=?, error=?, owner=0, owner_start=0, pid=0 "
                "WHERE id=?",
                (EXITED, time.time(), KILLED, error, record.id),
            )
        return self.get(record.id)

    def abandoned(self) -> list[Record]:
        """Those that a killed process was creating or removing, or that were to be removed at their end (--rm)."""
        found = []
        for row in self.database.rows("SELECT * FROM containers"):
            record = self.settled(record_of(row))
            if record.status in (CREATING, REMOVING) and not self.is_owned(record):
                found.append(record)
            elif record.status == EXITED and record.spec.remove:
                found.append(record)
        return found

    # Changing

    def insert(self, connection: sqlite3.Connection, container: str, name: str, image: str | None, spec: Spec) -> None:
        """A row in status "creating". Raises UnionfsError when the name is taken."""
        self.check_free(connection, name)
        me = os.getpid()
        connection.execute(
            "INSERT INTO containers (id, name, image, spec, created, status, owner, owner_start, boot) "
            "VALUES (?,?,?,?,?,?,?,?,?)",
            (container, name, image, spec.to_json(), time.time(), CREATING, me, namespaces.start_time(me), boot_id()),
        )

    def check_free(self, connection: sqlite3.Connection, name: str) -> None:
        """Raises UnionfsError when a container has the name."""
        taken = connection.execute("SELECT * FROM containers WHERE name = ?", (name,)).fetchone()
        if taken is not None:
            other = taken["id"][:12]
            raise UnionfsError(
                f'the name "{name}" is in use by container {other}', "",
                f"remove or rename that one first: unionfs rm {name}",
            )  # fmt: skip

    def claim(self, container: str, status: str, allowed: Sequence[str]) -> Record:
        """This process answers for it from now on. Raises UnionfsError when its status is not one of `allowed`."""
        me = os.getpid()
        with self.database.writing() as connection:
            row = connection.execute("SELECT * FROM containers WHERE id = ?", (container,)).fetchone()
            if row is None:
                raise UnionfsError(f"no such container: {container[:12]}", "it was removed meanwhile")
            record = record_of(row)
            others = self.is_owned(record) and record.owner not in (me, os.getppid())
            is_free = not others if record.status in OWNED else record.status in allowed
            if not is_free:
                raise UnionfsError(f"container {record.name}", f"is {record.status}", _next_step(record))
            connection.execute(
                "UPDATE containers SET status=?, owner=?, owner_start=?, boot=?, pid=0, error='' WHERE id=?",
                (status, me, namespaces.start_time(me), boot_id(), container),
            )
        return self.get(container)

    def update(self, container: str, **fields: object) -> None:
        """Set columns; whose they are, the caller knows."""
        columns = ", ".join(f"{name}=?" for name in fields)
        with self.database.writing() as connection:
            connection.execute(f"UPDATE containers SET {columns} WHERE id=?", (*fields.values(), container))

    def release(self, container: str, status: str, **fields: object) -> None:
        """The status that nobody has to answer for."""
        self.update(container, status=status, owner=0, owner_start=0, pid=0, pid_start=0, **fields)

    def strike_out(self, container: str) -> None:
        with self.database.writing() as connection:
            connection.execute("DELETE FROM containers WHERE id = ?", (container,))


def _next_step(record: Record) -> str:
    if record.status == RUNNING:
        return f"stop it first: unionfs stop {record.name}"
    return "try again in a moment"
