"""The real files of nodes that are used without being opened (`open=cached`).

Called by `noopen.py`. A file is opened when its data is first asked for, and stays open, among the files used last,
until the kernel forgets the node: so one whose name is gone works on as long as somebody has it open.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from unionfs.union.operations import FileHandle, Inode, Operations

MOST = 2048
"""Files at most that are kept open; where that is less, an eighth of the descriptors it may have: a partly
copied file takes three of them, and is synced before it is closed."""


class Opened:
    __slots__ = ("handle", "is_wanted", "users")

    def __init__(self, handle: FileHandle) -> None:
        self.handle = handle
        self.users = 0
        self.is_wanted = True


class OpenFiles:
    """The real files that are open, by node: at most one to read from and one to write to. For several threads."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._lock = Lock()
        self._opened: dict[tuple[int, bool], Opened] = {}
        self._most = max(16, min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))

    def __len__(self) -> int:
        return len(self._opened)

    def has(self, nodeid: int, writable: bool) -> bool:
        return (nodeid, writable) in self._opened

    @contextmanager
    def using(self, nodeid: int, inode: Inode, writable: bool = False) -> Iterator[FileHandle]:
        """A file for one call, opened now if it is not. Raises what opening it does."""
        one = self.take(nodeid, inode, writable)
        try:
            yield one.handle
        finally:
            self.give_back(one)

    def take(self, nodeid: int, inode: Inode, writable: bool = False) -> Opened:
        """The same in two steps, for what is done often."""
        return self._find(nodeid, writable) or self._add(nodeid, writable, self._open(inode, writable))

    def give_back(self, one: Opened) -> None:
        with self._lock:
            one.users -= 1
            is_over = not one.is_wanted and not one.users
        if is_over:
            self._operations.release(one.handle)

    def keep(self, nodeid: int, handle: FileHandle) -> None:
        """A file that was opened with its making."""
        one = self._add(nodeid, handle.flags & os.O_ACCMODE != os.O_RDONLY, handle)
        with self._lock:
            one.users -= 1

    def forgotten(self, nodeid: int) -> None:
        """The kernel knows the node no longer: nobody has the file open."""
        for writable in (False, True):
            if (nodeid, writable) in self._opened:
                self._drop((nodeid, writable))

    def _find(self, nodeid: int, writable: bool) -> Opened | None:
        """One that is open: to be read from, also one that is open to be written to."""
        with self._lock:
            key = (nodeid, True)
            one = self._opened.get(key)
            if not writable and (one is None or one.handle.flags & os.O_ACCMODE == os.O_WRONLY):
                key = (nodeid, False)
                one = self._opened.get(key)
            if one is not None:
                self._opened[key] = self._opened.pop(key)
                one.users += 1
            return one

    def _open(self, inode: Inode, writable: bool) -> FileHandle:
        if not writable:
            return self._operations.open(inode, os.O_RDONLY)
        try:
            return self._operations.open(inode, os.O_RDWR)
        except PermissionError:  # not root: its owner may write, and not read
            return self._operations.open(inode, os.O_WRONLY)

    def _add(self, nodeid: int, writable: bool, handle: FileHandle) -> Opened:
        """Note an open file, unless another thread was quicker; and close the one that was not used for longest."""
        key = (nodeid, writable)
        with self._lock:
            there = self._opened.get(key)
            one = there or Opened(handle)
            one.users += 1
            if there is None:
                self._opened[key] = one
            oldest = next(iter(self._opened)) if len(self._opened) > self._most else None
        if there is not None:
            self._operations.release(handle)
        if oldest is not None:
            self._drop(oldest)
        return one

    def _drop(self, key: tuple[int, bool]) -> None:
        with self._lock:
            one = self._opened.pop(key, None)
            if one is None:
                return
            one.is_wanted = False
            is_used = one.users > 0
        if not is_used:
            self._operations.release(one.handle)
