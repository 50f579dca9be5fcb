"""Published ports: what -p says, and the sockets that listen for it on the machine.

Called by the container floor. A word is [[ADDRESS:]PORT:]PORT[/tcp|udp], as docker has it; a range stands for as many
ports, one on each side, or, for one port of the container's, for the first of them that is free. No port of the
machine's is one that the kernel chooses, no address is all of them.
"""

from __future__ import annotations

import errno
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    inet_pton,
)
from _socket import socket as Socket
from typing import NamedTuple

from unionfs.errors import UnionfsError

PROTOCOLS = ("tcp", "udp")
ANY = {AF_INET: "0.0.0.0", AF_INET6: "::"}
_BACKLOG = 1024
_BUSY_TRIES = 20


class Port(NamedTuple):
    """What is asked for: the container's port, and the machine's: its first and last number, 0 for any."""

    target: int
    protocol: str = "tcp"
    address: str = ""
    first: int = 0
    last: int = 0


class Listening(NamedTuple):
    """A port of the machine that is listened on."""

    socket: Socket
    address: str
    port: int
    target: int
    protocol: str


def parse(word: str) -> list[Port]:
    """The ports of a word of -p. Raises UnionfsError."""
    rest, slash, protocol = word.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise _bad(word, f"its protocol is {protocol}, and those known are tcp and udp")
    if rest.startswith("["):
        address, _, rest = rest[1:].partition("]")
        rest = rest.removeprefix(":")
        parts = [address, *rest.split(":")]
    else:
        parts = rest.split(":")
    if len(parts) > 3 or not parts[-1]:
        raise _bad(word, "it has not the form")
    address = parts[0] if len(parts) == 3 else ""
    if address:
        _check_address(word, address)
    first, last = _range(word, parts[-1])
    outer = parts[-2] if len(parts) > 1 else ""
    if not outer:
        return [Port(target, protocol, address) for target in range(first, last + 1)]
    outer_first, outer_last = _range(word, outer)
    if first == last:
        return [Port(first, protocol, address, outer_first, outer_last)]
    if outer_last - outer_first != last - first:
        raise _bad(word, "its two ranges are of different lengths")
    return [
        Port(target, protocol, address, outer_first + number, outer_first + number)
        for number, target in enumerate(range(first, last + 1))
    ]


def _range(whole: str, part: str) -> tuple[int, int]:
    first, dash, last = part.partition("-")
    words = (first, last) if dash else (first, first)
    numbers = [int(word) if word.isascii() and word.isdecimal() else 0 for word in words]
    if not 0 < numbers[0] <= numbers[1] <= 65535:
        raise _bad(whole, f"{part} is no port from 1 to 65535")
    return numbers[0], numbers[1]


def _check_address(word: str, address: str) -> None:
    try:
        inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except OSError as error:
        raise _bad(word, f"{address} is no address") from error


def _bad(word: str, why: str) -> UnionfsError:
    return UnionfsError(f"invalid port -p {word}", why, "[[ADDRESS:]PORT:]PORT[/tcp|udp], as in -p 8080:80")


def listen(port: Port) -> list[Listening]:
    """Sockets that listen for a port: one, or for all addresses two, of IPv4 and IPv6 (that one where there is it).
    Raises UnionfsError when it is busy."""
    for number in range(port.first, port.last + 1):
        try:
            return _listen_at(port, number)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or number == port.last:
                raise _refused(port, number, error) from error
    raise AssertionError("a range is never empty")


def _refused(port: Port, number: int, error: OSError) -> UnionfsError:
    what = f"port {port.address or ANY[AF_INET]}:{number}/{port.protocol}"
    if error.errno == errno.EADDRINUSE:
        return UnionfsError(what, "is already allocated", f"another program listens there: ss -lnp 'sport = :{number}'")
    if error.errno == errno.EACCES:
        return UnionfsError(what, "ports below 1024 are root's", f"choose another: -p {number + 8000}:{port.target}")
    return UnionfsError(what, error.strerror or str(error), "the addresses of this machine: ip address")


def _listen_at(port: Port, number: int) -> list[Listening]:
    if port.address:
        return [_bind(AF_INET6 if ":" in port.address else AF_INET, port.address, number, port)]
    for attempt in range(_BUSY_TRIES):
        first = _bind(AF_INET, ANY[AF_INET], number, port)
        try:
            return [first, _bind(AF_INET6, ANY[AF_INET6], first.port, port)]
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return [first]  # a machine without IPv6
            first.socket.close()
            if number or attempt == _BUSY_TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _bind(family: int, address: str, number: int, port: Port) -> Listening:
    kind = SOCK_STREAM if port.protocol == "tcp" else SOCK_DGRAM
    made = Socket(family, kind | SOCK_CLOEXEC | SOCK_NONBLOCK)
    try:
        if kind == SOCK_STREAM:
            made.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        if family == AF_INET6:
            made.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
        made.bind((address, number))
        if kind == SOCK_STREAM:
            made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return Listening(made, address, made.getsockname()[1], port.target, port.protocol)


def bracketed(address: str) -> str:
    """[::] for ::"""
    return f"[{address}]" if ":" in address else address
