"""The loop and its helpers, over a pair of sockets in the place of /dev/fuse."""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from collections.abc import Iterator

import pytest

from tests.fuse.fake_operations import FakeOperations, Node
from tests.fuse.messages import ALL_FLAGS, EXAMPLES, Kernel, message, wait_until
from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.fuse import calls, protocol, server, wire
from unionfs.fuse.device import Device
from unionfs.fuse.listings import NO_END
from unionfs.fuse.nodes import Nodes


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    connection = Kernel().shake_hands()
    yield connection
    connection.operations.gate.set()
    connection.close()
    assert connection.failure is None
    assert connection.operations.closed
    assert not [thread for thread in threading.enumerate() if "unionfs helper" in thread.name]


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    events.log_to(lambda importance, text: lines.append(f"{importance}: {text}"))
    yield lines
    events.log_to(2)


def fsync(handle: int) -> bytes:
    return struct.pack("=QII", handle, 0, 0)


# --- INIT


def test_init_agrees_on_the_lower_minor_and_on_what_both_can() -> None:
    kernel = Kernel()
    body = kernel.ask(protocol.INIT, struct.pack("=IIIII44x", 7, 40, 131072, 0xFFFFFFFF, 0xFFFFFFFF)).body
    major, minor, flags, max_write, time_gran, pages, flags2 = struct.unpack_from("=II4xI4xIIH2xI", body)
    assert (major, minor, max_write, time_gran, pages) == (7, 40, 1 << 20, 1, 256)
    assert protocol.names(flags | flags2 << 32, protocol.INIT_FLAGS).split("|") == sorted(
        calls.WANTED, key=lambda name: protocol.INIT_FLAGS[name]
    )
    kernel.close()


def test_init_of_a_newer_kernel_and_of_one_that_can_little() -> None:
    kernel = Kernel()
    body = kernel.ask(protocol.INIT, struct.pack("=IIII", 7, 99, 131072, 1)).body
    assert struct.unpack_from("=IIII", body) == (7, protocol.MINOR_NEWEST, wire.READ_AHEAD, 1)
    kernel.close()


def test_a_newer_major_version_is_told_ours_and_asks_again() -> None:
    kernel = Kernel()
    body = kernel.ask(protocol.INIT, struct.pack("=IIII", 8, 1, 0, 0)).body
    assert struct.unpack_from("=I", body) == (7,)
    assert not kernel.ready.is_set()
    kernel.shake_hands()
    kernel.close()


def test_an_old_kernel_is_refused_in_words() -> None:
    kernel = Kernel()
    assert kernel.ask(protocol.INIT, struct.pack("=IIII", 7, 30, 0, 0)).errno == errno.EPROTO
    kernel.close()
    assert isinstance(kernel.failure, UnionfsError)
    assert (kernel.failure.what, kernel.failure.why) == (
        "the kernel speaks FUSE 7.30", "the native engine needs 7.31, which is Linux 5.4"
    )  # fmt: skip
    assert kernel.operations.closed


# --- nodes


def test_nodes_are_counted_and_forgotten(kernel: Kernel) -> None:
    fake = kernel.operations
    nodeid, _ = kernel.create(b"file")
    node = fake.root.children[b"file"]
    again = struct.unpack_from("=Q", kernel.ask(protocol.LOOKUP, b"file\0").body)[0]
    assert (again, node.references) == (nodeid, 2)
    kernel.send(protocol.FORGET, struct.pack("=Q", 1), nodeid)
    assert kernel.ask(protocol.GETATTR, nodeid=nodeid).errno == 0
    kernel.send(protocol.BATCH_FORGET, struct.pack("=IIQQQQ", 2, 0, nodeid, 1, 999, 5))
    assert kernel.ask(protocol.GETATTR, nodeid=nodeid).errno == errno.ESTALE
    assert node.references == 0
    new = struct.unpack_from("=Q", kernel.ask(protocol.LOOKUP, b"file\0").body)[0]
    assert new > nodeid


def test_the_root_is_never_forgotten(kernel: Kernel) -> None:
    kernel.send(protocol.FORGET, struct.pack("=Q", 1000), 1)
    assert kernel.ask(protocol.GETATTR).errno == 0
    kernel.ask(protocol.LOOKUP, b".\0")
    kernel.send(protocol.FORGET, struct.pack("=Q", 1), 1)
    assert kernel.ask(protocol.GETATTR).errno == 0
    assert kernel.operations.root.references == 0


