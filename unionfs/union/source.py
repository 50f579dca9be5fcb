"""Source: where the data of a layer's file is, when the file was copied up in part.

Called by `data.py`, `copyup.py` and whatever copies files out of a layer. Two kinds of files go on in a lower layer:

    block map    `unionfs.blocks` (see `blockmap.py`), which names the lower file: layer from the bottom, and path
    metacopy     `overlay.metacopy`, in the overlay dialect: no data at all is in this file. The lower one has the same
                 name, or that of `overlay.redirect` (overlayfs.rst, "Metadata only copy up")

What a map or a mark leads to is checked, never guessed: EIO, with a message in the log that names the file, when the
lower file is gone, has another size or time, or cannot be read; when a map is damaged or of an unknown version.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from unionfs import events
from unionfs.errors import failed
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import Overlay
from unionfs.linux import files
from unionfs.union.blockmap import LONGEST_PATH, BlockMap, Origin
from unionfs.union.content import Content
from unionfs.union.lookup import find, find_path
from unionfs.union.partial import PartialFile

_NOT_KEPT = (errno.EOPNOTSUPP, errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EPERM)
LONGEST_REDIRECT = 255
"""fs/overlayfs/overlayfs.h, OVL_REDIRECT_MAX, its end counted."""


class MapRecord:
    """The map as an attribute of the open file `fd`."""

    def __init__(self, fd: int, name: bytes, boot_id: bytes) -> None:
        self.fd = fd
        self.name = name
        self.boot_id = boot_id

    def write(self, blocks: BlockMap) -> None:
        _as_owner(self.fd, partial(os.setxattr, self.fd, self.name, blocks.pack(self.boot_id)))

    def remove(self) -> None:
        _remove(self.fd, self.name)


def _remove(fd: int, name: bytes) -> None:
    try:
        _as_owner(fd, partial(os.removexattr, fd, name))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise


def _as_owner(fd: int, change: Callable[[], None]) -> None:
    """Change a user attribute even of a file that its owner, not being root, may not write to: its mode is put back."""
    try:
        change()
    except PermissionError:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.fchmod(fd, mode | 0o200)
        try:
            change()
        finally:
            os.fchmod(fd, mode)


class MetacopyRecord:
    """No map: until all data is there, none of it counts."""

    def __init__(self, fd: int, dialect: Overlay) -> None:
        self.fd = fd
        self.dialect = dialect

    def mark(self, redirect: bytes) -> None:
        os.setxattr(self.fd, self.dialect.base + b"redirect", redirect)
        os.setxattr(self.fd, self.dialect.metacopy, b"")

    def write(self, blocks: BlockMap) -> None:
        pass

    def remove(self) -> None:
        """The redirect goes last: a file without the first mark has no use for the second."""
        _remove(self.fd, self.dialect.metacopy)
        _remove(self.fd, self.dialect.base + b"redirect")


class Sources:
    """For the layers of one stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.dialect = stack.dialect
        self.boot_id = _boot_id()

    # Reading

    def is_partial(self, location: Location) -> bool:
        """Whether a regular file lacks data that a lower one has."""
        marks = [self.dialect.blocks]
        if isinstance(self.dialect, Overlay):
            marks.append(self.dialect.metacopy)
        return any(location.find_xattr(name) is not None for name in marks)

    def open(self, location: Location) -> Content:
        """The content of a regular file, to be read."""
        return self.open_partial(location) or Content(location.open(os.O_RDONLY))

    def open_partial(self, location: Location) -> PartialFile | None:
        """The file, if it was copied up in part; one in the upper is open for writing, if this user may do that."""
        value = location.find_xattr(self.dialect.blocks)
        if value is not None:
            return self._open_mapped(location, value)
        if isinstance(self.dialect, Overlay) and location.find_xattr(self.dialect.metacopy) is not None:
            return self._open_metacopy(location, self.dialect)
        return None

    def _open_mapped(self, location: Location, value: bytes) -> PartialFile:
        try:
            blocks = BlockMap.parse(value, self.boot_id)
        except ValueError as fault:
            raise self._broken(location, f"its block map is {fault}") from None
        lower = self._find(blocks.origin)
        st = lower.stat() if lower is not None else None
        shown = os.fsdecode(blocks.origin.path)
        if lower is None or st is None or not stat.S_ISREG(st.st_mode):
            raise self._broken(location, f"the lower file {shown} that it goes on in is not there")
        if lower.directory.layer.index <= location.directory.layer.index:
            raise self._broken(location, f"the lower file {shown} that it goes on in is in no layer below")
        if (st.st_size, st.st_mtime_ns) != (blocks.origin.size, blocks.origin.mtime_ns):
            raise self._broken(location, f"the lower file {shown} that it goes on in was changed since")
        below = self.open(lower)
        try:
            fd = self._open_file(location)
            return PartialFile(fd, blocks, below, MapRecord(fd, self.dialect.blocks, self.boot_id), self.is_durable)
        except BaseException:
            below.close()
            raise

    @property
    def is_durable(self) -> bool:
        return not self.stack.volatile

    def _open_file(self, location: Location) -> int:
        if location.directory.layer.writable:
            for flags in (os.O_RDWR, os.O_WRONLY):
                with suppress(PermissionError):
                    return location.open(flags)
        return location.open(os.O_RDONLY)

    def _find(self, origin: Origin) -> Location | None:
        """The lower file, by one name after the other: nothing outside its layer is reached."""
        layer = self.stack.from_bottom(origin.layer)
        if layer is None:
            return None
        *folders, name = origin.path.split(b"/")
        directory = layer.root
        for folder in folders:
            if folder in (b"", b".", b".."):
                return None
            directory = directory.child(folder)
        try:
            return Location(directory, name) if directory.stat(name) is not None else None
        except OSError:
            return None

    def _broken(self, location: Location, why: str) -> OSError:
        shown = os.fsdecode(location.path)
        events.error(f"{shown} was copied up in part and cannot be used: {why}")
        return failed(errno.EIO, location.path)

    # The kernel's kind

    def _open_metacopy(self, location: Location, dialect: Overlay) -> PartialFile:
        lower = self._below_metacopy(location, dialect)
        if lower is None:
            raise self._broken(location, "it has no data of its own (metacopy), and no lower file has the data")
        st = lower.stat()
        below = self.open(lower)
        try:
            fd = self._open_file(location)
            blocks = BlockMap(Origin(lower.directory.layer.number, lower.name, st.st_size, st.st_mtime_ns), st.st_size)
            return PartialFile(fd, blocks, below, MetacopyRecord(fd, dialect), self.is_durable)
        except BaseException:
            below.close()
            raise

    def _below_metacopy(self, location: Location, dialect: Overlay) -> Location | None:
        """The search goes on below the file, from the place of its name, or where a redirect leads."""
        layer = location.directory.layer
        if layer.index < 0 and self.stack.upper is not None:
            layer = self.stack.upper  # a copied-up hard link, in the index
        redirect = location.find_xattr(dialect.base + b"redirect")
        if redirect is not None and redirect.startswith(b"/"):
            found = find_path(self.stack, self.stack.below(layer), redirect)
        else:
            directories = self._parents_below(location.directory)
            found = find(self.stack, directories, redirect or location.name) if directories else None
        if found is None or not stat.S_ISREG(found.stat.st_mode):
            return None
        return Location(found.where, found.name)

    def _parents_below(self, directory: Directory) -> list[Directory]:
        """The directories that `directory` merges with in the layers below its own."""
        layer = directory.layer
        if layer not in self.stack.layers:
            return []
        merged = [layer.root, *self.stack.below(layer)]
        for name in directory.trail:
            found = find(self.stack, merged, name)
            if found is None:
                return []
            merged = found.directories
        return merged[1:]

    # Writing

    def make_mapped(
        self, content: Content, target: int, source: Location, st: os.stat_result, keep: int
    ) -> PartialFile | None:
        """Make the new, empty file `target` the partial copy of a lower one whose first `keep` bytes are wanted. None
        where that cannot be written down: no such attribute, or no room for one with this path."""
        path = location_in_layer(source)
        if len(path) > LONGEST_PATH or not self.stack.xattrs:
            return None
        blocks = BlockMap(Origin(source.directory.layer.number, path, st.st_size, st.st_mtime_ns), keep)
        record = MapRecord(os.dup(target), self.dialect.blocks, self.boot_id)
        return self._make(blocks, content, record, lambda: record.write(blocks))

    def make_metacopy(
        self, content: Content, target: int, source: Location, st: os.stat_result, redirect: bytes
    ) -> PartialFile | None:
        """The same in the words of overlayfs. It says under which name the lower layers have the file, whatever becomes
        of this one."""
        assert isinstance(self.dialect, Overlay)
        blocks = BlockMap(Origin(source.directory.layer.number, source.name, st.st_size, st.st_mtime_ns), st.st_size)
        record = MetacopyRecord(os.dup(target), self.dialect)
        return self._make(blocks, content, record, lambda: record.mark(redirect))

    def _make(
        self, blocks: BlockMap, content: Content, record: MapRecord | MetacopyRecord, mark: Callable[[], None]
    ) -> PartialFile | None:
        """Mark the file of the record, and give it its size; None, and no mark is left, where marks are not kept."""
        try:
            mark()
            os.ftruncate(record.fd, blocks.watermark)
            return PartialFile(record.fd, blocks, content, record, self.is_durable)
        except OSError as error:
            with suppress(OSError):
                record.remove()
            os.close(record.fd)
            if error.errno not in _NOT_KEPT:
                raise
            return None


def location_in_layer(location: Location) -> bytes:
    """The path of an object in its layer, without a slash at its beginning."""
    return b"/".join([*location.directory.trail, location.name])


def _boot_id() -> bytes:
    """As 16 bytes."""
    return bytes.fromhex(files.boot_id().decode().replace("-", ""))
