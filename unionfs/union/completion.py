"""Completion: partly copied files are synced when they are closed, and made whole, when the union was told to.

Called by `operations.py`. One thread, started when there is first something to do: the only one of this floor, because
neither the caller who closes a file nor anybody else should wait for the disk. `when` says when a partly copied file is
completed:

    background   once it has been read and written some dozens of times, in large pieces, while it is open and after
    close        after its last close
    never        only by writing to all of it, or by `unionfs settle`

Whatever it is, after the last close the file is synced: blocks that were not count only until the machine is started
anew (see `blockmap.py`).
"""

from __future__ import annotations

import errno
import os
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import perf_counter, process_time, thread_time

from unionfs import events
from unionfs.errors import UnionfsError, did_you_mean
from unionfs.linux.scheduling import begin_thread
from unionfs.union.handle import FileHandle
from unionfs.union.inode import FileInode
from unionfs.union.partial import BUSY, PartialFile

WHEN = ("background", "close", "never")
COMPLETE = "background"
"""The default, chosen by benchmarks/rows_first_write.py."""
PIECE = 4 << 20
"""Bytes copied at a time: who writes to the file meanwhile waits for one piece at most."""
_FREE = 0.05
"""The part of the upper's filesystem that completion leaves free."""
_BUSY = 0.05
"""Others are at work when they took this part of the time that a piece needed, in processor time."""
_PAUSE = 20
"""Then it waits this many times as long as the piece took. Whoever works on the file goes first."""


def check(when: str) -> str:
    """The word, if it is one of WHEN. Raises UnionfsError."""
    if when not in WHEN:
        hint = did_you_mean(when, WHEN) or f"one of {', '.join(WHEN)}"
        raise UnionfsError(f"copyup_complete={when}", "there is no such time", hint)
    return when


class Completion:
    """`release(handle, anyway)` is called when a closed file's work is done; it answers False when there is more to do,
    unless it must be released `anyway`."""

    def __init__(self, when: str, release: Callable[[FileHandle, bool], bool]) -> None:
        self.when = when
        self.completed: Callable[[FileInode], None] = lambda inode: None
        """Told of a file whose space on disk has changed without a request."""
        self._release = release
        self._queue: SimpleQueue[FileHandle | FileInode | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._stopping = Event()
        self._active: deque[FileInode] = deque()

    def opened(self, inode: FileInode, data: PartialFile) -> None:
        """A partly copied file was opened. Most are closed again after a few requests: only one that is used more than
        that is worth the space."""
        if self.when == "background" and data.on_busy is None:
            data.on_busy = partial(self._submit, inode)

    def closed(self, handle: FileHandle) -> bool:
        """Its last user closes a file. True: there is work to do, and the handle is released when that is done."""
        data = handle.inode.data
        if data is None or data.is_finished or not data.is_writable:
            return False
        return (self._is_wanted(data) or not data.is_synced) and self._submit(handle)

    def _is_wanted(self, data: PartialFile) -> bool:
        """Whether a file is to be completed after its last close."""
        return self.when == "close" or (self.when == "background" and data.uses >= BUSY)

    def _submit(self, job: FileHandle | FileInode) -> bool:
        if self._thread is None:
            thread = Thread(target=self._run, name="unionfs completion", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                events.warning(f"the thread that completes files could not be started: {error}")
                return False
            self._thread = thread
        self._queue.put(job)
        return True

    def stop(self) -> None:
        """Finish what was closed, without completing more, and end the thread."""
        if self._thread is not None:
            self.when = "never"
            self._stopping.set()
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        begin_thread()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        pause: float | None = None
        while True:
            try:
                job = self._queue.get(timeout=pause)
            except Empty:
                pause = self._piece()
                continue
            if job is None:
                return
            if isinstance(job, FileHandle):
                self._finish(job)
            elif job not in self._active:
                self._active.append(job)
            pause = 0.0 if self._active else None

    def _finish(self, handle: FileHandle) -> None:
        """A file was closed; somebody may open it again, write to it, and close it meanwhile."""
        is_released = False
        while not is_released:
            is_released = self._release(handle, not self._was_worked_on(handle.inode))

    def _was_worked_on(self, inode: FileInode) -> bool:
        """False: there is no more to do, since it cannot be done, or nobody will see it."""
        data = inode.data
        try:
            if data is None or not os.fstat(data.fd).st_nlink:
                return False
            before = data.blocks.have
            try:
                self._complete(data)
            except OSError as error:
                events.error(f"a partly copied file could not be completed: {error.strerror}")
                data.uses = 0
            data.sync()
            if data.blocks.have != before:
                self.completed(inode)
        except OSError as error:
            events.error(f"a partly copied file could not be synced: {error.strerror}")
            return False
        return True

    def _complete(self, data: PartialFile) -> None:
        while self._is_wanted(data) and self._has_room(data):
            copied, pause = self._copy_piece(data)
            if not copied or self._stopping.wait(pause):
                return

    @staticmethod
    def _copy_piece(data: PartialFile) -> tuple[int, float]:
        """How many bytes were copied, and how many seconds to leave to others before the next piece."""
        start, others = perf_counter(), process_time() - thread_time()
        copied = data.complete_piece(PIECE)
        took = perf_counter() - start
        is_busy = process_time() - thread_time() - others > took * _BUSY
        return copied, took * _PAUSE if is_busy else 0.0

    def _piece(self) -> float | None:
        """Copy a piece of the file whose turn it is. How long to wait before the next; None: there is nothing to do."""
        if not self._active:
            return None
        inode = self._active.popleft()
        data, users = inode.data, inode.handles
        if data is None or not users or self.when != "background" or not data.is_writable or not self._has_room(data):
            return 0.0 if self._active else None
        try:
            copied, pause = self._copy_piece(data)
            if not copied:
                data.sync()
                inode.forget_data(data)
                self.completed(inode)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                events.error(f"a partly copied file could not be completed: {error.strerror}")
            return 0.0
        self._active.append(inode)
        return pause

    @staticmethod
    def _has_room(data: PartialFile) -> bool:
        """Whether the upper's filesystem has room for the rest of the file, and some more."""
        with suppress(OSError):
            found = os.fstatvfs(data.fd)
            return found.f_bavail * found.f_frsize > data.missing + _FREE * found.f_blocks * found.f_frsize
        return False