def test_a_hard_link_is_one_node(kernel: Kernel) -> None:
    nodeid, _ = kernel.create(b"one")
    body = kernel.ask(protocol.LINK, struct.pack("=Q", nodeid) + b"two\0").body
    assert struct.unpack_from("=Q", body)[0] == nodeid
    assert struct.unpack_from("=I", body, 40 + 64)[0] == 2


def test_nodes_from_many_threads() -> None:
    fake = FakeOperations()
    nodes, node = Nodes(fake), Node(7, stat.S_IFREG)  # type: ignore[arg-type]
    node.references = 4000

    def work() -> None:
        for _ in range(1000):
            nodes.forget(nodes.remember(node), 1)  # type: ignore[arg-type]

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (node.references, len(nodes)) == (0, 1)


def test_readdirplus_counts_only_the_entries_it_gives(kernel: Kernel) -> None:
    for number in range(20):
        kernel.create(b"file%02d" % number)
    size = wire.dirent_plus_size(b".") * 2 + wire.dirent_plus_size(b"file00") * 5 + 8
    body = kernel.ask(protocol.READDIRPLUS, struct.pack("=QQIIQII", 0, 0, size, 0, 0, 0, 0)).body
    assert len(body) == size - 8
    references = [node.references for node in kernel.operations.root.children.values()]
    assert references == [2] * 5 + [1] * 15
    assert [struct.unpack_from("=Q", body, 160 * position)[0] for position in range(3)][:2] == [0, 0]


# --- directories, which nobody opens


def readdir(kernel: Kernel, position: int, size: int = 4096, nodeid: int = 1) -> list[tuple[bytes, int]]:
    """Names and the positions after them."""
    body = kernel.ask(protocol.READDIR, struct.pack("=QQIIQII", 0, position, size, 0, 0, 0, 0), nodeid).body
    found = []
    while len(body) > 8:
        after, length = struct.unpack_from("=8xQI", body)
        found.append((body[24 : 24 + length], after))
        body = body[24 + length + (-length & 7) :]
    assert body in (b"", NO_END)
    return found


def test_there_is_no_opendir(kernel: Kernel) -> None:
    assert kernel.ask(protocol.OPENDIR).errno == errno.ENOSYS
    assert [name for name, _ in readdir(kernel, 0)] == [b".", b".."]
    assert kernel.ask(protocol.FSYNCDIR, struct.pack("=QII", 0, 0, 0)).errno == 0


def test_a_kernel_that_knows_no_other_way_opens_directories() -> None:
    flags = ALL_FLAGS & ~protocol.INIT_FLAGS["NO_OPENDIR_SUPPORT"]
    kernel = Kernel()
    kernel.ask(protocol.INIT, struct.pack("=IIIII44x", 7, 45, 131072, flags & 0xFFFFFFFF, flags >> 32))
    kept = protocol.FOPEN_CACHE_DIR | protocol.FOPEN_KEEP_CACHE
    assert kernel.ask(protocol.OPENDIR).body == struct.pack("=QII", 0, kept, 0)
    assert [name for name, _ in readdir(kernel, 0)] == [b".", b".."]
    assert kernel.ask(protocol.RELEASEDIR).errno == 0
    kernel.close()


def test_a_name_keeps_its_position(kernel: Kernel) -> None:
    for name in (b"a", b"b", b"c"):
        kernel.create(name)
    before = dict(readdir(kernel, 0))
    kernel.ask(protocol.UNLINK, b"a\0")
    kernel.create(b"d")
    assert [name for name, _ in readdir(kernel, before[b"a"])] == [b"b", b"c"]
    after = dict(readdir(kernel, 0))
    assert list(after) == [b".", b"..", b"b", b"c", b"d"]
    assert (after[b"b"], after[b"c"]) == (before[b"b"], before[b"c"]) and after[b"d"] > after[b"c"]
    assert [name for name, _ in readdir(kernel, before[b"a"])] == [b"b", b"c", b"d"]


def test_the_kernel_does_not_keep_a_listing_that_lost_a_name(kernel: Kernel) -> None:
    kernel.ask(protocol.MKDIR, struct.pack("=II", 0o777, 0) + b"dir\0")
    kernel.create(b"file")
    end = struct.pack("=QQIIQII", 0, readdir(kernel, 0)[-1][1], 4096, 0, 0, 0, 0)
    for opcode in (protocol.READDIR, protocol.READDIRPLUS):
        assert kernel.ask(opcode, end).body == b""
    kernel.ask(protocol.UNLINK, b"file\0")
    for opcode in (protocol.READDIR, protocol.READDIRPLUS):
        assert kernel.ask(opcode, end).body == NO_END


# --- who calls, and flags


