"""System calls on files that the os module lacks, each a thin typed function.

Called by the layer floor, which decides what they are used for. Names are bytes relative to a directory descriptor;
symbolic links are never followed. Every function raises OSError. Sources: renameat2(2), statx(2), utimensat(2),
fallocate(2), ioctl_ficlone(2), name_to_handle_at(2), open_tree(2), mount_setattr(2), syncfs(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress

from unionfs.linux.libc import check, libc

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_COLLAPSE, FALLOC_ZERO, FALLOC_INSERT, FALLOC_UNSHARE = 1, 2, 8, 16, 32, 64

UTIME_NOW = (1 << 30) - 1
"""A time that means "now"; as a number of nanoseconds it would be 1970-01-01 00:00:01.07, the price of one name."""

AT_FDCWD, _AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = -100, 0x100, 0x1000
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_STATX_BTIME = 0x800
_FICLONE, _FICLONERANGE, _GETFSUUID = 0x40049409, 0x4020940D, 0x80111500
_SYS_OPEN_TREE, _SYS_MOUNT_SETATTR = 428, 442
_OPEN_TREE_CLONE, _ATTR_RDONLY, _ATTR_NOATIME, _ATTR_ATIME_MASK = 1, 0x1, 0x10, 0x70
_MAX_HANDLE = 128
_ENTRY, _ENTRIES_SIZE, _DOTS = struct.Struct("=Q8xHB"), 32768, (b".", b"..")
_TIMES = struct.Struct("@qlql")  # two of struct timespec


libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
libc.utimensat.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
libc.getdents64.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p]


def rename(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int = 0) -> None:
    """renameat2(2). Without flags the os module's own rename, which is quicker to call."""
    if flags:
        check(libc.renameat2(old_dir, old, new_dir, new, flags), old, new)
    else:
        os.rename(old, new, src_dir_fd=old_dir, dst_dir_fd=new_dir)


def open_quietly(name: bytes, flags: int, dir_fd: int) -> int:
    """open(2) without moving the access time, where the caller may ask for that (O_NOATIME)."""
    with suppress(PermissionError):
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    return os.open(name, flags, dir_fd=dir_fd)


def read_directory(fd: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, inode number and type (DT_*; 0 where the filesystem does not tell) of each entry but "." and "..".

    getdents64(2), from where the descriptor stands. os.scandir(3), which makes an object of each entry, takes three
    times as long.
    """
    buffer = bytearray(_ENTRIES_SIZE)
    raw = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    while end := check(libc.getdents64(fd, raw, len(buffer))):
        start = 0
        while start < end:
            number, length, kind = _ENTRY.unpack_from(buffer, start)
            name = bytes(buffer[start + _ENTRY.size : start + length]).partition(b"\0")[0]
            if name not in _DOTS:
                yield name, number, kind
            start += length


def _timespec(nanoseconds: int | None) -> tuple[int, int]:
    if nanoseconds is None:
        return 0, _UTIME_OMIT
    if nanoseconds == UTIME_NOW:
        return 0, _UTIME_NOW
    return divmod(nanoseconds, 1_000_000_000)


def set_times(dir_fd: int, name: bytes, atime: int | None, mtime: int | None, follow: bool = False) -> None:
    """utimensat(2): nanoseconds since the epoch; None leaves a time as it is, UTIME_NOW takes the clock's. Two times of
    the caller's own go through the os module, which is quicker to call."""
    if atime is None or mtime is None or UTIME_NOW in (atime, mtime):
        times = _TIMES.pack(*_timespec(atime), *_timespec(mtime))
        check(libc.utimensat(dir_fd, name, times, 0 if follow else _AT_SYMLINK_NOFOLLOW), name)
    else:
        os.utime(name, ns=(atime, mtime), dir_fd=dir_fd, follow_symlinks=follow)


def birth_time(dir_fd: int, name: bytes) -> int | None:
    """When the object was made, in nanoseconds since the epoch; None where the filesystem does not keep it."""
    buffer = ctypes.create_string_buffer(256)
    flags = _AT_SYMLINK_NOFOLLOW if name else _AT_EMPTY_PATH
    check(libc.statx(dir_fd, name, flags, _STATX_BTIME, buffer), name)
    if not struct.unpack_from("<I", buffer)[0] & _STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("<qI", buffer, 80)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), every mode the filesystem has."""
    check(libc.fallocate(fd, mode, offset, length))


def clone_data(target: int, source: int) -> bool:
    """Share all data of `source` with `target` (ioctl_ficlone(2)); False where the filesystem cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
        return True
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS):
            return False
        raise


