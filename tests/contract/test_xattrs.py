"""Extended attributes and POSIX ACLs: kept, copied up, refused as the kernel refuses them; ours are never shown."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess

import pytest

from tests.contract.layers import Dir, File, Link, Special, Symlink
from tests.contract.subject import check, differs, fails, libc, subjects

needs_acl = pytest.mark.skipif(
    not (shutil.which("setfacl") and shutil.which("getfacl")), reason="needs setfacl and getfacl (package acl)"
)


def all_of(u, path):
    return {name: u.getxattr(path, name) for name in u.listxattr(path)}


def test_set_get_list_remove(union):
    kept = {b"user.a": b"1", b"trusted.b": b"\0\xff"}
    u = union([{"f": File(b"", xattrs=kept), "d": Dir(xattrs=kept), "d/x": b""}], {"up": File(b"", xattrs=kept)})
    for path in ("f", "d", "up"):
        assert all_of(u, path) == kept
        u.setxattr(path, b"user.new", b"")
        u.setxattr(path, b"user.a", b"changed")
        u.removexattr(path, b"trusted.b")
        for _ in range(2):
            assert all_of(u, path) == {b"user.a": b"changed", b"user.new": b""}
            u.remount()


def test_capabilities_of_a_new_file(union):
    """Asked for before each first write and change of owner, so an engine may remember that there are none."""
    u = union([{"lower": b""}])
    value = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, VFS_CAP_REVISION_2
    for path in ("new", "lower"):
        u.write_bytes(path, b"1")
        fails(errno.ENODATA, u.getxattr, path, b"security.capability")
        u.setxattr(path, b"security.capability", value)
        assert u.getxattr(path, b"security.capability") == value
        u.removexattr(path, b"security.capability")
        fails(errno.ENODATA, u.getxattr, path, b"security.capability")
        u.setxattr(path, b"security.capability", value)
        u.rename(path, f"{path}2")
        for _ in range(2):
            assert u.getxattr(f"{path}2", b"security.capability") == value
            u.remount()


def test_create_replace_and_what_is_not_there(union):
    u = union([{"f": File(b"", xattrs={b"user.a": b"1"})}])
    fails(errno.EEXIST, u.setxattr, "f", b"user.a", b"2", os.XATTR_CREATE)
    fails(errno.ENODATA, u.setxattr, "f", b"user.b", b"2", os.XATTR_REPLACE)
    fails(errno.ENODATA, u.getxattr, "f", b"user.b")
    fails(errno.ENODATA, u.removexattr, "f", b"user.b")
    u.setxattr("f", b"user.b", b"2", os.XATTR_CREATE)
    u.setxattr("f", b"user.a", b"3", os.XATTR_REPLACE)
    fails(errno.ENODATA, u.setxattr, "f", b"user.c", b"2", os.XATTR_REPLACE)
    fails(errno.EEXIST, u.setxattr, "f", b"user.b", b"2", os.XATTR_CREATE)
    assert all_of(u, "f") == {b"user.a": b"3", b"user.b": b"2"}
    fails(errno.ENOENT, u.getxattr, "none", b"user.a")


def test_names_that_are_refused(union):
    u = union([{"f": b"", "l": Symlink("f"), "p": Special(stat.S_IFIFO | 0o600)}])
    fails(errno.EOPNOTSUPP, u.setxattr, "f", b"nobodys.name", b"")
    for path in ("l", "p"):
        fails(errno.EPERM, u.setxattr, path, b"user.a", b"")
        fails(errno.ENODATA, u.getxattr, path, b"user.a")
        u.setxattr(path, b"trusted.a", b"1")
        assert all_of(u, path) == {b"trusted.a": b"1"}
    assert all_of(u, "f") == {}


@subjects("mounted")
def test_sizes(union):
    """A size of 0 asks, one too small is ERANGE (getxattr(2), listxattr(2)); 255 bytes of name, 64 KiB of value."""
    u = union([{"f": File(b"", xattrs={b"user.a": b"12345", b"user.b": b""})}])
    path, buffer = u.at("f"), ctypes.create_string_buffer(100)
    assert libc.getxattr(path, b"user.a", None, 0) == 5
    assert libc.getxattr(path, b"user.a", buffer, 5) == 5
    fails(errno.ERANGE, lambda: check(libc.getxattr(path, b"user.a", buffer, 4)))
    whole = libc.listxattr(path, None, 0)
    assert whole == len(b"user.a\0user.b\0")
    fails(errno.ERANGE, lambda: check(libc.listxattr(path, buffer, whole - 1)))
    fails(errno.ERANGE, u.setxattr, "f", b"user." + b"x" * 251, b"")
    fails(errno.E2BIG, u.setxattr, "f", b"user.big", bytes(65537))
    u.setxattr("f", b"user." + b"x" * 250, b"longest")
    u.setxattr("f", b"user.large", b"y" * 2000)
    u.remount()
    assert u.getxattr("f", b"user.large") == b"y" * 2000


@subjects("real")
def test_our_own_are_never_shown(union):
    """Of what was copied up, renamed, made over a whiteout, linked: only the user's show, and only they can be read."""
    layer = {"f": b"", "d/x": b"", "a": b"", "b": Link("a"), "gone/x": b""}
    u = union([layer])
    u.chmod("f", 0o600)
    u.rename("d", "moved")
    u.chmod("a", 0o600)
    u.unlink("gone/x")
    u.rmdir("gone")
    u.mkdir("gone")
    for path in ("", "f", "moved", "a", "b", "gone"):
        assert all_of(u, path) == {}
        for name in (b"overlay.origin", b"overlay.opaque", b"overlay.redirect", b"overlay.impure", b"unionfs.origin"):
            fails(errno.ENODATA, u.getxattr, path, b"trusted." + name)


