"""Open files: they go on working when their name goes, when they are copied up, and see what others write."""

from __future__ import annotations

import errno
import mmap
import os
import stat

from tests.contract.layers import File, Link, Symlink
from tests.contract.subject import differs, fails, subjects
from tests.contract.tree import EARLIEST

CREATE = os.O_CREAT | os.O_RDWR


def no_links(u, file):
    """An open file whose names are all gone. libfuse 2 asks for attributes by a path, and that has none (fusepy.py)."""
    if u.kind == "fusepy":
        fails(errno.ENOENT, file.stat)
    else:
        assert file.stat().nlink == 0


def test_create_and_exclusive(union):
    u = union([{"f": b"lower", "l": Symlink("new"), "m": Symlink("other")}])
    with u.open("fresh", CREATE | os.O_EXCL, 0o640) as file:
        assert file.pwrite(b"text", 0) == 4
        assert file.pread(10, 1) == b"ext"
    assert stat.S_IMODE(u.stat("fresh").mode) == 0o640
    for name in ("fresh", "f", "l"):
        fails(errno.EEXIST, u.open, name, CREATE | os.O_EXCL)
    with u.open("f", CREATE) as file:
        assert file.pread(10, 0) == b"lower"
    with u.open("l", CREATE) as file:
        file.pwrite(b"through the link", 0)
    assert u.read_bytes("new") == b"through the link"
    fails(errno.ELOOP, u.open, "l", os.O_RDONLY | os.O_NOFOLLOW)
    fails(errno.ELOOP, u.open, "m", CREATE | os.O_NOFOLLOW)


def test_errors_of_opening(union):
    u = union([{"f": b"", "d/x": b""}])
    fails(errno.ENOENT, u.open, "none", os.O_RDONLY)
    fails(errno.EISDIR, u.open, "d", os.O_WRONLY)
    fails(errno.EISDIR, u.open, "d", CREATE)
    fails(errno.ENOTDIR, u.open, "f", os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.ENOTDIR, u.open, "f/x", CREATE)
    with u.open("f", os.O_RDONLY) as file:
        fails(errno.EBADF, file.pwrite, b"x", 0)
        fails(errno.EINVAL, file.truncate, 0)
    with u.open("f", os.O_WRONLY) as file:
        fails(errno.EBADF, file.pread, 1, 0)


def test_truncating_at_open(union):
    u = union([{"f": b"lower text", "g": b"lower"}], {"h": b"upper"})
    for name in "fgh":
        with u.open(name, os.O_RDWR | os.O_TRUNC) as file:
            assert (file.stat().size, file.pread(10, 0)) == (0, b"")
            if name != "g":
                file.pwrite(b"new", 0)
        assert u.stat(name).mtime_ns > EARLIEST
    for _ in range(2):
        assert [u.read_bytes(name) for name in "fgh"] == [b"new", b"", b"new"]
        u.remount()


def test_appending(union):
    u = union([{"f": b"lower"}])
    with u.open("f", os.O_WRONLY | os.O_APPEND) as one, u.open("f", os.O_WRONLY | os.O_APPEND) as other:
        one.pwrite(b"+1", 0)
        other.pwrite(b"+2", 0)
        one.pwrite(b"+3", 100)
    assert u.read_bytes("f") == b"lower+1+2+3"


SNAPSHOT = "a descriptor from before the change of data stays with the lower file, unless mounted with coherent"


@differs(passthrough=SNAPSHOT)
def test_two_descriptors_of_one_file(union):
    """What one writes the other reads at once, also the one that was opened before the file was copied up."""
    u = union([{"f": b"lower content"}])
    with u.open("f", os.O_RDONLY) as reader, u.open("f", os.O_RDWR) as writer:
        writer.pwrite(b"UPPER", 0)
        assert reader.pread(100, 0) == b"UPPER content"
        writer.truncate(5)
        assert reader.pread(100, 0) == b"UPPER"
        assert reader.stat().size == writer.stat().size == u.stat("f").size == 5
        with u.open("f", os.O_RDONLY) as late:
            writer.pwrite(b"!", 5)
            assert late.pread(100, 0) == reader.pread(100, 0) == b"UPPER!"


