"""Lab 8: what INIT agrees on, and a real mount, whose READs and registered files are counted."""

import fcntl
import mmap
import os
import struct
import time
from contextlib import contextmanager

from unionfs.lab.checks import Wrong, check, expect, union_of
from unionfs.lab.mounting import mounted

READS, OPENED, CLOSED = range(3)
STACK = [{"a": "top"}, {"a": "below", "big": "x" * 300_000}]


@contextmanager
def served(student):
    """A mount, and what its daemon counted: READs, ids, ids that were given back."""
    serve = __import__("serve")
    shared = mmap.mmap(-1, 4096)
    counts = memoryview(shared).cast("Q")
    ioctl = fcntl.ioctl

    def counting(fd, request, *rest):
        told = ioctl(fd, request, *rest)
        counts[OPENED] += request == 0x4010E501
        counts[CLOSED] += request == 0x4004E502
        return told

    read = student.module.read

    def reading(*arguments):
        counts[READS] += 1
        return read(*arguments)

    with union_of(student.TrueUnion, STACK) as union:

        def work(device):
            fcntl.ioctl = counting
            student.module.read = reading
            serve.serve(student.module, union, device)

        with mounted(union.place, work) as point:
            yield point, counts


@check(2)
def init_asks_for_what_is_offered(student):
    """INIT: both bits and max_stack_depth 1 where the kernel offers passthrough, neither where it does not."""
    for flags, flags2, wanted in ((1 << 30, 1 << 5, True), (1 << 30, 0, False), (0, 0, False)):
        body = student.module.init(40, 65536, flags, flags2)
        expect("the length of the answer to INIT", len(body), 64)
        told, told2, depth = (struct.unpack_from("=I", body, at)[0] for at in (12, 32, 36))
        found = (bool(told & 1 << 30), bool(told2 & 1 << 5), depth == 1)
        if wanted and found != (True, True, True):
            raise Wrong(f"passthrough is offered; INIT_EXT, PASSTHROUGH and depth 1 are {found}")
        if not wanted and told2 & 1 << 5:
            raise Wrong("passthrough is not offered, and the answer asks for it")


@check(3)
def no_read_arrives(student):
    """Files of both layers are read without a READ."""
    with served(student) as (point, counts):
        for name, content in (("a", "top"), ("big", "x" * 300_000)):
            with open(point / name) as file:
                expect(f"the content of {name}", file.read() == content, True)
        expect("READs", counts[READS], 0)
        expect("registered files", counts[OPENED], 2)


@check(3)
def ids_are_given_back(student):
    """After the last close of a file its id is closed: the kernel must not keep it for ever."""
    with served(student) as (point, counts):
        for _ in range(50):
            with open(point / "a") as file:
                file.read()
        end = time.monotonic() + 5
        while counts[CLOSED] < counts[OPENED] and time.monotonic() < end:
            time.sleep(0.01)  # RELEASE comes after close(2) has returned
        if not counts[OPENED]:
            raise Wrong("no file was registered")
        expect("ids that are still registered", counts[OPENED] - counts[CLOSED], 0)


@check(2)
def one_file_has_one_id(student):
    """A file that is open twice has the id that it had."""
    with served(student) as (point, counts):
        first = os.open(point / "big", os.O_RDONLY)
        try:
            try:
                second = os.open(point / "big", os.O_RDONLY)
            except OSError as error:
                raise Wrong(f"big cannot be opened a second time: {error.strerror}") from error
            os.close(second)
            time.sleep(0.1)
            expect("the first descriptor still reads", os.pread(first, 3, 100), b"xxx")
            expect("registered files", counts[OPENED], 1)
        finally:
            os.close(first)
