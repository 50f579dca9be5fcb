"""Copy-up: what triggers it, and what survives it."""

from __future__ import annotations

import errno
import os
import stat
import time

import pytest

from tests.contract.layers import Dir, File, Link, Special, Symlink, time_of
from tests.contract.subject import differs, fails, subjects
from tests.contract.tree import EARLIEST
from tests.model import UTIME_NOW

SECOND = 1_000_000_000


def open_and_write(u, path):
    with u.open(path, os.O_WRONLY) as file:
        file.pwrite(b"W", 0)


def open_and_append(u, path):
    with u.open(path, os.O_WRONLY | os.O_APPEND) as file:
        file.pwrite(b"W", 0)


TRIGGERS = {
    "write": open_and_write,
    "append": open_and_append,
    "truncate": lambda u, path: u.truncate(path, 3),
    "truncate longer": lambda u, path: u.truncate(path, 10_000),
    "open with O_TRUNC": lambda u, path: u.open(path, os.O_WRONLY | os.O_TRUNC).close(),
    "chmod": lambda u, path: u.chmod(path, 0o604),
    "chown": lambda u, path: u.chown(path, 11, 12),
    "utimens": lambda u, path: u.utime(path, 7 * SECOND + 7, 9 * SECOND + 9),
    "setxattr": lambda u, path: u.setxattr(path, b"user.new", b"value"),
    "removexattr": lambda u, path: u.removexattr(path, b"user.kept"),
    "link": lambda u, path: u.link(path, "d/link"),
}
WRITTEN = {"write": b"Wontent", "append": b"contentW", "truncate": b"con", "truncate longer": b"content" + bytes(9993),
           "open with O_TRUNC": b""}  # fmt: skip


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_everything_but_the_change_survives(union, trigger):
    """Type, mode, owner, times to the nanosecond, attributes; and no directory's time moves."""
    u = union([{"d/e/f": File(b"content", 0o2640, 3, 4, {b"user.kept": b"1", b"trusted.kept": b"2"})}])
    before = u.stat("d/e/f")
    TRIGGERS[trigger](u, "d/e/f")
    for _ in range(2):
        st = u.stat("d/e/f")
        assert u.read_bytes("d/e/f") == WRITTEN.get(trigger, b"content")
        assert st.ino == before.ino
        assert stat.S_IMODE(st.mode) == (0o604 if trigger == "chmod" else 0o2640)
        assert (st.uid, st.gid) == ((11, 12) if trigger == "chown" else (3, 4))
        attributes = {name: u.getxattr("d/e/f", name) for name in u.listxattr("d/e/f")}
        expected = {b"user.kept": b"1", b"trusted.kept": b"2"}
        if trigger == "setxattr":
            expected[b"user.new"] = b"value"
        if trigger == "removexattr":
            del expected[b"user.kept"]
        assert attributes == expected
        if trigger == "utimens":
            assert st.mtime_ns == 9 * SECOND + 9
        elif trigger in WRITTEN:
            assert st.mtime_ns > EARLIEST
        else:
            assert st.mtime_ns == time_of("d/e/f")
        assert u.stat("d/e").mtime_ns == time_of("d/e")
        if trigger != "link":
            assert u.stat("d").mtime_ns == time_of("d")
        assert u.stat("").mtime_ns == time_of("")
        u.remount()


@subjects("real")
@pytest.mark.parametrize("trigger", [*TRIGGERS, "open for writing"])
def test_each_trigger_copies_the_file_and_its_parents_only(union, trigger):
    """The copy has the owner, mode and times of the original's parents as well."""
    u = union([{"d": Dir(0o750, 1, 2, xattrs={b"user.a": b"1"}), "d/e/f": File(b"content", xattrs={b"user.kept": b"1"}),
                "d/e/other": b"", "d/more/x": b""}])  # fmt: skip
    if trigger == "open for writing":
        with u.open("d/e/f", os.O_RDWR) as file:
            if getattr(u, "opening", "") == "cached":  # nobody hears of an open that nothing comes of
                file.pwrite(b"content", 0)
    else:
        TRIGGERS[trigger](u, "d/e/f")
    expected = {("d", "dir"), ("d/e", "dir"), ("d/e/f", "file")}
    if trigger == "link":
        expected.add(("d/link", "file"))
    assert u.marks() == expected
    top = (u.upper / "d").stat()
    assert (stat.S_IMODE(top.st_mode), top.st_uid, top.st_gid) == (0o750, 1, 2)
    assert os.getxattr(u.upper / "d", "user.a") == b"1"
    if trigger != "link":
        assert top.st_mtime_ns == time_of("d")
    u.close()
    assert list((u.work / "work").iterdir()) == []
    u.open_union()


