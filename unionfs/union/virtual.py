"""Virtual extended attributes: the union answers scripts. Never stored, never listed.

    user.unionfs.layer     which layer gives the object: "INDEX PATH", 0 is the topmost
    user.unionfs.layers    one such line for each layer that has it, the topmost first, down to where the search ends
    user.unionfs.config    on the root: the stack as JSON, as in stack.json

Called by `operations.py`, under the tree lock.
"""

from __future__ import annotations

import errno
import json
import os
import stat

from unionfs.errors import failed
from unionfs.layer.layer import Layer
from unionfs.layer.stack import Stack
from unionfs.union.dentry import Dentry
from unionfs.union.inode import DirInode, FileInode, Inode

PREFIX = b"user.unionfs."


def answer(stack: Stack, inode: Inode, name: bytes) -> bytes:
    """The value. Raises ENODATA for a name that means nothing."""
    what = name.removeprefix(PREFIX)
    if what == b"layer":
        return _line(_layers(stack, inode)[0])
    if what == b"layers":
        return b"\n".join(map(_line, _layers(stack, inode)))
    if what == b"config" and inode.dentry is None and isinstance(inode, DirInode):
        return json.dumps(stack.config()).encode(errors="surrogateescape")
    raise failed(errno.ENODATA, name)


def _line(layer: Layer) -> bytes:
    return b"%d %s" % (layer.index, layer.path)


def _layers(stack: Stack, inode: Inode) -> list[Layer]:
    if isinstance(inode, DirInode):
        return [directory.layer for directory in inode.directories]
    assert isinstance(inode, FileInode)
    if inode.in_upper:
        assert stack.upper is not None
        top = stack.upper
    else:
        top = inode.location.directory.layer
    below = [] if inode.dentry is None else _holders(stack, inode.dentry)
    return [top, *(layer for layer in below if layer is not top)]


def _holders(stack: Stack, dentry: Dentry) -> list[Layer]:
    """The layers that have an object of that name, until a whiteout or a directory ends the search."""
    holders = []
    for directory in dentry.parent.directories:
        found = stack.dialect.find(directory, dentry.name)
        if isinstance(found, os.stat_result):
            if stat.S_ISDIR(found.st_mode):
                break
            holders.append(directory.layer)
        if stack.dialect.hides(directory, dentry.name):
            break
    return holders
