"""Who may do what, and which privileges a change takes from a file. In a mount the kernel asks and decides."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.contract.layers import Dir, File
from tests.contract.subject import fails, subjects

USER, GROUP = 1234, 4321
CAPABLE = bytes.fromhex("0100000200040000000000000000000000000000")
"""security.capability of `setcap cap_net_bind_service+ep`, version 2."""


@contextmanager
def as_user(u, uid: int = USER, gid: int = GROUP) -> Iterator[None]:
    """This process is another user, in the root of the mount: the way there is not open to everybody."""
    here = os.open(".", os.O_PATH)
    groups = os.getgroups()
    os.chdir(u.point)
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        os.fchdir(here)
        os.close(here)


def bits(u, path):
    return oct(stat.S_IMODE(u.stat(path).mode))


def test_chown_takes_setuid_and_setgid(union):
    """Of a file; the setgid bit of a directory, and of a file that nobody in the group may run, mean something else."""
    layer = {"f": File(b"", 0o6755), "lock": File(b"", 0o2644), "d": Dir(0o6775), "same": File(b"", 0o4755, 1, 1)}
    u = union([layer, {"d/x": b""}])
    for path in ("f", "lock", "d"):
        u.chown(path, 3, 4)
    u.chown("same", 1, 1)
    for _ in range(2):
        assert [bits(u, path) for path in ("f", "lock", "d", "same")] == ["0o755", "0o2644", "0o6775", "0o755"]
        assert (u.stat("f").uid, u.stat("f").gid) == (3, 4)
        u.remount()


def test_root_keeps_them_when_it_writes(union):
    u = union([{"f": File(b"content", 0o6755), "g": File(b"content", 0o6755)}])
    with u.open("f", os.O_RDWR) as file:
        file.pwrite(b"C", 0)
    u.truncate("g", 3)
    assert (bits(u, "f"), bits(u, "g")) == ("0o6755", "0o6755")


WRITES = {
    "write": lambda: os.pwrite(os.open("f", os.O_WRONLY), b"C", 0),
    "truncate": lambda: os.truncate("f", 3),
    "ftruncate": lambda: os.ftruncate(os.open("f", os.O_WRONLY), 3),
    "open with O_TRUNC": lambda: os.open("f", os.O_WRONLY | os.O_TRUNC),
}


@subjects("mounted")
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_another_user_who_writes_takes_them(union, write, layer):
    what = {"f": File(b"content", 0o6777)}
    u = union([what]) if layer == "lower" else union([{"x": b""}], what)
    before = set(os.listdir("/proc/self/fd"))
    with as_user(u):
        WRITES[write]()
    for fd in set(os.listdir("/proc/self/fd")) - before:
        try:
            os.close(int(fd))
        except OSError:
            pass
    for _ in range(2):
        assert bits(u, "f") == "0o777"
        assert (u.stat("f").uid, u.stat("f").gid) == (0, 0)
        u.remount()


@subjects("mounted")
@pytest.mark.parametrize("change", ["write", "truncate", "chown"])
def test_capabilities_go_with_a_change(union, change):
    """security.capability, whoever writes (capabilities(7)); and a copy-up for another cause keeps it."""
    u = union([{"f": File(b"content", 0o755, xattrs={b"security.capability": CAPABLE})}])
    u.chmod("f", 0o711)
    assert u.getxattr("f", b"security.capability") == CAPABLE
    if change == "write":
        with u.open("f", os.O_WRONLY) as file:
            file.pwrite(b"C", 0)
    elif change == "truncate":
        u.truncate("f", 3)
    else:
        u.chown("f", 5, 5)
    for _ in range(2):
        fails(errno.ENODATA, u.getxattr, "f", b"security.capability")
        u.remount()


@subjects("mounted")
def test_permissions_are_checked(union):
    layer = {
        "theirs": File(b"x", 0o644), "secret": File(b"x", 0o600), "closed": Dir(0o700), "closed/f": b"",
        "open": Dir(0o777), "sticky": Dir(0o1777), "sticky/f": b"", "mine": File(b"x", 0o600, USER, GROUP),
        "group": File(b"x", 0o060, 0, GROUP), "open/f": b"",
    }  # fmt: skip
    u = union([layer])
    with as_user(u):
        refused = [
            (errno.EACCES, os.open, "theirs", os.O_WRONLY), (errno.EACCES, os.open, "secret", os.O_RDONLY),
            (errno.EACCES, os.stat, "closed/f"), (errno.EACCES, os.listdir, "closed"), (errno.EACCES, os.mkdir, "new"),
            (errno.EACCES, os.unlink, "theirs"), (errno.EPERM, os.unlink, "sticky/f"),
            (errno.EPERM, os.rename, "sticky/f", "open/g"), (errno.EPERM, os.chmod, "theirs", 0o777),
            (errno.EPERM, os.chown, "theirs", USER, GROUP), (errno.EPERM, os.chown, "mine", 0, -1),
            (errno.EPERM, os.utime, "theirs", (1, 1)), (errno.EACCES, os.setxattr, "theirs", "user.a", b""),
            (errno.EACCES, os.truncate, "theirs", 0), (errno.EPERM, os.setxattr, "mine", "trusted.a", b""),
        ]  # fmt: skip
        for number, call, *arguments in refused:
            fails(number, call, *arguments)
        os.unlink("open/f")
        os.mkdir("open/d", 0o750)
        os.chmod("mine", 0o640)
        for name in ("open/new", "mine", "group"):
            with open(name, "wb") as file:
                file.write(b"written")
    assert sorted(u.listdir("open")) == ["d", "new"]
    assert [(u.stat(name).uid, u.stat(name).gid) for name in ("open/d", "open/new", "mine", "group")] == [
        (USER, GROUP), (USER, GROUP), (USER, GROUP), (0, GROUP),
    ]  # fmt: skip
    assert (u.read_bytes("theirs"), bits(u, "mine"), bits(u, "open/d")) == (b"x", "0o640", "0o750")


@subjects("mounted")
def test_the_umask_of_the_caller_counts(union):
    u = union([{"d/x": b""}])
    before = os.umask(0o027)
    try:
        u.mkdir("d/dir", 0o777)
        u.open("d/file", os.O_CREAT | os.O_WRONLY, 0o666).close()
        u.mknod("d/pipe", stat.S_IFIFO | 0o666)
    finally:
        os.umask(before)
    assert [bits(u, f"d/{name}") for name in ("dir", "file", "pipe")] == ["0o750", "0o640", "0o640"]


@subjects("mounted")
def test_trusted_attributes_are_for_root(union):
    """xattr(7): to others they are not there."""
    u = union([{"f": File(b"", 0o666, USER, GROUP, {b"trusted.a": b"1", b"user.b": b"2"})}])
    with as_user(u):
        assert os.listxattr("f") == ["user.b"]
        fails(errno.ENODATA, os.getxattr, "f", "trusted.a")
    assert sorted(u.listxattr("f")) == [b"trusted.a", b"user.b"]


@subjects("mounted")
def test_a_copy_up_by_another_user_keeps_the_owner(union):
    u = union([{"d": Dir(0o777, 7, 7), "d/f": File(b"content", 0o666, 8, 8), "d/g": File(b"", 0o777, 9, 9)}])
    with as_user(u):
        with open("d/f", "r+b") as file:
            file.write(b"C")
        os.rename("d/g", "d/h")
        os.link("d/f", "d/l")
    assert (u.stat("d").uid, u.stat("d/f").uid, u.stat("d/h").uid, u.stat("d/l").gid) == (7, 8, 9, 8)
    assert u.read_bytes("d/l") == b"Content"
    top = u.upper / "d"
    assert (top.stat().st_uid, stat.S_IMODE(top.stat().st_mode)) == (7, 0o777)
