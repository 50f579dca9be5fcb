"""The wire, without a device: layouts, and that no message whatever does harm."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuse.fake_operations import FakeOperations
from tests.fuse.messages import ALL_FLAGS, EXAMPLES, SILENT, Kernel, message
from unionfs import events
from unionfs.fuse import dispatch, protocol, trace, wire
from unionfs.fuse.wire import Request, WireError
from unionfs.union.operations import Attributes, Entry

SIZES = {
    "attr_out": 104, "entry_out": 128, "open_out": 16, "init_out": 64, "kstatfs": 80, "statx_out": 288,
}  # fmt: skip
SOME = Attributes(9, 8, 7, -1, 2_000_000_003, 5, 0o100644, 1, 2, 3, 0, 4096)


def parsed(content: bytes) -> Request:
    request = Request(max(len(content), 4096))
    request.buffer[: len(content)] = content
    request.parse(len(content))
    return request


@pytest.fixture(autouse=True)
def quiet() -> Iterator[list[str]]:
    """What the log says: complaints of malformed messages, by the hundred."""
    lines: list[str] = []
    events.log_to(lambda importance, text: lines.append(text))
    yield lines
    events.log_to(2)


# --- requests


def test_the_header() -> None:
    request = parsed(message(protocol.LOOKUP, b"x\0", unique=6, nodeid=5))
    assert (request.opcode, request.unique, request.nodeid) == (protocol.LOOKUP, 6, 5)
    assert (request.uid, request.gid, request.pid, request.end) == (1000, 1001, 77, 42)


def test_every_opcode_of_the_protocol_has_a_row_and_an_example() -> None:
    known = {value for name, value in vars(protocol).items() if name.isupper() and isinstance(value, int)}
    rows = {opcode for opcode, row in enumerate(dispatch.TABLE) if row is not dispatch.UNKNOWN}
    assert rows == set(EXAMPLES)
    assert rows == set(range(1, protocol.OPCODES)) - {7, 19}
    assert rows < known


@pytest.mark.parametrize("opcode", EXAMPLES)
def test_a_valid_message_is_decoded_into_the_fields_its_row_names(opcode: int) -> None:
    row = dispatch.TABLE[opcode]
    assert len(row.decode(parsed(message(opcode, EXAMPLES[opcode])))) == len(row.fields.split())


@pytest.mark.parametrize("opcode", [opcode for opcode, body in EXAMPLES.items() if body])
def test_a_short_message_is_refused_whatever_the_buffer_held_before(opcode: int) -> None:
    """The bytes past its end are those of an earlier message: they must not be read."""
    content = message(opcode, EXAMPLES[opcode])
    short = struct.pack("=I", 41) + content[4:41]
    request = parsed(content)
    request.buffer[:41] = short
    request.parse(41)
    if dispatch.TABLE[opcode].decode is wire.nothing:
        return
    with pytest.raises(WireError):
        dispatch.TABLE[opcode].decode(request)


@pytest.mark.parametrize("content", [b"", b"x" * 39, message(1, b"x\0")[:-1], message(1, b"x\0") + b"\0"])
def test_a_message_whose_length_is_not_what_it_says(content: bytes) -> None:
    with pytest.raises(WireError):
        parsed(content)


def test_extensions_are_no_part_of_the_arguments() -> None:
    request = parsed(message(protocol.LOOKUP, b"name\0", extensions=b"\0extras\0"))
    assert wire.lookup(request) == (b"name",)
    with pytest.raises(WireError, match="extensions"):
        parsed(struct.pack("=IIQQIIIHxx", 40, 1, 2, 1, 0, 0, 0, 9))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"unterminated"])
def test_names_that_are_none(name: bytes) -> None:
    ending = b"" if name == b"unterminated" else b"\0"
    for opcode in (protocol.UNLINK, protocol.RMDIR):
        with pytest.raises(WireError):
            dispatch.TABLE[opcode].decode(parsed(message(opcode, name + ending)))
    with pytest.raises(WireError):
        dispatch.TABLE[protocol.RENAME].decode(parsed(message(protocol.RENAME, bytes(8) + b"ok\0" + name + ending)))
    with pytest.raises(WireError):
        dispatch.TABLE[protocol.SYMLINK].decode(parsed(message(protocol.SYMLINK, name + b"\0target" + ending)))


def test_a_lookup_may_ask_for_dots_and_any_byte() -> None:
    for name in (b".", b"..", b"\xff\n*"):
        assert wire.lookup(parsed(message(protocol.LOOKUP, name + b"\0"))) == (name,)


def test_a_write_brings_its_data_without_a_copy() -> None:
    request = parsed(message(protocol.WRITE, EXAMPLES[protocol.WRITE]))
    handle, offset, flags, content = wire.write(request)
    assert (handle, offset, flags, bytes(content)) == (1, 0, 0, b"data")
    assert content.obj is request.buffer


def test_a_write_that_announces_more_than_it_brings() -> None:
    body = struct.pack("=QQIIQII", 1, 0, 5, 0, 0, 0, 0) + b"data"
    with pytest.raises(WireError, match="announces 5 bytes"):
        wire.write(parsed(message(protocol.WRITE, body)))


def test_both_layouts_of_setxattr() -> None:
    long = parsed(message(protocol.SETXATTR, struct.pack("=IIII", 2, 1, 1, 0) + b"user.a\0\0b"))
    assert wire.setxattr(long) == (b"user.a", b"\0b", 1, 1)
    short = parsed(message(protocol.SETXATTR, struct.pack("=II", 2, 1) + b"user.a\0\0b"))
    assert wire.setxattr_short(short) == (b"user.a", b"\0b", 1, 0)
    assert dispatch.rows_for(0)[protocol.SETXATTR].decode is wire.setxattr_short
    assert dispatch.rows_for(ALL_FLAGS)[protocol.SETXATTR].decode is wire.setxattr


def test_init_of_old_and_new_kernels() -> None:
    assert wire.init(parsed(message(protocol.INIT, EXAMPLES[protocol.INIT]))) == (7, 45, 131072, ALL_FLAGS)
    old = struct.pack("=IIII", 7, 31, 131072, 0x3FFFFFB)
    assert wire.init(parsed(message(protocol.INIT, old))) == (7, 31, 131072, 0x3FFFFFB)


def test_a_batch_of_nodes_to_forget() -> None:
    request = parsed(message(protocol.BATCH_FORGET, EXAMPLES[protocol.BATCH_FORGET]))
    assert wire.batch_forget(request) == ([(2, 1), (3, 1)],)
    with pytest.raises(WireError, match="announces 4294967295 nodes and brings 1"):
        wire.batch_forget(parsed(message(protocol.BATCH_FORGET, struct.pack("=IIQQ", 0xFFFFFFFF, 0, 1, 1))))


# --- replies


@pytest.mark.parametrize(
    ("reply", "size"),
    [
        (wire.attributes(2, SOME), SIZES["attr_out"]),
        (wire.entry(2, (5, SOME)), SIZES["entry_out"]),
        (wire.entry(2, None), SIZES["entry_out"]),
        (wire.created(2, (5, SOME, 6, 7, 0)), SIZES["entry_out"] + SIZES["open_out"]),
        (wire.opened(2, (6, 7, 0)), SIZES["open_out"]),
        (wire.initialised(2, (45, ALL_FLAGS)), SIZES["init_out"]),
        (wire.statfs(2, FakeOperations().statfs()), SIZES["kstatfs"]),
        (wire.statx(2, (SOME, None)), SIZES["statx_out"]),
        (wire.count(2, 1), 8),
        (wire.offset(2, 1 << 40), 8),
        (wire.done(2, None), 0),
        (wire.error(2, errno.ENOENT), 0),
    ],
)
def test_replies_have_the_sizes_that_the_kernel_wants(reply: bytes, size: int) -> None:
    assert len(reply) == 16 + size
    assert struct.unpack_from("=I4xQ", reply) == (16 + size, 2)


def test_attributes_with_a_time_before_1970() -> None:
    reply = wire.attributes(2, SOME)
    ino, size, blocks, atime, mtime, ctime, *nanoseconds = struct.unpack_from("=QQQqqqIII", reply, 32)
    assert (ino, size, blocks) == (9, 8, 7)
    assert (atime, mtime, ctime, nanoseconds) == (-1, 2, 0, [999_999_999, 3, 5])


def test_an_absent_name_may_be_remembered() -> None:
    nodeid, generation, entry_valid, attr_valid = struct.unpack_from("=QQQQ", wire.entry(2, None), 16)
    assert (nodeid, generation, attr_valid) == (0, 0, 0)
    assert entry_valid == wire.VALID


def test_statx_with_a_time_of_birth() -> None:
    reply = wire.statx(2, (SOME, 3_000_000_004))
    assert struct.unpack_from("=I", reply, 48) == (0xFFF,)
    assert struct.unpack_from("=qI", reply, 16 + 32 + 64 + 16) == (3, 4)
    assert struct.unpack_from("=I", wire.statx(2, (SOME, None)), 48) == (0x7FF,)


@pytest.mark.parametrize(("number", "told"), [(0, errno.EIO), (-1, errno.EIO), (512, errno.EIO), (511, 511), (1, 1)])
def test_only_numbers_that_the_kernel_takes_are_errors(number: int, told: int) -> None:
    assert struct.unpack_from("=4xi", wire.error(2, number)) == (-told,)


def test_entries_of_a_directory_are_padded_and_end_where_they_do_not_fit() -> None:
    entries = [Entry(b"a", 1, 8, 1), Entry(b"12345678", 2, 4, 2), Entry(b"last", 3, 8, 3)]
    assert wire.dirents(entries, 64) == (
        struct.pack("=QQII", 1, 1, 1, 8) + b"a" + bytes(7) + struct.pack("=QQII", 2, 2, 8, 4) + b"12345678"
    )
    assert wire.dirents(entries, 31) == b""
    assert wire.dirents([], 4096) == b""


def test_an_entry_with_its_node() -> None:
    item = Entry(b"name", 9, 8, 3)
    for found in (None, (5, SOME)):
        assert len(wire.dirent_plus(item, found)) == wire.dirent_plus_size(b"name") == 128 + 24 + 8
    assert struct.unpack_from("=Q", wire.dirent_plus(item, (5, SOME))) == (5,)
    assert wire.dirent_plus(item, None)[:128] == bytes(128)
    assert wire.dirent_plus(item, None)[128:] == struct.pack("=QQII", 9, 3, 4, 8) + b"name" + bytes(4)


def test_a_request_as_text_names_its_flags() -> None:
    fields = {
        "op": "OPEN", "unique": 12, "nodeid": 3, "pid": 733, "us": 41, "errno": errno.EACCES,
        "fields": "flags open_flags", "arguments": (0o1002, 0),
    }  # fmt: skip
    assert trace.line(fields) == "12 OPEN node 3 flags=O_RDWR|O_TRUNC open_flags=0: EACCES, 41 µs, process 733"
    assert protocol.names(1 << 40 | 1, {"ONE": 1}) == "ONE|0x10000000000"
    assert trace.describe("name value", (b"x", b"y" * 100))[1].endswith("... (100 bytes)")


# --- no message does harm

NODE = st.integers(0, 6) | st.integers(0, (1 << 64) - 1)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message with some bytes changed, cut off or added; its header is mostly right."""
    opcode = draw(st.sampled_from(sorted(EXAMPLES)))
    body = bytearray(EXAMPLES[opcode])
    for _ in range(draw(st.integers(0, 4))):
        if body:
            body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    body = body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body
    body += draw(st.binary(max_size=32))
    content = bytearray(message(opcode, bytes(body), draw(st.integers(1, 1 << 63)), draw(NODE)))
    if draw(st.integers(0, 9)) == 0:
        content[draw(st.integers(0, 39))] ^= draw(st.integers(1, 255))
    return bytes(content)


