"""Watching a mount from outside: each request as a line of JSON, written to the pipe of whoever asked.

Made by `calls.py` when somebody reads the virtual attribute user.unionfs.trace.FD of the root: FD is a descriptor of
theirs, the writing end of a pipe, which this process opens as /proc/PID/fd/FD, the kernel having told their PID. So no
name in a file system is needed, nobody listens while nobody asks, and who may not look into that process cannot have
its pipe. It ends when the pipe has no reader any more. `unionfs trace` and `unionfs explore` ask.

A line, and what is not there is null:

    time      seconds since the epoch        us      microseconds that the answer took
    pid comm  who asked                      errno   the name of the failure
    op path   what, of which name            layer   which layer gives the name now, 0 is the topmost
    to        the new name of a rename       whiteout  the layer whose whiteout hides it
    bytes     of data that were moved        copied  what was copied up for this request, see `_Copies`
    lost      how many lines before this one found the pipe full
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from contextlib import suppress
from threading import Lock, local
from typing import TYPE_CHECKING, Any

from unionfs import events
from unionfs.errors import failed
from unionfs.fuse.wire import Request
from unionfs.layer.whiteout import WHITEOUT
from unionfs.union.inode import DirInode, Inode
from unionfs.union.virtual import giver

if TYPE_CHECKING:
    from unionfs.fuse.calls import Connection

PREFIX = b"user.unionfs.trace."
_ROOM = 1 << 20
"""Bytes that the pipe holds, if the system lets it."""
_LONGEST_PATH = 1024
"""Bytes of a path that are told: a line must be written whole or not at all, so it stays below PIPE_BUF (pipe(7))."""
_MOVES_BYTES = frozenset(("READ", "WRITE", "COPY_FILE_RANGE", "COPY_FILE_RANGE_64", "READDIR", "READDIRPLUS"))
_NAMED = {
    "LOOKUP": 0, "UNLINK": 0, "RMDIR": 0, "MKDIR": 2, "MKNOD": 3, "CREATE": 4, "SYMLINK": 0, "LINK": 1,
    "RENAME": 1, "RENAME2": 2,
}  # fmt: skip
"""Requests about a name in a directory: which of their arguments is the name."""


def start(c: Connection, request: Request, word: bytes) -> bytes:
    """Write the requests of a mount to the descriptor `word` of the caller. Raises EPERM, EINVAL, EBADF."""
    if request.uid not in (0, os.geteuid()):
        raise failed(errno.EPERM)
    if not word.isdigit():
        raise failed(errno.EINVAL)
    try:
        fd = os.open(f"/proc/{request.pid}/fd/{int(word)}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise failed(errno.EBADF) from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise failed(errno.EINVAL)
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _ROOM)
    events.listeners.append(Watcher(c, fd))
    return b"%d" % os.getpid()


class _Copies(local):
    """What was copied up since this thread began to answer a request; None while it answers none. Each is

    path    of what was copied, if it is not the request's own
    how     whole: with all its data; clone: its blocks are shared (FICLONE); map: no data, an empty block map;
            blocks: some of its blocks; directory
    bytes   of data that were copied          offset, block_size   of blocks: where the first of them begins
    """

    found: list[dict[str, Any]] | None = None


class Watcher:
    """A listener of `events`, in every thread that answers requests."""

    def __init__(self, c: Connection, fd: int) -> None:
        self._c = c
        self._stack = c.operations.stack
        self._fd = fd
        self._lock = Lock()
        self._lost = 0
        self._copies = _Copies()

    def __call__(self, kind: str, fields: dict[str, object]) -> None:
        if kind == "begin":
            self._copies.found = []
        elif kind == "copy-up":
            if self._copies.found is None:  # the thread that completes files
                self._write({"op": "COMPLETE", "copied": [_copy(fields)]})
            else:
                self._copies.found.append(_copy(fields))
        elif kind == "request":
            copied, self._copies.found = self._copies.found, None
            told = self._told(fields)
            self._write(told if not copied else {**told, "copied": copied})

    def _told(self, fields: dict[str, Any]) -> dict[str, Any]:
        op, pid, result, number = fields["op"], fields["pid"], fields["result"], fields["errno"]
        if op == "LOOKUP" and not number and result is None:
            number = errno.ENOENT
        told = {
            "op": op, "pid": pid, "comm": _comm(pid), "us": fields["us"],
            "errno": errno.errorcode.get(number, str(number)) if number else None,
        }  # fmt: skip
        with suppress(OSError):  # forgotten already
            told.update(self._place(op, fields["nodeid"], fields["arguments"], number))
        if op in _MOVES_BYTES and not number:
            told["bytes"] = result if isinstance(result, int) else len(result)
        return told

    def _place(self, op: str, nodeid: int, arguments: tuple[Any, ...], number: int) -> dict[str, Any]:
        """Path and layer of what a request is about."""
        nodes, at = self._c.nodes, _NAMED.get(op)
        if at is None or len(arguments) <= at:
            told: dict[str, Any] = {"path": _text(nodes.path(nodeid))}
            if nodeid in nodes.inodes:  # a listing of records, or FORGET, needs no inode, and makes none
                told["layer"] = giver(self._stack, nodes.inodes[nodeid]).index
            return told
        name = arguments[at]
        path = _text(os.path.join(nodes.path(nodeid), name))
        if op.startswith("RENAME"):
            return {"path": path, "to": _text(os.path.join(nodes.path(arguments[0]), arguments[at + 1])), "layer": 0}
        if op != "LOOKUP":
            return {"path": path, "layer": None if number else 0}
        return {"path": path, **self._answered(nodes.inodes[nodeid], name, number)}

    def _answered(self, parent: Inode, name: bytes, number: int) -> dict[str, int]:
        """Which layer gives a name, or hides it; under the tree lock, since a directory may remember what is read."""
        assert isinstance(parent, DirInode)
        with self._c.operations.scan.tree:
            dentry = parent.children.get(name)
            if dentry is not None and not number:
                return {"layer": giver(self._stack, dentry.inode).index}
            for directory in parent.directories:
                found = self._stack.dialect.find(directory, name)
                if found is not None:
                    return {"whiteout" if found is WHITEOUT else "layer": directory.layer.index}
        return {}

    def _write(self, told: dict[str, Any]) -> None:
        if self._lost:
            told["lost"] = self._lost
        line = json.dumps({"time": time.time(), **told}).encode() + b"\n"
        with self._lock:
            try:
                os.write(self._fd, line)
                self._lost = 0
            except BlockingIOError:
                self._lost += 1
            except OSError:
                self._end()

    def _end(self) -> None:
        """Nobody reads any more."""
        with suppress(ValueError):  # another thread was here first
            events.listeners.remove(self)
            os.close(self._fd)


def _copy(fields: dict[str, Any]) -> dict[str, Any]:
    path = fields.get("path")
    return {**fields, "path": _text(path)} if path is not None else dict(fields)


def _text(path: bytes) -> str:
    """At most `_LONGEST_PATH` bytes of a path, the last ones."""
    return os.fsdecode(path if len(path) <= _LONGEST_PATH else b"..." + path[-_LONGEST_PATH:])


def _comm(pid: int) -> str:
    """proc(5): at most 15 bytes. It waits for our answer, so it is there, unless another namespace hides it."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
