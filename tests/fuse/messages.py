"""The kernel's side of the wire, for tests: requests as bytes, a connection over a socket, replies taken apart."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

from tests.fuse.fake_operations import FakeOperations
from unionfs.fuse import protocol
from unionfs.fuse.device import Device
from unionfs.fuse.server import Server

ALL_FLAGS = sum(protocol.INIT_FLAGS.values())
WAIT = 20.0
"""Seconds after which a test gives up; nothing here takes long unless it is broken."""

EXAMPLES: dict[int, bytes] = {
    protocol.LOOKUP: b"name\0",
    protocol.FORGET: struct.pack("=Q", 1),
    protocol.GETATTR: struct.pack("=IIQ", 0, 0, 0),
    protocol.SETATTR: struct.pack("=IIQQQQQQIIIIIIII", 0b11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0o644, 0, 5, 6, 0),
    protocol.READLINK: b"",
    protocol.SYMLINK: b"link\0target\0",
    protocol.MKNOD: struct.pack("=IIII", 0o100644, 0, 0o22, 0) + b"node\0",
    protocol.MKDIR: struct.pack("=II", 0o755, 0o22) + b"dir\0",
    protocol.UNLINK: b"name\0",
    protocol.RMDIR: b"dir\0",
    protocol.RENAME: struct.pack("=Q", 1) + b"old\0new\0",
    protocol.LINK: struct.pack("=Q", 2) + b"name\0",
    protocol.OPEN: struct.pack("=II", 2, 0),
    protocol.READ: struct.pack("=QQIIQII", 1, 0, 4096, 0, 0, 0, 0),
    protocol.WRITE: struct.pack("=QQIIQII", 1, 0, 4, 0, 0, 0, 0) + b"data",
    protocol.STATFS: b"",
    protocol.RELEASE: struct.pack("=QIIQ", 1, 0, 0, 0),
    protocol.FSYNC: struct.pack("=QII", 1, 0, 0),
    protocol.SETXATTR: struct.pack("=IIII", 5, 0, 0, 0) + b"user.x\0value",
    protocol.GETXATTR: struct.pack("=II", 100, 0) + b"user.x\0",
    protocol.LISTXATTR: struct.pack("=II", 100, 0),
    protocol.REMOVEXATTR: b"user.x\0",
    protocol.FLUSH: struct.pack("=QIIQ", 1, 0, 0, 0),
    protocol.INIT: struct.pack("=IIIII44x", 7, 45, 131072, ALL_FLAGS & 0xFFFFFFFF, ALL_FLAGS >> 32),
    protocol.OPENDIR: struct.pack("=II", 0, 0),
    protocol.READDIR: struct.pack("=QQIIQII", 1, 0, 4096, 0, 0, 0, 0),
    protocol.RELEASEDIR: struct.pack("=QIIQ", 1, 0, 0, 0),
    protocol.FSYNCDIR: struct.pack("=QII", 1, 0, 0),
    protocol.GETLK: struct.pack("=QQQQIIII", 1, 0, 0, 0, 0, 0, 0, 0),
    protocol.SETLK: struct.pack("=QQQQIIII", 1, 0, 0, 0, 0, 0, 0, 0),
    protocol.SETLKW: struct.pack("=QQQQIIII", 1, 0, 0, 0, 0, 0, 0, 0),
    protocol.ACCESS: struct.pack("=II", 4, 0),
    protocol.CREATE: struct.pack("=IIII", 0o102, 0o644, 0o22, 0) + b"file\0",
    protocol.INTERRUPT: struct.pack("=Q", 2),
    protocol.BMAP: struct.pack("=QII", 0, 512, 0),
    protocol.DESTROY: b"",
    protocol.IOCTL: struct.pack("=QIIQII", 1, 0, 0x5401, 0, 0, 0),
    protocol.POLL: struct.pack("=QQII", 1, 1, 0, 1),
    protocol.NOTIFY_REPLY: bytes(40),
    protocol.BATCH_FORGET: struct.pack("=IIQQQQ", 2, 0, 2, 1, 3, 1),
    protocol.FALLOCATE: struct.pack("=QQQII", 1, 0, 100, 0, 0),
    protocol.READDIRPLUS: struct.pack("=QQIIQII", 1, 0, 4096, 0, 0, 0, 0),
    protocol.RENAME2: struct.pack("=QII", 1, 1, 0) + b"old\0new\0",
    protocol.LSEEK: struct.pack("=QQII", 1, 0, 4, 0),
    protocol.COPY_FILE_RANGE: struct.pack("=QQQQQQQ", 1, 0, 2, 1, 0, 10, 0),
    protocol.SETUPMAPPING: bytes(40),
    protocol.REMOVEMAPPING: struct.pack("=IQQ", 1, 0, 0),
    protocol.SYNCFS: bytes(8),
    protocol.TMPFILE: struct.pack("=IIII", 2, 0o644, 0o22, 0) + b"/\0",
    protocol.STATX: struct.pack("=IIQII", 0, 0, 0, 0, 0xFFF),
    protocol.COPY_FILE_RANGE_64: struct.pack("=QQQQQQQ", 1, 0, 2, 1, 0, 10, 0),
}
"""A valid body of each opcode."""

SILENT = (protocol.FORGET, protocol.BATCH_FORGET, protocol.INTERRUPT, protocol.NOTIFY_REPLY)
"""What gets no answer."""


def message(opcode: int, body: bytes = b"", unique: int = 2, nodeid: int = 1, extensions: bytes = b"") -> bytes:
    """A request of user 1000, group 1001, process 77."""
    length = 40 + len(body) + len(extensions)
    header = struct.pack("=IIQQIIIHxx", length, opcode, unique, nodeid, 1000, 1001, 77, len(extensions) // 8)
    return header + body + extensions


class Answer(NamedTuple):
    unique: int
    errno: int
    body: bytes


class Kernel:
    """The other end of a served connection: a pair of sockets stands for /dev/fuse, one packet for one message."""

    def __init__(self, operations: FakeOperations | None = None) -> None:
        self.operations = operations or FakeOperations()
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(WAIT)
        self.failure: BaseException | None = None
        self.ready = threading.Event()
        self.server = Server(self.operations, Device(theirs.detach()))  # type: ignore[arg-type]
        self._unique = 0
        self._thread = threading.Thread(target=self._run, name="server")
        self._thread.start()

    def _run(self) -> None:
        try:
            self.server.run(self.ready.set)
        except BaseException as failure:
            self.failure = failure

    def send(self, opcode: int, body: bytes = b"", nodeid: int = 1) -> int:
        self._unique += 2
        self.socket.send(message(opcode, body, self._unique, nodeid))
        return self._unique

    def receive(self) -> Answer:
        reply = self.socket.recv(1 << 20)
        length, error, unique = struct.unpack_from("=IiQ", reply)
        assert length == len(reply)
        return Answer(unique, -error, reply[16:])

    def ask(self, opcode: int, body: bytes | None = None, nodeid: int = 1) -> Answer:
        unique = self.send(opcode, EXAMPLES[opcode] if body is None else body, nodeid)
        answer = self.receive()
        assert answer.unique == unique
        return answer

    def shake_hands(self) -> Kernel:
        assert self.ask(protocol.INIT).errno == 0
        assert self.ready.wait(WAIT)
        return self

    def create(self, name: bytes) -> tuple[int, int]:
        """Nodeid and handle of a new file."""
        body = self.ask(protocol.CREATE, struct.pack("=IIII", 0o102, 0o644, 0, 0) + name + b"\0").body
        return struct.unpack_from("=Q", body)[0], struct.unpack_from("=Q", body, 128)[0]

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """As if it were unmounted; the service has to end."""
        self.socket.shutdown(socket.SHUT_WR)
        while self.socket.recv(1 << 20):
            pass
        self._thread.join(WAIT)
        self.socket.close()
        assert not self._thread.is_alive(), "the service did not end"


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread is about to do."""
    pause = threading.Event()
    for _ in range(int(WAIT / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not happen")
