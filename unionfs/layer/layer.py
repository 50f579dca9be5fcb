"""A layer and its directories, reached by directory descriptors only.

Called by every file of the union floor. A `Directory` is one real directory of one layer; it is opened by one name
relative to its parent's descriptor, with O_NOFOLLOW and without crossing a mount, so that no name and no symbolic link
inside a layer leads out of it. Its methods and those of a `Location` (see `location.py`) are the only calls that change
a layer; each change is announced as the event "change" before it is made, and a layer that is not writable refuses it
with EROFS.

Not thread-safe by itself: the callers hold the union's tree lock while they use a directory's descriptor, because
descriptors of directories that were not used lately are closed and opened again on demand.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from unionfs import events
from unionfs.errors import failed
from unionfs.layer.descriptors import OpenDirectories
from unionfs.layer.location import Location
from unionfs.linux import files

_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PROBES_BEFORE_SCAN = 12
"""After so many lookups in a directory its names are read once, so that further ones cost no system call."""


class Layer:
    """One directory on disk. `index` is its place in the stack, 0 on top; `number` counts from the bottom."""

    def __init__(self, path: bytes, fd: int, index: int, number: int, writable: bool) -> None:
        self.path = path
        self.index = index
        self.number = number
        self.writable = writable
        self.device = os.fstat(fd).st_dev
        self.filesystem = 0
        """Which of the stack's filesystems: layers with the same number share inode numbers."""
        self.number_offset = 0
        """What is added to inode numbers, so that those of several filesystems differ."""
        self.opened = OpenDirectories()
        """Shared by the layers of a stack."""
        self.root = Directory(self, None, b"", fd)

    def close(self) -> None:
        self.opened.close()
        self.root.close()


