"""Lab 7: six requests of the kernel, and what a file system answers. Each function gives the body of the answer.

Errors are raised: OSError(errno.ENOENT, ...). `tree` is serve.Tree. The structs are those of include/uapi/linux/fuse.h:

    fuse_attr      =QQQQQQIIIIIIIIII   ino size blocks atime mtime ctime
                                       atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags
    fuse_entry_out =QQQQII + attr      nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec
    fuse_attr_out  =QII + attr         attr_valid attr_valid_nsec dummy
    fuse_open_out  =QIi                fh open_flags backing_id
    fuse_dirent    =QQII + name        ino off namelen type, the name, zeros up to a multiple of 8
    fuse_init_out  =IIIIHHIIHHI28x     major minor max_readahead flags max_background congestion_threshold
                                       max_write time_gran max_pages map_alignment flags2
"""


def init(minor, max_readahead, flags, flags2):
    """INIT, the first message: agree on version 7.`minor` and on what both can do. `flags` and `flags2` are what the
    kernel offers; take nothing of it: flags 0."""
    raise NotImplementedError("write init")


def lookup(tree, nodeid, name):
    """LOOKUP: the node of `name` in a directory, with its attributes. The kernel may keep both for a second."""
    raise NotImplementedError("write lookup")


def getattr(tree, nodeid):
    """GETATTR: the attributes of a node."""
    raise NotImplementedError("write getattr")


def open(tree, nodeid):
    """OPEN: a handle, which may be 0 when nothing needs to be kept."""
    raise NotImplementedError("write open")


def read(tree, nodeid, offset, size):
    """READ: up to `size` bytes; less means that the file ends there."""
    raise NotImplementedError("write read")


def readdir(tree, nodeid, offset, size):
    """READDIR: as many entries as fit into `size` bytes, beginning with number `offset`; none: that was all."""
    raise NotImplementedError("write readdir")
