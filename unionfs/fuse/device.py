"""The channel to the kernel: requests in, replies out.

Called by `server.py`. It promises that no reply and no failure of one ends the service: a reply that the kernel no
longer waits for is dropped, one that it does not take is replaced by an error, so that no process waits for ever.
"""

from __future__ import annotations

import errno
import os

from unionfs import events
from unionfs.fuse import wire
from unionfs.fuse.wire import Reply, Request

_AGAIN = (errno.ENOENT, errno.EINTR, errno.EAGAIN)
"""A request was taken back before it could be read; a signal came."""

_OVER = (errno.ENODEV, errno.ECONNABORTED)
"""The file system is unmounted, or its connection aborted."""


class Device:
    """An open /dev/fuse, which it owns, and the buffers that requests are read into."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, True)
        self.descriptor = descriptor
        self._free: list[Request] = []

    def request(self) -> Request:
        """An unused buffer. `recycle` it, or read into it again, when its request is answered."""
        try:
            return self._free.pop()
        except IndexError:
            return Request()

    def recycle(self, request: Request) -> None:
        self._free.append(request)

    def receive(self, request: Request) -> bool:
        """Wait for the next message. False: the connection is over. Raises WireError for one without a right header."""
        while True:
            try:
                received = os.readv(self.descriptor, request.vector)
            except OSError as error:
                if error.errno in _AGAIN:
                    continue
                if error.errno in _OVER:
                    return False
                raise
            if not received:
                return False
            request.parse(received)
            return True

    def send(self, unique: int, reply: Reply) -> None:
        """Answer the request `unique`. None: it gets no answer. Without a `unique` it would be a notification."""
        if reply is None or not unique:
            return
        try:
            if isinstance(reply, tuple):
                os.writev(self.descriptor, reply)
            else:
                os.write(self.descriptor, reply)
        except OSError as error:
            self._refused(unique, error)

    def _refused(self, unique: int, error: OSError) -> None:
        # ENOENT: the connection was aborted and the request with it. What reached us is otherwise waited for, however
        # the caller ends, so an entry or a handle in the reply is not lost.
        if error.errno == errno.ENOENT or error.errno in _OVER:
            return
        events.error(f"the kernel did not take the answer to request {unique}: {error.strerror}")
        try:
            os.write(self.descriptor, wire.error(unique, errno.EIO))
        except OSError as again:
            events.error(f"nor an error in its place: {again.strerror}")

    def notify(self, message: bytes) -> None:
        """Tell the kernel to forget something. What it does not know needs no forgetting (ENOENT)."""
        try:
            os.write(self.descriptor, message)
        except OSError as error:
            if error.errno != errno.ENOENT and error.errno not in _OVER:
                events.error(f"the kernel did not take a notification: {error.strerror}")

    def close(self) -> None:
        os.close(self.descriptor)
