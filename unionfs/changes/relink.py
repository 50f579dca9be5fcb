"""Relink: hard links of the lower layers whose file was copied up under one of its names.

Called by `apply.py`, first of all. The union shows the copy under all the names, by the index in the work directory
(see `hardlinks.py`); the lower layers know nothing of that. So each of these names is made a link to the copy in the
target, whichever layer it comes from. Only when the index holds something are the lower layers walked.
"""

from __future__ import annotations

import stat

from unionfs.changes.below import Below, Place
from unionfs.changes.staging import STAGING, Staging
from unionfs.changes.transplant import copy_attributes
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.union.hardlinks import HardLinks
from unionfs.union.listing import merge

_DT_DIR = stat.S_IFDIR >> 12


class _Node:
    """A directory on the way down; `place` changes when the target gets one of its own."""

    def __init__(self, place: Place, parent: _Node | None = None, name: bytes = b"") -> None:
        self.place = place
        self.parent = parent
        self.name = name


class Relinking:
    def __init__(self, below: Below, staging: Staging, hardlinks: HardLinks) -> None:
        self.below = below
        self.staging = staging
        self.hardlinks = hardlinks
        self.dialect = below.stack.dialect

    def run(self) -> None:
        if self.hardlinks.index.read_names():
            self._directory(_Node(self.below.root()))

    def _directory(self, node: _Node) -> None:
        for name, (where, kind) in merge(self.dialect, node.place.directories).items():
            if name == STAGING:
                continue
            if kind == _DT_DIR:
                child = _Node(self.below.step(node.place, name), node, name)
                self._directory(child)
                for directory in child.place.directories:
                    directory.close()
            else:
                self._file(node, name, where)
        if node.place.own is not None:
            self.staging.give_back_times(node.place.own)

    def _file(self, node: _Node, name: bytes, where: Directory) -> None:
        st = where.stat(name)
        if st is None or st.st_nlink < 2:
            return
        lower = Location(where, name)
        copy = self.hardlinks.find(self.hardlinks.key(lower, st.st_ino))
        if copy is None:
            return
        copied = copy.stat()
        if stat.S_IFMT(copied.st_mode) != stat.S_IFMT(st.st_mode):
            return
        if where.layer is self.below.target:
            self.staging.keep(lower, st.st_ino)
        target = self._own(node)
        self.staging.keep_times(target)
        self.staging.copy(copy, copied, target, name)

    def _own(self, node: _Node) -> Directory:
        """The target's directory for a node, made if need be: like the one that gives it now."""
        if node.place.own is not None:
            return node.place.own
        assert node.parent is not None
        parent, given = self._own(node.parent), node.place.deeper[0]
        aside = self.staging.work.temporary_name()
        made = self.staging.work.area.mkdir(aside, 0o700)
        copy_attributes(given.here, given.own_stat(), made.here, self.staging.kept_attribute)
        self.staging.keep_times(parent)
        self.staging.put(self.staging.work.area, aside, parent, node.name)
        node.place = self.below.step(node.parent.place, node.name)
        assert node.place.own is not None
        return node.place.own