@differs(passthrough=SNAPSHOT)
def test_reading_before_and_after_each_kind_of_copy_up(union):
    u = union([dict.fromkeys("abcd", b"content")])
    files = {name: u.open(name, os.O_RDONLY) for name in "abcd"}
    try:
        assert {file.pread(3, 0) for file in files.values()} == {b"con"}
        u.chmod("a", 0o600)
        u.rename("b", "bb")
        u.link("c", "cc")
        u.truncate("d", 3)
        assert [files[name].pread(10, 3) for name in "abcd"] == [b"tent", b"tent", b"tent", b""]
        assert stat.S_IMODE(files["a"].stat().mode) == 0o600
        assert files["c"].stat().nlink == 2
        with u.open("bb", os.O_WRONLY) as file:
            file.pwrite(b"C", 0)
        assert files["b"].pread(10, 0) == b"Content"
    finally:
        for file in files.values():
            file.close()


@differs(kernel="it counts the links of the lower file itself, while that has no copy")
def test_an_open_lower_file_that_was_unlinked_has_no_links(union):
    u = union([{"f": b"lower"}])
    with u.open("f", os.O_RDONLY) as file:
        u.unlink("f")
        no_links(u, file)


def test_an_open_file_that_was_unlinked(union):
    """It reads, writes, grows and counts no links; nothing of it is left when it is closed."""
    u = union([{"lower": b"lower", "written": b"lower", "hard": b"x", "link": Link("hard")}], {"upper": b"upper"})
    for name in ("lower", "written", "upper"):
        with u.open(name, os.O_RDONLY if name == "lower" else os.O_RDWR) as file:
            u.unlink(name)
            fails(errno.ENOENT, u.stat, name)
            assert file.pread(5, 0) == (b"upper" if name == "upper" else b"lower")
            if name == "lower":
                continue
            no_links(u, file)
            file.pwrite(b"more", 5)
            assert file.pread(20, 3) == b"ermore"
            file.truncate(2)
            assert file.pread(20, 0) == (b"up" if name == "upper" else b"lo")
            file.fsync()
        fails(errno.ENOENT, u.stat, name)
    with u.open("hard", os.O_RDWR) as file:
        u.unlink("hard")
        assert u.stat("link").nlink == 1
        file.pwrite(b"y", 0)
        assert u.read_bytes("link") == b"y"
    u.remount()
    assert u.listdir("") == ["link"]


def test_an_open_file_that_was_replaced(union):
    u = union([{"f": b"old lower", "g": b"new lower"}])
    with u.open("f", os.O_RDWR) as old:
        u.rename("g", "f")
        assert old.pread(20, 0) == b"old lower"
        old.pwrite(b"OLD", 0)
        no_links(u, old)
        assert u.read_bytes("f") == b"new lower"
    with u.open("f", os.O_RDONLY) as old:
        u.unlink("f")
        u.write_bytes("f", b"third")
        assert (old.pread(20, 0), u.read_bytes("f")) == (b"new lower", b"third")
    u.remount()
    assert (u.listdir(""), u.read_bytes("f")) == (["f"], b"third")


def test_an_open_file_follows_its_names(union):
    u = union([{"f": b"content", "d/x": b""}])
    with u.open("f", os.O_RDWR) as file:
        u.rename("f", "d/g")
        u.rename("d", "e")
        file.pwrite(b"C", 0)
        assert u.read_bytes("e/g") == b"Content"
        assert file.stat().ino == u.stat("e/g").ino


@subjects("model", "native", "kernel")
@differs(kernel="it copies up by name, and has none: EEXIST")
def test_attributes_by_the_descriptor_of_an_unlinked_file(union):
    """fchmod(2) and the like work without a name, on a lower file as well, and bring no name back."""
    u = union([{"f": b"content"}], {"up": b"content"})
    for name in ("f", "up"):
        with u.open(name, os.O_RDONLY) as file:
            u.unlink(name)
            file.fchmod(0o604)
            assert stat.S_IMODE(file.stat().mode) == 0o604
            assert file.pread(10, 0) == b"content"
    assert u.listdir("") == []


