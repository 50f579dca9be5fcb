"""Layers in words: what a test says lies in them, built on disk in a dialect, or merged for the model.

    {"d": Dir(mode=0o711), "d/f": File(b"text"), "d/g": Link("d/f"), "l": Symlink("f"), "x": WHITEOUT}

A layer is a dict of paths; parents that are not named are plain directories. Link is a hard link within its layer.
Every object gets a time of its own, long ago and with nanoseconds, so that one that was not kept is seen.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.model import Model, Node


class Dir(NamedTuple):
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    opaque: bool = False
    xattrs: Mapping[bytes, bytes] = {}
    redirect: bytes = b""


class File(NamedTuple):
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[bytes, bytes] = {}
    hole_before: int = 0
    """The content begins after so many bytes that are a hole."""
    hole_after: int = 0


class Symlink(NamedTuple):
    target: str
    uid: int = 0
    gid: int = 0


class Special(NamedTuple):
    """A fifo, socket or device node: `mode` with its type."""

    mode: int
    rdev: int = 0
    uid: int = 0
    gid: int = 0


class Link(NamedTuple):
    """A hard link of another path of the same layer."""

    source: str


class _Whiteout:
    def __repr__(self) -> str:
        return "WHITEOUT"


WHITEOUT = _Whiteout()
Object = Dir | File | Symlink | Special | Link | _Whiteout
Layer = Mapping[str, "Object | bytes"]
"""A file may be given as its content alone."""


def time_of(path: str) -> int:
    """The modification time of the object at `path`: in 2001, with nanoseconds; the access time is a second later."""
    return 1_000_000_000_000_000_000 + zlib.crc32(path.encode()) * 1_000_003


def objects(layer: Layer) -> dict[str, Object]:
    """With every parent, parents first."""
    whole: dict[str, Object] = {}
    for path, given in layer.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            whole.setdefault("/".join(parts[:depth]), layer_dir(layer, "/".join(parts[:depth])))
        whole[path] = File(given) if isinstance(given, bytes) else given
    return whole


def layer_dir(layer: Layer, path: str) -> Dir:
    given = layer.get(path, Dir())
    assert isinstance(given, Dir), f"{path} is not a directory"
    return given


# --- on disk


def build(root: Path, layer: Layer, dialect: str) -> None:
    """Make the layer in the directory `root`, which is there and empty."""
    whole = objects(layer)
    for path, what in whole.items():
        _make(root / path, root, what, dialect)
    for path, what in reversed(whole.items()):
        if not isinstance(what, Link | _Whiteout):
            _set_times(root / path, path)
    _set_times(root, "")


def _set_times(place: Path, path: str) -> None:
    os.utime(place, ns=(time_of(path) + 1_000_000_000, time_of(path)), follow_symlinks=False)


def _make(place: Path, root: Path, what: Object, dialect: str) -> None:
    if isinstance(what, _Whiteout):
        write_whiteout(place, dialect)
        return
    if isinstance(what, Link):
        os.link(root / what.source, place, follow_symlinks=False)
        return
    if isinstance(what, Symlink):
        os.symlink(what.target, place)
    elif isinstance(what, Special):
        os.mknod(place, what.mode, what.rdev)
    elif isinstance(what, File):
        with open(place, "wb") as file:
            file.seek(what.hole_before)
            file.write(what.content)
            file.truncate(what.hole_before + len(what.content) + what.hole_after)
    else:
        os.mkdir(place)
        if what.opaque:
            write_opaque(place, dialect)
        if what.redirect:
            write_redirect(place, dialect, what.redirect)
    os.lchown(place, what.uid, what.gid)
    if not isinstance(what, Symlink):
        os.chmod(place, stat.S_IMODE(what.mode))
    for name, value in getattr(what, "xattrs", {}).items():
        os.setxattr(place, name, value, follow_symlinks=False)


def write_whiteout(place: Path, dialect: str) -> None:
    if dialect == "aufs":
        (place.parent / f".wh.{place.name}").touch()
    else:
        os.mknod(place, stat.S_IFCHR, 0)


def write_opaque(place: Path, dialect: str) -> None:
    if dialect == "aufs":
        (place / ".wh..wh..opq").touch()
    else:
        os.setxattr(place, "trusted.overlay.opaque", b"y")


def write_redirect(place: Path, dialect: str, path: bytes) -> None:
    if dialect == "aufs":
        os.symlink(path, os.fsencode(place / ".wh..wh..redirect"))
    else:
        os.setxattr(place, "trusted.overlay.redirect", path)


# --- merged, for the model


def merged(layers: list[Layer]) -> Model:
    """What a union of the layers, topmost first, must show. Redirects are not followed: no start state has any."""
    model = Model()
    for layer in reversed(layers):
        made: dict[str, Node] = {}
        for path, what in objects(layer).items():
            directory, name, below = model.resolve(path)
            keeps = isinstance(what, Dir) and not what.opaque and below is not None and below.is_dir
            if below is not None and not keeps:
                _forget(below)
                del directory.entries[name]
            if isinstance(what, _Whiteout):
                continue
            node = made[what.source] if isinstance(what, Link) else _node(path, what)
            if keeps and below is not None:
                node.entries = below.entries
                for child in node.entries.values():
                    child.parent = node
                below.nlink = 0
            made[path] = node
            directory.entries[name] = node
            node.nlink += 1
            node.parent = directory
    model.root.mtime, model.root.atime = time_of(""), time_of("") + 1_000_000_000
    return model


def _forget(node: Node) -> None:
    for child in node.entries.values():
        _forget(child)
    node.nlink = 0 if node.is_dir else node.nlink - 1


def _node(path: str, what: Dir | File | Symlink | Special) -> Node:
    if isinstance(what, Symlink):
        node = Node(stat.S_IFLNK | 0o777, what.uid, what.gid)
        node.target = os.fsencode(what.target)
    elif isinstance(what, Special):
        node = Node(what.mode, what.uid, what.gid, what.rdev)
    else:
        kind = stat.S_IFDIR if isinstance(what, Dir) else stat.S_IFREG
        node = Node(kind | what.mode, what.uid, what.gid)
        node.xattrs.update(what.xattrs)
        if isinstance(what, File):
            node.write(what.content, what.hole_before)
            node.resize(what.hole_before + len(what.content) + what.hole_after)
    node.mtime, node.atime = time_of(path), time_of(path) + 1_000_000_000
    return node


# --- an upper, read back


def marks(root: Path, dialect: str) -> Iterator[tuple[str, str]]:
    """What stands in a layer, as (path, what): "whiteout", "opaque", "redirect PATH", or the type of an object."""
    for folder, names, files in os.walk(root):
        for name in sorted(names + files):
            place = Path(folder, name)
            path = place.relative_to(root).as_posix()
            if dialect == "aufs" and name.startswith(".wh."):
                yield _aufs_mark(place, path)
                continue
            found = place.lstat()
            if dialect == "overlay" and stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                yield path, "whiteout"
                continue
            yield path, KINDS[stat.S_IFMT(found.st_mode)]
            if dialect == "overlay" and stat.S_ISDIR(found.st_mode):
                for mark in ("opaque", "redirect"):
                    if (value := xattr(place, f"trusted.overlay.{mark}")) is not None:
                        yield path, "opaque" if mark == "opaque" and value == b"y" else f"{mark} {os.fsdecode(value)}"


def _aufs_mark(place: Path, path: str) -> tuple[str, str]:
    parent = os.path.dirname(path)
    if place.name == ".wh..wh..opq":
        return parent, "opaque"
    if place.name == ".wh..wh..redirect":
        return parent, f"redirect {os.readlink(place)}"
    return os.path.join(parent, place.name.removeprefix(".wh.")), "whiteout"


def xattr(place: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(place, name, follow_symlinks=False)
    except OSError:
        return None


KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "chr", stat.S_IFBLK: "blk",
}  # fmt: skip
