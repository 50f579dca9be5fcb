"""What a monitor and an attached client say to each other, over a unix socket.

Used by `monitor.py` and `attach.py`. A frame is a kind (one byte), a length (four, in the machine's order) and so many
bytes. `Frames` is one side of a connection: it collects what came until frames are whole, and keeps what the other side
does not take yet, so that neither ever waits for the other in the middle of a frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from unionfs.linux.sockets import Socket

INPUT, INPUT_END, RESIZE, SIGNAL, NAMES = b"i", b"e", b"r", b"k", b"n"
"""From a client: keys, their end, the size of its terminal, a signal to pass on, that names are to be answered for."""
OUTPUT, ERROR, STARTED, FAILED, EXITED = b"o", b"E", b"s", b"f", b"x"
"""From the monitor: what the container put out, and how it went."""

SIZE = struct.Struct("=HH")
NUMBER = struct.Struct("=i")
_HEAD = struct.Struct("=cI")
_CHUNK = 1 << 16
FULL = 1 << 20
"""So many bytes that wait for the other side are enough: nothing more is read for it."""


class Frames:
    """One side of a connection. The socket is set not to block."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.is_open = True
        self._came = bytearray()
        self._unread: list[tuple[bytes, bytes]] = []
        self._waiting = bytearray()
        socket.setblocking(False)

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.is_open = False
        self.socket.close()

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        return len(self._waiting) >= FULL

    def put(self, kind: bytes, content: bytes = b"") -> None:
        """Send a frame now, as far as the other side takes it; the rest waits for `flush`."""
        self._waiting += _HEAD.pack(kind, len(content))
        self._waiting += content
        self.flush()

    def flush(self) -> None:
        while self._waiting and self.is_open:
            try:
                count = self.socket.send(self._waiting)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            del self._waiting[:count]

    def put_back(self, frames: Iterable[tuple[bytes, bytes]]) -> None:
        """Frames for the next `read`."""
        self._unread += frames

    def read(self) -> Iterator[tuple[bytes, bytes]]:
        """The frames that are whole by now. At the other side's end `is_open` becomes false."""
        while self._unread:
            yield self._unread.pop(0)
        if not self.is_open:
            return
        try:
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._came += data
        while len(self._came) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._came)
            end = _HEAD.size + length
            if len(self._came) < end:
                break
            content = bytes(self._came[_HEAD.size : end])
            del self._came[:end]
            yield kind, content
        if not data:
            self.close()
