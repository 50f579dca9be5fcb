"""Below: the lower layers alone, as one tree, seen from the topmost of them.

Called by `apply.py` and its kin, which write into that topmost lower layer, the *target*. It promises to read only, and
to look things up anew each time: what was written meanwhile is seen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.changes.difference import visible_roots
from unionfs.layer.layer import Directory
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import WHITEOUT
from unionfs.union.lookup import find, resolve


class Place(NamedTuple):
    """A directory of the lower layers: the target's own one, and those of deeper layers that it merges with."""

    own: Directory | None
    deeper: Sequence[Directory]
    path: bytes
    """Under which path the deeper layers, taken by themselves, have it."""

    @property
    def directories(self) -> list[Directory]:
        return [*([self.own] if self.own is not None else []), *self.deeper]


NOWHERE = Place(None, (), b"")


class Below:
    """The target is layer 1 of the stack, under the upper."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.target = stack.layers[1]

    @property
    def is_alone(self) -> bool:
        """Whether no layer lies deeper than the target, so that it needs no marks."""
        return len(self.stack.layers) == 2

    def root(self) -> Place:
        own, *deeper = visible_roots(self.stack, 1)
        return Place(own, deeper, b"/")

    def step(self, place: Place, name: bytes) -> Place:
        """The directory `name` in `place`; NOWHERE when it is none."""
        dialect = self.stack.dialect
        found = dialect.find(place.own, name) if place.own is not None else None
        if found is None:
            return self._deeper(None, place, name)
        if found is WHITEOUT or not isinstance(found, os.stat_result) or not stat.S_ISDIR(found.st_mode):
            return NOWHERE
        assert place.own is not None
        own = place.own.child(name)
        if dialect.is_opaque(own):
            return Place(own, (), b"")
        return self._deeper(own, place, dialect.redirect(own) or name)

    def _deeper(self, own: Directory | None, place: Place, name: bytes) -> Place:
        """`name`: in the same place, or an absolute path of the deeper layers."""
        if name.startswith(b"/"):
            return Place(own, resolve(self.stack, self.stack.below(self.target), name), name)
        found = find(self.stack, place.deeper, name) if place.deeper else None
        deeper = found.directories if found is not None else []
        return Place(own, deeper, os.path.join(place.path, name) if deeper else b"")

    def walk(self, path: bytes) -> Place:
        """The directory `path`; NOWHERE when it is none, and for the root: none was ever renamed from there."""
        names = [name for name in path.split(b"/") if name]
        place = self.root() if names else NOWHERE
        for name in names:
            place = self.step(place, name)
        return place

    def has_directory(self, place: Place, name: bytes) -> bool:
        """Whether the deeper layers show a directory `name` in `place`."""
        found = find(self.stack, place.deeper, name) if place.deeper else None
        return found is not None and bool(found.directories)
