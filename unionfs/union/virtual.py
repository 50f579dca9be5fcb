"""Virtual extended attributes: the union answers scripts. Never stored, never listed.

    user.unionfs.layer     which layer gives the object: "INDEX PATH", 0 is the topmost
    user.unionfs.layers    one such line for each layer that has it, the topmost first, down to where the search ends
    user.unionfs.config    on the root: the stack as JSON, as in stack.json
    user.unionfs.blocks    on a regular file: who has which of its bytes, as JSON (see `describe`)

Called by `xattr.py`, under the tree lock.
"""

from __future__ import annotations

import errno
import json
import os
import stat

from unionfs.errors import failed
from unionfs.layer.layer import Layer
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.dentry import Dentry
from unionfs.union.inode import DirInode, FileInode, Inode
from unionfs.union.partial import PartialFile
from unionfs.union.source import Sources

PREFIX = b"user.unionfs."


def answer(sources: Sources, inode: Inode, name: bytes) -> bytes:
    """The value. Raises ENODATA for a name that means nothing."""
    what, stack = name.removeprefix(PREFIX), sources.stack
    if what == b"layer":
        return _line(giver(stack, inode))
    if what == b"layers":
        return b"\n".join(map(_line, _layers(stack, inode)))
    if what == b"config" and inode.dentry is None and isinstance(inode, DirInode):
        return json.dumps(stack.config()).encode(errors="surrogateescape")
    if what == b"blocks" and isinstance(inode, FileInode) and inode.kind == stat.S_IFREG:
        data = inode.data or sources.open_partial(inode.location)
        return json.dumps(describe(sources, inode.location, data)).encode(errors="surrogateescape")
    raise failed(errno.ENODATA, name)


def describe(sources: Sources, location: Location, data: PartialFile | None) -> dict[str, object]:
    """A regular file's bytes. `runs`: [start, end, layer] each, the layer 0 being the topmost; `copied` and `asked`:
    bytes that were copied up so far, and that somebody wrote to; `data` is the file, if it was copied up in part.

    A metacopy file of the overlay dialect has no map, and so neither counts."""
    size, own = location.stat().st_size, location.directory.layer.index
    if data is None:
        runs = [[0, size, max(own, 0)]] if size else []
        return {"size": size, "partial": False, "block_size": None, "runs": runs, "copied": None, "asked": None}
    blocks = data.blocks
    lower = sources.stack.from_bottom(blocks.origin.layer)
    layers = {True: max(own, 0), False: lower.index if lower is not None else -1}
    return {
        "size": size,
        "partial": True,
        "block_size": blocks.block_size,
        "lower_size": blocks.watermark,
        "lower_path": os.fsdecode(blocks.origin.path),
        "runs": [[run.start, run.end, layers[run.in_upper]] for run in blocks.runs(0, size)],
        "copied": blocks.copied,
        "asked": blocks.asked,
    }


def _line(layer: Layer) -> bytes:
    return b"%d %s" % (layer.index, layer.path)


def giver(stack: Stack, inode: Inode) -> Layer:
    """The layer whose object gives the attributes."""
    if isinstance(inode, DirInode):
        return inode.directories[0].layer
    assert isinstance(inode, FileInode)
    if inode.in_upper:
        assert stack.upper is not None
        return stack.upper
    return inode.location.directory.layer


def _layers(stack: Stack, inode: Inode) -> list[Layer]:
    if isinstance(inode, DirInode):
        return [directory.layer for directory in inode.directories]
    top = giver(stack, inode)
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
