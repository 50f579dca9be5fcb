"""Passthrough: the kernel reads and writes an open file's data by itself, in the layer's own file.

Called by `calls.py` and `filecalls.py` when a file is opened, closed or about to be changed. Linux 6.9 and
CAP_SYS_ADMIN in the first user namespace; where that is missing, or a layer lies on a stacked filesystem, data goes
through this process.

One node has one backing file (fs/fuse/iomode.c): as long as a file is open anywhere, every further descriptor is passed
through to the same backing file, or none is. So the first one decides, for all until the last close:

    a file of the upper that holds all of its bytes    passed through, for reading and writing
    a file of a lower layer, opened for reading        passed through, if it has one name: a snapshot (snapshot.py)
    anything else                                      through the daemon and the page cache

**A write never lands in a lower layer.** As long as a node has descriptors that are passed through to the lower file,
its data is that of the lower file. What is about to change that gives the object another nodeid first, and is answered
ESTALE: the kernel looks the name up again, finds the new node, and asks once more. The old node is *former* then: its
descriptors and mappings stay with the lower file, and it is not opened any more.

An id is kept when its file is closed, until the kernel forgets the node: opening it again costs no system call. It also
keeps the file on disk; the kernel forgets a deleted file as soon as nobody has it open.

Setuid and setgid bits. When others write, they have to go; the kernel leaves that to the daemon (HANDLE_KILLPRIV_V2),
which sees none of these writes. So a file that has them is not passed through; and since the kernel writes with the
rights of whoever registered the backing file, it is registered without CAP_FSETID: bits that come later go with the
next write, whoever writes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from threading import Lock

from unionfs import events
from unionfs.errors import failed
from unionfs.fuse import protocol
from unionfs.layer.layer import Layer
from unionfs.layer.location import Location
from unionfs.linux import fusedev
from unionfs.linux.capabilities import CAP_FSETID, Without
from unionfs.union.operations import FileHandle, Inode, Operations

KEPT = 16_384
"""Ids at most of files that are not open: some 20 MiB of the kernel's memory, which forgets nodes when it is short."""

_CACHED = 0
_NEVER = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


class _File:
    """A node's backing file: `below` is set when that is a lower layer's, `count` how many descriptors use it. One that
    is not `kept` goes with its last descriptor."""

    __slots__ = ("backing", "below", "count", "kept")

    def __init__(self, backing: int, below: Location | None) -> None:
        self.backing = backing
        self.below = below
        self.count = 0
        self.kept = True


