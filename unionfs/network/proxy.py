"""The proxy of published ports: what comes to a port of the machine goes on to the container, and the answer back.

Called by the container's helper process (container/helper.py). It listens in the machine's network namespace and
connects inside the container's, so it needs no address translation, no routes, and nothing of the machine is opened to
the container; the price is that the container sees the connection come from itself. Bytes of a TCP connection are moved
by splice(2) through a pipe and never seen by this process. Each side is closed for writing when the other one has sent
its end (half-close); a reader that is slow fills its pipe, and then nothing more is read for it.

One `Loop` drives it, and the resolver beside it: an epoll(7) with a callback a descriptor. A relay waits for what it
can go on with and nothing else, so an idle connection costs nothing.
"""

from __future__ import annotations

import errno
import heapq
import os
import select
import time
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_TCP,
    SHUT_WR,
    SO_ERROR,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
)
from _socket import socket as Socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
_PIPE_BYTES = 1 << 18
_DATAGRAM = 1 << 16
_UDP_SECONDS = 90.0
_PAUSE_SECONDS = 0.1

Connector = Callable[[int], Socket]
"""Makes a socket of a kind (SOCK_STREAM, SOCK_DGRAM) in the container's network namespace."""
Target = Callable[[], str]
"""The container's address now."""


class Loop:
    """Callbacks by descriptor: each is called with the events that came (epoll_ctl(2))."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []  # a heap; the number keeps equals in order
        self._number = 0

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """From now on, or differently from now on."""
        if fd in self._calls:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """To be called before the descriptor is closed."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._number, call))

    def run(self) -> None:
        """For ever."""
        while True:
            timeout = max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
            with suppress(InterruptedError):
                for fd, events in self._epoll.poll(timeout):
                    call = self._calls.get(fd)
                    if call is not None:  # else one that an earlier call has closed
                        call(events)
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()


# --- TCP


class TcpPort:
    """A listening socket, and the relay of each connection that comes."""

    def __init__(self, loop: Loop, listening: Socket, connect: Connector, target: Target, port: int) -> None:
        self.loop, self.listening, self.connect = loop, listening, connect
        self.target, self.port = target, port
        loop.watch(listening.fileno(), READ, self._accept)

    def _accept(self, events: int) -> None:
        try:
            fd, _ = self.listening._accept()  # type: ignore[attr-defined]
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self.loop.forget(self.listening.fileno())  # the connection waits until others have gone
                self.loop.later(_PAUSE_SECONDS, self._again)
            return
        client = Socket(AF_INET, SOCK_STREAM, 0, fileno=fd)
        client.setblocking(False)
        try:
            Relay(self.loop, client, self.connect, self.target(), self.port)
        except OSError:
            client.close()

    def _again(self) -> None:
        self.loop.watch(self.listening.fileno(), READ, self._accept)


class Relay:
    """One connection: two directions, each with a pipe between two sockets."""

    def __init__(self, loop: Loop, client: Socket, connect: Connector, address: str, port: int) -> None:
        self.loop, self.client = loop, client
        self.server = connect(SOCK_STREAM)
        self.ways: tuple[_Way, ...] = ()
        try:
            self.ways = (_Way(client, self.server),)
            self.ways += (_Way(self.server, client),)
            for socket in (client, self.server):
                with suppress(OSError):
                    socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            with suppress(BlockingIOError):
                self.server.connect((address, port))
        except BaseException:
            self._close_pipes()
            self.server.close()
            raise
        loop.watch(self.server.fileno(), WRITE, self._connected)

    def _connected(self, events: int) -> None:
        if self.server.getsockopt(SOL_SOCKET, SO_ERROR):
            return self.close()
        self._wanted = {self.client.fileno(): -1, self.server.fileno(): -1}
        self._go_on(0)

    def _go_on(self, events: int) -> None:
        try:
            for way in self.ways:
                way.move()
        except OSError:
            return self.close()
        if all(way.is_over for way in self.ways):
            return self.close()
        there, back = self.ways
        self._want(self.client, (READ if there.wants_read else 0) | (WRITE if back.wants_write else 0))
        self._want(self.server, (READ if back.wants_read else 0) | (WRITE if there.wants_write else 0))

    def _want(self, socket: Socket, events: int) -> None:
        fd = socket.fileno()
        if self._wanted[fd] != events:
            self._wanted[fd] = events
            if events:
                self.loop.watch(fd, events, self._go_on)
            else:
                self.loop.forget(fd)  # an end that nothing is wanted of would be reported without end

    def close(self) -> None:
        for socket in (self.client, self.server):
            self.loop.forget(socket.fileno())
            socket.close()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for way in self.ways:
            way.close()


class _Way:
    """One direction: from a socket into a pipe, from the pipe into the other socket."""

    def __init__(self, source: Socket, sink: Socket) -> None:
        self.source, self.sink = source, sink
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.held = 0
        self.is_ended = self.is_over = False

    @property
    def wants_read(self) -> bool:
        return not self.is_ended and not self.held

    @property
    def wants_write(self) -> bool:
        return self.held > 0

    def move(self) -> None:
        """All that can be moved now. Raises OSError when one of the sockets is broken."""
        while not self.is_over:
            if not self.held and not self.is_ended:
                try:
                    self.held = os.splice(self.source.fileno(), self.writing, _PIPE_BYTES)
                except BlockingIOError:
                    return
                self.is_ended = not self.held
            if self.held:
                try:
                    self.held -= os.splice(self.reading, self.sink.fileno(), self.held)
                except BlockingIOError:
                    return
            if self.is_ended and not self.held:
                self.is_over = True
                with suppress(OSError):
                    self.sink.shutdown(SHUT_WR)

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


# --- UDP


class UdpPort:
    """A bound socket, and a socket inside for each client, as long as something comes."""

    def __init__(self, loop: Loop, bound: Socket, connect: Connector, target: Target, port: int) -> None:
        self.loop, self.bound, self.connect = loop, bound, connect
        self.target, self.port = target, port
        self.clients: dict[Any, tuple[Socket, list[float]]] = {}
        loop.watch(bound.fileno(), READ, self._came)

    def _came(self, events: int) -> None:
        with suppress(OSError):  # nothing there after all, or no descriptors left: a datagram may be lost
            data, client = self.bound.recvfrom(_DATAGRAM)
            if client not in self.clients:
                self._add(client)
            socket, used = self.clients[client]
            used[0] = time.monotonic()
            socket.send(data)

    def _add(self, client: Any) -> None:
        socket = self.connect(SOCK_DGRAM)
        socket.connect((self.target(), self.port))
        self.clients[client] = (socket, [time.monotonic()])
        self.loop.watch(socket.fileno(), READ, lambda events: self._answered(client, socket))
        self.loop.later(_UDP_SECONDS, lambda: self._look(client))

    def _answered(self, client: Any, socket: Socket) -> None:
        with suppress(OSError):  # refused: nobody listens there, or not yet
            data = socket.recv(_DATAGRAM)
            self.clients[client][1][0] = time.monotonic()
            self.bound.sendto(data, client)

    def _look(self, client: Any) -> None:
        """Close a client's socket that has been idle for long enough."""
        socket, used = self.clients[client]
        idle = time.monotonic() - used[0]
        if idle < _UDP_SECONDS:
            self.loop.later(_UDP_SECONDS - idle, lambda: self._look(client))
            return
        del self.clients[client]
        self.loop.forget(socket.fileno())
        socket.close()


def family_of(address: str) -> int:
    return AF_INET6 if ":" in address else AF_INET
