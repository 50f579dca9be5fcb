"""Given: the loop over /dev/fuse, and a union as a tree of numbered nodes. Read it; you need not change it.

A message of the kernel is a header (struct fuse_in_header, 40 bytes) and a body; an answer is a header
(fuse_out_header: length, error, unique) and a body. Source: fuse(4), include/uapi/linux/fuse.h.
"""

import errno
import os
import struct

IN, OUT = struct.Struct("=IIQQIIII"), struct.Struct("=IiQ")
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, INIT, OPENDIR, READDIR, RELEASEDIR, DESTROY, BATCH_FORGET = (
    1, 2, 3, 14, 15, 18, 26, 27, 28, 29, 38, 42,
)  # fmt: skip
ROOT = 1


class Tree:
    """The nodes that the kernel knows: numbers of paths in a unionfs.Union. Numbers are given once, and kept."""

    def __init__(self, union, device=-1):
        self.union = union
        self.device = device
        self._paths = {ROOT: ""}
        self._numbers = {"": ROOT}

    def path(self, nodeid):
        return self._paths[nodeid]

    def child(self, nodeid, name):
        """The number of `name` (bytes) in a directory. Raises FileNotFoundError."""
        path = os.path.join(self.path(nodeid), os.fsdecode(name))
        self.union.stat(path)
        number = self._numbers.setdefault(path, len(self._numbers) + 1)
        self._paths[number] = path
        return number

    def stat(self, nodeid):
        """Of the union: .mode .size .nlink .uid .gid .ino, and .atime_ns .mtime_ns .ctime_ns."""
        return self.union.stat(self.path(nodeid))

    def names(self, nodeid):
        """A list of (name as bytes, inode number, type as DT_*), in the same order each time."""
        return sorted((entry.name, entry.ino, entry.type) for entry in self.union.scandir(self.path(nodeid)))

    def open_real(self, nodeid):
        """A descriptor of the layer's own file, for reading."""
        _, layer = self.union.getxattr(self.path(nodeid), b"user.unionfs.layer").split(b" ", 1)
        return os.open(os.path.join(os.fsdecode(layer), self.path(nodeid)), os.O_RDONLY | os.O_CLOEXEC)

    def read(self, nodeid, offset, size):
        with self.union.open(self.path(nodeid)) as file:
            return file.pread(size, offset)


def answer(functions, tree, message):
    """The answer to a message, or None where the kernel expects none. `functions` has the student's six."""
    _, opcode, unique, nodeid, *_ = IN.unpack_from(message)
    body = bytes(message[IN.size :])
    try:
        told = _dispatch(functions, tree, opcode, nodeid, body)
    except OSError as error:
        return OUT.pack(OUT.size, -(error.errno or errno.EIO), unique)
    return None if told is None else OUT.pack(OUT.size + len(told), 0, unique) + told


def _dispatch(functions, tree, opcode, nodeid, body):
    if opcode == INIT:
        _, minor, max_readahead, flags, flags2 = struct.unpack_from("=IIIII", body.ljust(20, b"\0"))
        return functions.init(minor, max_readahead, flags, flags2)
    if opcode == LOOKUP:
        return functions.lookup(tree, nodeid, body.rstrip(b"\0"))
    if opcode == GETATTR:
        return functions.getattr(tree, nodeid)
    if opcode == OPEN:
        return functions.open(tree, nodeid)
    if opcode == OPENDIR:
        return struct.pack("=QIi", 0, 0, 0)
    if opcode == RELEASE:
        release = vars(functions).get("release")  # lab 8
        if release is not None:
            release(tree, nodeid)
        return b""
    if opcode in (READ, READDIR):
        _, offset, size = struct.unpack_from("=QQI", body)
        return (functions.read if opcode == READ else functions.readdir)(tree, nodeid, offset, size)
    if opcode in (RELEASEDIR, DESTROY):
        return b""
    if opcode in (FORGET, BATCH_FORGET):
        return None
    raise OSError(errno.ENOSYS, "not one of the six")


def serve(functions, union, device):
    """Until it is unmounted."""
    tree, buffer = Tree(union, device), bytearray(1 << 20)
    while True:
        try:
            size = os.readv(device, [buffer])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                continue
            raise
        told = answer(functions, tree, memoryview(buffer)[:size])
        if told is not None:
            os.write(device, told)
