"""The second engine: the same operations, by path, through fusepy and libfuse 2.

Loaded by mount.py when it is chosen, because fusepy and libfuse 2 may be absent; UnionfsError says so then. It is the
simplest thing that mounts, and what the native engine is compared with. libfuse keeps the names that the kernel holds
and gives a path for each request; here every path is walked from the root anew, and only open files have a handle.

What libfuse 2 cannot carry is refused by the kernel or by libfuse, never dropped:

    renameat2(2) with flags                EINVAL
    open(2) with O_TMPFILE                 EOPNOTSUPP
    fallocate(2)                           EOPNOTSUPP
    lseek(2) SEEK_DATA, SEEK_HOLE          answered by the kernel: all is data, the hole is at the end
    copy_file_range(2)                     done by the kernel as reads and writes
    stat, chmod, chown, utimens, *xattr    ENOENT: they come with a path, and it has none left
    on the descriptor of an unlinked file
    statx(2) btime                         not given
    POSIX ACLs                             kept and inherited, not enforced; a default ACL does not replace the umask
    two names of one file, both open       each has a page cache of its own until the next open
    name_to_handle_at(2) after a remount   ESTALE

fusepy's own faults are mended by `_Fuse`: an unknown exception is EIO with its traceback in the log (not EINVAL, and
not success), UTIME_OMIT and offsets of a listing are passed on, names may be any bytes.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import stat
import threading
from collections.abc import Callable
from typing import Any

from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.fuse.calls import PID_XATTR, xattrs_for
from unionfs.fuse.mount import MountOptions
from unionfs.linux import files
from unionfs.union import path as paths
from unionfs.union.operations import Caller, Operations

try:
    import fuse
except ImportError as failure:
    why = "the Python package fusepy is not installed"
    raise UnionfsError("engine fusepy", why, "pip install fusepy, or use --engine native") from failure
except OSError as failure:
    hint = "install the package libfuse2 (Debian 13 and later: libfuse2t64), or use --engine native"
    raise UnionfsError("engine fusepy", "libfuse 2 is not installed", hint) from failure

_BYTES = "latin-1"
"""The encoding in which any byte is a character: fusepy speaks str, and gets each name back as it gave it."""
_OMIT = files.UTIME_NOW - 1
_STATVFS = ("bavail", "bfree", "blocks", "bsize", "favail", "ffree", "files", "flag", "frsize", "namemax")
_LIBFUSE_WORDS = frozenset(
    ("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "async", "sync", "atime", "noatime", "dirsync")
)


def serve(union: Operations, mountpoint: bytes, options: MountOptions, ready: Callable[[], None]) -> None:
    """Mount, call `ready` when requests are answered, and serve until it is unmounted or SIGTERM, SIGINT, SIGHUP come.

    The union is closed then. Raises UnionfsError when libfuse cannot mount; it says why on standard error.
    """

    def answers() -> None:
        events.info(f"mounted on {os.fsdecode(mountpoint)} by libfuse 2")
        ready()

    arguments = _arguments(options)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # libfuse ends its loop on signals that nobody else handles
    try:
        _Fuse(_Paths(union, answers), mountpoint.decode(_BYTES), raw_fi=True, encoding=_BYTES, **arguments)
    except RuntimeError as failure:
        shown = os.fsdecode(mountpoint)
        raise UnionfsError(shown, "libfuse 2 could not mount it", "unionfs doctor says what is missing") from failure
    finally:
        union.close()


def _arguments(options: MountOptions) -> dict[str, object]:
    """The words for libfuse. Attributes are not cached: two names of a hard link are two objects for libfuse 2."""
    if options.opening == "cached":
        raise UnionfsError("option open=cached", "libfuse 2 opens each file", "leave it out, or use engine=native")
    foreign = [word for word in options.flags if word not in _LIBFUSE_WORDS]
    if foreign:
        raise UnionfsError(f"option {foreign[0]}", "libfuse 2 does not know it", "leave it out, or use engine=native")
    words: dict[str, object] = {"suid": True, "dev": True} if os.geteuid() == 0 else {}
    for word in options.flags:
        words.pop(word[2:] if word.startswith("no") else f"no{word}", None)
        words[word] = True
    return words | {
        "foreground": True,
        "debug": options.debug,
        "fsname": options.source.decode(_BYTES).replace("\\", "\\\\").replace(",", "\\,"),
        "subtype": "unionfs",
        "nonempty": True,
        "default_permissions": True,
        "allow_other": os.geteuid() == 0 if options.allow_other is None else options.allow_other,
        "use_ino": True,
        "hard_remove": True,
        "big_writes": True,
        "atomic_o_trunc": True,
        "attr_timeout": 0,
    }


class _Fuse(fuse.FUSE):  # type: ignore[misc]
    """fusepy's marshalling with its faults mended."""

    @staticmethod
    def _wrapper(callback: Callable[..., Any], *arguments: Any) -> int:
        """What libfuse calls: a result, or an errno below zero. Nothing may leave it as an exception."""
        try:
            return callback(*arguments) or 0
        except OSError as failure:
            if failure.errno:
                return -failure.errno
            events.exception(f"{callback.__name__} failed")
        except BaseException:
            events.exception(f"{callback.__name__} failed")
        return -errno.EIO

    def readdir(self, _path: Any, buffer: Any, fill: Any, offset: int, info: Any) -> int:
        """Goes on at `offset` and stops when libfuse's buffer is full; the original began at the start each time."""
        attributes = fuse.c_stat()
        for entry in self.operations("readdir", info.contents.fh, offset):
            attributes.st_ino, attributes.st_mode = entry.ino, entry.type << 12
            if fill(buffer, entry.name, attributes, entry.offset):
                break
        return 0

    def utimens(self, path: bytes, times: Any) -> int:
        pair = times.contents if times else None
        atime, mtime = (_time(pair.actime), _time(pair.modtime)) if pair else (files.UTIME_NOW, files.UTIME_NOW)
        self.operations("utimens", path.decode(_BYTES), atime, mtime)
        return 0


