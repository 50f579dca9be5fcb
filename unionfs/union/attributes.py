"""What is told of an object, and of who asks.

Used by every file of changes and by the engines. Times are nanoseconds since the epoch, sizes bytes, `blocks` units of
512 bytes, as in stat(2).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from unionfs.layer.layer import Layer
from unionfs.union.identity import number
from unionfs.union.inode import DirInode, FileInode, Inode


class Attributes(NamedTuple):
    """stat(2) of an object of the union."""

    ino: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int


class Caller(NamedTuple):
    """Who asks: what is made belongs to them."""

    uid: int
    gid: int
    umask: int = 0
    pid: int = 0


class Entry(NamedTuple):
    """One entry of a listing: `type` is DT_* (readdir(3)), the listing is resumed after it at `offset`."""

    name: bytes
    ino: int
    type: int
    offset: int


def of(inode: Inode, st: os.stat_result) -> Attributes:
    """The attributes of an inode whose real object has the attributes `st`."""
    mtime_ns, nlink = st.st_mtime_ns, st.st_nlink
    if isinstance(inode, FileInode):
        nlink = max(0, nlink + inode.nlink_extra)
        if inode.data is not None and inode.data.mtime_ns is not None:
            mtime_ns = inode.data.mtime_ns
    else:
        nlink = _shown_links(inode, nlink)
    return Attributes(
        inode.number, st.st_size, st.st_blocks, st.st_atime_ns, mtime_ns, st.st_ctime_ns, st.st_mode,
        nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_blksize,
    )  # fmt: skip


def of_lower(layer: Layer, st: os.stat_result, nlink: int) -> Attributes:
    """Those of an object of a lower layer of which no inode was made; `nlink` is the link count to be shown."""
    return Attributes(
        number(layer, st.st_ino), st.st_size, st.st_blocks, st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns, st.st_mode,
        nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_blksize,
    )  # fmt: skip


def _shown_links(inode: Inode, real: int) -> int:
    """A merged directory shows 1, "not known", as on overlayfs: counting its subdirectories would list it."""
    assert isinstance(inode, DirInode)
    if inode.removed:
        return 0
    return real if len(inode.directories) == 1 else 1