def answers(kernel: Kernel, content: bytes) -> None:
    """Decode, call and encode one message; what comes back must be an answer to it."""
    request = Request(max(len(content), 4096))
    request.buffer[: len(content)] = content
    try:
        request.parse(len(content))
    except WireError:
        return
    row = dispatch.TABLE[request.opcode] if request.opcode < len(dispatch.TABLE) else dispatch.UNKNOWN
    kernel.operations.set_interrupt_check(lambda: True)
    reply = kernel.server._perform(row, request, True)
    if reply is None:
        return
    assert not isinstance(reply, dispatch.HandOver)
    reply = b"".join(reply) if isinstance(reply, tuple) else reply
    length, error, unique = struct.unpack_from("=IiQ", reply)
    assert (length, unique) == (len(reply), request.unique)
    assert -512 < error <= 0


class Harness:
    """One fake file system for all examples: what one message leaves behind the next one meets."""

    def __init__(self) -> None:
        self.kernel = Kernel().shake_hands()

    def __enter__(self) -> Kernel:
        return self.kernel

    def __exit__(self, *exception: object) -> None:
        assert self.kernel.is_alive()
        self.kernel.close()
        assert self.kernel.failure is None


def test_no_message_is_answered_with_an_exception() -> None:
    with Harness() as kernel:

        @settings(max_examples=1500, deadline=None)
        @given(mutated() | st.binary(max_size=200))
        def run(content: bytes) -> None:
            answers(kernel, content)

        run()