@subjects("real")
def test_reading_copies_nothing(union):
    u = union([{"d/f": File(b"content", xattrs={b"user.a": b"1"}), "d/l": Symlink("f")}])
    u.stat("d/f")
    u.read_bytes("d/f")
    u.read_bytes("d/l")
    u.listdir("d")
    u.readlink("d/l")
    u.listxattr("d/f")
    u.getxattr("d/f", b"user.a")
    u.open("d/f", os.O_RDONLY).close()
    fails(errno.ENODATA, u.getxattr, "d/f", b"user.none")
    fails(errno.EEXIST, u.mkdir, "d/f")
    assert u.marks() == set()


@subjects("real")
def test_a_file_is_not_copied_to_be_cut_to_nothing(union):
    """Open with O_TRUNC and truncate to 0 make an empty file with the same owner, mode and attributes."""
    big = File(b"x", 0o640, 5, 6, {b"user.a": b"1"}, hole_before=1 << 22)
    u = union([{"f": big, "g": big}])
    u.open("f", os.O_WRONLY | os.O_TRUNC).close()
    u.truncate("g", 0)
    for name in ("f", "g"):
        st = u.stat(name)
        assert (st.size, stat.S_IMODE(st.mode), st.uid, st.gid) == (0, 0o640, 5, 6)
        assert u.getxattr(name, b"user.a") == b"1"
        assert (u.upper / name).stat().st_blocks <= 8


def test_a_partial_truncate_keeps_what_is_before(union):
    u = union([{"f": bytes(range(256)) * 64}])
    u.truncate("f", 5000)
    u.truncate("f", 9000)
    assert u.read_bytes("f") == (bytes(range(256)) * 64)[:5000] + bytes(4000)


def test_objects_that_are_no_files(union):
    device = os.makedev(1, 5)
    kinds = {"p": Special(stat.S_IFIFO | 0o640, 0, 1, 2), "s": Special(stat.S_IFSOCK | 0o600, 0, 3, 4),
             "c": Special(stat.S_IFCHR | 0o660, device, 5, 6), "b": Special(stat.S_IFBLK | 0o660, device, 7, 8),
             "l": Symlink("target", 9, 10), "d": Dir(0o1775, 11, 12, xattrs={b"user.a": b"1"})}  # fmt: skip
    u = union([{f"x/{name}": what for name, what in kinds.items()}])
    for name in kinds:
        before = u.stat(f"x/{name}")
        u.utime(f"x/{name}", 5 * SECOND + 1, None)
        for _ in range(2):
            st = u.stat(f"x/{name}")
            same = ("ino", "mode", "uid", "gid", "rdev", "nlink", "mtime_ns")
            assert [getattr(st, field) for field in same if name != "d" or field != "nlink"] == [
                getattr(before, field) for field in same if name != "d" or field != "nlink"
            ]
            u.remount()
        u.chown(f"x/{name}", 21, 22)
        if name != "l":
            u.chmod(f"x/{name}", 0o600)
        assert (u.stat(f"x/{name}").uid, u.stat(f"x/{name}").gid) == (21, 22)
    assert u.readlink("x/l") == b"target"
    assert u.getxattr("x/d", b"user.a") == b"1"
    assert u.stat("x").mtime_ns == time_of("x")
    fails(errno.EOPNOTSUPP, u.chmod, "x/l", 0o600)


def test_times_to_the_nanosecond(union):
    u = union([{"f": b"", "d/x": b"", "g": b""}])
    for name in ("f", "d"):
        u.utime(name, 1_111_111_111_123_456_789, 222_222_222_987_654_321)
        for _ in range(2):
            times = u.stat(name).atime_ns, u.stat(name).mtime_ns
            assert times == (1_111_111_111_123_456_789, 222_222_222_987_654_321)
            u.remount()
    u.utime("g", None, 5)
    assert (u.stat("g").atime_ns, u.stat("g").mtime_ns) == (time_of("g") + SECOND, 5)
    u.utime("g", 6, None)
    assert (u.stat("g").atime_ns, u.stat("g").mtime_ns) == (6, 5)
    before = time.time_ns() - SECOND
    u.utime("g", None, UTIME_NOW)
    assert u.stat("g").atime_ns == 6
    assert before < u.stat("g").mtime_ns <= time.time_ns()
    u.utime("g", UTIME_NOW, None)
    assert before < u.stat("g").atime_ns <= time.time_ns()
    u.utime("g", -5 * SECOND, 2**33 * SECOND)
    assert (u.stat("g").atime_ns, u.stat("g").mtime_ns) == (-5 * SECOND, 2**33 * SECOND)