def _time(value: Any) -> int | None:
    """Nanoseconds since the epoch, or what utimensat(2) says in place of them."""
    if value.tv_nsec in (_OMIT, files.UTIME_NOW):
        return None if value.tv_nsec == _OMIT else files.UTIME_NOW
    return int(value.tv_sec) * 1_000_000_000 + int(value.tv_nsec)


def _caller() -> Caller:
    """Who asks. The kernel has applied the umask: libfuse 2 does not ask it to leave that to us."""
    uid, gid, pid = fuse.fuse_get_context()
    return Caller(uid, gid, 0, pid)


class _Paths:
    """One method per request, as fusepy names it: find the object, hand over to the union's operation."""

    use_ns = True
    flag_nullpath_ok = flag_nopath = flag_utime_omit_ok = 1

    def __init__(self, union: Operations, ready: Callable[[], None]) -> None:
        self.union = union
        self.ready = ready
        self.handles: dict[int, Any] = {}
        self.numbers = itertools.count(1)

    def __call__(self, operation: str, *arguments: Any) -> Any:
        return getattr(self, operation)(*arguments)

    def init(self, _path: str) -> None:
        self.ready()

    def _at(self, path: str) -> Any:
        return paths.at(self.union, path.encode(_BYTES))

    def _parent_of(self, path: str) -> Any:
        return paths.parent_of(self.union, path.encode(_BYTES))

    def _keep(self, handle: Any) -> int:
        number = next(self.numbers)
        self.handles[number] = handle
        return number

    # Attributes

    def getattr(self, path: str | None, info: Any = None) -> dict[str, int]:
        if info is not None:
            handle = self.handles[info.fh]
            return _stat(self.union.getattr(handle.inode, handle=handle))
        assert path is not None
        with self._at(path) as inode:
            return _stat(self.union.getattr(inode))

    def _setattr(self, path: str, **changes: Any) -> None:
        with self._at(path) as inode:
            self.union.setattr(inode, **changes)

    def chmod(self, path: str, mode: int) -> None:
        self._setattr(path, mode=stat.S_IMODE(mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._setattr(path, uid=None if uid == -1 else uid, gid=None if gid == -1 else gid)

    def utimens(self, path: str, atime: int | None, mtime: int | None) -> None:
        self._setattr(path, atime_ns=atime, mtime_ns=mtime)

    def truncate(self, path: str | None, length: int, info: Any = None) -> None:
        if info is not None:
            handle = self.handles[info.fh]
            self.union.setattr(handle.inode, size=length, handle=handle)
        else:
            assert path is not None
            self._setattr(path, size=length)

    def statfs(self, _path: str) -> dict[str, int]:
        result = self.union.statfs()
        return {f"f_{name}": getattr(result, f"f_{name}") for name in _STATVFS}

    # Names

    def readlink(self, path: str) -> str:
        with self._at(path) as inode:
            return self.union.readlink(inode).decode(_BYTES)

    def mknod(self, path: str, mode: int, device: int) -> None:
        with self._parent_of(path) as (parent, name):
            self.union.forget(self.union.mknod(parent, name, mode, device, _caller())[0])

    def mkdir(self, path: str, mode: int) -> None:
        with self._parent_of(path) as (parent, name):
            self.union.forget(self.union.mkdir(parent, name, mode, _caller())[0])

    def symlink(self, path: str, target: str) -> None:
        with self._parent_of(path) as (parent, name):
            self.union.forget(self.union.symlink(parent, name, target.encode(_BYTES), _caller())[0])

    def link(self, path: str, source: str) -> None:
        with self._at(source) as inode, self._parent_of(path) as (parent, name):
            self.union.forget(self.union.link(inode, parent, name)[0])

    def unlink(self, path: str) -> None:
        with self._parent_of(path) as (parent, name):
            self.union.unlink(parent, name)

    def rmdir(self, path: str) -> None:
        with self._parent_of(path) as (parent, name):
            self.union.rmdir(parent, name)

    def rename(self, old: str, new: str) -> None:
        with self._parent_of(old) as (parent, name), self._parent_of(new) as (new_parent, new_name):
            self.union.rename(parent, name, new_parent, new_name)

    # Open files

    def open(self, path: str, info: Any) -> None:
        with self._at(path) as inode:
            kill = bool(info.flags & os.O_TRUNC and _caller().uid)  # what is cut in open(2) comes without a SETATTR
            info.fh = self._keep(self.union.open(inode, info.flags, kill))

    def create(self, path: str, mode: int, info: Any) -> None:
        with self._parent_of(path) as (parent, name):
            inode, _, handle = self.union.create(parent, name, info.flags, mode, _caller())
        info.fh = self._keep(handle)
        self.union.forget(inode)

    def read(self, _path: None, size: int, offset: int, info: Any) -> bytes:
        return bytes(self.union.read(self.handles[info.fh], offset, size))

    def write(self, _path: None, data: bytes, offset: int, info: Any) -> int:
        return self.union.write(self.handles[info.fh], offset, data)

    def flush(self, _path: None, info: Any) -> None:
        self.union.flush(self.handles[info.fh])

    def fsync(self, _path: None, datasync: int, info: Any) -> None:
        self.union.fsync(self.handles[info.fh], bool(datasync))

    def release(self, _path: None, info: Any) -> None:
        self.union.release(self.handles.pop(info.fh))

    # Directories: fusepy hands over the number alone

    def opendir(self, path: str) -> int:
        with self._at(path) as inode:
            return self._keep(self.union.opendir(inode))

    def readdir(self, number: int, offset: int) -> Any:
        return self.union.readdir(self.handles[number], offset)

    def fsyncdir(self, _path: None, datasync: int, number: int) -> None:
        self.union.fsyncdir(self.handles[number], bool(datasync))

    def releasedir(self, _path: None, number: int) -> None:
        self.union.releasedir(self.handles.pop(number))

    # Extended attributes. `position` is for resource forks of another system: always 0 here.

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        if path == "/" and name.encode(_BYTES) == PID_XATTR:
            return b"%d" % os.getpid()
        with self._at(path) as inode:
            return self.union.getxattr(inode, name.encode(_BYTES))

    def setxattr(self, path: str, name: str, value: bytes, flags: int, position: int = 0) -> None:
        with self._at(path) as inode:
            self.union.setxattr(inode, name.encode(_BYTES), value, flags)

    def listxattr(self, path: str) -> list[str]:
        with self._at(path) as inode:
            return [name.decode(_BYTES) for name in xattrs_for(_caller().uid, self.union.listxattr(inode))]

    def removexattr(self, path: str, name: str) -> None:
        with self._at(path) as inode:
            self.union.removexattr(inode, name.encode(_BYTES))


def _stat(attributes: Any) -> dict[str, int]:
    names = ("ino", "size", "blocks", "mode", "nlink", "uid", "gid", "rdev", "blksize")
    values = {f"st_{name}": getattr(attributes, name) for name in names}
    for name in ("atime", "mtime", "ctime"):
        values[f"st_{name}"] = getattr(attributes, f"{name}_ns")
    return values
