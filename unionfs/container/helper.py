"""The helper of a container on a network: one process that serves its published ports and answers for names.

Forked by the monitor before the container's first process, and ended by it. It lives on the machine, with the sockets
of the ports that the monitor has bound, and opens those that lead into the container, and those of the resolver, by
going into the container's network namespace for the moment of a socket(2). Names are looked up in the state at each
query, so that who comes to a network or leaves it is known at once.

This file is one of the doors through which a module is imported when it is wanted: the resolver's, for a network with
names.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
from _socket import SO_REUSEADDR, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET
from _socket import socket as Socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from unionfs import events
from unionfs.container.etcfiles import RESOLVER
from unionfs.container.networks import Networks
from unionfs.image.database import Database
from unionfs.linux import capabilities, namespaces, sockets
from unionfs.linux.namespaces import CLONE_NEWNET
from unionfs.network.nameserver import PORT, Nameserver
from unionfs.network.ports import Listening
from unionfs.network.proxy import READ, Loop, TcpPort, UdpPort, family_of

NAMES = b"n"
"""To the helper: answer for names from now on."""
_READY = b"r"
_LOCAL = "127.0.0.1"


class Helper(NamedTuple):
    """A helper that runs: its pid, and the socket by which it is told."""

    pid: int
    control: Socket

    def answer_names(self) -> None:
        """Have it answer for names; returns when its sockets are there."""
        self.control.sendall(NAMES)
        self.control.recv(1)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.control.close()


def spawn(
    root: str, container: str, log: str, network: int, ports: Sequence[Listening], resolvers: Sequence[str],
    foreign: Sequence[int],
) -> Helper:  # fmt: skip
    """Fork the helper of a container whose network namespace is the descriptor `network`. `resolvers` are the
    machine's, for names that no container has; `log` is the path of its log; `foreign` are descriptors of this process
    that it must not keep open. This process must have no state open."""
    here, there = sockets.pair()
    pid = os.fork()
    if pid == 0:
        try:
            namespaces.die_with_parent(signal.SIGKILL)
            for fd in foreign:
                os.close(fd)
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            events.log_to(events.to_descriptor(file, dated=True))
            _Serving(root, container, network, resolvers, there).run(ports)
        except BaseException:
            events.exception("the helper of its networks failed")
        finally:
            os._exit(1)
    there.close()
    return Helper(pid, here)


class _Serving:
    def __init__(self, root: str, container: str, network: int, resolvers: Sequence[str], control: Socket) -> None:
        self.container, self.network, self.resolvers = container, network, resolvers
        self.own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.can_return = capabilities.rules_the_machine()
        if not self.can_return:  # without root: what is to be opened outside has been, and it stays inside
            namespaces.setns(network, CLONE_NEWNET)
        self.control = control
        self.networks = Networks(Database(root))
        self.loop = Loop()
        self.resolver: Nameserver | None = None

    def run(self, ports: Sequence[Listening]) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection takes six
        for port in ports:
            kind = TcpPort if port.protocol == "tcp" else UdpPort
            kind(self.loop, port.socket, self._inside, self._target, port.target)
        self.loop.watch(self.control.fileno(), READ, self._told)
        self.loop.run()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        if not self.can_return:
            yield
            return
        namespaces.setns(self.network, CLONE_NEWNET)
        try:
            yield
        finally:
            namespaces.setns(self.own, CLONE_NEWNET)

    def _inside(self, kind: int) -> Socket:
        with self._entered():
            return Socket(family_of(self._target()), kind | SOCK_CLOEXEC | SOCK_NONBLOCK)

    def _target(self) -> str:
        """Its address now; one that is on no network any more can still be reached at its loopback."""
        for _, endpoint in self.networks.endpoints(self.container):
            if endpoint.addresses:
                return endpoint.addresses[0]
        return _LOCAL

    def _told(self, events: int) -> None:
        word = self.control.recv(1)
        if not word:
            os._exit(0)  # the monitor has gone
        if word == NAMES and self.resolver is None:
            self.resolver = self._open_resolver()
        self.control.sendall(_READY)

    def _open_resolver(self) -> Nameserver | None:
        resolver: Any = importlib.import_module("unionfs.network.resolver")
        with self._entered():
            udp = Socket(type=SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
            tcp = Socket(type=SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)
        tcp.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        for socket in (udp, tcp):
            socket.bind((RESOLVER, PORT))
        tcp.listen(64)

        def answer(query: bytes) -> bytes | None:
            found: bytes | None = resolver.answer(query, self._lookup, self._reverse)
            return found

        failure: Callable[[bytes], bytes] = resolver.failure
        return Nameserver(self.loop, udp, tcp, answer, failure, self._upstreams, self._outside)

    def _lookup(self, name: str) -> list[str] | None:
        return self.networks.lookup(self.container, name)

    def _reverse(self, address: str) -> str | None:
        return self.networks.reverse(self.container, address)

    def _upstreams(self) -> Sequence[str]:
        """None for a container that is on internal networks only; and without root, where no way leads out."""
        goes_out = any(endpoint.outer and not network.internal
                       for network, endpoint in self.networks.endpoints(self.container))  # fmt: skip
        return self.resolvers if goes_out and self.can_return else ()

    def _outside(self, kind: int, address: str) -> Socket:
        return Socket(family_of(address), kind | SOCK_CLOEXEC | SOCK_NONBLOCK)