@subjects("real", dialect="overlay")
def test_a_users_own_overlay_attributes(union):
    """Nested overlays (overlayfs.rst, "Nesting"): kept under another name, shown as given, no mark of this one."""
    u = union([{"d/x": b"x", "f": b""}])
    for path in ("d", "f"):
        u.setxattr(path, b"trusted.overlay.opaque", b"y")
        u.setxattr(path, b"trusted.overlay.redirect", b"/elsewhere")
    for _ in range(2):
        for path in ("d", "f"):
            assert all_of(u, path) == {b"trusted.overlay.opaque": b"y", b"trusted.overlay.redirect": b"/elsewhere"}
        assert u.listdir("d") == ["x"]
        u.remount()
    u.removexattr("d", b"trusted.overlay.opaque")
    assert all_of(u, "d") == {b"trusted.overlay.redirect": b"/elsewhere"}
    assert os.getxattr(u.upper / "f", "trusted.overlay.overlay.opaque") == b"y"


# --- ACLs


def setfacl(place, *words):
    subprocess.run(["setfacl", *words, os.fsdecode(place)], check=True)


def acl(u, path):
    command = ["getfacl", "-cpnE", os.fsdecode(u.at(path))]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@needs_acl
@subjects("mounted")
def test_acls_are_copied_up(union):
    def give(lowers, upper):
        setfacl(lowers[0] / "f", "-m", "u:1234:rw,g:77:r,m::rw")
        setfacl(lowers[0] / "d", "-m", "u:1234:rwx,d:u:55:r-x")

    u = union([{"f": File(b"x", 0o640), "d/g": b"", "d/e": Dir()}], prepare=give)
    before = acl(u, "f"), acl(u, "d")
    assert "user:1234:rw-" in before[0] and "default:user:55:r-x" in before[1]
    u.setxattr("f", b"user.a", b"1")
    u.setxattr("d", b"user.a", b"1")
    for _ in range(2):
        assert (acl(u, "f"), acl(u, "d")) == before
        u.remount()
    u.chmod("f", 0o600)
    assert "mask::---" in acl(u, "f")


@needs_acl
@subjects("mounted")
def test_acls_are_set_and_removed(union):
    u = union([{"f": File(b"x", 0o640), "d/g": b""}])
    setfacl(u.at("f"), "-m", "u:1234:rwx")
    assert ("user:1234:rwx" in acl(u, "f"), stat.S_IMODE(u.stat("f").mode)) == (True, 0o670)
    u.remount()
    assert "user:1234:rwx" in acl(u, "f")
    setfacl(u.at("f"), "-b")
    assert acl(u, "f") == ["user::rw-", "group::r--", "other::---"]
    setfacl(u.at("d"), "-m", "d:u:55:r-x")
    setfacl(u.at("d"), "-k")
    assert acl(u, "d") == ["user::rwx", "group::r-x", "other::r-x"]


@needs_acl
@subjects("mounted")
@differs(fusepy="libfuse 2 applies the umask before we see a default ACL")
def test_default_acls_are_inherited(union):
    """From a lower directory too; the umask does not count then (acl(5)); over a whiteout as anywhere."""

    def give(lowers, upper):
        setfacl(lowers[0] / "d", "-m", "d:u::rwx,d:u:55:rwx,d:g::rx,d:o::-")

    u = union([{"d/deleted": b""}], prepare=give)
    u.unlink("d/deleted")
    before = os.umask(0o077)
    try:
        for name in ("d/file", "d/deleted"):
            u.open(name, os.O_CREAT | os.O_WRONLY, 0o666).close()
        u.mkdir("d/sub", 0o777)
        u.mkdir("plain", 0o777)
    finally:
        os.umask(before)
    for name in ("d/file", "d/deleted"):
        assert "user:55:rwx" in acl(u, name)
        assert stat.S_IMODE(u.stat(name).mode) == 0o660
    assert {"user:55:rwx", "default:user:55:rwx"} <= set(acl(u, "d/sub"))
    assert stat.S_IMODE(u.stat("d/sub").mode) == 0o770
    assert stat.S_IMODE(u.stat("plain").mode) == 0o700
    u.symlink("x", "d/l")
    assert all_of(u, "d/l") == {}