def test_the_caller_and_its_umask_reach_the_operation(kernel: Kernel) -> None:
    kernel.ask(protocol.MKDIR, struct.pack("=II", 0o777, 0o27) + b"dir\0")
    node = kernel.operations.root.children[b"dir"]
    assert (node.uid, node.gid, stat.S_IMODE(node.mode)) == (1000, 1001, 0o750)


def test_setuid_goes_when_the_kernel_says_so(kernel: Kernel) -> None:
    nodeid, handle = kernel.create(b"file")
    node = kernel.operations.root.children[b"file"]
    kill = protocol.WRITE_KILL_SUIDGID
    asked = [
        (protocol.WRITE, struct.pack("=QQIIQII", handle, 0, 1, kill, 0, 0, 0) + b"x"),
        (protocol.OPEN, struct.pack("=II", os.O_WRONLY | os.O_TRUNC, protocol.OPEN_KILL_SUIDGID)),
        (protocol.SETATTR, struct.pack("=I84x", protocol.FATTR_KILL_SUIDGID)),
        (protocol.CREATE, struct.pack("=IIII", os.O_WRONLY | os.O_TRUNC, 0o644, 0, protocol.OPEN_KILL_SUIDGID)),
    ]
    for opcode, body in asked:
        node.mode = stat.S_IFREG | 0o6755
        name = b"file\0" if opcode == protocol.CREATE else b""
        assert kernel.ask(opcode, body + name, 1 if name else nodeid).errno == 0
        assert stat.S_IMODE(node.mode) == 0o755


def test_an_acl_may_take_the_setgid_bit_away(kernel: Kernel) -> None:
    nodeid, _ = kernel.create(b"file")
    node = kernel.operations.root.children[b"file"]
    node.mode = stat.S_IFREG | 0o2755
    body = struct.pack("=IIII", 1, 0, protocol.SETXATTR_ACL_KILL_SGID, 0) + b"system.posix_acl_access\0x"
    assert kernel.ask(protocol.SETXATTR, body, nodeid).errno == 0
    assert stat.S_IMODE(node.mode) == 0o755


def test_setattr_changes_what_is_valid_and_no_more(kernel: Kernel) -> None:
    nodeid, _ = kernel.create(b"file")
    node = kernel.operations.root.children[b"file"]
    node.times = [1, 2]
    values = [0, 9, 0, (1 << 64) - 1, 5, 0, 7, 0, 0, 0o100600, 0, 3, 4, 0]
    for valid, times in ((protocol.FATTR_ATIME, [-999_999_993, 2]), (protocol.FATTR_UID, [1, 2])):
        node.times = [1, 2]
        assert kernel.ask(protocol.SETATTR, struct.pack("=IIQQQQQQIIIIIIII", valid, 0, *values), nodeid).errno == 0
        assert node.times == times
    assert (node.uid, node.gid, stat.S_IMODE(node.mode), len(node.data)) == (3, 1001, 0o644, 0)
    now = protocol.FATTR_MTIME | protocol.FATTR_MTIME_NOW
    kernel.ask(protocol.SETATTR, struct.pack("=IIQQQQQQIIIIIIII", now, 0, *values), nodeid)
    assert node.times[1] > 1_600_000_000_000_000_000


def test_a_value_longer_than_the_caller_has_room_for(kernel: Kernel) -> None:
    kernel.ask(protocol.SETXATTR)
    name = b"user.x\0"
    assert kernel.ask(protocol.GETXATTR, struct.pack("=II", 4, 0) + name).errno == errno.ERANGE
    assert kernel.ask(protocol.GETXATTR, struct.pack("=II", 0, 0) + name).body == struct.pack("=II", 5, 0)
    assert kernel.ask(protocol.GETXATTR, struct.pack("=II", 5, 0) + name).body == b"value"
    assert kernel.ask(protocol.LISTXATTR, struct.pack("=II", 7, 0)).body == name


def test_what_is_not_served_is_refused_for_good(kernel: Kernel) -> None:
    for opcode in (protocol.ACCESS, protocol.GETLK, protocol.SETLK, protocol.SETLKW, protocol.BMAP, protocol.POLL):
        assert kernel.ask(opcode).errno == errno.ENOSYS
    assert kernel.ask(protocol.IOCTL).errno == errno.ENOTTY
    for opcode in (0, 7, 19, 54, 4096, 0xFFFFFFFF):
        assert kernel.ask(opcode, b"").errno == errno.ENOSYS
    body = struct.pack("=QQQQQQQ", 1, 0, 2, 1, 0, 10, 1)
    assert kernel.ask(protocol.COPY_FILE_RANGE, body).errno == errno.EINVAL


