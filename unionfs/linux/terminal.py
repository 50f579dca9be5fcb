"""Terminals and the loopback device, by ioctl(2).

Called by the container floor. Every function raises OSError. Sources: ioctl_tty(2), pts(4), netdevice(7).
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from _socket import AF_INET, SOCK_CLOEXEC, SOCK_DGRAM
from _socket import socket as Socket

_TIOCGPTPEER, _TIOCSPTLCK, _TIOCSCTTY = 0x5441, 0x40045431, 0x540E
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_IFREQ = struct.Struct("=16sH22x")
_WINSIZE = struct.Struct("=HHHH")


def open_slave(master: int) -> int:
    """The other end of a terminal whose master is given, without a name that might lead elsewhere (Linux 4.13)."""
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
    return fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)


def make_controlling(slave: int) -> None:
    """The terminal of this session, whose leader this process is."""
    fcntl.ioctl(slave, _TIOCSCTTY, 0)


def size_of(descriptor: int) -> tuple[int, int]:
    """Rows and columns."""
    rows, columns, _, _ = _WINSIZE.unpack(fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(_WINSIZE.size)))
    return rows, columns


def set_size(descriptor: int, rows: int, columns: int) -> None:
    """Those in the terminal's foreground are told by SIGWINCH."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, _WINSIZE.pack(rows, columns, 0, 0))


class Raw:
    """A terminal that passes each key on as it is, while the block lasts (cfmakeraw(3))."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __enter__(self) -> None:
        self._before = termios.tcgetattr(self.descriptor)
        mode = termios.tcgetattr(self.descriptor)
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
            | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.descriptor, termios.TCSANOW, mode)

    def __exit__(self, *failure: object) -> None:
        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self._before)


def loopback_up() -> None:
    """Switch on `lo` of this network namespace."""
    socket = Socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        name = b"lo"
        flags = _IFREQ.unpack(fcntl.ioctl(socket.fileno(), _SIOCGIFFLAGS, _IFREQ.pack(name, 0)))[1]
        fcntl.ioctl(socket.fileno(), _SIOCSIFFLAGS, _IFREQ.pack(name, flags | _IFF_UP))
    finally:
        socket.close()
