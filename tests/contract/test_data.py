"""Data: fallocate(2), holes, copy_file_range(2), large offsets. On a lower file, which each of them copies up first."""

from __future__ import annotations

import errno
import os

import pytest

from tests.contract.layers import File
from tests.contract.subject import differs, fails, subjects
from tests.model import COLLAPSE, INSERT, KEEP_SIZE, PAGE, PUNCH_HOLE, ZERO_RANGE

CONTENT = bytes(range(1, 251)) * 100
NO_FALLOCATE = "libfuse 2 as fusepy binds it has no fallocate"


def allocated(u, mode, offset, length):
    """The content of a lower file afterwards, by the descriptor, by name, and after a remount."""
    with u.open("f", os.O_RDWR) as file:
        file.fallocate(mode, offset, length)
        seen = file.pread(1 << 20, 0)
    assert u.read_bytes("f") == seen
    u.remount()
    assert u.read_bytes("f") == seen
    return seen


@differs(fusepy=NO_FALLOCATE)
def test_fallocate_makes_the_file_longer(union):
    u = union([{"f": CONTENT}])
    assert allocated(u, 0, 20_000, 10_000) == CONTENT + bytes(5000)


@differs(fusepy=NO_FALLOCATE)
def test_fallocate_keeps_the_size(union):
    u = union([{"f": CONTENT}])
    assert allocated(u, KEEP_SIZE, 20_000, 50_000) == CONTENT


@differs(fusepy=NO_FALLOCATE)
def test_punching_a_hole(union):
    u = union([{"f": CONTENT}])
    assert allocated(u, PUNCH_HOLE | KEEP_SIZE, 1000, 9000) == CONTENT[:1000] + bytes(9000) + CONTENT[10_000:]
    with u.open("f", os.O_RDWR) as file:
        assert file.lseek(PAGE, os.SEEK_HOLE) == PAGE
        assert file.lseek(PAGE, os.SEEK_DATA) == 2 * PAGE
        fails(errno.EOPNOTSUPP, file.fallocate, PUNCH_HOLE, 0, PAGE)


@differs(fusepy=NO_FALLOCATE)
def test_zeroing_a_range(union):
    u = union([{"f": CONTENT}])
    assert allocated(u, ZERO_RANGE, 24_000, 2000) == CONTENT[:24_000] + bytes(2000)


@subjects("model", "core", "kernel")
def test_collapsing_and_inserting(union):
    """Mounts of ours cannot: the kernel's FUSE knows neither (EOPNOTSUPP)."""
    u = union([{"f": CONTENT}])
    with u.open("f", os.O_RDWR) as file:
        fails(errno.EINVAL, file.fallocate, COLLAPSE, 100, PAGE)
        file.fallocate(COLLAPSE, PAGE, PAGE)
        file.fallocate(INSERT, 0, PAGE)
    assert u.read_bytes("f") == bytes(PAGE) + CONTENT[:PAGE] + CONTENT[2 * PAGE :]


def test_errors_of_fallocate(union):
    u = union([{"f": CONTENT}])
    with u.open("f", os.O_RDWR) as file:
        fails(errno.EINVAL, file.fallocate, 0, 0, 0)
        fails(errno.EINVAL, file.fallocate, 0, -1, 5)
    with u.open("f", os.O_RDONLY) as file:
        fails(errno.EBADF, file.fallocate, 0, 0, 5)
    assert u.read_bytes("f") == CONTENT


@differs(fusepy="libfuse 2 has no lseek: the kernel answers that all is data")
def test_seeking_data_and_holes(union):
    holes = File(b"x" * PAGE, hole_before=16 * PAGE, hole_after=16 * PAGE)
    u = union([{"f": holes, "all": b"y" * 3 * PAGE, "none": b""}])
    with u.open("new", os.O_CREAT | os.O_RDWR) as file:
        file.pwrite(b"z", 8 * PAGE)
        file.truncate(20 * PAGE)
        file.fsync()
    expected = {"f": (16, 0, 17), "new": (8, 0, 9)}
    for _ in range(2):
        for name, (data, hole, after) in expected.items():
            with u.open(name, os.O_RDONLY) as file:
                assert file.lseek(0, os.SEEK_DATA) == data * PAGE
                assert file.lseek(data * PAGE + 5, os.SEEK_DATA) == data * PAGE + 5
                assert (file.lseek(0, os.SEEK_HOLE), file.lseek(data * PAGE, os.SEEK_HOLE)) == (hole, after * PAGE)
                fails(errno.ENXIO, file.lseek, after * PAGE, os.SEEK_DATA)
                fails(errno.ENXIO, file.lseek, 1 << 40, os.SEEK_HOLE)
        with u.open("all", os.O_RDONLY) as file:
            assert (file.lseek(5, os.SEEK_DATA), file.lseek(0, os.SEEK_HOLE)) == (5, 3 * PAGE)
        with u.open("none", os.O_RDONLY) as file:
            fails(errno.ENXIO, file.lseek, 0, os.SEEK_DATA)
        u.remount()