def test_unknown_handles_and_nodes(kernel: Kernel) -> None:
    for opcode in (protocol.READ, protocol.RELEASE, protocol.FSYNC, protocol.LSEEK):
        assert kernel.ask(opcode).errno == errno.EBADF
    for opcode in (protocol.GETATTR, protocol.OPEN, protocol.LOOKUP, protocol.READDIR):
        assert kernel.ask(opcode, nodeid=12345).errno == errno.ESTALE


# --- helpers


def test_a_blocked_request_holds_up_no_other(kernel: Kernel) -> None:
    _, handle = kernel.create(b"file")
    kernel.operations.gate.clear()
    blocked = [kernel.send(protocol.FSYNC, fsync(handle)) for _ in range(server.HELPERS + 3)]
    assert kernel.ask(protocol.GETATTR).errno == 0
    wait_until(lambda: len(kernel.operations.calls) == server.HELPERS)
    assert kernel.ask(protocol.STATFS).errno == 0
    kernel.operations.gate.set()
    assert {kernel.receive().unique for _ in blocked} == set(blocked)
    assert all("helper" in call for call in kernel.operations.calls)


OF_NODES = (protocol.OPEN, protocol.SETATTR, protocol.SETXATTR, protocol.REMOVEXATTR, protocol.READ, protocol.WRITE)
OF_NAMES = (protocol.LINK, protocol.RENAME, protocol.RENAME2)


@pytest.mark.parametrize("opcode", OF_NODES + OF_NAMES)
def test_what_may_block_is_handed_over(kernel: Kernel, opcode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nodeid, handle = kernel.create(b"old")
    assert (nodeid, handle) == (2, 1)
    kernel.operations.blocking.add(kernel.operations.root.children[b"old"].number)
    names: list[str] = []
    original = server.Server._help

    def spy(self: server.Server, row: object, request: wire.Request) -> None:
        names.append(row.name)  # type: ignore[attr-defined]
        original(self, row, request)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel.server._helpers, "_work", spy.__get__(kernel.server))
    node = kernel.operations.root.children[b"old"]
    kernel.ask(opcode, nodeid=nodeid if opcode in OF_NODES else 1)
    assert len(names) == 1
    assert node.references == (2 if opcode == protocol.LINK else 1)


def test_a_big_write_is_handed_over_with_its_buffer(kernel: Kernel) -> None:
    _, handle = kernel.create(b"file")
    content = os.urandom(100_000)
    for position in (0, 100_000):
        body = struct.pack("=QQIIQII", handle, position, len(content), 0, 0, 0, 0) + content
        assert kernel.ask(protocol.WRITE, body, 2).body == struct.pack("=II", len(content), 0)
    assert kernel.operations.root.children[b"file"].data == content * 2


def test_a_running_request_sees_that_it_is_interrupted(kernel: Kernel) -> None:
    _, handle = kernel.create(b"file")
    kernel.operations.gate.clear()
    unique = kernel.send(protocol.FSYNC, fsync(handle))
    wait_until(lambda: bool(kernel.operations.calls))
    kernel.send(protocol.INTERRUPT, struct.pack("=Q", unique))
    answer = kernel.receive()
    assert (answer.unique, answer.errno) == (unique, errno.EINTR)


def test_a_queued_request_is_cancelled_at_once(kernel: Kernel) -> None:
    _, handle = kernel.create(b"file")
    kernel.operations.gate.clear()
    running = [kernel.send(protocol.FSYNC, fsync(handle)) for _ in range(server.HELPERS)]
    wait_until(lambda: len(kernel.operations.calls) == server.HELPERS)
    queued = kernel.send(protocol.FSYNC, fsync(handle))
    kernel.send(protocol.INTERRUPT, struct.pack("=Q", queued))
    answer = kernel.receive()
    assert (answer.unique, answer.errno) == (queued, errno.EINTR)
    kernel.operations.gate.set()
    assert {kernel.receive().unique for _ in running} == set(running)
    assert kernel.ask(protocol.FSYNC, fsync(handle)).errno == 0
    assert len(kernel.operations.calls) == server.HELPERS + 1


def test_an_interrupt_of_what_is_answered_does_nothing(kernel: Kernel) -> None:
    _, handle = kernel.create(b"file")
    unique = kernel.send(protocol.FSYNC, fsync(handle))
    assert kernel.receive().errno == 0
    kernel.send(protocol.INTERRUPT, struct.pack("=Q", unique))
    assert kernel.ask(protocol.FSYNC, fsync(handle)).errno == 0


