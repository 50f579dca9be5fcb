"""Listing: the merge of the directories of one name.

Called by `handle.py` (readdir) and `change.py` (is a directory empty?). Each name once, the topmost layer wins;
whiteouts and our own marks are never shown. One pass a layer, no system call a name.
"""

from __future__ import annotations

from collections.abc import Sequence

from unionfs.layer.layer import Directory
from unionfs.layer.whiteout import Dialect
from unionfs.union.identity import number


def merge(dialect: Dialect, directories: Sequence[Directory]) -> dict[bytes, tuple[Directory, int]]:
    """name -> (directory of the topmost layer that has it, type as DT_*), for directories topmost first."""
    merged: dict[bytes, tuple[Directory, int]] = {}
    hidden: set[bytes] = set()
    last = len(directories) - 1
    for position, directory in enumerate(directories):
        visible, deleted = dialect.read(directory)
        for name, kind in visible.items():
            if name not in merged and name not in hidden:
                merged[name] = (directory, kind)
        if position < last:
            hidden |= deleted
    return merged


def is_empty(dialect: Dialect, directories: Sequence[Directory]) -> bool:
    """Does the merged directory show no name?"""
    hidden: set[bytes] = set()
    for directory in directories:
        visible, deleted = dialect.read(directory)
        if any(name not in hidden for name in visible):
            return False
        hidden |= deleted
    return True


def shown_number(directory: Directory, name: bytes) -> int:
    """The inode number that the union shows for a name, as far as reading the directory tells it; else 0."""
    found = directory.numbers.get(name)
    return number(directory.layer, found) if found else 0