def test_copying_between_files(union):
    """Lower to upper, lower to lower, within one file; only what is there is copied."""
    u = union([{"a": CONTENT, "b": b"b" * 1000}], {"up": b"u" * 1000})
    with u.open("a", os.O_RDWR) as a, u.open("b", os.O_RDWR) as b, u.open("up", os.O_RDWR) as up:
        assert a.copy_range(100, up, 10, 50) == 50
        assert a.copy_range(len(CONTENT) - 10, b, 5000, 500) == 10
        assert a.copy_range(len(CONTENT) + 10, b, 0, 500) == 0
        assert a.copy_range(0, a, 20_000, 100) == 100
        fails(errno.EINVAL, a.copy_range, 0, a, 50, 100)
    assert u.read_bytes("up") == b"u" * 10 + CONTENT[100:150] + b"u" * 940
    assert u.read_bytes("b") == b"b" * 1000 + bytes(4000) + CONTENT[-10:]
    assert u.read_bytes("a") == CONTENT[:20_000] + CONTENT[:100] + CONTENT[20_100:]


def test_errors_of_copying(union):
    u = union([{"a": CONTENT, "b": CONTENT}])
    with u.open("a", os.O_RDONLY) as a, u.open("b", os.O_WRONLY) as b, u.open("b", os.O_WRONLY | os.O_APPEND) as end:
        fails(errno.EBADF, b.copy_range, 0, b, 0, 10)
        fails(errno.EBADF, a.copy_range, 0, a, 1000, 10)
        fails(errno.EBADF, a.copy_range, 0, end, 0, 10)
    assert (u.read_bytes("a"), u.read_bytes("b")) == (CONTENT, CONTENT)


@subjects("real")
@pytest.mark.parametrize("offset", [(1 << 31) - 3, (1 << 32) - 3, 1 << 40])
def test_large_offsets(union, offset):
    """Across 2 GiB and 4 GiB, sparse."""
    u = union([{"f": b"start"}])
    with u.open("f", os.O_RDWR) as file:
        assert file.pwrite(b"across", offset) == 6
        assert file.pread(100, offset - 2) == b"\0\0across"
        assert file.pread(5, 0) == b"start"
        assert file.stat().size == offset + 6
        file.truncate(3)
    assert u.read_bytes("f") == b"sta"


def test_writing_past_the_end_leaves_zeros(union):
    """Also where the lower file had data before it was cut: what was cut off never comes back."""
    u = union([{"f": CONTENT}])
    with u.open("f", os.O_RDWR) as file:
        file.truncate(10)
        file.pwrite(b"far", 20_000)
        file.truncate(24_000)
    for _ in range(2):
        assert u.read_bytes("f") == CONTENT[:10] + bytes(19_990) + b"far" + bytes(3997)
        u.remount()


def test_many_writes_of_odd_sizes(union):
    """At every alignment, over the end of a page and of the file; compared with a plain bytearray."""
    u = union([{"f": CONTENT}])
    expected = bytearray(CONTENT)
    with u.open("f", os.O_RDWR) as file:
        for turn in range(200):
            offset, size = turn * 7919 % 40_000, turn * 104_729 % 6000
            data = bytes([turn + 1]) * size
            file.pwrite(data, offset)
            if size:
                expected.extend(bytes(max(0, offset - len(expected))))
                expected[offset : offset + size] = data
            if turn % 50 == 0:
                assert file.pread(1 << 20, 0) == expected
    for _ in range(2):
        assert u.read_bytes("f") == expected
        u.remount()


@subjects("real")
def test_synchronising(union):
    """fsync on a copied-up file and sync of the whole answer, and change nothing."""
    u = union([{"f": CONTENT}])
    with u.open("f", os.O_RDWR) as file:
        file.pwrite(b"x", 0)
        file.fsync()
    if u.kind == "core":
        u.sync()
    else:
        os.sync()
    found = u.statfs()
    real = os.statvfs(u.upper)
    assert (found.f_bsize, found.f_blocks, found.f_namemax > 200) == (real.f_bsize, real.f_blocks, True)
    assert u.read_bytes("f") == b"x" + CONTENT[1:]