class Passthrough:
    """`connection` is the descriptor of /dev/fuse; None: there is no passthrough. Safe to call from several threads.

    `part(nodeid)` makes a node a former one. With `coherent`, lower files are not passed through: then every descriptor
    shows what was written, whenever it was opened.
    """

    def __init__(self, operations: Operations, part: Callable[[int], None], coherent: bool = False) -> None:
        self.connection: int | None = None
        self.opened_ids = self.closed_ids = 0
        self.why = ""
        """Why there is none, or not for all layers."""
        self.former: dict[int, Location] = {}
        """Nodes that were parted from their object, and the lower file that their descriptors stay with."""
        self._operations = operations
        self._part = part
        self._coherent = coherent
        self._lock = Lock()
        self._files: dict[int, _File] = {}
        self._idle: dict[int, None] = {}
        self._is_attempted = False
        self._humbly = Without(CAP_FSETID)
        self._stacked: set[int] = set()
        """Filesystems whose files are stacked upon another's already."""

    def attempt(self) -> None:
        """Find out, with one file of each filesystem that the layers lie on, whether the kernel takes it. There is no
        passthrough if it takes none."""
        examples = self._operations.snapshots.examples()
        taken = 0
        for descriptor, layer in examples:
            try:
                backing = self._register(descriptor, layer)
            finally:
                os.close(descriptor)
            if backing != _CACHED:
                taken += 1
                self._close(backing)
        if examples and not taken:
            self.connection = None
        self._is_attempted = True

    # Opening and closing

    def parted(self, nodeid: int, inode: Inode) -> bool:
        """The data of a node is about to be changed by a descriptor to come, or by name: whether the node had to be
        made a former one, so that it must not be used for that. Raises ESTALE if it was one."""
        with self._lock:
            if nodeid in self.former:
                raise failed(errno.ESTALE)
            self._operations.snapshots.end(inode)
            file = self._files.get(nodeid)
            if file is None or file.below is None:
                return False
            if not file.count:
                self._forget(nodeid)
                return False
            self.former[nodeid] = file.below
            self._part(nodeid)
            return True

    def opened_again(self, nodeid: int, inode: Inode, flags: int) -> int:
        """A file was opened, without O_TRUNC: the id of its backing file, if it has one that this descriptor may use.
        0: `opened` must decide."""
        with self._lock:
            file = self._files.get(nodeid)
            if file is None or file.backing == _CACHED or nodeid in self.former:
                return 0
            if file.below is not None:
                if flags & os.O_ACCMODE != os.O_RDONLY:  # the law of the house
                    return 0
                if not file.count and self._operations.snapshots.is_over(inode):
                    return 0
            if not file.count:
                del self._idle[nodeid]
            file.count += 1
            return file.backing

    def opened(self, nodeid: int, handle: FileHandle) -> int:
        """A file was opened: the id of its backing file, 0 for none. Raises ESTALE on a former node."""
        if self.connection is None:
            return _CACHED
        with self._lock:
            if nodeid in self.former:
                raise failed(errno.ESTALE)
            file = self._files.get(nodeid)
            if file is None or not file.count:
                file = self._first(nodeid, handle, file)
            elif file.below is not None and not self._operations.snapshots.join(handle, file.below):
                # The law of the house: what may write is never given a lower file. `parted` came first, so it
                # cannot be; should it be all the same, the write is refused here and not lost there.
                raise failed(errno.ESTALE)
            file.count += 1
            return file.backing

    def below(self, nodeid: int) -> Location | None:
        """The lower file that the node's descriptors read."""
        file = self._files.get(nodeid)
        return None if file is None else file.below

    def not_kept(self, nodeid: int) -> None:
        """The file got bits that forbid passthrough: who opens it when nobody else has it open decides anew."""
        with self._lock:
            file = self._files.get(nodeid)
            if file is not None:
                file.kept = False
                if not file.count:
                    self._forget(nodeid)

    def closed(self, nodeid: int) -> None:
        with self._lock:
            file = self._files.get(nodeid)
            if file is None:
                return
            file.count -= 1
            if file.count:
                return
            if file.backing == _CACHED or not file.kept or nodeid in self.former:
                self._forget(nodeid)
            else:
                self._idle[nodeid] = None
                if len(self._idle) > KEPT:
                    self._forget(next(iter(self._idle)))

    def forgotten(self, nodeid: int) -> None:
        """The kernel knows the node no longer."""
        with self._lock:
            self.former.pop(nodeid, None)
            if nodeid in self._files:
                self._forget(nodeid)

    @property
    def live_ids(self) -> int:
        return self.opened_ids - self.closed_ids

    # Registering, under the lock

    def _first(self, nodeid: int, handle: FileHandle, kept: _File | None) -> _File:
        """The first descriptor decides; a kept id is used again, if it is still that of the right file."""
        self._idle.pop(nodeid, None)
        below = None if self._coherent else self._operations.snapshots.pin(handle, kept.below if kept else None)
        may_pass = below is not None or handle.is_whole
        if kept is not None:
            if kept.below is below and may_pass:
                return kept
            self._forget(nodeid)
        backing = _CACHED
        if may_pass:
            backing = self._register(handle.fd, (below or handle.inode.location).directory.layer)
        if backing == _CACHED:
            below = handle.below = None
        file = self._files[nodeid] = _File(backing, below)
        return file

    def _register(self, descriptor: int, layer: Layer) -> int:
        """The id of an open file; how it was opened does not matter, since the kernel opens it for each of its users.

        Raises nothing: what the kernel refuses goes through the daemon, and so does, from here on, all like it."""
        if self.connection is None or layer.device in self._stacked:
            return _CACHED
        try:
            with self._humbly if layer.writable else nullcontext():
                backing = fusedev.backing_open(self.connection, descriptor)
        except OSError as error:
            self._refused(error, layer)
            return _CACHED
        self.opened_ids += 1
        return backing

    def _refused(self, error: OSError, layer: Layer) -> None:
        if error.errno == errno.ELOOP:
            self._stacked.add(layer.device)
            self.why = f"{os.fsdecode(layer.path)} lies on a stacked filesystem"
        elif error.errno in _NEVER:
            self.connection = None
            self.why = f"the kernel allows no passthrough ({error.strerror})"
        else:
            return
        if self._is_attempted:  # else whoever attempted it tells
            events.info(f"data goes through the daemon: {self.why}")

    def _forget(self, nodeid: int) -> None:
        self._idle.pop(nodeid, None)
        file = self._files.pop(nodeid)
        if file.backing != _CACHED:
            self._close(file.backing)

    def _close(self, backing: int) -> None:
        if self.connection is not None:
            fusedev.backing_close(self.connection, backing)
            self.closed_ids += 1


def flags(backing: int, cached: int) -> int:
    """The flags of an open reply: `cached` belong to a file whose data goes through the daemon and the page cache. What
    that has of a file goes when it is passed through, since FOPEN_KEEP_CACHE is not among the flags then.

    FOPEN_DIRECT_IO is never among them: with a backing file too, a mapping would be that of the backing file."""
    return protocol.FOPEN_NOFLUSH | (protocol.FOPEN_PASSTHROUGH if backing else cached)
