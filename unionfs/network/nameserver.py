"""The sockets of the resolver: queries by UDP and TCP, answered here or handed on to the machine's resolvers.

Called by the container's helper process, in the same `Loop` as the proxy. What an answer is, resolver.py says. A query
that is handed on has a socket of its own, as its answer must come from where it was sent to; the next resolver is asked
when one says nothing for two seconds, or cannot be reached. Sources: RFC 1035 section 4.2, resolv.conf(5).
"""

from __future__ import annotations

import struct
from _socket import AF_INET, SOCK_DGRAM, SOCK_STREAM
from _socket import socket as Socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from unionfs.network.proxy import READ, WRITE, Loop

PORT = 53
_LENGTH = struct.Struct("!H")
_MOST = 65535
_WAIT_SECONDS = 2.0
_MOST_FORWARDED = 500
_MOST_CONNECTIONS = 200

Answer = Callable[[bytes], bytes | None]
"""The answer to a query, b"" for none at all, None where the machine's resolvers have to be asked."""
Connector = Callable[[int, str], Socket]
"""A socket of a kind for an address, in the machine's network namespace."""


class Nameserver:
    """Both sockets. `failure` makes the answer where nobody can be asked."""

    def __init__(
        self, loop: Loop, udp: Socket, tcp: Socket, answer: Answer, failure: Callable[[bytes], bytes],
        upstreams: Callable[[], Sequence[str]], connect: Connector,
    ) -> None:  # fmt: skip
        self.loop, self.udp, self.tcp = loop, udp, tcp
        self.answer, self.failure = answer, failure
        self.upstreams, self.connect = upstreams, connect
        self.forwarded = self.connections = 0
        loop.watch(udp.fileno(), READ, self._query)
        loop.watch(tcp.fileno(), READ, self._accept)

    def _query(self, events: int) -> None:
        with suppress(OSError):
            query, client = self.udp.recvfrom(_MOST)
            self.respond(query, SOCK_DGRAM, lambda reply: self._send(reply, client))

    def _send(self, reply: bytes, client: Any) -> None:
        with suppress(OSError):
            if reply:
                self.udp.sendto(reply, client)

    def _accept(self, events: int) -> None:
        with suppress(OSError):
            fd, _ = self.tcp._accept()  # type: ignore[attr-defined]
            client = Socket(AF_INET, SOCK_STREAM, 0, fileno=fd)
            client.setblocking(False)
            if self.connections < _MOST_CONNECTIONS:
                _Connection(self, client)
            else:
                client.close()

    def respond(self, query: bytes, kind: int, reply: Callable[[bytes], None]) -> None:
        """Call `reply` with the answer, now or when it has come; with b"" for what gets none."""
        answered = self.answer(query)
        if answered is not None:
            reply(answered)
            return
        servers = list(self.upstreams())
        if not servers or self.forwarded >= _MOST_FORWARDED:
            reply(self.failure(query))
            return
        self.forwarded += 1
        _Forwarded(self, query, kind, servers, reply).ask()


class _Forwarded:
    """A query on its way to one resolver after the other."""

    def __init__(
        self, server: Nameserver, query: bytes, kind: int, servers: list[str], reply: Callable[[bytes], None]
    ) -> None:
        self.server, self.query, self.kind, self.servers, self.reply = server, query, kind, servers, reply
        self.socket: Socket | None = None
        self.came = b""

    def ask(self) -> None:
        self._close()
        if not self.servers:
            self._end(self.server.failure(self.query))
            return
        address = self.servers.pop(0)
        self.came = b""
        try:
            socket = self.socket = self.server.connect(self.kind, address)
            with suppress(BlockingIOError):
                socket.connect((address, PORT))
            self.server.loop.watch(socket.fileno(), WRITE, self._connected)
            self.server.loop.later(_WAIT_SECONDS, lambda: self._waited(socket))
        except OSError:
            self.ask()

    def _connected(self, events: int) -> None:
        assert self.socket is not None
        try:
            self.socket.send(self.query if self.kind == SOCK_DGRAM else _LENGTH.pack(len(self.query)) + self.query)
        except OSError:
            return self.ask()
        self.server.loop.watch(self.socket.fileno(), READ, self._read)

    def _read(self, events: int) -> None:
        assert self.socket is not None
        try:
            data = self.socket.recv(_MOST)
        except OSError:
            return self.ask()
        if self.kind == SOCK_STREAM:
            self.came += data
            if not data:
                return self.ask()
            if len(self.came) < 2 or len(self.came) < 2 + _LENGTH.unpack_from(self.came)[0]:
                return
            data = self.came[2 : 2 + _LENGTH.unpack_from(self.came)[0]]
        if data[:2] == self.query[:2]:
            self._end(data)

    def _waited(self, socket: Socket) -> None:
        if self.socket is socket:
            self.ask()

    def _end(self, answer: bytes) -> None:
        self._close()
        self.server.forwarded -= 1
        self.reply(answer)

    def _close(self) -> None:
        if self.socket is not None:
            self.server.loop.forget(self.socket.fileno())
            self.socket.close()
            self.socket = None


class _Connection:
    """A client of the TCP socket: queries with their length before them, answered one after the other."""

    def __init__(self, server: Nameserver, client: Socket) -> None:
        self.server, self.client = server, client
        self.came = bytearray()
        server.connections += 1
        server.loop.watch(client.fileno(), READ, self._read)

    def _read(self, events: int) -> None:
        try:
            data = self.client.recv(_MOST)
        except OSError:
            data = b""
        if not data:
            return self._close()
        self.came += data
        self._next()

    def _next(self) -> None:
        if len(self.came) < 2:
            return
        (length,) = _LENGTH.unpack_from(self.came)
        if len(self.came) < 2 + length:
            return
        query = bytes(self.came[2 : 2 + length])
        del self.came[: 2 + length]
        self.server.loop.forget(self.client.fileno())  # until this one is answered
        self.server.respond(query, SOCK_STREAM, self._reply)

    def _reply(self, answer: bytes) -> None:
        if not answer:
            return self._close()
        try:
            self.client.send(_LENGTH.pack(len(answer)) + answer)
        except OSError:
            return self._close()
        self.server.loop.watch(self.client.fileno(), READ, self._read)
        self._next()

    def _close(self) -> None:
        self.server.loop.forget(self.client.fileno())
        self.client.close()
        self.server.connections -= 1
