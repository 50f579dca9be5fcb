"""Indexing: build the layer index of a stack, keep it in a folder, and find it again if the layers are still the same.

Called by `mount.py`. It promises: an index is used only if every directory and object that it tells of is as it was
when it was built. That is found out by looking at all of them at each mount (`stamp` below), which takes about half as
long as building.

The folder: $UNIONFS_CACHE, else /var/cache/unionfs for root, $XDG_CACHE_HOME/unionfs or ~/.cache/unionfs for others. An
index is named after its *key*: all that the records depend on besides what is in the layers. It is written aside and
published by one rename, so that several mounts may build the same; one that nobody used for 30 days is removed when
another one is built.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import tempfile
import time
import zlib
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.fuse import wire
from unionfs.fuse.index import COMPLETE, HAS_XATTRS, MAGIC, NUMBER, DamagedIndex, Index, place
from unionfs.fuse.records import SHIFT
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.attributes import Attributes, Entry, of_lower
from unionfs.union.identity import number
from unionfs.union.listing import merge
from unionfs.union.lookup import find, goes_on

KEPT_DAYS = 30
_RACY_SECONDS = 2
"""What changed so shortly before it was looked at may change once more without its times telling."""
_STAMP = struct.Struct("=QQqqQI")
_PAGE = 4096

Progress = Callable[[int], None]
"""Told how many more objects were looked at."""


# --- looking at the layers


class Child(NamedTuple):
    """A name of a merged directory. `directories`: of a directory that goes on where its parents do; else empty."""

    name: bytes
    kind: int
    st: os.stat_result
    where: Directory
    directories: list[Directory]


class Surveyed(NamedTuple):
    """A merged directory: the real ones, and its names, sorted."""

    node: int
    directories: list[Directory]
    children: list[Child]


def survey(stack: Stack, roots: list[Directory], progress: Progress) -> Iterator[Surveyed]:
    """All directories of the merged lower layers, breadth first, with the number of their node."""
    waiting, count = deque([(0, roots)]), 1
    while waiting:
        node, directories = waiting.popleft()
        children = []
        for name, (where, kind) in sorted(merge(stack.dialect, directories).items()):
            child = _child(stack, directories, name, where, kind)
            if child is None:
                continue
            if child.directories:
                waiting.append((count, child.directories))
            children.append(child)
            count += 1
        yield Surveyed(node, directories, children)
        progress(len(children))
        for directory in directories:
            directory.forget_names()


def _child(stack: Stack, parents: list[Directory], name: bytes, where: Directory, kind: int) -> Child | None:
    if kind != stat.S_IFDIR >> 12:
        st = where.stat(name)
        return None if st is None else Child(name, kind, st, where, [])
    found = find(stack, parents, name)
    if found is None:
        return None
    directories = found.directories if goes_on(parents, name, found.directories) else []
    return Child(name, kind, found.stat, where, directories)


class Stamp:
    """A digest of what was seen of the layers. `newest`: the latest change among it, in seconds."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=32)
        self.newest = 0.0

    def add(self, surveyed: Surveyed) -> None:
        for directory in surveyed.directories:
            self._add(directory.own_stat())
        for name, _, st, _, _ in surveyed.children:
            self._add(st)
            self._digest.update(name)

    def _add(self, st: os.stat_result) -> None:
        self._digest.update(_STAMP.pack(st.st_dev, st.st_ino, st.st_mtime_ns, st.st_ctime_ns, st.st_size, st.st_mode))
        self.newest = max(self.newest, st.st_ctime)

    def text(self) -> str:
        return self._digest.hexdigest()


def stamp(stack: Stack, roots: list[Directory], progress: Progress) -> str:
    """What the layers look like now."""
    made = Stamp()
    for surveyed in survey(stack, roots, progress):
        made.add(surveyed)
    return made.text()


# --- building


