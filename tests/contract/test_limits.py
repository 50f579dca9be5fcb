"""What is refused: reserved names, devices that would be misread, long names, and every change of a read-only union."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.contract.layers import Dir, File, Link, Symlink
from tests.contract.subject import fails, subjects
from tests.model import EXCHANGE


@subjects("ours", dialect="aufs")
@pytest.mark.parametrize("name", [".wh.x", ".wh.", ".wh..wh..opq", ".wh..wh.plnk", ".wh.f"])
def test_names_that_aufs_would_misread(union, name):
    """EINVAL for whoever would make one, ENOENT for whoever asks; in a directory of any layer."""
    u = union([{"f": b"x", "d/g": b""}], {"up/x": b""})
    for folder in ("", "d/", "up/"):
        path = folder + name
        fails(errno.EINVAL, u.open, path, os.O_CREAT | os.O_WRONLY)
        fails(errno.EINVAL, u.mkdir, path)
        fails(errno.EINVAL, u.symlink, "f", path)
        fails(errno.EINVAL, u.mknod, path, stat.S_IFIFO | 0o600)
        fails(errno.EINVAL, u.link, "f", path)
        fails(errno.EINVAL, u.rename, "f", path)
        fails(errno.EINVAL, u.rename, "d", path)
        fails(errno.ENOENT, u.stat, path)
        fails(errno.ENOENT, u.unlink, path)
        fails(errno.ENOENT, u.rename, path, "g")
        fails(errno.ENOENT, u.open, path, os.O_RDONLY)
    assert sorted(u.listdir("")) == ["d", "f", "up"]
    u.write_bytes(".w", b"")
    u.write_bytes("x.wh.", b"")
    assert sorted(u.listdir("")) == [".w", "d", "f", "up", "x.wh."]


@subjects("core", "native", dialect="aufs")
def test_an_exchange_with_a_reserved_name(union):
    u = union([{"f": b"x"}])
    fails(errno.ENOENT, u.rename, "f", ".wh.f", EXCHANGE)


@subjects("ours", dialect="aufs")
def test_long_names_in_aufs(union):
    """Its whiteout of a name needs four bytes more: 251 is the longest."""
    u = union([{"n" * 251: b"lower", "d/x": b""}])
    u.unlink("n" * 251)
    u.write_bytes("n" * 251, b"new")
    u.mkdir("d/" + "m" * 251)
    for length in (252, 255, 256):
        fails(errno.ENAMETOOLONG, u.open, "x" * length, os.O_CREAT | os.O_WRONLY)
        fails(errno.ENAMETOOLONG, u.mkdir, "d/" + "x" * length)
        fails(errno.ENAMETOOLONG, u.rename, "d", "x" * length)
    u.remount()
    assert sorted(u.listdir("")) == sorted(["d", "n" * 251])


@subjects("ours", dialect="aufs")
def test_a_longer_name_of_a_lower_layer(union):
    """It is shown and can be read; it cannot be deleted, since no whiteout can say so."""
    long = "n" * 254
    u = union([{long: b"lower"}])
    assert (u.listdir(""), u.read_bytes(long)) == ([long], b"lower")
    fails(errno.ENAMETOOLONG, u.unlink, long)
    assert u.read_bytes(long) == b"lower"


@subjects("real", dialect="overlay")
def test_long_names_elsewhere(union):
    u = union([{"n" * 255: b"lower"}])
    u.rename("n" * 255, "m" * 255)
    fails(errno.ENAMETOOLONG, u.mkdir, "x" * 256)
    u.remount()
    assert u.read_bytes("m" * 255) == b"lower"
    u.unlink("m" * 255)
    assert u.listdir("") == []


@subjects("real", dialect="overlay")
def test_a_device_that_overlay_would_misread(union):
    """A character device 0:0 is a whiteout there."""
    u = union([{"f": b"x"}])
    fails(errno.EPERM, u.mknod, "w", stat.S_IFCHR | 0o600, 0)
    fails(errno.EEXIST, u.mknod, "f", stat.S_IFCHR | 0o600, 0)
    u.mknod("c", stat.S_IFCHR | 0o600, os.makedev(0, 1))
    u.mknod("b", stat.S_IFBLK | 0o600, 0)
    assert sorted(u.listdir("")) == ["b", "c", "f"]


@subjects("ours", dialect="aufs")
def test_that_device_is_one_in_aufs(union):
    u = union([{"f": b"x"}])
    u.mknod("c", stat.S_IFCHR | 0o600, 0)
    u.remount()
    assert (u.stat("c").rdev, stat.S_ISCHR(u.stat("c").mode)) == (0, True)


def test_paths_of_4096_bytes_and_targets(union):
    u = union([{"d/x": b""}])
    fails(errno.ENAMETOOLONG, u.symlink, "t" * 4096, "l")
    fails(errno.ENOENT, u.symlink, "", "l")
    u.symlink("t" * 4000, "l")
    assert u.readlink("l") == b"t" * 4000
    assert u.stat("l").size == 4000


@subjects("real")
def test_a_read_only_union_refuses_every_change(union):
    """EROFS, from the first to the last, and reading works."""
    layer = {"f": File(b"x", xattrs={b"user.a": b"1"}), "d/g": b"", "e": Dir(), "l": Symlink("f")}
    u = union([layer, {"d/h": b"h"}], read_only=True)
    changes = [
        (u.write_bytes, "f", b""), (u.write_bytes, "new", b""), (u.open, "f", os.O_RDWR),
        (u.open, "f", os.O_RDONLY | os.O_TRUNC), (u.truncate, "f", 0), (u.mkdir, "new"), (u.symlink, "x", "new"),
        (u.mknod, "new", stat.S_IFIFO | 0o600), (u.link, "f", "new"), (u.unlink, "f"), (u.rmdir, "e"),
        (u.rename, "f", "new"), (u.rename, "d", "dd"), (u.chmod, "f", 0o600), (u.chown, "f", 1, 1),
        (u.utime, "f", 1, 1), (u.setxattr, "f", b"user.b", b""), (u.removexattr, "f", b"user.a"), (u.chown, "l", 1, 1),
    ]  # fmt: skip
    for change, *arguments in changes:
        fails(errno.EROFS, change, *arguments)
    assert sorted(u.listdir("d")) == ["g", "h"]
    assert (u.read_bytes("f"), u.readlink("l"), u.getxattr("f", b"user.a")) == (b"x", b"f", b"1")
    with u.open("f", os.O_RDONLY) as file:
        assert file.pread(5, 0) == b"x"
    fails(errno.ENOENT, u.stat, "new")


@subjects("real")
def test_hard_links_of_a_read_only_union(union):
    u = union([{"a": b"x", "b": Link("a")}, {"c": b""}], read_only=True)
    assert (u.stat("a").ino, u.stat("a").nlink) == (u.stat("b").ino, 2)