def can_clone(target: int, source: int) -> bool:
    """Whether files of these two's filesystems can share data (ioctl_ficlonerange(2)), tried with their first page."""
    try:
        fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", source, 0, 4096, 0))
        return True
    except OSError:
        return False


def remove_tree(path: bytes) -> None:
    """All that is below a path, and the path; no symbolic link is followed. Nothing there is fine. Raises OSError."""
    with suppress(FileNotFoundError):
        remove_tree_at(AT_FDCWD, path)


def remove_tree_at(dir_fd: int, name: bytes) -> None:
    """The same by a directory and a name in it."""
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except (IsADirectoryError, PermissionError):  # unlink(2) of a directory is EISDIR here, EPERM in POSIX
        pass
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        for found, _, _ in list(read_directory(inner)):
            remove_tree_at(inner, found)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=dir_fd)


def sync_filesystem(fd: int) -> None:
    """syncfs(2)."""
    check(libc.syncfs(fd))


def file_handle(dir_fd: int, name: bytes) -> tuple[int, bytes] | None:
    """The file handle's type and bytes (name_to_handle_at(2)); None where the filesystem has none."""
    buffer = bytearray(struct.pack("<Ii", _MAX_HANDLE, 0)) + bytes(_MAX_HANDLE)
    raw = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    mount_id = ctypes.c_int()
    if libc.name_to_handle_at(dir_fd, name, raw, ctypes.byref(mount_id), 0 if name else _AT_EMPTY_PATH) < 0:
        return None
    length, kind = struct.unpack_from("<Ii", buffer)
    return kind, bytes(buffer[8 : 8 + length])


def open_handle(mount_fd: int, kind: int, handle: bytes) -> int:
    """An O_PATH descriptor of the object that a file handle names (open_by_handle_at(2), CAP_DAC_READ_SEARCH)."""
    raw = struct.pack("<Ii", len(handle), kind) + handle
    return check(libc.open_by_handle_at(mount_fd, raw, os.O_PATH | os.O_CLOEXEC))


def boot_id() -> bytes:
    """Which run of the machine this is: a UUID as text, with the end of its line (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read()


def filesystem_uuid(fd: int) -> bytes:
    """The filesystem's UUID, 16 bytes; zeros where it has none or the kernel (before 6.9) does not tell."""
    buffer = bytearray(17)
    try:
        fcntl.ioctl(fd, _GETFSUUID, buffer)
    except OSError:
        return bytes(16)
    return bytes(buffer[1:17]) if buffer[0] == 16 else bytes(16)


def private_read_only_clone(path: bytes) -> int:
    """An O_PATH descriptor of `path` on a detached, read-only, noatime clone of its mount.

    The kernel's overlayfs holds its lower layers in the same way: nothing reached through the descriptor can be
    written, no access time moves, and no other mount below `path` is seen. It goes when its last descriptor is closed.
    Linux 5.12 and CAP_SYS_ADMIN in the mount namespace; OSError elsewhere.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    fd = check(libc.syscall(_SYS_OPEN_TREE, AT_FDCWD, ctypes.c_char_p(path), flags), path)
    attributes = struct.pack("<QQQQ", _ATTR_RDONLY | _ATTR_NOATIME, _ATTR_ATIME_MASK, 0, 0)
    try:
        call = (_SYS_MOUNT_SETATTR, fd, ctypes.c_char_p(b""), _AT_EMPTY_PATH, attributes, len(attributes))
        check(libc.syscall(*call), path)
    except OSError:
        os.close(fd)
        raise
    return fd
