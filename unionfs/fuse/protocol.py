"""The numbers of the kernel's FUSE protocol, as in include/uapi/linux/fuse.h (versions 7.31 to 7.45).

Read by the other files of the native engine. No code but `names`, which tells a number by its flags' names.
"""

from __future__ import annotations

MAJOR = 7
MINOR_OLDEST = 31
"""Linux 5.4. Older kernels are refused: they lack much that is relied on here."""
MINOR_NEWEST = 45

ROOT_ID = 1
OPCODES = 54
"""One more than the highest opcode known."""

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK = 8, 9, 10, 11, 12, 13
OPEN, READ, WRITE, STATFS, RELEASE, FSYNC = 14, 15, 16, 17, 18, 20
SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH = 21, 22, 23, 24, 25
INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 26, 27, 28, 29, 30
GETLK, SETLK, SETLKW, ACCESS, CREATE, INTERRUPT, BMAP, DESTROY = 31, 32, 33, 34, 35, 36, 37, 38
IOCTL, POLL, NOTIFY_REPLY, BATCH_FORGET, FALLOCATE, READDIRPLUS = 39, 40, 41, 42, 43, 44
RENAME2, LSEEK, COPY_FILE_RANGE, SETUPMAPPING, REMOVEMAPPING, SYNCFS = 45, 46, 47, 48, 49, 50
TMPFILE, STATX, COPY_FILE_RANGE_64 = 51, 52, 53

NOTIFY_INVAL_INODE = 2

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FATTR_ATIME, FATTR_MTIME, FATTR_FH, FATTR_ATIME_NOW, FATTR_MTIME_NOW = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
FATTR_KILL_SUIDGID = 1 << 11

GETATTR_FH = 1
OPEN_KILL_SUIDGID = 1
WRITE_KILL_SUIDGID = 1 << 2
FSYNC_FDATASYNC = 1
SETXATTR_ACL_KILL_SGID = 1

FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR, FOPEN_NOFLUSH, FOPEN_PASSTHROUGH = 1 << 1, 1 << 3, 1 << 5, 1 << 7

INIT_FLAGS = {
    "ASYNC_READ": 1 << 0, "POSIX_LOCKS": 1 << 1, "FILE_OPS": 1 << 2, "ATOMIC_O_TRUNC": 1 << 3,
    "EXPORT_SUPPORT": 1 << 4, "BIG_WRITES": 1 << 5, "DONT_MASK": 1 << 6, "SPLICE_WRITE": 1 << 7,
    "SPLICE_MOVE": 1 << 8, "SPLICE_READ": 1 << 9, "FLOCK_LOCKS": 1 << 10, "HAS_IOCTL_DIR": 1 << 11,
    "AUTO_INVAL_DATA": 1 << 12, "DO_READDIRPLUS": 1 << 13, "READDIRPLUS_AUTO": 1 << 14, "ASYNC_DIO": 1 << 15,
    "WRITEBACK_CACHE": 1 << 16, "NO_OPEN_SUPPORT": 1 << 17, "PARALLEL_DIROPS": 1 << 18, "HANDLE_KILLPRIV": 1 << 19,
    "POSIX_ACL": 1 << 20, "ABORT_ERROR": 1 << 21, "MAX_PAGES": 1 << 22, "CACHE_SYMLINKS": 1 << 23,
    "NO_OPENDIR_SUPPORT": 1 << 24, "EXPLICIT_INVAL_DATA": 1 << 25, "MAP_ALIGNMENT": 1 << 26, "SUBMOUNTS": 1 << 27,
    "HANDLE_KILLPRIV_V2": 1 << 28, "SETXATTR_EXT": 1 << 29, "INIT_EXT": 1 << 30, "SECURITY_CTX": 1 << 32,
    "HAS_INODE_DAX": 1 << 33, "CREATE_SUPP_GROUP": 1 << 34, "HAS_EXPIRE_ONLY": 1 << 35, "DIRECT_IO_ALLOW_MMAP": 1 << 36,
    "PASSTHROUGH": 1 << 37, "NO_EXPORT_SUPPORT": 1 << 38, "HAS_RESEND": 1 << 39, "ALLOW_IDMAP": 1 << 40,
    "OVER_IO_URING": 1 << 41, "REQUEST_TIMEOUT": 1 << 42,
}  # fmt: skip

OPEN_FLAGS = {
    "O_WRONLY": 0o1, "O_RDWR": 0o2, "O_CREAT": 0o100, "O_EXCL": 0o200, "O_NOCTTY": 0o400, "O_TRUNC": 0o1000,
    "O_APPEND": 0o2000, "O_NONBLOCK": 0o4000, "O_DSYNC": 0o10000, "O_DIRECT": 0o40000, "O_LARGEFILE": 0o100000,
    "O_DIRECTORY": 0o200000, "O_NOFOLLOW": 0o400000, "O_NOATIME": 0o1000000, "O_CLOEXEC": 0o2000000,
    "O_SYNC": 0o4000000, "O_PATH": 0o10000000, "O_TMPFILE": 0o20000000, "FMODE_EXEC": 0o40,
}  # fmt: skip

SETATTR_FLAGS = {
    "MODE": FATTR_MODE, "UID": FATTR_UID, "GID": FATTR_GID, "SIZE": FATTR_SIZE, "ATIME": FATTR_ATIME,
    "MTIME": FATTR_MTIME, "FH": FATTR_FH, "ATIME_NOW": FATTR_ATIME_NOW, "MTIME_NOW": FATTR_MTIME_NOW,
    "LOCKOWNER": 1 << 9, "CTIME": 1 << 10, "KILL_SUIDGID": FATTR_KILL_SUIDGID,
}  # fmt: skip

WRITE_FLAGS = {"CACHE": 1 << 0, "LOCKOWNER": 1 << 1, "KILL_SUIDGID": WRITE_KILL_SUIDGID}
RENAME_FLAGS = {"NOREPLACE": 1, "EXCHANGE": 2, "WHITEOUT": 4}
XATTR_FLAGS = {"CREATE": 1, "REPLACE": 2}
FALLOCATE_FLAGS = {
    "KEEP_SIZE": 1, "PUNCH_HOLE": 2, "NO_HIDE_STALE": 4, "COLLAPSE_RANGE": 8, "ZERO_RANGE": 16, "INSERT_RANGE": 32,
    "UNSHARE_RANGE": 64,
}  # fmt: skip


def names(value: int, flags: dict[str, int]) -> str:
    """The names of the flags set in `value`, joined by `|`; what is left over in hexadecimal; "0" for none."""
    found = [name for name, bit in flags.items() if value & bit]
    rest = value & ~sum(flags.values())
    return "|".join(found + ([hex(rest)] if rest else [])) or "0"
