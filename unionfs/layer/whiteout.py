"""How a deletion is written: the two dialects behind one interface.

Called by the union floor only. A dialect reads and writes three marks: a *whiteout* (this name is deleted), an
*opaque* mark (nothing of the layers below shows in this directory) and a *redirect* (this directory goes on below
under another path). It also owns the reserved names and the extended attributes that hold bookkeeping; those are never
shown. The formats:

    mark       aufs (teaching, OCI layers)                     overlay (the kernel's overlayfs)
    whiteout   empty regular file `.wh.NAME`                   character device 0:0, or (read only) an empty file with
                                                               xattr overlay.whiteout in a directory with opaque=x
    opaque     file `.wh..wh..opq` in the directory            xattr overlay.opaque=y
    redirect   symbolic link `.wh..wh..redirect` to the path   xattr overlay.redirect
    origin     xattr unionfs.origin = "1:LAYER:INO"            the same, and xattr overlay.origin (file handle)
    part copy  xattr unionfs.blocks (union/blockmap.py)        xattr overlay.metacopy: none of its data is here

The xattrs carry the prefix `trusted.`, or `user.` for mounts without privileges. Sources: aufs(5) "Whiteout",
OCI image specification layer.md, Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar, Final

from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.workdir import WorkDirectory
from unionfs.linux import files


class _Whiteout:
    def __repr__(self) -> str:
        return "WHITEOUT"


WHITEOUT: Final = _Whiteout()
"""A lookup's answer: this layer says that the name is deleted."""
Answer = os.stat_result | _Whiteout | None
_UNKNOWN: Final = object()
_DT_DIR, _DT_CHR, _DT_REG = stat.S_IFDIR >> 12, stat.S_IFCHR >> 12, stat.S_IFREG >> 12


Name = tuple[Directory, bytes]
"""A name in a directory."""


class Dialect:
    """The interface. `prefix` is b"trusted." or b"user.": where the bookkeeping attributes live."""

    name: ClassVar[str]
    longest_name: ClassVar[int] = 255
    in_place: ClassVar[bool] = False
    """Whether a whiteout takes the place of the name itself."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.own = prefix + b"unionfs."
        self.origin = self.own + b"origin"
        self.nlink = self.own + b"nlink"
        self.blocks = self.own + b"blocks"

    # Reading

    def find(self, directory: Directory, name: bytes) -> Answer:
        """What this layer says of `name`: an object, WHITEOUT, or nothing (None)."""
        raise NotImplementedError

    def hides(self, directory: Directory, name: bytes) -> bool:
        """Is there a whiteout of `name`, whatever else there is?"""
        raise NotImplementedError

    def is_opaque(self, directory: Directory) -> bool:
        """Does this directory hide those of the layers below?"""
        opaque = directory.marks.get("opaque")
        if opaque is None:
            opaque = directory.marks["opaque"] = self._read_opaque(directory)
        return bool(opaque)

    def redirect(self, directory: Directory) -> bytes | None:
        """Under which path this directory goes on below: absolute in the union, or a name in the same parent."""
        redirect = directory.marks.get("redirect", _UNKNOWN)
        if redirect is _UNKNOWN:
            redirect = directory.marks["redirect"] = self._read_redirect(directory)
        return redirect if isinstance(redirect, bytes) else None

    def _read_opaque(self, directory: Directory) -> bool:
        raise NotImplementedError

    def _read_redirect(self, directory: Directory) -> bytes | None:
        raise NotImplementedError

    def read(self, directory: Directory) -> tuple[dict[bytes, int], set[bytes]]:
        """The layer's own listing of a directory: visible names with their types (DT_*), and deleted names."""
        raise NotImplementedError

    def is_reserved(self, name: bytes) -> bool:
        """Would this name be misread as a mark?"""
        return False

    def is_reserved_node(self, mode: int, rdev: int) -> bool:
        """Would this node be misread as a mark?"""
        return False

    # Extended attributes

    def is_mark(self, xattr: bytes) -> bool:
        """Is this kept attribute bookkeeping, neither shown to users nor copied up?"""
        return xattr.startswith((b"trusted.unionfs.", b"user.unionfs."))

    def stored(self, xattr: bytes) -> bytes:
        """Under which name a user's attribute is kept."""
        return xattr

    def shown(self, xattr: bytes) -> bytes:
        """The user's name of an attribute that is kept and not a mark."""
        return xattr

    # Writing

    def whiteout(self, directory: Directory, name: bytes, work: WorkDirectory) -> None:
        """Delete `name`: hide it in the layers below and take this layer's own object away, both or neither.

        A directory must be empty in the merged tree.
        """
        raise NotImplementedError

    def publish(self, room: Directory, aside: bytes, directory: Directory, name: bytes, is_dir: bool) -> None:
        """Move a finished object to where a whiteout of its name is; the whiteout goes."""
        raise NotImplementedError

    def unhide(self, directory: Directory, name: bytes) -> None:
        """Take away a whiteout that stands beside a new object; where it stands in its place there is nothing to do."""

    def move(self, old: Name, new: Name, is_dir: bool, leave: bool, work: WorkDirectory) -> None:
        """Rename; `leave`: the layers below still have the old name, so a whiteout takes its place. A whiteout of the
        new name goes. At no moment does the tree show anything but the old state or the new one."""
        raise NotImplementedError

    def cut_off(self, directory: Directory, name: bytes, fresh: Directory, work: WorkDirectory) -> None:
        """`fresh` is about to take the place of `name`: nothing of the layers below may show; `fresh` stays empty."""
        raise NotImplementedError

    def set_opaque(self, directory: Directory) -> None:
        """Write the mark, if it is not there."""
        raise NotImplementedError

    def set_redirect(self, directory: Directory, path: bytes, work: WorkDirectory) -> None:
        raise NotImplementedError


