"""Survey: what each layer of a stack holds, how much of it the merged tree shows, and what it holds for nothing.

Called by the commands `layers` and `explore`. It promises to read only. The merged tree is walked once and each layer
once, each name of them is looked at; an object is *wasted* when no name of the merged tree leads to it: another layer
gives that name, or deletes it, or an opaque directory hides it. A lower file that a partly copied one goes on in is in
use. An object with several names counts once.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from heapq import nlargest
from typing import NamedTuple

from unionfs.changes.difference import ADDED, CHANGED, DELETED, difference, visible_roots
from unionfs.layer.layer import Directory, Layer
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.listing import merge
from unionfs.union.lookup import find, find_path
from unionfs.union.source import Sources

MOST_WASTED = 100
"""The largest objects that are listed."""


class LayerFacts(NamedTuple):
    """Of one layer. `size` and `wasted` are bytes on the disk; the others count objects, `marks` being whiteouts and
    `opaque` directories that hide those below; or paths that it adds, changes and deletes (see difference.py). The
    root counts for nothing."""

    layer: int
    path: bytes
    files: int
    directories: int
    marks: int
    opaque: int
    size: int
    wasted: int
    wasted_files: int
    added: int
    changed: int
    deleted: int


class Wasted(NamedTuple):
    """An object that the merged tree does not show: its path in its layer, and its bytes on the disk."""

    layer: int
    path: bytes
    size: int


class Survey(NamedTuple):
    layers: list[LayerFacts]
    wasted: list[Wasted]
    """The largest, the largest first."""

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)

    @property
    def efficiency(self) -> float:
        """The part of all bytes, 0 to 1, that the merged tree shows; 1 of nothing."""
        return 1 - sum(layer.wasted for layer in self.layers) / self.size if self.size else 1.0


def survey(stack: Stack, progress: Callable[[int], None] = lambda count: None) -> Survey:
    """Walk everything. `progress` is called with how many more names were looked at."""
    shown = _Shown(stack, progress)
    shown.walk(visible_roots(stack, 0))
    layers, wasted = [], []
    for layer in stack.layers:
        facts, unused = _facts(stack, layer, shown.objects[layer.index], progress)
        layers.append(facts)
        wasted += nlargest(MOST_WASTED, unused, key=lambda one: one.size)
    return Survey(layers, nlargest(MOST_WASTED, wasted, key=lambda one: one.size))


class _Shown:
    """Which objects of which layer the merged tree leads to: inode numbers, by the layer's index."""

    def __init__(self, stack: Stack, progress: Callable[[int], None]) -> None:
        self.stack = stack
        self.objects: list[set[int]] = [set() for _ in stack.layers]
        self._progress = progress
        self._sources = Sources(stack)

    def walk(self, directories: Sequence[Directory]) -> None:
        """All below a merged directory, whose real ones are given, topmost first."""
        dialect = self.stack.dialect
        for directory in directories:
            self.objects[directory.layer.index].add(directory.own_stat().st_ino)
        names = merge(dialect, directories)
        self._progress(len(names))
        for name, (where, kind) in names.items():
            if kind != stat.S_IFDIR >> 12:
                self._file(where, name)
                continue
            found = find(self.stack, directories, name)
            if found is not None:
                self.walk(found.directories)
        for directory in directories:
            directory.forget_names()

    def _file(self, where: Directory, name: bytes) -> None:
        found = where.stat(name)
        if found is None:
            return
        self.objects[where.layer.index].add(found.st_ino)
        if where.layer.index == len(self.stack.layers) - 1 or not stat.S_ISREG(found.st_mode):
            return
        location = Location(where, name)
        if self._sources.is_partial(location):
            self._origin(location)

    def _origin(self, location: Location) -> None:
        """The lower file that has the blocks which are not copied yet."""
        part = self._sources.open_partial(location)
        if part is None:
            return
        origin = part.blocks.origin
        part.close()
        layer = self.stack.from_bottom(origin.layer)
        if layer is not None:
            below = find_path(self.stack, [layer.root], origin.path)
            if below is not None:
                self.objects[layer.index].add(below.stat.st_ino)


def _facts(
    stack: Stack, layer: Layer, shown: set[int], progress: Callable[[int], None]
) -> tuple[LayerFacts, list[Wasted]]:
    files = directories = marks = opaque = size = wasted = 0
    unused: list[Wasted] = []
    seen: set[int] = set()
    for directory, prefix, visible, deleted in _directories(stack, layer.root, b""):
        progress(len(visible))
        marks += len(deleted)
        opaque += prefix != b"" and stack.dialect.is_opaque(directory)
        for name in visible:
            found = directory.stat(name)
            if found is None:
                continue
            is_dir = stat.S_ISDIR(found.st_mode)
            directories, files = directories + is_dir, files + (not is_dir)
            if found.st_ino in seen:
                continue
            seen.add(found.st_ino)
            space = found.st_blocks * 512
            size += space
            if found.st_ino not in shown:
                wasted += space
                if not is_dir:
                    unused.append(Wasted(layer.index, b"/" + prefix + name, space))
        directory.forget_names()
    kinds = Counter(change.kind for change in difference(stack, layer))
    facts = LayerFacts(
        layer.index, layer.path, files, directories, marks, opaque, size, wasted, len(unused), kinds[ADDED],
        kinds[CHANGED], kinds[DELETED],
    )  # fmt: skip
    return facts, unused


def _directories(
    stack: Stack, directory: Directory, prefix: bytes
) -> Iterator[tuple[Directory, bytes, dict[bytes, int], set[bytes]]]:
    """Every directory of one layer with its path, which is empty or ends with a slash, and what the dialect reads of
    it."""
    visible, deleted = stack.dialect.read(directory)
    yield directory, prefix, visible, deleted
    below = [name for name, kind in visible.items() if kind == stat.S_IFDIR >> 12]
    for name in below:
        child = directory.child(name)
        try:
            yield from _directories(stack, child, os.path.join(prefix, name, b""))
        except OSError:  # another file system is mounted there, or this user may not look
            continue
        finally:
            child.close()
