"""An upper and its work directory, held to be emptied: no mount uses them, and none can while they are held.

Called by the commands `apply` and `discard`. It promises: the same two locks as a mount's (flock(2), see
`layer/stack.py`); nothing outside these two directories is touched, no mount and no symbolic link is followed; a name
at the upper's root is there as it was, or it is gone with all below it.

While an apply is under way its target stands in the file `unfinished-apply` of the work directory: because of that file
no mount takes the work directory, until the apply was finished.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress

from unionfs.errors import UnionfsError
from unionfs.layer.layer import Layer, remove_tree
from unionfs.layer.location import Location
from unionfs.layer.stack import UNFINISHED, Stack
from unionfs.layer.whiteout import Dialect
from unionfs.layer.workdir import WorkDirectory
from unionfs.linux import files, mounts

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_VOLATILE, _INCOMPATIBLE = b"volatile", b"incompat"
_FOLDERS = (b"index", b"links", b"nlink")


class HeldUpper:
    """Open and locked until `close`. Raises UnionfsError when it cannot be had."""

    def __init__(self, upper: bytes, work: bytes) -> None:
        self._fds: list[int] = []
        try:
            for role, path in (("upperdir", upper), ("workdir", work)):
                refuse_mounts_inside(path)
                self._fds.append(_lock(f"{role} {os.fsdecode(path)}", path))
            self.layer = Layer(upper, os.open(upper, _OPEN_FLAGS), 0, -1, True)
            self.work = WorkDirectory(Layer(work, os.open(work, _OPEN_FLAGS), -1, -1, True))
        except BaseException:
            self._unlock()
            raise

    def close(self) -> None:
        self.work.close()
        self.layer.close()
        self._unlock()

    def _unlock(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def stack(self, lower: Stack, dialect: Dialect) -> Stack:
        """The upper on top of lower layers, which become layers of the new stack."""
        for layer in lower.layers:
            layer.index += 1
        self.layer.number = len(lower.layers)
        return Stack([self.layer, *lower.layers], self.layer, self.work, dialect)

    @property
    def is_damaged(self) -> bool:
        """Whether what it holds is not to be trusted: the machine went down while it was mounted volatile, or the
        kernel's overlayfs mounted it so, which leaves a directory that it wants removed by hand (overlayfs.rst)."""
        if self.work.area.has(_INCOMPATIBLE) and self.work.area.child(_INCOMPATIBLE).has(_VOLATILE):
            return True
        if not self.work.base.has(_VOLATILE):
            return False
        return _read(Location(self.work.base, _VOLATILE)) != files.boot_id()

    # The note of an apply that is under way

    @property
    def unfinished(self) -> bytes | None:
        """Where an apply was writing to when it was interrupted."""
        return _read(Location(self.work.base, UNFINISHED)) if self.work.base.has(UNFINISHED) else None

    def begin(self, target: bytes) -> None:
        self.work.sweep()
        if self.unfinished is not None:
            return
        name = self.work.temporary_name()
        fd = self.work.area.create(name, os.O_WRONLY, 0o644)
        try:
            os.write(fd, target)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.work.area.move(name, self.work.base, UNFINISHED)

    def finish(self) -> None:
        if self.work.base.has(UNFINISHED):
            self.work.base.unlink(UNFINISHED)

    # Emptying

    def empty(self, dialect: Dialect) -> None:
        """Remove all that the upper holds, with its bookkeeping; the two directories stay, ready for the next mount."""
        root = self.layer.root
        for name, kind in list(root.read_names().items()):
            if kind << 12 == stat.S_IFDIR:
                self.work.retire(root, name)
            else:
                root.unlink(name)
        for mark in root.here.listxattr():
            if dialect.is_mark(mark) and mark != dialect.own + b"work":
                with suppress(OSError):
                    root.here.removexattr(mark)
        for folder in _FOLDERS:
            remove_tree(self.work.base, folder)
        if self.work.base.has(_VOLATILE):
            self.work.base.unlink(_VOLATILE)
        self.work.sweep()
        remove_tree(self.work.area, _INCOMPATIBLE)


def _read(location: Location) -> bytes:
    fd = location.open(os.O_RDONLY)
    with open(fd, "rb") as file:
        return file.read()


def _lock(shown: str, path: bytes) -> int:
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except OSError as error:
        why = (error.strerror or "cannot be opened").lower()
        raise UnionfsError(shown, why, "it must be there as at its last mount") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        hint = "name the place where it is mounted instead, or unmount it: findmnt -t fuse.unionfs lists them"
        raise UnionfsError(shown, "a mount uses it", hint) from error
    return fd


def refuse_mounts_inside(path: bytes) -> None:
    """Raises UnionfsError when something is mounted somewhere below `path`."""
    for mount in mounts.inside(path):
        point = os.fsdecode(mount.point)
        raise UnionfsError(os.fsdecode(path), f"something is mounted inside, on {point}", f"umount {point}")
