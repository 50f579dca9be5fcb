"""Paths: from a path in the union to its inode.

Called by `union.py` and by the engine that is given paths. Each function is a context: the inode is referenced as long
as it lasts. `.` and `..` are resolved, and never lead above the union's root.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from unionfs.errors import failed
from unionfs.union.operations import Inode, Operations

_MOST_LINKS = 40
"""path_resolution(7): more symbolic links than this in one path are ELOOP."""


@contextmanager
def at(operations: Operations, path: bytes) -> Iterator[Inode]:
    """The object at `path`, symbolic links not followed: they were before, or are names like any other (ENOTDIR)."""
    inode = _take(operations, operations.root)
    try:
        for name in _names(path):
            inode = _step(operations, inode, name)
        yield inode
    finally:
        operations.forget(inode)


@contextmanager
def parent_of(operations: Operations, path: bytes) -> Iterator[tuple[Inode, bytes]]:
    """The directory of `path`, and the last name in it. The root has no name: EBUSY, as mount points give it."""
    *above, name = _names(path) or [b""]
    if not name:
        raise failed(errno.EBUSY, path)
    with at(operations, b"/".join(above)) as parent:
        if not parent.is_dir:
            raise failed(errno.ENOTDIR, path)
        yield parent, name


def resolve(operations: Operations, path: bytes, follow_last: bool) -> bytes:
    """The same path without symbolic links, and without `.` and `..`; with the last name's link followed if asked."""
    todo, links = list(reversed(_names(path))), 0
    done: list[bytes] = []
    while todo:
        name = todo.pop()
        if name == b"..":
            _enter(operations, b"/".join(done))
            done = done[:-1]
            continue
        target = _target(operations, b"/".join([*done, name])) if todo or follow_last else None
        if target is None:
            done.append(name)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise failed(errno.ELOOP, path)
        if target.startswith(b"/"):
            done = []
        todo += reversed(_names(target))
    return b"/".join(done)


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]


def _target(operations: Operations, path: bytes) -> bytes | None:
    """Where the symbolic link at `path` leads; None for anything else, and for nothing."""
    try:
        with at(operations, path) as inode:
            return operations.readlink(inode) if inode.kind == stat.S_IFLNK else None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise


def _enter(operations: Operations, path: bytes) -> None:
    """Raise what stands in the way of going through the directory at `path`."""
    with at(operations, path) as inode:
        if not inode.is_dir:
            raise failed(errno.ENOTDIR, path)


def _take(operations: Operations, inode: Inode) -> Inode:
    return operations.lookup(inode, b".")[0]


def _step(operations: Operations, inode: Inode, name: bytes) -> Inode:
    """One name further: the reference goes along. On failure it stays with `inode`, whose owner gives it back."""
    found = operations.lookup(inode, name)[0]
    operations.forget(inode)
    return found
