"""Lab 8: the kernel reads by itself. INIT, OPEN and RELEASE, so that no READ comes any more.

fuse_init_out  =IIIIHHIIHHII24x   major minor max_readahead flags max_background congestion_threshold max_write
                                   time_gran max_pages map_alignment flags2 max_stack_depth
fuse_open_out  =QIi                fh open_flags backing_id

FUSE_INIT_EXT     1 << 30 of flags: there is a second word of flags
FUSE_PASSTHROUGH  1 << 5 of flags2
FOPEN_PASSTHROUGH 1 << 7 of open_flags
FUSE_DEV_IOC_BACKING_OPEN   0x4010E501, of struct fuse_backing_map =iIQ: fd, flags, padding; gives an id
FUSE_DEV_IOC_BACKING_CLOSE  0x4004E502, of the id as =I
"""

from six import getattr, lookup, read, readdir  # noqa: F401


def init(minor, max_readahead, flags, flags2):
    """As in lab 7; and ask for passthrough, if the kernel offers it."""
    raise NotImplementedError("write init")


def open(tree, nodeid):
    """Register the layer's file (`tree.open_real(nodeid)` gives a descriptor) at `tree.device`, and answer with its id.

    A file that is open already must get the same id."""
    raise NotImplementedError("write open")


def release(tree, nodeid):
    """One descriptor less. With the last one, give the id back."""
    raise NotImplementedError("write release")
