"""Data: which open files have bytes in a lower layer still, from their opening to their last close.

Called by `operations.py`. `FileInode.data` is set while a partly copied file is open, or being cut; a file that is not
open is asked again when it is opened (one getxattr(2)). It promises: one file has one `PartialFile`, whatever number of
names and descriptors; the blocks that it got are synced after the last close.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from unionfs import events
from unionfs.linux import files
from unionfs.union.completion import Completion
from unionfs.union.handle import FileHandle
from unionfs.union.inode import FileInode, Inode, Inodes
from unionfs.union.partial import PartialFile
from unionfs.union.source import Sources

_WHOLE = nullcontext()


class Data:
    """`when` partly copied files are completed: see `completion.py`."""

    def __init__(self, inodes: Inodes, tree: threading.RLock, sources: Sources, when: str) -> None:
        self.stack = inodes.stack
        self.inodes = inodes
        self.tree = tree
        self.sources = sources
        self.completion = Completion(when, self._release)
        self._known: dict[FileInode, None] = {}

    def of(self, inode: FileInode) -> PartialFile | None:
        """Where the bytes of a regular file are, if not all at its location. Under the tree lock. Raises EIO for a
        partly copied file that cannot be used."""
        if inode.data is None and not inode.handles and not inode.borrowers:
            inode.data = self.sources.open_partial(inode.location)
        if inode.data is not None:
            self._used(inode, inode.data)
        return inode.data

    @contextmanager
    def borrowed(self, inode: FileInode) -> Iterator[PartialFile | None]:
        """The same for one call, whether the file is open or not; without the tree lock."""
        with self.tree:
            data = self.of(inode)
            inode.borrowers += 1
        try:
            yield data
        finally:
            with self.tree:
                inode.borrowers -= 1
                self.unused(inode)

    @staticmethod
    def untouched(inode: Inode) -> AbstractContextManager[None]:
        """Nobody completes the file meanwhile, who would put back its attributes as they were. Before the tree lock."""
        data = inode.data if isinstance(inode, FileInode) else None
        return _WHOLE if data is None else data.untouched()

    def unused(self, inode: FileInode) -> None:
        """Let go what has become an ordinary file's, or a file's that nobody has open. Under the tree lock."""
        data = inode.data
        if data is not None and (data.is_finished or not (inode.handles or inode.borrowers)):
            inode.forget_data(data)
        if inode.data is None:
            self._known.pop(inode, None)
        else:
            self._used(inode, inode.data)

    def _used(self, inode: FileInode, data: PartialFile) -> None:
        self._known[inode] = None
        self.completion.opened(inode, data)

    def opened(self, handle: FileHandle) -> None:
        """A file was opened: find out where its bytes are. Under the tree lock. Raises EIO, and closes it again."""
        try:
            self.of(handle.inode)
        except BaseException:
            handle.close()
            raise
        handle.inode.opened(handle)

    # The last close

    def release(self, handle: FileHandle) -> None:
        with self.tree:
            if handle.inode.data is None or not _is_alone(handle) or not self.completion.closed(handle):
                self._close(handle)

    def _release(self, handle: FileHandle, anyway: bool) -> bool:
        """Close a file whose work was done; False where somebody wrote blocks since that are not synced."""
        with self.tree:
            data = handle.inode.data
            if not anyway and data is not None and _is_alone(handle) and not data.is_synced:
                return False
            self._close(handle)
            return True

    def _close(self, handle: FileHandle) -> None:
        with self.tree:
            inode = handle.inode
            inode.closed(handle)
            handle.close()
            self.unused(inode)
            self.inodes.drop_unused(inode)

    # The whole

    def sync(self) -> None:
        """syncfs(2) of the upper. The maps of partly copied files follow the data that they speak of."""
        if self.stack.upper is None or self.stack.volatile:
            return
        with self.tree:
            unsynced = [(inode.data, inode.data.blocks.have) for inode in self._known if inode.data is not None]
        unsynced = [(data, have) for data, have in unsynced if data.is_writable and not data.is_synced]
        files.sync_filesystem(self.stack.upper.root.fd)
        for data, have in unsynced:
            if not data.is_synced:
                data.note_synced(have)
        if unsynced:  # also when somebody else has noted it meanwhile, and not yet synced that
            files.sync_filesystem(self.stack.upper.root.fd)

    def close(self) -> None:
        self.completion.stop()
        if self._known:
            try:
                self.sync()
            except OSError as error:
                events.error(f"partly copied files could not be synced: {error.strerror}")
        self._known.clear()


def _is_alone(handle: FileHandle) -> bool:
    handles = handle.inode.handles
    return handles is not None and len(handles) == 1
