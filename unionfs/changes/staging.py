"""Staging: the room inside the target of an apply where things are built before one rename puts them in place.

Called by `apply.py`, `relink.py` and `renamed.py`. It is a directory at the root of the target, with a name that the
aufs dialect never shows, and it goes when the apply is finished. On disk, below `.wh..wh.unionfs-apply/`:

    work/    what is being built or removed; emptied when an interrupted apply goes on
    links/   copies of upper objects with several names, named by the upper's inode number: each name is a link to one
    kept/    lower objects whose names were replaced, so that their inode numbers are not used again meanwhile
    times/   times of directories, to be given back: symbolic links INO -> "ATIME MTIME", in nanoseconds
    moved/   renamed directories on their way, named by the inode number of the upper's directory
    done-*   which parts are finished
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from unionfs.changes.transplant import transplant
from unionfs.layer.layer import Directory, Layer, remove_tree
from unionfs.layer.location import Location
from unionfs.layer.workdir import WorkDirectory
from unionfs.linux import files
from unionfs.union.source import Sources

STAGING = b".wh..wh.unionfs-apply"
_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Staging:
    def __init__(self, target: Layer, sources: Sources) -> None:
        self.target = target
        self.sources = sources
        self.dialect = sources.dialect
        self._is_closed = False
        self._last: tuple[Directory, bytes] = (target.root, b"")
        with suppress(FileExistsError):
            target.root.mkdir(STAGING, 0o700)
        fd = os.open(STAGING, _OPEN_FLAGS, dir_fd=target.root.fd)
        self.work = WorkDirectory(Layer(os.path.join(target.path, STAGING), fd, -1, -1, True))
        self.work.sweep()
        self.links = self.work.folder(b"links")
        self.kept = self.work.folder(b"kept")
        self.times = self.work.folder(b"times")
        self.moved = self.work.folder(b"moved")

    def is_done(self, part: bytes) -> bool:
        return self.work.base.has(b"done-" + part)

    def done(self, part: bytes) -> None:
        """Note that a part is finished, once all that it did is on disk."""
        files.sync_filesystem(self.target.root.fd)
        os.close(self.work.base.create(b"done-" + part, os.O_WRONLY, 0o600))

    def remove(self) -> None:
        """The apply is finished, and on disk."""
        self.close()
        remove_tree(self.target.root, STAGING)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.work.close()

    def kept_attribute(self, xattr: bytes) -> bytes | None:
        """Attributes are kept as the layer has them, but for marks: those of the upper mean nothing in the target."""
        return None if self.dialect.is_mark(xattr) else xattr

    # Putting things in place

    @property
    def last(self) -> bytes:
        """The path of what was last worked on, for people."""
        return os.path.join(self._last[0].path, self._last[1])

    def put(self, directory: Directory, aside: bytes, place: Directory, name: bytes) -> None:
        """Give a finished object its name in the target, whatever is there now."""
        self._last = (place, name)
        there = place.stat(name)
        is_dir = stat.S_ISDIR(Location(directory, aside).stat().st_mode)
        if there is not None and (is_dir or stat.S_ISDIR(there.st_mode)):
            self.work.retire(place, name)
        directory.move(aside, place, name)
        self.dialect.unhide(place, name)

    def copy(self, source: Location, st: os.stat_result, place: Directory, name: bytes) -> None:
        """Put a copy of an object, no directory, into the target. Upper objects with several names stay one object."""
        self._last = (place, name)
        aside = self.work.temporary_name()
        if st.st_nlink > 1:
            shared = self._shared(source, st)
            there = place.stat(name)
            if there is not None and there.st_ino == shared.stat().st_ino:
                return  # rename(2) does nothing between two names of one object
            shared.link(self.work.area, aside)
        else:
            transplant(self.sources, source, st, self.work.area, aside, self.kept_attribute)
        self.put(self.work.area, aside, place, name)

    def _shared(self, source: Location, st: os.stat_result) -> Location:
        key = b"%d" % st.st_ino
        if not self.links.has(key):
            aside = self.work.temporary_name()
            transplant(self.sources, source, st, self.work.area, aside, self.kept_attribute)
            self.work.area.move(aside, self.links, key)
        return Location(self.links, key)

    def keep(self, lower: Location, ino: int) -> None:
        key = b"%d" % ino
        if not self.kept.has(key):
            lower.link(self.kept, key)

    def keep_times(self, directory: Directory) -> None:
        """Called before a directory is changed that must not seem so: `give_back_times` follows, whatever happens."""
        st = directory.own_stat()
        key = b"%d" % st.st_ino
        if not self.times.has(key):
            self.times.symlink(key, b"%d %d" % (st.st_atime_ns, st.st_mtime_ns))

    def give_back_times(self, directory: Directory) -> None:
        key = b"%d" % directory.own_stat().st_ino
        if self.times.has(key):
            atime, mtime = map(int, Location(self.times, key).readlink().split())
            directory.here.set_times(atime, mtime)

    def delete(self, place: Directory, name: bytes) -> None:
        """Take an object of the target away, with all below it."""
        self._last = (place, name)
        there = place.stat(name)
        if there is not None and stat.S_ISDIR(there.st_mode):
            self.work.retire(place, name)
        elif there is not None:
            place.unlink(name)
