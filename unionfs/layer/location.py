"""One real object of a layer, whatever its type.

Called by every file of the union floor, with the union's tree lock held, as `layer.py` says.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from unionfs.errors import failed
from unionfs.linux import files

if TYPE_CHECKING:
    from unionfs.layer.layer import Directory


class Location:
    """One real object: `name` in `directory`, or an O_PATH descriptor `fd` of an object without a name.

    A `Location` of a lower layer never changes. One in the upper layer is given its new place by whoever renames it.
    """

    __slots__ = ("directory", "fd", "name")

    def __init__(self, directory: Directory, name: bytes, fd: int = -1) -> None:
        self.directory = directory
        self.name = name
        self.fd = fd

    def hold(self) -> None:
        """Keep the object by a descriptor: it is about to lose its name."""
        if self.fd < 0:
            self.fd = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory.fd)

    def release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def path(self) -> bytes:
        return os.path.join(self.directory.path, self.name) if self.name else self.directory.path

    def _reach(self) -> str:
        """A path to the object by way of its directory's descriptor."""
        if self.fd >= 0:
            return f"/proc/self/fd/{self.fd}"
        return f"/proc/self/fd/{self.directory.fd}/{os.fsdecode(self.name)}"

    def _change(self, what: str) -> str:
        self.directory.changing(what, self.name)
        return self._reach()

    # Where there is a call that takes a directory's descriptor and a name it is used: a path through /proc costs
    # 0.7 us more than that.

    def stat(self) -> os.stat_result:
        if self.fd >= 0:
            return os.stat(self.fd)
        return os.stat(self.name, dir_fd=self.directory.fd, follow_symlinks=False)

    def birth_time(self) -> int | None:
        if self.fd >= 0:
            return files.birth_time(self.fd, b"")
        return files.birth_time(self.directory.fd, self.name)

    def readlink(self) -> bytes:
        if self.fd >= 0:
            return os.readlink(b"", dir_fd=self.fd)
        return os.readlink(self.name, dir_fd=self.directory.fd)

    def open(self, flags: int) -> int:
        """A descriptor of a regular file; access times of a layer that is not writable stay as they are."""
        flags |= os.O_CLOEXEC
        if not self.directory.layer.writable:
            if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
                raise failed(errno.EROFS, self.path)
            flags |= os.O_NOFOLLOW
            return files.open_quietly(self.name, flags, self.directory.fd)
        if self.fd >= 0:
            return os.open(f"/proc/self/fd/{self.fd}", flags)
        return os.open(self.name, flags | os.O_NOFOLLOW, dir_fd=self.directory.fd)

    def truncate(self, size: int) -> None:
        os.truncate(self._change("truncate"), size)

    def chmod(self, mode: int) -> None:
        directory = self.directory.changing("chmod", self.name)
        if self.fd >= 0:
            os.chmod(self._reach(), mode)
        else:
            os.chmod(self.name, mode, dir_fd=directory)

    def chown(self, uid: int, gid: int) -> None:
        directory = self.directory.changing("chown", self.name)
        if self.fd >= 0:
            os.chown(self._reach(), uid, gid)
        else:
            os.chown(self.name, uid, gid, dir_fd=directory, follow_symlinks=False)

    def set_times(self, atime: int | None, mtime: int | None) -> None:
        directory = self.directory.changing("utimens", self.name)
        if self.fd >= 0:
            files.set_times(directory, os.fsencode(self._reach()), atime, mtime, follow=True)
        else:
            files.set_times(directory, self.name, atime, mtime)

    def link(self, directory: Directory, name: bytes, kind: int | None = None) -> None:
        """A further name for the object, of the type `kind`; one without a name (O_TMPFILE) gets its first."""
        target = directory.changing("link", name)
        if self.fd >= 0:
            os.link(self._reach(), name, dst_dir_fd=target, follow_symlinks=True)
        else:
            source, target = self.directory.with_other(directory)
            os.link(self.name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        if directory.names is not None:
            directory.noted(name, self.stat().st_mode if kind is None else kind)

    def getxattr(self, name: bytes) -> bytes:
        return os.getxattr(self._reach(), name, follow_symlinks=self.fd >= 0)

    def find_xattr(self, name: bytes) -> bytes | None:
        """The attribute's value, or None when the object has none of that name or cannot have any."""
        try:
            return self.getxattr(name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
                return None
            raise

    def setxattr(self, name: bytes, value: bytes, flags: int = 0) -> None:
        os.setxattr(self._change("setxattr"), name, value, flags, follow_symlinks=self.fd >= 0)

    def listxattr(self) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self._reach(), follow_symlinks=self.fd >= 0)]

    def removexattr(self, name: bytes) -> None:
        os.removexattr(self._change("removexattr"), name, follow_symlinks=self.fd >= 0)
