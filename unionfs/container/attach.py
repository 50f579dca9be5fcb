"""The user's side of a terminal or of pipes: keys in, output out, sizes, signals, the keys that detach.

Used by `lifecycle.py` (a container's monitor is the other side) and `enter.py` (an exec's terminal is). `session` runs
until the other side ends or the user leaves by ctrl-p ctrl-q.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Protocol

from unionfs.container import frames
from unionfs.container.frames import Frames
from unionfs.linux import terminal

_CHUNK = 1 << 16
_DETACH = b"\x10\x11"
_GONE = -1
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Detached(Exception):
    """The user left; what he was attached to goes on."""


@contextmanager
def held() -> Iterator[None]:
    """Signals that a session passes on wait for it to begin: what comes while its program is started is the program's,
    too, and does not end this process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Peer(Protocol):
    """What a session is attached to."""

    def fileno(self) -> int: ...
    def events(self) -> int: ...
    def receive(self, mask: int) -> Iterator[tuple[bytes, bytes]]:
        """Kinds and contents, as in frames.py; EXITED, with a status, is the last."""
    def is_full(self) -> bool: ...
    def type(self, keys: bytes) -> None: ...
    def end_input(self) -> None: ...
    def resize(self, rows: int, columns: int) -> None: ...
    def signal(self, number: int) -> None: ...


class Monitored:
    """A container's monitor, by its socket."""

    def __init__(self, connection: Frames) -> None:
        self.connection = connection

    def fileno(self) -> int:
        return self.connection.fileno()

    def events(self) -> int:
        return select.POLLIN | (select.POLLOUT if self.connection.has_waiting else 0)

    def receive(self, mask: int) -> Iterator[tuple[bytes, bytes]]:
        self.connection.flush()
        yield from self.connection.read()
        if not self.connection.is_open:
            yield frames.EXITED, b""

    def is_full(self) -> bool:
        return self.connection.is_full

    def type(self, keys: bytes) -> None:
        self.connection.put(frames.INPUT, keys)

    def end_input(self) -> None:
        self.connection.put(frames.INPUT_END)

    def resize(self, rows: int, columns: int) -> None:
        self.connection.put(frames.RESIZE, frames.SIZE.pack(rows, columns))

    def signal(self, number: int) -> None:
        self.connection.put(frames.SIGNAL, frames.NUMBER.pack(number))


def session(peer: Peer, *, tty: bool, interactive: bool, proxies: bool = True) -> int | None:
    """Attach this process's standard streams to `peer`. The exit status that it ends with; None when it goes away
    without one. `tty`: the other side is a terminal, so ours passes every key on; `interactive`: there is input;
    `proxies`: signals that this process gets are passed on. Raises Detached."""
    ours = tty and interactive and os.isatty(0)
    raw: AbstractContextManager[None] = terminal.Raw(0) if ours else nullcontext()
    with _Signals() as signals, raw:
        return _Session(peer, signals, ours, tty, interactive, proxies and not ours).run()


class _Signals:
    """Signals as bytes that can be waited for, as long as the block lasts."""

    def __enter__(self) -> _Signals:
        self.reading, self.writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before = {number: signal.getsignal(number) for number in (*_PASSED_ON, signal.SIGWINCH)}
        self._wakeup = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        for number in self._before:
            signal.signal(number, lambda number, frame: None)
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._before)
        return self

    def __exit__(self, *failure: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.reading)
        os.close(self.writing)

    def came(self) -> bytes:
        with suppress(BlockingIOError):
            return os.read(self.reading, 256)
        return b""


class _Session:
    def __init__(
        self, peer: Peer, signals: _Signals, ours: bool, tty: bool, interactive: bool, proxies: bool
    ) -> None:
        self.peer = peer
        self.signals = signals
        self.ours = ours
        self.tty = tty
        self.reads_input = interactive
        self.proxies = proxies
        self.held = b""
        """The first of the keys that detach, until the next one tells what was meant."""

    def run(self) -> int | None:
        self._resize()
        status = self._receive(0)
        while status is None:
            status = self._turn()
        return status if status >= 0 else None

    def _turn(self) -> int | None:
        """Wait, and do what can be done; the status at the end, _GONE without one."""
        poll = select.poll()
        poll.register(self.signals.reading, select.POLLIN)
        poll.register(self.peer.fileno(), self.peer.events())
        if self.reads_input and not self.peer.is_full():
            poll.register(0, select.POLLIN)
        for fd, mask in poll.poll():
            if fd == 0:
                self._input()
            elif fd == self.signals.reading:
                self._signals()
            elif (status := self._receive(mask)) is not None:
                return status
        return None

    def _receive(self, mask: int) -> int | None:
        for kind, content in self.peer.receive(mask):
            if kind == frames.EXITED:
                return int(frames.NUMBER.unpack(content)[0]) if content else _GONE
            self._output(kind, content)
        return None

    def _resize(self) -> None:
        if self.tty:
            with suppress(OSError):
                self.peer.resize(*terminal.size_of(1 if os.isatty(1) else 0))

    def _input(self) -> None:
        try:
            keys = os.read(0, _CHUNK)
        except OSError:
            keys = b""
        if not keys:
            self.reads_input = False
            self.peer.end_input()
            return
        if self.ours:
            keys = self.held + keys
            if _DETACH in keys:
                raise Detached
            self.held = _DETACH[:1] if keys.endswith(_DETACH[:1]) else b""
            keys = keys.removesuffix(self.held) if self.held else keys
        if keys:
            self.peer.type(keys)

    def _signals(self) -> None:
        for number in self.signals.came():
            if number == signal.SIGWINCH:
                self._resize()
            elif self.proxies:
                self.peer.signal(number)
            elif number in (signal.SIGHUP, signal.SIGTERM):
                raise Detached

    def _output(self, kind: bytes, content: bytes) -> None:
        if kind in (frames.OUTPUT, frames.ERROR):
            to = 1 if kind == frames.OUTPUT else 2
            view = memoryview(content)
            while view:
                view = view[os.write(to, view) :]