def test_no_message_ends_the_service() -> None:
    """The same through the loop, a socket in the place of /dev/fuse. Afterwards it still answers."""
    with Harness() as kernel:

        @settings(max_examples=500, deadline=None)
        @given(st.lists(mutated() | st.binary(min_size=1, max_size=200), min_size=1, max_size=5))
        def run(contents: list[bytes]) -> None:
            kernel.socket.setblocking(True)
            for content in contents:
                kernel.socket.send(content)
            kernel.socket.setblocking(False)
            try:
                while True:
                    kernel.socket.recv(1 << 20)
            except BlockingIOError:
                pass

        run()
        kernel.socket.settimeout(20)
        unique = (1 << 63) + 1
        kernel.socket.send(message(protocol.GETATTR, EXAMPLES[protocol.GETATTR], unique))
        while (answer := kernel.receive()).unique != unique:
            pass
        assert answer.errno == 0


def test_messages_before_init_do_not_end_the_service() -> None:
    kernel = Kernel()
    for content in (b"x", message(protocol.GETATTR), message(protocol.INIT, b"short"), bytes(500)):
        kernel.socket.send(content)
    assert kernel.receive().errno == kernel.receive().errno == errno.EIO
    kernel.shake_hands()
    assert kernel.ask(protocol.GETATTR).errno == 0
    kernel.close()


@pytest.mark.parametrize("opcode", sorted(EXAMPLES))
def test_every_opcode_is_answered_or_silent(opcode: int) -> None:
    with Harness() as kernel:
        unique = kernel.send(opcode, EXAMPLES[opcode])
        marker = kernel.send(protocol.STATFS)
        uniques = {kernel.receive().unique}
        if opcode not in SILENT:
            uniques.add(kernel.receive().unique)
        assert uniques == ({marker} if opcode in SILENT else {unique, marker})
