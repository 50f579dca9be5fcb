"""Lab 7, a solution."""

import struct

SECOND = 1_000_000_000
DIRENT = struct.Struct("=QQII")


def init(minor, max_readahead, flags, flags2):
    return struct.pack("=IIIIHHIIHHI28x", 7, min(minor, 38), max_readahead, 0, 12, 9, 1 << 17, 1, 0, 0, 0)


def attributes(tree, nodeid):
    st = tree.stat(nodeid)
    times = (st.atime_ns, st.mtime_ns, st.ctime_ns)
    return struct.pack(
        "=QQQQQQIIIIIIIIII", st.ino, st.size, -(-st.size // 512), *(time // SECOND for time in times),
        *(time % SECOND for time in times), st.mode, st.nlink, st.uid, st.gid, 0, 4096, 0,
    )  # fmt: skip


def lookup(tree, nodeid, name):
    child = tree.child(nodeid, name)
    return struct.pack("=QQQQII", child, 0, 1, 1, 0, 0) + attributes(tree, child)


def getattr(tree, nodeid):
    return struct.pack("=QII", 1, 0, 0) + attributes(tree, nodeid)


def open(tree, nodeid):
    return struct.pack("=QIi", 0, 0, 0)


def read(tree, nodeid, offset, size):
    return tree.read(nodeid, offset, size)


def readdir(tree, nodeid, offset, size):
    told = b""
    for number, (name, ino, kind) in list(enumerate(tree.names(nodeid), 1))[offset:]:
        entry = DIRENT.pack(ino or 1, number, len(name), kind) + name
        entry += bytes(-len(entry) % 8)
        if len(told) + len(entry) > size:
            break
        told += entry
    return told
