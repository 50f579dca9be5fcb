"""The state: one directory, $UNIONFS_ROOT, and one SQLite database in it that says what the directory holds.

Used by the image store and by the container floor; every command opens it for itself, there is no daemon. It promises:
a transaction is seen whole or not at all, also when its process is killed; any number of commands may run side by side,
one writes at a time, and the others wait.

    $UNIONFS_ROOT/
        state.db                 this database, in WAL mode
        blobs/sha256/HEX         manifests, configs and layers as they came, named by their digest
        layers/HEX/              a layer unpacked, in the dialect "aufs", named by its diffID
        tmp/                     what is being made; a name in here belongs to the process whose id it begins with
        containers/ID/           a container's upper, work directory, mount point, log
        volumes/NAME/_data       a volume
        machine                  what networks have changed of the machine; see container/machine.py
        lab, lab.lock            without root: who holds the namespaces; see container/lab.py

Rule of order: what is in the database is on the disk. A thing is made aside, renamed into place, then entered; and it
is struck out before it is removed. So whatever interrupts, a name in the database is good, and what is on the disk and
not in the database is rubbish that `unionfs doctor --clean` may take away.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from unionfs.errors import UnionfsError

ROOT, ROOTLESS = "/var/lib/unionfs", "~/.local/share/unionfs"
_VERSION = 2
_PATIENCE_SECONDS = 60.0

_SCHEMA = """
CREATE TABLE images (              -- an image is its config
    id TEXT PRIMARY KEY,           -- sha256:HEX of the config
    config TEXT NOT NULL,          -- the config as it came, to the byte
    manifest TEXT NOT NULL,        -- digest of the manifest in blobs/
    created REAL NOT NULL,         -- when it came here, seconds since the epoch
    size INTEGER NOT NULL          -- bytes of its unpacked layers
) WITHOUT ROWID;
CREATE TABLE tags (
    reference TEXT PRIMARY KEY,    -- in full: docker.io/library/debian:12
    image TEXT NOT NULL REFERENCES images
) WITHOUT ROWID;
CREATE TABLE layers (
    diff_id TEXT PRIMARY KEY,      -- sha256:HEX of the uncompressed tar
    blob TEXT NOT NULL,            -- digest of what blobs/ holds of it
    media_type TEXT NOT NULL,
    blob_size INTEGER NOT NULL,
    size INTEGER NOT NULL,         -- bytes of its files, unpacked
    has_marks INTEGER NOT NULL     -- whether it holds whiteouts or opaque marks
) WITHOUT ROWID;
CREATE TABLE image_layers (
    image TEXT NOT NULL REFERENCES images ON DELETE CASCADE,
    position INTEGER NOT NULL,     -- 0 is the lowest
    diff_id TEXT NOT NULL REFERENCES layers,
    PRIMARY KEY (image, position)
) WITHOUT ROWID;
CREATE TABLE build_cache (
    key TEXT PRIMARY KEY,          -- sha256 of the parent, the instruction and what it copies
    image TEXT NOT NULL REFERENCES images ON DELETE CASCADE
) WITHOUT ROWID;
CREATE TABLE containers (
    id TEXT PRIMARY KEY,           -- 64 hexadecimal digits
    name TEXT NOT NULL UNIQUE,
    image TEXT REFERENCES images,  -- NULL: --rootfs
    spec TEXT NOT NULL,            -- JSON, see container/spec.py
    created REAL NOT NULL,         -- seconds since the epoch, as all times here
    status TEXT NOT NULL,          -- creating, created, running, exited, removing; see container/state.py
    owner INTEGER NOT NULL,        -- pid of the process that answers for this status: who creates it, or its monitor
    owner_start INTEGER NOT NULL,  -- when that process began, in clock ticks since boot (proc_pid_stat(5))
    boot TEXT NOT NULL,            -- boot id of the machine's run that these two belong to
    pid INTEGER NOT NULL DEFAULT 0,
    pid_start INTEGER NOT NULL DEFAULT 0,
    started REAL NOT NULL DEFAULT 0,
    finished REAL NOT NULL DEFAULT 0,
    exit_code INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE volumes (
    name TEXT PRIMARY KEY,
    anonymous INTEGER NOT NULL,    -- made for a container, without a name of the user's
    created REAL NOT NULL,
    labels TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE TABLE container_volumes (   -- which containers use a volume, running or not
    container TEXT NOT NULL REFERENCES containers ON DELETE CASCADE,
    volume TEXT NOT NULL REFERENCES volumes,
    PRIMARY KEY (container, volume)
) WITHOUT ROWID;
CREATE INDEX layer_images ON image_layers (diff_id);
CREATE INDEX container_images ON containers (image);
CREATE INDEX volume_containers ON container_volumes (volume);
"""


_NETWORKS = """
CREATE TABLE networks (
    id TEXT PRIMARY KEY,           -- 64 hexadecimal digits
    name TEXT NOT NULL UNIQUE,
    driver TEXT NOT NULL,          -- bridge, host, null
    subnets TEXT NOT NULL,         -- JSON: [[subnet, gateway, range or ""], ...]; IPv4 first; [] until first used
    internal INTEGER NOT NULL,
    labels TEXT NOT NULL,          -- JSON
    created REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE endpoints (           -- which containers are on a network, running or not
    container TEXT NOT NULL REFERENCES containers ON DELETE CASCADE,
    network TEXT NOT NULL REFERENCES networks,
    position INTEGER NOT NULL,     -- the first one is the way outside
    aliases TEXT NOT NULL,         -- JSON: further names
    static TEXT NOT NULL,          -- JSON: addresses that were asked for
    outer TEXT NOT NULL DEFAULT '',    -- while it runs: the interfaces, outside and inside
    inner TEXT NOT NULL DEFAULT '',
    addresses TEXT NOT NULL DEFAULT '[]',
    PRIMARY KEY (container, network)
) WITHOUT ROWID;
CREATE TABLE ports (               -- published, while it runs
    container TEXT NOT NULL REFERENCES containers ON DELETE CASCADE,
    address TEXT NOT NULL,
    port INTEGER NOT NULL,
    target INTEGER NOT NULL,       -- the container's
    protocol TEXT NOT NULL,
    mode TEXT NOT NULL             -- proxy, nat
);
CREATE INDEX network_endpoints ON endpoints (network);
INSERT INTO networks VALUES (lower(hex(randomblob(32))), 'bridge', 'bridge', '[]', 0, '{}', strftime('%s', 'now'));
INSERT INTO networks VALUES (lower(hex(randomblob(32))), 'host', 'host', '[]', 0, '{}', strftime('%s', 'now'));
INSERT INTO networks VALUES (lower(hex(randomblob(32))), 'none', 'null', '[]', 0, '{}', strftime('%s', 'now'));
"""
_STEPS = (_SCHEMA, _NETWORKS)
"""What each version of the format added to the one before."""


def default_root() -> str:
    """$UNIONFS_ROOT, else /var/lib/unionfs, for others than root ~/.local/share/unionfs."""
    given = os.environ.get("UNIONFS_ROOT")
    if given:
        return os.path.abspath(given)
    return ROOT if os.geteuid() == 0 else os.path.expanduser(ROOTLESS)


class Database:
    """The state under one root. Raises UnionfsError when it cannot be opened or was written by a newer program.

    Not to be carried over a fork(2): close it before, or open another one behind it.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = os.path.abspath(root) if root is not None else default_root()
        self._connection = self._open()

    def path(self, *names: str) -> str:
        return os.path.join(self.root, *names)

    def aside(self) -> str:
        """A path in tmp/ that nothing has, for what is being made or on its way out: this process's."""
        return self.path("tmp", f"{os.getpid()}-{os.urandom(6).hex()}")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that may write: waits for its turn; undone when the block raises."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """What a query gives, in a transaction of its own."""
        return self._connection.execute(query, values).fetchall()

    def row(self, query: str, *values: object) -> sqlite3.Row | None:
        rows = self.rows(query, *values)
        return rows[0] if rows else None

    def _open(self) -> sqlite3.Connection:
        try:
            os.makedirs(self.root, 0o711, exist_ok=True)
            connection = sqlite3.connect(
                self.path("state.db"), timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            self._prepare(connection)
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            hint = "choose another place: UNIONFS_ROOT=DIR unionfs ..."
            raise UnionfsError(self.root, f"the state cannot be opened: {reason}".lower(), hint) from error
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """A commit is not waited for (synchronous=NORMAL): after a power cut the last ones may be gone, whole."""
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version < _VERSION:
            version = self._create(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")
        if version != _VERSION:
            raise UnionfsError(self.path("state.db"), f"is of format {version}, this program knows {_VERSION}")

    def _create(self, connection: sqlite3.Connection) -> int:
        os.chmod(self.path("state.db"), 0o600)
        for name in ("blobs/sha256", "layers", "tmp", "containers", "volumes"):
            os.makedirs(self.path(name), 0o711, exist_ok=True)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        for step in _STEPS[version:]:
            for statement in step.split(";\n"):
                connection.execute(statement)
        if version < _VERSION:
            connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute("COMMIT")
        return max(version, _VERSION)