class Directory:
    """One real directory of one layer. Its name and parent follow every rename made through `move`."""

    __slots__ = ("_fd", "layer", "marks", "name", "names", "numbers", "parent", "pinned", "probes", "recent")

    def __init__(self, layer: Layer, parent: Directory | None, name: bytes, fd: int = -1) -> None:
        self.layer = layer
        self.parent = parent
        self.name = name
        self._fd = fd
        self.pinned = parent is None
        self.recent = True
        """Whether the descriptor was used of late (see `descriptors.py`)."""
        self.names: dict[bytes, int] | None = None
        """The raw names with their types (DT_*), own marks included, once they were read; kept true by every change."""
        self.numbers: dict[bytes, int] = {}
        """Inode numbers by name, read together with the names; of a layer that is not writable only."""
        self.probes = 0
        self.marks: dict[str, object] = {}
        """What the dialect remembers of this directory (its opaque mark, its redirect)."""

    @property
    def fd(self) -> int:
        """An O_PATH descriptor, valid until another directory's is asked for. ENOENT or ENOTDIR when it is gone."""
        self.recent = True
        if self._fd < 0:
            self._open()
        return self._fd

    def _open(self) -> None:
        """Open the chain of directories down to this one, from the deepest that is open."""
        chain: list[Directory] = [self]
        while chain[-1]._fd < 0 and chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        above = chain.pop()
        for directory in reversed(chain):
            directory._fd = os.open(directory.name, _PATH_FLAGS, dir_fd=above._fd)
            if os.fstat(directory._fd).st_dev != self.layer.device:
                directory._stay_on_the_layer()
            if not directory.pinned:
                self.layer.opened.add(directory)
            above = directory

    def with_other(self, other: Directory) -> tuple[int, int]:
        """The descriptors of two directories, both valid: opening the second may have closed the first."""
        if other is self:
            return self.fd, self._fd
        while True:
            fds = self.fd, other.fd
            if fds == (self._fd, other._fd):
                return fds

    def _stay_on_the_layer(self) -> None:
        """Something is mounted on this directory: what is mounted is not part of the layer."""
        fd, self._fd = self._fd, -1
        os.close(fd)
        raise OSError(errno.EXDEV, "another filesystem is mounted there", os.fsdecode(self.path))

    @property
    def here(self) -> Location:
        """The directory itself as an object, for now: by its descriptor, since its mode may forbid to enter it."""
        return Location(self, b"", self.fd)

    @property
    def path(self) -> bytes:
        """The path as people see it, for messages only."""
        return os.path.join(self.layer.path, *self.trail)

    @property
    def trail(self) -> list[bytes]:
        """The names that lead here from the layer's root."""
        names, directory = [], self
        while directory.parent is not None:
            names.append(directory.name)
            directory = directory.parent
        return names[::-1]

    def pin(self) -> None:
        """Keep the descriptor open until `close`: the directory is about to lose its name."""
        _ = self.fd
        self.layer.opened.discard(self)
        self.pinned = True

    def close(self) -> None:
        self.layer.opened.discard(self)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if self.parent is not None and self._fd >= 0:
            os.close(self._fd)

    def child(self, name: bytes) -> Directory:
        return Directory(self.layer, self, name)

    # Reading

    def stat(self, name: bytes) -> os.stat_result | None:
        """What `name` is, or None when it is not there."""
        names = self.names
        if names is not None:
            if name not in names:
                return None
        else:
            self.probes += 1
            if self.probes > _PROBES_BEFORE_SCAN:
                self._read_names_if_allowed()
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.EXDEV:
                return None
            raise

    def _read_names_if_allowed(self) -> None:
        """A directory that its user may enter and not list is asked for one name after the other."""
        try:
            self.read_names()
        except PermissionError:
            self.probes = -1_000_000

    def has(self, name: bytes) -> bool:
        return name in self.names if self.names is not None else self.stat(name) is not None

    def own_stat(self) -> os.stat_result:
        return os.stat(self.fd)

    def scan(self) -> Iterator[os.DirEntry[str]]:
        """The directory's entries as os.scandir gives them, names decoded with surrogateescape."""
        fd = self.open_for_reading()
        try:
            with os.scandir(fd) as entries:
                yield from entries
        finally:
            os.close(fd)

    def open_for_reading(self) -> int:
        return files.open_quietly(b".", _READ_FLAGS, self.fd)

    def read_names(self) -> dict[bytes, int]:
        """The raw names and their types (DT_*); read once, kept true afterwards. The layer must not change below us."""
        if self.names is None:
            try:
                self.names = self._read_entries()
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.names = {}
        return self.names

    def forget_names(self) -> None:
        """Whoever goes through a whole layer has done with this directory: its names can be read again."""
        if self.parent is not None:
            self.names, self.numbers = None, {}
            self.close()

    def _read_entries(self) -> dict[bytes, int]:
        names: dict[bytes, int] = {}
        fd = self.open_for_reading()
        try:
            for name, number, kind in files.read_directory(fd):
                names[name] = kind or os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode >> 12
                if not self.layer.writable:
                    self.numbers[name] = number
        finally:
            os.close(fd)
        return names

    # Changing: each method is one system call that changes the layer

    def changing(self, what: str, name: bytes) -> int:
        """Announce a change and return the directory's descriptor; EROFS when the layer is not writable."""
        if not self.layer.writable:
            raise failed(errno.EROFS, os.path.join(self.path, name))
        if events.listeners:
            events.emit("change", what=what, path=os.path.join(self.path, name))
        return self.fd

    def noted(self, name: bytes, kind: int) -> None:
        """Remember that `name` is there now, with the type bits `kind` of a mode."""
        if self.names is not None:
            self.names[name] = kind >> 12

    def forgotten(self, name: bytes) -> None:
        if self.names is not None:
            self.names.pop(name, None)

    def create(self, name: bytes, flags: int, mode: int) -> int:
        """A new regular file, open (O_CREAT | O_EXCL)."""
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, mode, dir_fd=self.changing("create", name))
        self.noted(name, stat.S_IFREG)
        return fd

    def temporary_file(self, flags: int, mode: int) -> int:
        """A new regular file without a name (O_TMPFILE)."""
        fd = self.changing("tmpfile", b"")
        return os.open(b".", (flags & ~os.O_DIRECTORY) | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=fd)

    def mkdir(self, name: bytes, mode: int) -> Directory:
        os.mkdir(name, mode, dir_fd=self.changing("mkdir", name))
        self.noted(name, stat.S_IFDIR)
        made = self.child(name)
        made.names = {}
        return made

    def mknod(self, name: bytes, mode: int, rdev: int = 0) -> None:
        os.mknod(name, mode, rdev, dir_fd=self.changing("mknod", name))
        self.noted(name, stat.S_IFMT(mode) or stat.S_IFREG)

    def symlink(self, name: bytes, target: bytes) -> None:
        os.symlink(target, name, dir_fd=self.changing("symlink", name))
        self.noted(name, stat.S_IFLNK)

    def unlink(self, name: bytes) -> None:
        os.unlink(name, dir_fd=self.changing("unlink", name))
        self.forgotten(name)

    def rmdir(self, name: bytes) -> None:
        os.rmdir(name, dir_fd=self.changing("rmdir", name))
        self.forgotten(name)

    def move(self, name: bytes, target: Directory, new_name: bytes, flags: int = 0) -> None:
        """renameat2(2). The caller updates the `Directory` objects that moved (`relocate`)."""
        self.changing("rename", name)
        target.changing("rename", new_name)
        source, destination = self.with_other(target)
        files.rename(source, name, destination, new_name, flags)
        kind = None if self.names is None else self.names.get(name)
        if flags & files.RENAME_EXCHANGE:
            self._now(name, None if target.names is None else target.names.get(new_name))
        elif flags & files.RENAME_WHITEOUT:
            self._now(name, stat.S_IFCHR >> 12)
        else:
            self.forgotten(name)
        target._now(new_name, kind)

    def _now(self, name: bytes, kind: int | None) -> None:
        """`name` is there with the type `kind`; when that is not known the names are read again at need."""
        if kind is None:
            self.names = None
        elif self.names is not None:
            self.names[name] = kind

    @contextmanager
    def let_in(self) -> Iterator[None]:
        """Bookkeeping in a directory that its owner, who is not root, has closed to himself: its mode is put back."""
        mode = stat.S_IMODE(self.own_stat().st_mode) if os.geteuid() else 0o700
        if mode & 0o700 == 0o700:
            yield
            return
        self.here.chmod(mode | 0o700)
        try:
            yield
        finally:
            self.here.chmod(mode)

    def relocate(self, parent: Directory, name: bytes) -> None:
        """It was moved: what was built in the work directory belongs to the upper from here on."""
        self.layer.opened.discard(self)
        self.parent, self.name, self.layer = parent, name, parent.layer
        if self._fd >= 0 and not self.pinned:
            self.layer.opened.add(self)


def remove_tree(directory: Directory, name: bytes) -> None:
    """Remove `name` and all below it. For the work directory and retired upper directories only."""
    found = directory.stat(name)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        directory.unlink(name)
        return
    inner = directory.child(name)
    try:
        for child in list(inner.read_names()):
            remove_tree(inner, child)
    finally:
        inner.close()
    directory.rmdir(name)