def test_the_access_time_survives(union):
    u = union([{"f": File(b"x"), "d/y": b""}])
    u.chmod("f", 0o600)
    u.chmod("d", 0o700)
    for _ in range(2):
        assert u.stat("f").atime_ns == time_of("f") + SECOND
        assert u.stat("d").atime_ns == time_of("d") + SECOND
        u.remount()


def test_chown_of_one_keeps_the_other(union):
    u = union([{"f": File(b"", 0o644, 3, 4), "l": Symlink("f", 5, 6)}])
    u.chown("f", -1, 9)
    u.chown("l", 8, -1)
    assert (u.stat("f").uid, u.stat("f").gid) == (3, 9)
    assert (u.stat("l").uid, u.stat("l").gid) == (8, 6)


@differs(kernel="its copy-up looks for holes once a MiB")
def test_holes_survive(union):
    """A copy of a sparse file takes no more room than the file, and its holes are where they were."""
    mega = 1 << 20
    u = union([{"f": File(b"data" * 1024, hole_before=2 * mega, hole_after=3 * mega)}])
    u.chmod("f", 0o600)
    with u.open("f", os.O_RDWR) as file:
        file.pwrite(b"end", 4 * mega)
        assert file.stat().size == 5 * mega + 4096
    for _ in range(2):
        assert u.stat("f").blocks * 512 <= 64 * 1024
        content = u.read_bytes("f")
        assert content[2 * mega : 2 * mega + 4096] == b"data" * 1024
        assert content[4 * mega : 4 * mega + 3] == b"end"
        assert content.count(0) == len(content) - 4096 - 3
        u.remount()


@differs(
    fusepy="libfuse 2 has no lseek: the kernel answers that all is data",
    kernel="its copy-up looks for holes once a MiB",
)
def test_where_the_holes_are_survives(union):
    mega = 1 << 20
    u = union([{"f": File(b"data" * 1024, hole_before=2 * mega, hole_after=3 * mega)}])
    for _ in range(2):
        with u.open("f", os.O_RDONLY) as file:
            assert file.lseek(0, os.SEEK_DATA) == 2 * mega
            assert file.lseek(2 * mega, os.SEEK_HOLE) == 2 * mega + 4096
            assert file.lseek(0, os.SEEK_HOLE) == 0
            for position in (2 * mega + 4096, 5 * mega + 4096):
                fails(errno.ENXIO, file.lseek, position, os.SEEK_DATA)
        u.chmod("f", 0o600)


def test_a_large_file(union):
    """Larger than any buffer; the bytes around each place that is written stay."""
    content = os.urandom(1 << 16) * 200
    u = union([{"f": content}])
    with u.open("f", os.O_RDWR) as file:
        file.pwrite(b"first", 0)
        file.pwrite(b"middle", 5_000_001)
    expected = bytearray(content)
    expected[:5], expected[5_000_001:5_000_007] = b"first", b"middle"
    for _ in range(2):
        assert u.read_bytes("f") == expected
        u.remount()


@subjects("real")
def test_a_failed_change_copies_nothing_that_shows(union):
    u = union([{"f": File(b"x", xattrs={b"user.a": b"1"}), "d/g": b""}])
    fails(errno.ENODATA, u.removexattr, "f", b"user.none")
    fails(errno.EEXIST, u.setxattr, "f", b"user.a", b"2", os.XATTR_CREATE)
    fails(errno.EEXIST, u.link, "f", "d")
    fails(errno.EISDIR, u.open, "d", os.O_WRONLY)
    fails(errno.EISDIR, u.truncate, "d", 0)
    assert (u.read_bytes("f"), u.getxattr("f", b"user.a")) == (b"x", b"1")
    assert u.stat("f").mtime_ns == time_of("f")


def test_a_hard_link_of_a_symbolic_link(union):
    u = union([{"l": Symlink("x"), "m": Link("l"), "p": Special(stat.S_IFIFO | 0o600), "q": Link("p")}])
    u.chown("l", 3, 3)
    u.chmod("p", 0o666)
    for _ in range(2):
        assert (u.stat("m").uid, u.stat("m").nlink, u.readlink("m")) == (3, 2, b"x")
        assert (stat.S_IMODE(u.stat("q").mode), u.stat("q").nlink) == (0o666, 2)
        assert (u.stat("l").ino, u.stat("p").ino) == (u.stat("m").ino, u.stat("q").ino)
        u.remount()