class Builder:
    """Collects the sections of an index."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.records = bytearray()
        self.offsets = array("Q", [0])
        self.parents, self.firsts, self.sizes = array("I", [0]), array("I", [0]), array("I", [0])
        self.flags = bytearray(1)

    def add(self, surveyed: Surveyed) -> None:
        first = len(self.parents)
        self.firsts[surveyed.node], self.sizes[surveyed.node] = first, len(surveyed.children)
        complete = True
        for position, child in enumerate(surveyed.children):
            attributes = self._attributes(child)
            complete = complete and attributes is not None
            found = None if attributes is None else (NUMBER << SHIFT | first + position, attributes)
            shown = number(child.where.layer, child.st.st_ino)
            self.records += wire.dirent_plus(Entry(child.name, shown, child.kind, position + 3), found)
            self.offsets.append(len(self.records))
            self.parents.append(surveyed.node)
            self.firsts.append(0)
            self.sizes.append(0)
            self.flags.append(self._has_xattrs(child))
        if complete:
            self.flags[surveyed.node] |= COMPLETE

    @staticmethod
    def _attributes(child: Child) -> Attributes | None:
        """None for what has to be looked up. A merged directory shows 1 link, as attributes.py says."""
        st, is_dir = child.st, stat.S_ISDIR(child.st.st_mode)
        if not child.directories if is_dir else st.st_nlink != 1:
            return None
        links = 1 if len(child.directories) > 1 else st.st_nlink
        return of_lower(child.where.layer, st, links)

    def _has_xattrs(self, child: Child) -> int:
        """Of a merged directory only the topmost one's are shown."""
        try:
            names = Location(child.where, child.name).listxattr()
        except OSError:
            return HAS_XATTRS
        return HAS_XATTRS if any(not self.stack.dialect.is_mark(name) for name in names) else 0

    def names(self) -> array[int]:
        """The table of names, at most half full."""
        size = 1 << (2 * len(self.parents)).bit_length()
        table, mask, view = array("I", bytes(4 * size)), size - 1, memoryview(self.records)
        for node in range(1, len(self.parents)):
            name = wire.item_of(view[self.offsets[node - 1] : self.offsets[node]])[0]
            at = place(self.parents[node], name) & mask
            while table[at]:
                at = at + 1 & mask
            table[at] = node
        return table

    def write(self, fd: int, head: dict[str, object]) -> None:
        sections: dict[str, bytes | bytearray | array[int]] = {
            "records": self.records, "offsets": self.offsets, "parents": self.parents, "firsts": self.firsts,
            "counts": self.sizes, "flags": self.flags, "names": self.names(),
        }  # fmt: skip
        places, body, start = {}, [], _PAGE
        for name, section in sections.items():
            content = bytes(section)
            padded = content + bytes(-len(content) % 8)
            places[name] = (start, len(content))
            body.append(padded)
            start += len(padded)
        crc = 0
        for part in body:
            crc = zlib.crc32(part, crc)
        words = json.dumps({**head, "data": _PAGE, "size": start, "crc": crc, "sections": places}).encode()
        with open(fd, "wb") as file:
            file.write((MAGIC + words).ljust(_PAGE - 1) + b"\n")
            file.writelines(body)


# --- the folder


def folder() -> bytes:
    named = os.environb.get(b"UNIONFS_CACHE")
    if named:
        return named
    if os.geteuid() == 0:
        return b"/var/cache/unionfs"
    base = os.environb.get(b"XDG_CACHE_HOME") or os.path.join(os.path.expanduser(b"~"), b".cache")
    return os.path.join(base, b"unionfs")


def key(stack: Stack) -> str:
    """Names all that records depend on besides the layers' contents: where they are, and how inodes are numbered."""
    lowers = [layer for layer in stack.layers if layer is not stack.upper]
    layers = [(os.fsdecode(layer.path), layer.device, layer.number_offset) for layer in lowers]
    words = json.dumps([1, stack.dialect.name, os.fsdecode(stack.dialect.prefix), wire.RECORD_LAYOUT, layers])
    return hashlib.blake2b(words.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def load(stack: Stack, roots: list[Directory], progress: Progress) -> Index:
    """The index of the layers below `roots`, the lower directories of the union's root: an old one or a new one.

    Raises UnionfsError when it cannot be built or kept.
    """
    path = os.path.join(_own_folder(), key(stack).encode() + b".index")
    index = _usable(path)
    if index is not None and not index.header["racy"] and index.header["stamp"] == stamp(stack, roots, progress):
        os.utime(path)
        return index
    start = time.time()
    builder, seen = Builder(stack), Stamp()
    for surveyed in survey(stack, roots, progress):
        seen.add(surveyed)
        builder.add(surveyed)
    racy = seen.newest > start - _RACY_SECONDS
    _publish(builder, {"stamp": seen.text(), "racy": racy, "objects": len(builder.parents) - 1}, path)
    events.info(f"indexed {len(builder.parents) - 1} objects of the lower layers in {time.time() - start:.1f} s")
    return Index(path)


def _own_folder() -> bytes:
    """The folder, which nobody else may write to: what is in it is believed."""
    path = folder()
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        st = os.stat(path)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if st.st_uid != os.geteuid() or st.st_mode & 0o022:
        raise _unusable(path, "it belongs to another user, or others may write to it")
    return path


def _unusable(path: bytes, why: str) -> UnionfsError:
    what = f"the folder of layer indexes {os.fsdecode(path)}"
    return UnionfsError(what, why, "name another one by UNIONFS_CACHE, or write index=off")


def _usable(path: bytes) -> Index | None:
    try:
        return Index(path)
    except FileNotFoundError:
        return None
    except (OSError, DamagedIndex) as fault:
        events.warning(f"{os.fsdecode(path)} is built anew: {fault}")
        return None


def _publish(builder: Builder, head: dict[str, object], path: bytes) -> None:
    where = os.path.dirname(path)
    _remove_old(where)
    try:
        fd, aside = tempfile.mkstemp(prefix=b".new-", dir=where)
        try:
            builder.write(fd, head)
            os.rename(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError as error:
        raise _unusable(where, error.strerror or str(error)) from error


def _remove_old(where: bytes) -> None:
    """Indexes that nobody used for long, and what a builder that was killed left."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for name in os.listdir(where):
        path = os.path.join(where, name)
        if name.endswith(b".index") or name.startswith(b".new-"):
            with suppress(OSError):
                if os.stat(path).st_mtime < oldest:
                    os.unlink(path)
