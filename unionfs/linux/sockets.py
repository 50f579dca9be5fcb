"""Unix sockets, with descriptors sent through them: unix(7), sendmsg(2).

Called by the container floor. The interpreter's own module of C functions is used as it is: the module `socket` around
it makes an enumeration of each of its thousand constants, which takes longer than the rest of an exec.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socketpair
from _socket import socket as Socket

__all__ = ["Socket", "accept", "connect", "listen", "pair", "receive_descriptor", "send_descriptor"]


def pair() -> tuple[Socket, Socket]:
    """Two connected stream sockets, closed by exec."""
    one, other = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    return one, other


def accept(listening: Socket) -> Socket:
    """The next connection of a listening socket."""
    descriptor, _ = listening._accept()  # type: ignore[attr-defined]
    return Socket(AF_UNIX, SOCK_STREAM, 0, fileno=descriptor)


def listen(directory: str, name: str) -> Socket:
    """A listening socket `name` in a directory whose path may be of any length (108 bytes are a socket's limit)."""
    made = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        made.bind(f"/proc/self/fd/{fd}/{name}")
        made.listen(16)
    finally:
        os.close(fd)
    return made


def connect(directory: str, name: str) -> Socket:
    """Connected to `name` in a directory. Raises OSError: ENOENT, ECONNREFUSED where nobody listens any more."""
    made = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        made.connect(f"/proc/self/fd/{fd}/{name}")
    except OSError:
        made.close()
        raise
    finally:
        os.close(fd)
    return made


def send_descriptor(socket: Socket, descriptor: int) -> None:
    """One descriptor, with one byte to carry it (SCM_RIGHTS)."""
    socket.sendmsg([b"\0"], [(SOL_SOCKET, SCM_RIGHTS, descriptor.to_bytes(4, "little"))])


def receive_descriptor(socket: Socket) -> int:
    """The descriptor that the other side sent. Raises EOFError when it closed instead."""
    data, extra, *_ = socket.recvmsg(1, 64)
    for level, kind, content in extra:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            fd = int.from_bytes(content[:4], "little")
            os.set_inheritable(fd, False)
            return fd
    raise EOFError("the other side closed the socket" if not data else "no descriptor came")