def _empty_file(directory: Directory, name: bytes) -> None:
    os.close(directory.create(name, os.O_WRONLY, 0o444))


@contextmanager
def _times_kept(directory: Directory) -> Iterator[None]:
    """A mark in a directory is none of its user's doing, so its times stay."""
    before = directory.own_stat()
    with directory.let_in():
        yield
    directory.here.set_times(before.st_atime_ns, before.st_mtime_ns)


class Aufs(Dialect):
    name = "aufs"
    longest_name = 255 - len(b".wh.")
    MARK = b".wh."
    OPAQUE = b".wh..wh..opq"
    REDIRECT = b".wh..wh..redirect"

    def find(self, directory: Directory, name: bytes) -> Answer:
        if name.startswith(self.MARK):
            return None
        found = directory.stat(name)
        if found is None and self.hides(directory, name):
            return WHITEOUT
        return found

    def hides(self, directory: Directory, name: bytes) -> bool:
        return len(name) <= self.longest_name and directory.has(self.MARK + name)

    def _read_opaque(self, directory: Directory) -> bool:
        """An object beside its own whiteout is new in this layer, whatever the layers below have (OCI layer.md)."""
        parent = directory.parent
        beside = parent is not None and self.hides(parent, directory.name)
        return directory.has(self.OPAQUE) or (beside and not self.redirect(directory))

    def _read_redirect(self, directory: Directory) -> bytes | None:
        return Location(directory, self.REDIRECT).readlink() if directory.has(self.REDIRECT) else None

    def read(self, directory: Directory) -> tuple[dict[bytes, int], set[bytes]]:
        visible: dict[bytes, int] = {}
        deleted: set[bytes] = set()
        for name, kind in directory.read_names().items():
            if not name.startswith(self.MARK):
                visible[name] = kind
            elif not name.startswith(self.MARK + self.MARK):
                deleted.add(name[len(self.MARK) :])
        return visible, deleted

    def is_reserved(self, name: bytes) -> bool:
        return name.startswith(self.MARK)

    def whiteout(self, directory: Directory, name: bytes, work: WorkDirectory) -> None:
        if not self.hides(directory, name):
            work.link_whiteout(_empty_file, directory, self.MARK + name)
        found = directory.stat(name)
        if found is not None:
            remove_object(directory, name, found, work)

    def publish(self, room: Directory, aside: bytes, directory: Directory, name: bytes, is_dir: bool) -> None:
        room.move(aside, directory, name)
        self.unhide(directory, name)

    def unhide(self, directory: Directory, name: bytes) -> None:
        if self.hides(directory, name):
            directory.unlink(self.MARK + name)

    def move(self, old: Name, new: Name, is_dir: bool, leave: bool, work: WorkDirectory) -> None:
        directory, name = old
        if leave and not self.hides(directory, name):
            work.link_whiteout(_empty_file, directory, self.MARK + name)
        directory.move(name, *new)
        self.unhide(*new)

    def cut_off(self, directory: Directory, name: bytes, fresh: Directory, work: WorkDirectory) -> None:
        if not self.hides(directory, name):
            work.link_whiteout(_empty_file, directory, self.MARK + name)

    def set_opaque(self, directory: Directory) -> None:
        if not directory.has(self.OPAQUE):
            with _times_kept(directory):
                _empty_file(directory, self.OPAQUE)
        directory.marks["opaque"] = True

    def set_redirect(self, directory: Directory, path: bytes, work: WorkDirectory) -> None:
        """A symbolic link is there with its whole path or not at all, whenever a crash comes."""
        aside = work.temporary_name()
        work.area.symlink(aside, path)
        with _times_kept(directory):
            work.area.move(aside, directory, self.REDIRECT)
        directory.marks["redirect"] = path


def _device_zero(directory: Directory, name: bytes) -> None:
    directory.mknod(name, stat.S_IFCHR, 0)


