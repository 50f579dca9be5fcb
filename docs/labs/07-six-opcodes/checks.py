"""Lab 7: messages as the kernel sends them, without a mount; then a real mount, compared with the union."""

import errno
import os
import struct
from pathlib import Path

from unionfs.lab.checks import Wrong, check, expect, union_of
from unionfs.lab.mounting import mounted
from unionfs.lab.stacks import WHITEOUT, shown_at, shown_by

STACK = [{"a": "top", "d/b": "b", "gone": WHITEOUT}, {"a": "below", "d/c": "c", "gone": "gone", "e/f/g": "deep"}]
INIT, LOOKUP, GETATTR, READ, READDIR = 26, 1, 3, 15, 28


def served(student, union):
    """A function that sends a message: the error's number and the body of the answer."""
    serve = __import__("serve")
    tree = serve.Tree(union)

    def send(opcode, nodeid, body=b""):
        message = serve.IN.pack(serve.IN.size + len(body), opcode, 7, nodeid, 0, 0, 1, 0) + body
        told = serve.answer(student.module, tree, message)
        length, error, unique = serve.OUT.unpack_from(told)
        if length != len(told) or unique != 7:
            raise Wrong("the header of an answer is damaged: was serve.py changed?")
        return -error, told[serve.OUT.size :]

    return send


def sized(what, body, size):
    if len(body) != size:
        raise Wrong(f"{what} is {len(body)} bytes long, {size} are expected")
    return body


@check(1)
def init_agrees_on_a_version(student):
    """INIT: 64 bytes, major 7, a minor that the kernel knows, no flags that nobody offered."""
    with union_of(student.TrueUnion, STACK) as union:
        _, body = served(student, union)(INIT, 0, struct.pack("=IIII48x", 7, 31, 65536, 0))
        major, minor, _, flags, _, _, most = struct.unpack_from("=IIIIHHI", sized("the answer to INIT", body, 64))
        expect("major", major, 7)
        if minor > 31:
            raise Wrong(f"the kernel speaks 7.31, and you answer 7.{minor}")
        expect("flags", flags, 0)
        if most < 4096:
            raise Wrong(f"max_write is {most}: 4096 at least")


@check(2)
def lookup_and_getattr(student):
    """LOOKUP gives a node with its attributes, GETATTR the same ones again; a name that is not there is ENOENT."""
    with union_of(student.TrueUnion, STACK) as union:
        send = served(student, union)
        error, body = send(LOOKUP, 1, b"a\0")
        expect("the error of LOOKUP a", error, 0)
        node, *_ = struct.unpack_from("=QQQQII", sized("the answer to LOOKUP", body, 128))
        ino, size = struct.unpack_from("=QQ", body, 40)
        mode, nlink = struct.unpack_from("=II", body, 40 + 60)
        right = union.stat("a")
        expect("ino, size, mode, nlink", (ino, size, mode, nlink), (right.ino, right.size, right.mode, right.nlink))
        if node < 2:
            raise Wrong(f"the node of a is {node}: 0 means that there is none, 1 is the root")
        _, again = send(GETATTR, node, bytes(16))
        expect("the attributes by GETATTR", sized("the answer to GETATTR", again, 104)[16:], body[40:])
        expect("the error of LOOKUP nothing", errno.errorcode.get(send(LOOKUP, 1, b"nothing\0")[0]), "ENOENT")
        expect("the error of LOOKUP gone", errno.errorcode.get(send(LOOKUP, 1, b"gone\0")[0]), "ENOENT")


@check(1)
def read_in_pieces(student):
    """READ: from an offset, at most so many bytes, nothing behind the end."""
    with union_of(student.TrueUnion, [{"f": "0123456789"}]) as union:
        send = served(student, union)
        node = struct.unpack_from("=Q", send(LOOKUP, 1, b"f\0")[1])[0]
        for offset, size in ((0, 4), (4, 4), (8, 4), (10, 4)):
            body = send(READ, node, struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0))[1]
            expect(f"{size} bytes from {offset}", bytes(body), b"0123456789"[offset : offset + size])


def listed(send, node, size):
    """All names by READDIR, `size` bytes at a time."""
    names, offset = [], 0
    for _ in range(100):
        body = send(READDIR, node, struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0))[1]
        if len(body) > size:
            raise Wrong(f"READDIR was asked for {size} bytes, and answered {len(body)}")
        if not body:
            return names
        while body:
            _, offset, length, _ = struct.unpack_from("=QQII", body)
            names.append(bytes(body[24 : 24 + length]))
            body = body[24 + length + -(24 + length) % 8 :]
    raise Wrong("READDIR does not come to an end: does an entry say where the next one begins?")


@check(2)
def readdir_goes_on_where_it_stopped(student):
    """READDIR: each name once, whether 48 bytes fit into an answer or 4096."""
    with union_of(student.TrueUnion, [{f"name{number}": "x" for number in range(9)}]) as union:
        send, right = served(student, union), sorted(os.fsencode(name) for name in union.listdir(""))
        for size in (4096, 48, 40):
            expect(f"names, {size} bytes at a time", sorted(listed(send, 1, size)), right)


@check(4)
def a_real_mount(student):
    """The kernel shows by your six functions what the union shows: names, attributes, content."""
    serve = __import__("serve")
    with union_of(student.TrueUnion, STACK) as union:
        right = shown_by(union)
        with mounted(union.place, lambda device: serve.serve(student.module, union, device)) as point:
            expect("what is shown", shown_at(Path(point)), right)
            expect("the mode of e", os.stat(point / "e").st_mode, union.stat("e").mode)
            if os.path.exists(point / "gone"):
                raise Wrong("gone is there, although a whiteout hides it")
