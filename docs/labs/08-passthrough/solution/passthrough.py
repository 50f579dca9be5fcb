"""Lab 8, a solution."""

import fcntl
import os
import struct

from six import getattr, lookup, read, readdir  # noqa: F401

INIT_EXT, PASSTHROUGH, FOPEN_PASSTHROUGH = 1 << 30, 1 << 5, 1 << 7
BACKING_OPEN, BACKING_CLOSE = 0x4010E501, 0x4004E502
OPENED = {}


def init(minor, max_readahead, flags, flags2):
    can = flags & INIT_EXT and flags2 & PASSTHROUGH
    return struct.pack(
        "=IIIIHHIIHHII24x", 7, min(minor, 40), max_readahead, INIT_EXT if can else 0, 12, 9, 1 << 17, 1, 0, 0,
        PASSTHROUGH if can else 0, 1 if can else 0,
    )  # fmt: skip


def open(tree, nodeid):
    backing, count = OPENED.get(nodeid, (0, 0))
    if not backing:
        fd = tree.open_real(nodeid)
        try:
            backing = fcntl.ioctl(tree.device, BACKING_OPEN, bytearray(struct.pack("=iIQ", fd, 0, 0)))
        finally:
            os.close(fd)
    OPENED[nodeid] = backing, count + 1
    return struct.pack("=QIi", 0, FOPEN_PASSTHROUGH, backing)


def release(tree, nodeid):
    backing, count = OPENED.pop(nodeid)
    if count > 1:
        OPENED[nodeid] = backing, count - 1
    else:
        fcntl.ioctl(tree.device, BACKING_CLOSE, bytearray(struct.pack("=I", backing)))