class Overlay(Dialect):
    name = "overlay"
    in_place = True

    def __init__(self, prefix: bytes) -> None:
        super().__init__(prefix)
        self.base = prefix + b"overlay."
        self.kernel_origin = self.base + b"origin"
        self.metacopy = self.base + b"metacopy"
        self.nlink = self.base + b"nlink"

    def find(self, directory: Directory, name: bytes) -> Answer:
        found = directory.stat(name)
        if found is None:
            return None
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            return WHITEOUT
        if found.st_size == 0 and stat.S_ISREG(found.st_mode) and self._is_whiteout_file(directory, name):
            return WHITEOUT
        return found

    def _is_whiteout_file(self, directory: Directory, name: bytes) -> bool:
        """Only a lower directory that is marked opaque=x holds whiteouts of this kind."""
        if directory.layer.writable or self._opaque_value(directory) != b"x":
            return False
        with suppress(OSError):
            path = f"/proc/self/fd/{directory.fd}/{os.fsdecode(name)}"
            os.getxattr(path, self.base + b"whiteout", follow_symlinks=False)
            return True
        return False

    def hides(self, directory: Directory, name: bytes) -> bool:
        return self.find(directory, name) is WHITEOUT

    def _opaque_value(self, directory: Directory) -> object:
        value = directory.marks.get("opaque value", _UNKNOWN)
        if value is _UNKNOWN:
            value = directory.marks["opaque value"] = directory.here.find_xattr(self.base + b"opaque")
        return value

    def _read_opaque(self, directory: Directory) -> bool:
        return self._opaque_value(directory) == b"y"

    def _read_redirect(self, directory: Directory) -> bytes | None:
        return directory.here.find_xattr(self.base + b"redirect")

    def read(self, directory: Directory) -> tuple[dict[bytes, int], set[bytes]]:
        visible: dict[bytes, int] = {}
        deleted: set[bytes] = set()
        files_too = not directory.layer.writable and self._opaque_value(directory) == b"x"
        for name, kind in directory.read_names().items():
            if (kind == _DT_CHR or (files_too and kind == _DT_REG)) and self.find(directory, name) is WHITEOUT:
                deleted.add(name)
            else:
                visible[name] = kind
        return visible, deleted

    def is_reserved_node(self, mode: int, rdev: int) -> bool:
        return stat.S_ISCHR(mode) and rdev == 0

    def is_mark(self, xattr: bytes) -> bool:
        if xattr.startswith(self.base):
            return not xattr.startswith(self.base + b"overlay.")
        return super().is_mark(xattr)

    def stored(self, xattr: bytes) -> bytes:
        """Nested overlays: a user's `overlay.NAME` is kept as `overlay.overlay.NAME` (overlayfs.rst, "Nesting")."""
        return self.base + b"overlay." + xattr[len(self.base) :] if xattr.startswith(self.base) else xattr

    def shown(self, xattr: bytes) -> bytes:
        return self.base + xattr[len(self.base) + 8 :] if xattr.startswith(self.base + b"overlay.") else xattr

    def whiteout(self, directory: Directory, name: bytes, work: WorkDirectory) -> None:
        found = directory.stat(name)
        if found is None:
            work.link_whiteout(_device_zero, directory, name)
            return
        aside = work.temporary_name()
        work.link_whiteout(_device_zero, work.area, aside)
        if stat.S_ISDIR(found.st_mode):
            work.area.move(aside, directory, name, files.RENAME_EXCHANGE)
            remove_object(work.area, aside, found, work)
        else:
            work.area.move(aside, directory, name)

    def publish(self, room: Directory, aside: bytes, directory: Directory, name: bytes, is_dir: bool) -> None:
        room.move(aside, directory, name, files.RENAME_EXCHANGE if is_dir else 0)
        if is_dir:
            room.unlink(aside)

    def move(self, old: Name, new: Name, is_dir: bool, leave: bool, work: WorkDirectory) -> None:
        directory, name = old
        if is_dir and self.hides(*new):
            directory.move(name, *new, files.RENAME_EXCHANGE)
            if not leave:
                directory.unlink(name)
        else:
            directory.move(name, *new, files.RENAME_WHITEOUT if leave else 0)

    def cut_off(self, directory: Directory, name: bytes, fresh: Directory, work: WorkDirectory) -> None:
        self.set_opaque(fresh)

    def set_opaque(self, directory: Directory) -> None:
        if directory.marks.get("opaque value") != b"y":
            directory.here.setxattr(self.base + b"opaque", b"y")
        directory.marks["opaque value"] = b"y"
        directory.marks["opaque"] = True

    def set_redirect(self, directory: Directory, path: bytes, work: WorkDirectory) -> None:
        directory.here.setxattr(self.base + b"redirect", path)
        directory.marks["redirect"] = path


def remove_object(directory: Directory, name: bytes, found: os.stat_result, work: WorkDirectory) -> None:
    """Remove this layer's object; a directory may still hold marks, and then goes by way of the work directory."""
    if stat.S_ISDIR(found.st_mode):
        remove_directory(directory, name, work)
    else:
        directory.unlink(name)


def remove_directory(directory: Directory, name: bytes, work: WorkDirectory) -> None:
    """The same, of what is known to be a directory."""
    try:
        directory.rmdir(name)
    except OSError:
        work.retire(directory, name)


DIALECTS: dict[str, type[Dialect]] = {"aufs": Aufs, "overlay": Overlay}
