"""Layers made by hand, in either dialect, and what a stack of them shows."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import Dialect
from unionfs.union.inode import DirInode, FileInode, Inodes
from unionfs.union.listing import merge

Snapshot = dict[bytes, tuple[Any, ...]]
DIALECTS = ("aufs", "overlay")


class HandMade:
    """A directory that is filled by hand as a layer. Paths are relative; directories on the way are made."""

    def __init__(self, path: Path, dialect: str = "aufs", prefix: str = "trusted.") -> None:
        self.path = path
        self.dialect = dialect
        self.prefix = prefix
        path.mkdir(parents=True, exist_ok=True)

    def dir(self, name: str) -> Path:
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def file(self, name: str, content: str = "") -> Path:
        made = self.dir(os.path.dirname(name)) / os.path.basename(name)
        made.write_text(content or f"{self.path.name}:{name}")
        return made

    def whiteout(self, name: str) -> None:
        parent, base = self.dir(os.path.dirname(name)), os.path.basename(name)
        if self.dialect == "aufs":
            (parent / f".wh.{base}").touch()
        else:
            os.mknod(parent / base, stat.S_IFCHR, 0)

    def opaque(self, name: str) -> Path:
        made = self.dir(name)
        if self.dialect == "aufs":
            (made / ".wh..wh..opq").touch()
        else:
            os.setxattr(made, f"{self.prefix}overlay.opaque", b"y")
        return made

    def redirect(self, name: str, target: str) -> Path:
        made = self.dir(name)
        if self.dialect == "aufs":
            (made / ".wh..wh..redirect").symlink_to(target)
        else:
            os.setxattr(made, f"{self.prefix}overlay.redirect", target.encode())
        return made


def open_stack(*paths: Path, dialect: str = "aufs") -> Stack:
    """All of them read-only, the topmost first."""
    return Stack.open([os.fsencode(path) for path in paths], dialect=dialect)


def shown_by(*paths: Path, dialect: str = "aufs") -> Snapshot:
    """The snapshot of layers, the topmost first."""
    with closing(open_stack(*paths, dialect=dialect)) as stack:
        return snapshot(stack)


def snapshot(stack: Stack) -> Snapshot:
    """All that the merged tree shows, but the root's own attributes: path -> what can be known of it."""
    taken: Snapshot = {}
    inodes = Inodes(stack)
    _directory(inodes, inodes.root, b"", taken, {})
    return taken


def _directory(
    inodes: Inodes, inode: DirInode, path: bytes, taken: Snapshot, first: dict[tuple[int, int], bytes]
) -> None:
    for name in sorted(merge(inodes.stack.dialect, inode.directories)):
        dentry = inodes.lookup(inode, name)
        assert dentry is not None, (path, name)
        child = path + b"/" + name
        if isinstance(dentry.inode, DirInode):
            taken[child] = _attributes(dentry.inode.directories[0].here, inodes.stack.dialect)
            _directory(inodes, dentry.inode, child, taken, first)
        else:
            assert isinstance(dentry.inode, FileInode)
            location = dentry.inode.location
            st = location.stat()
            link = first.setdefault((st.st_dev, st.st_ino), child)
            taken[child] = (*_attributes(location, inodes.stack.dialect), st.st_rdev, _content(location, st), link)


def _attributes(location: Location, dialect: Dialect) -> tuple[Any, ...]:
    st = location.stat()
    xattrs = {name: location.getxattr(name) for name in location.listxattr() if not dialect.is_mark(name)}
    return stat.filemode(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, xattrs


def _content(location: Location, st: os.stat_result) -> bytes:
    if stat.S_ISLNK(st.st_mode):
        return location.readlink()
    if not stat.S_ISREG(st.st_mode):
        return b""
    with open(location.open(os.O_RDONLY), "rb") as file:
        return file.read()


Make = Callable[[str], HandMade]
"""Makes a layer of that name; the fixture `make` gives one for each dialect."""
