"""Difference: what one layer changes of the tree below it, in the words of `docker diff`.

Called by the commands `diff`, `layers` and `apply`; for the upper, or for any layer of a stack. It promises to read
only, and to walk that one layer only: of the layers below it looks up the layer's own names, and lists the directories
that the layer hides.

    A  added: the layers below show no such path
    C  changed: they do, and the layer has an object there. A directory that the layer has is listed too, since some
       name in it or its attributes changed
    D  deleted: they do, and it no longer shows. What lay in a deleted directory goes without saying

Below an opaque directory every name is gone that the layer itself has not: D for each. A renamed directory (a redirect)
is D where it was and A where it is now, with what the layer itself holds in it; what it brings along from below is
neither walked nor listed. Where it took the place of another directory it is C, and so is each name that both had.
A whiteout of a name that no layer below has says nothing, and is not listed. The root is never listed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.layer.layer import Directory, Layer
from unionfs.layer.stack import Stack
from unionfs.union.listing import merge
from unionfs.union.lookup import find

ADDED, CHANGED, DELETED = "A", "C", "D"


class Change(NamedTuple):
    """One line of `unionfs diff`. `path` begins with a slash; `space` is what the layer's object takes on disk, in
    bytes: an object with several names counts once."""

    kind: str
    path: bytes
    space: int = 0


def difference(stack: Stack, layer: Layer) -> list[Change]:
    """What `layer` changes of what the layers below it show, sorted by path."""
    walk = _Walk(stack)
    below = visible_roots(stack, layer.index + 1)
    walk.directory(layer.root, [] if stack.dialect.is_opaque(layer.root) else below, below, b"/")
    return sorted(walk.changes, key=lambda change: change.path)


def visible_roots(stack: Stack, first: int) -> list[Directory]:
    """The roots of the layers from index `first` down, as far as no opaque one hides the rest."""
    roots: list[Directory] = []
    for layer in stack.layers[first:]:
        roots.append(layer.root)
        if stack.dialect.is_opaque(layer.root):
            break
    return roots


class _Walk:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.changes: list[Change] = []
        self._counted: set[int] = set()

    def directory(self, own: Directory, shows: Sequence[Directory], was: Sequence[Directory], path: bytes) -> None:
        """`own` is the layer's directory, `shows` those that it merges with, `was` those that had the path before."""
        visible, deleted = self.stack.dialect.read(own)
        names = visible.keys() | deleted
        if not _same(shows, was):
            names |= merge(self.stack.dialect, was).keys()
        for name in sorted(names):
            self._name([own, *shows], was, name, path + name)

    def _name(self, merged: Sequence[Directory], was: Sequence[Directory], name: bytes, path: bytes) -> None:
        now, before = find(self.stack, merged, name), find(self.stack, was, name)
        own = merged[0]
        is_own = now is not None and now.where is own
        if before is not None:
            kind = DELETED if now is None else CHANGED
            self.changes.append(Change(kind, path, self._space(now.stat) if now is not None and is_own else 0))
        elif now is not None and is_own:
            self.changes.append(Change(ADDED, path, self._space(now.stat)))
        if now is not None and is_own and now.directories:
            self.directory(now.directories[0], now.directories[1:], before.directories if before else [], path + b"/")
        for found in (now, before):
            for directory in found.directories if found else ():
                directory.close()

    def _space(self, st: os.stat_result) -> int:
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            if st.st_ino in self._counted:
                return 0
            self._counted.add(st.st_ino)
        return st.st_blocks * 512


def _same(some: Sequence[Directory], others: Sequence[Directory]) -> bool:
    return [(one.layer.index, one.path) for one in some] == [(one.layer.index, one.path) for one in others]