@differs(fusepy="libfuse 2 has no O_TMPFILE")
def test_a_file_without_a_name(union):
    u = union([{"d/x": b""}])
    with u.tmpfile("d", os.O_RDWR, 0o640) as file:
        assert file.pwrite(b"content", 0) == 7
        assert (file.pread(10, 0), file.stat().nlink, stat.S_IMODE(file.stat().mode)) == (b"content", 0, 0o640)
        assert u.listdir("d") == ["x"]
    u.remount()
    assert u.listdir("d") == ["x"]
    fails(errno.ENOTDIR, u.tmpfile, "d/x")


@differs(fusepy="libfuse 2 has no O_TMPFILE")
def test_giving_it_a_name(union):
    """linkat(2) with the descriptor: then it is a file like any other; over a whiteout too, and never over a file."""
    u = union([{"d/x": b"", "d/y": b"lower"}])
    u.unlink("d/y")
    with u.tmpfile("d", os.O_RDWR, 0o640) as file:
        file.pwrite(b"content", 0)
        fails(errno.EEXIST, u.link_file, file, "d/x")
        u.link_file(file, "d/y")
        assert (file.stat().nlink, file.stat().ino) == (1, u.stat("d/y").ino)
        file.pwrite(b"C", 0)
        u.link_file(file, "z")
    for _ in range(2):
        assert (u.read_bytes("d/y"), u.stat("d/y").nlink) == (b"Content", 2)
        assert u.stat("z").ino == u.stat("d/y").ino
        u.remount()


@subjects("mounted")
def test_shared_mappings(union):
    """A store through a shared mapping reaches the file, one of a lower file after it was opened for writing."""
    u = union([{"f": bytes(10_000)}])
    with u.open("f", os.O_RDWR) as file, mmap.mmap(file.fd, 10_000) as mapped:
        mapped[5000:5005] = b"store"
        assert file.pread(5, 5000) == b"store"
        file.pwrite(b"write", 100)
        assert mapped[100:105] == b"write"
        mapped.flush()
    for _ in range(2):
        assert u.read_bytes("f") == bytes(100) + b"write" + bytes(4895) + b"store" + bytes(4995)
        u.remount()


@subjects("mounted")
def test_a_private_mapping_of_a_lower_file(union):
    u = union([{"f": b"lower" * 2000}])
    with u.open("f", os.O_RDONLY) as file, mmap.mmap(file.fd, 10_000, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        assert mapped[5000:5005] == b"lower"
        u.unlink("f")
        assert mapped[9995:] == b"lower"


@subjects("mounted")
def test_a_program_runs_from_it(union):
    """execve(2): the kernel maps it; its text stays while it is replaced."""
    u = union([{"bin/true": File(open("/bin/true", "rb").read(), 0o755)}])
    assert os.waitstatus_to_exitcode(os.spawnv(os.P_WAIT, u.at("bin/true"), ["true"])) == 0
    u.chmod("bin/true", 0o700)
    assert os.waitstatus_to_exitcode(os.spawnv(os.P_WAIT, u.at("bin/true"), ["true"])) == 0


@subjects("native", "kernel")
def test_a_file_without_a_name_that_nobody_has_open(union):
    """Whoever refers to it (a descriptor of O_PATH, a bind mount of the file, a working directory) can still open and
    change it."""
    u = union([{"low": b"low", "d/x": b""}], {"up": b"up", "replaced": b"replaced", "by": b"", "one": b"one"})
    u.link("one", "two")
    names = ("low", "up", "replaced", "one")
    held = {name: os.open(u.at(name), os.O_PATH) for name in (*names, "d")}
    for name in ("low", "up", "one", "two", "d/x"):
        u.unlink(name)
    u.rename("by", "replaced")
    u.rmdir("d")
    for name in names:
        path = f"/proc/self/fd/{held[name]}"
        assert os.fstat(held[name]).st_nlink == 0 or name == "low"  # where the kernel's overlayfs says 1
        with open(path, "rb") as file:
            assert file.read() == name.encode()
    for name in ("up", "d"):
        os.chmod(f"/proc/self/fd/{held[name]}", 0o700)
        assert stat.S_IMODE(os.fstat(held[name]).st_mode) == 0o700
    assert os.listdir(f"/proc/self/fd/{held['d']}") == []
    for fd in held.values():
        os.close(fd)
    fails(errno.ENOENT, u.stat, "up")
    assert u.read_bytes("replaced") == b""
