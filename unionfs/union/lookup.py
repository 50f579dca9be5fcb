"""Lookup: one name, searched top-down through the layers that hold its parent.

Read this file first. Called by `inode.py` for one step of a path and by `change.py` to ask whether a deletion must
leave a whiteout. It promises to read only, and never to look at a layer that a whiteout, a non-directory or an opaque
directory above has cut off.

The rule (overlayfs.rst, "Upper and Lower"; aufs(5)): a whiteout ends the search, there is no such name. A non-directory
ends it, that is the file. A directory collects the directories of that name below it, until a whiteout, a
non-directory or an opaque directory; a redirect says under which path the search goes on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from unionfs.layer.layer import Directory
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import WHITEOUT


class Found(NamedTuple):
    """What a name is: `directories`, topmost first, when it is a directory; else the object `name` in `where`."""

    where: Directory
    name: bytes
    stat: os.stat_result
    directories: list[Directory]


def find(stack: Stack, parents: Sequence[Directory], name: bytes) -> Found | None:
    """Search `name` in the directories `parents`, topmost first. None: there is no such name."""
    dialect = stack.dialect
    top: Found | None = None
    bottom = len(stack.layers) - 1
    for parent in parents:
        found = dialect.find(parent, name)
        if found is None:
            continue
        if not isinstance(found, os.stat_result):
            assert found is WHITEOUT
            return top
        if not stat.S_ISDIR(found.st_mode):
            return top or Found(parent, name, found, [])
        directory = parent.child(name)
        if top is None:
            top = Found(parent, name, found, [directory])
        else:
            top.directories.append(directory)
        if parent.layer.index == bottom:
            return top
        if dialect.is_opaque(directory):
            return top
        redirect = dialect.redirect(directory)
        if redirect is None:
            continue
        if redirect.startswith(b"/"):
            top.directories.extend(resolve(stack, stack.below(parent.layer), redirect))
            return top
        name = redirect
    return top


def goes_on(parents: Sequence[Directory], name: bytes, directories: Sequence[Directory]) -> bool:
    """Whether a merged directory is just what its parents have under its name, and nothing from elsewhere."""
    return all(directory.name == name and directory.parent in parents for directory in directories)


def find_path(stack: Stack, roots: Sequence[Directory], path: bytes) -> Found | None:
    """What `path` names in the union of `roots` alone; None also for the root, which has no name."""
    parent, name = os.path.split(path.strip(b"/"))
    directories = resolve(stack, roots, parent) if parent else roots
    return find(stack, directories, name) if directories and name else None


def resolve(stack: Stack, roots: Sequence[Directory], path: bytes) -> list[Directory]:
    """The directories that `path` names in the union of `roots` alone: where an absolute redirect leads."""
    directories = list(roots)
    for name in path.strip(b"/").split(b"/"):
        if name in (b"", b".", b".."):
            return []
        found = find(stack, directories, name) if directories else None
        if found is None:
            return []
        directories = found.directories
    return directories