def test_the_end_interrupts_what_still_runs() -> None:
    kernel = Kernel().shake_hands()
    _, handle = kernel.create(b"file")
    kernel.operations.gate.clear()
    kernel.send(protocol.FSYNC, fsync(handle))
    wait_until(lambda: bool(kernel.operations.calls))
    kernel.close()
    assert kernel.failure is None and kernel.operations.closed


# --- failures and events


@pytest.mark.parametrize("failure", [ZeroDivisionError("oops"), OSError("no errno"), KeyError(3), MemoryError()])
def test_an_unknown_exception_is_eio_and_the_service_goes_on(
    kernel: Kernel, log: list[str], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise failure

    monkeypatch.setattr(kernel.operations, "statfs", fail)
    assert kernel.ask(protocol.STATFS).errno == errno.EIO
    assert kernel.ask(protocol.GETATTR).errno == 0
    if not isinstance(failure, OSError):
        assert "STATFS of node 1 failed" in log[0] and "<locals>.fail" in log[0]


def test_listeners_see_each_request_with_its_errno(kernel: Kernel) -> None:
    seen: list[dict[str, object]] = []

    def listen(kind: str, fields: dict[str, object]) -> None:
        assert kind == "request"
        seen.append(fields)

    events.listeners.append(listen)
    try:
        kernel.ask(protocol.LOOKUP)
        kernel.ask(protocol.GETATTR, nodeid=99)
        kernel.create(b"file")
        kernel.ask(protocol.FSYNC)
    finally:
        events.listeners.remove(listen)
    told = [(event["op"], event["errno"], event["nodeid"], event["pid"]) for event in seen]
    assert told == [
        ("LOOKUP", 0, 1, 77), ("GETATTR", errno.ESTALE, 99, 77), ("CREATE", 0, 1, 77), ("FSYNC", 0, 1, 77),
    ]  # fmt: skip
    assert all(isinstance(event["us"], int) for event in seen)
    assert seen[0]["arguments"] == (b"name",)


class Refusing(Device):
    """Takes the place of a kernel that does not take an answer."""

    def __init__(self, number: int) -> None:
        reading, self.descriptor = os.pipe()
        os.close(reading)
        self.number = number


def test_an_answer_that_is_not_taken_is_replaced_by_an_error(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(descriptor: int, content: bytes) -> int:
        written.append(content)
        if len(written) == 1:
            raise OSError(errno.EINVAL, "Invalid argument")
        return len(content)

    device = Refusing(errno.EINVAL)
    monkeypatch.setattr(os, "write", write)
    device.send(6, wire.done(6, None) + b"too long")
    assert written[1] == wire.error(6, errno.EIO)
    assert "did not take the answer to request 6" in log[0]
    monkeypatch.undo()
    device.close()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV])
def test_an_answer_that_nobody_waits_for_is_dropped(
    log: list[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    device = Refusing(number)

    def write(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", write)
    device.send(6, wire.done(6, None))
    device.notify(wire.invalidate_attributes(5))
    monkeypatch.undo()
    device.close()
    assert log == []


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINTR, errno.EAGAIN])
def test_reads_that_fail_in_passing_are_tried_again(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    content = message(protocol.GETATTR, EXAMPLES[protocol.GETATTR])
    device, failures = Refusing(number), [number] * 3

    def readv(descriptor: int, buffers: list[bytearray]) -> int:
        if failures:
            raise OSError(failures.pop(), "in passing")
        buffers[0][: len(content)] = content
        return len(content)

    monkeypatch.setattr(os, "readv", readv)
    request = device_request()
    assert device.receive(request) and request.opcode == protocol.GETATTR
    monkeypatch.undo()
    device.close()


def device_request() -> wire.Request:
    return wire.Request(4096)


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ECONNABORTED])
def test_the_end_of_the_connection(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    device = Refusing(number)

    def readv(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "readv", readv)
    assert device.receive(device_request()) is False
    monkeypatch.undo()
    device.close()


def test_the_flags_that_are_wanted_are_known() -> None:
    assert set(calls.WANTED) <= set(protocol.INIT_FLAGS)
    assert not set(calls.WANTED) & {"WRITEBACK_CACHE", "POSIX_LOCKS", "FLOCK_LOCKS", "NO_OPEN_SUPPORT"}
    assert ALL_FLAGS.bit_count() == len(protocol.INIT_FLAGS)


def test_without_a_helper_the_main_thread_helps_itself(
    kernel: Kernel, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    _, handle = kernel.create(b"file")
    monkeypatch.setattr(threading.Thread, "start", start)
    for _ in range(2):
        assert kernel.ask(protocol.FSYNC, fsync(handle)).errno == 0
    assert kernel.operations.calls == ["fsync in server"] * 2
    assert "could not be started" in log[0]
