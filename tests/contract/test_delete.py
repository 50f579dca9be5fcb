"""Deleting: a whiteout where a lower layer has the name, else the upper's object goes. And creating again."""

from __future__ import annotations

import errno
import os
import stat

from tests.contract.layers import WHITEOUT, Dir, File, Link, Special, Symlink, time_of
from tests.contract.subject import fails, subjects
from tests.contract.tree import EARLIEST


def test_unlink_of_each_type(union):
    kinds = {
        "f": File(b"x"), "l": Symlink("f"), "p": Special(stat.S_IFIFO | 0o600), "s": Special(stat.S_IFSOCK | 0o600),
        "c": Special(stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    }  # fmt: skip
    u = union([kinds], {f"u{name}": what for name, what in kinds.items()})
    for name in sorted(u.listdir("")):
        u.unlink(name)
        fails(errno.ENOENT, u.stat, name)
    assert u.listdir("") == []
    u.remount()
    assert u.listdir("") == []


@subjects("real")
def test_what_unlink_leaves_in_the_upper(union):
    u = union(
        [{"lower": b"x", "both": b"x", "d/lower": b"x"}, {"deleted": b"x"}],
        {"upper": b"x", "both": b"y", "deleted": WHITEOUT},
    )
    for name in ("lower", "both", "upper", "d/lower"):
        u.unlink(name)
    fails(errno.ENOENT, u.unlink, "deleted")
    whiteouts = {("lower", "whiteout"), ("both", "whiteout"), ("deleted", "whiteout")}
    assert u.marks() == {*whiteouts, ("d", "dir"), ("d/lower", "whiteout")}


@subjects("real")
def test_no_whiteout_where_the_layers_below_do_not_show_the_name(union):
    """Below an opaque directory, below a whiteout of a middle layer, and in a directory of the upper alone."""
    below = {"opaque/x": b"", "middle/x": b"", "above/x": b""}
    upper = {"opaque": Dir(opaque=True), "opaque/x": b"", "middle/x": b"", "above/only/x": b"", "new": b""}
    u = union([{"middle/x": WHITEOUT}, below], upper)
    for name in ("opaque/x", "middle/x", "above/only/x", "new"):
        u.unlink(name)
    u.rmdir("above/only")
    assert {path for path, what in u.marks() if what == "whiteout"} <= {"middle/x", "above/only"}
    u.remount()
    assert sorted(u.listdir("")) == ["above", "middle", "opaque"]
    assert (u.listdir("above"), u.listdir("middle"), u.listdir("opaque")) == (["x"], [], [])


@subjects("real")
def test_nothing_is_copied_up_to_be_deleted(union):
    """Neither a file, nor a tree of directories, nor a hard link leaves more than whiteouts and parents."""
    layer = {"big": File(hole_after=1 << 26, content=b"x"), "a": b"x", "t/u/v": b"x"}
    u = union([layer])
    u.unlink("big")
    u.unlink("a")
    u.unlink("t/u/v")
    u.rmdir("t/u")
    u.rmdir("t")
    assert u.marks() == {(name, "whiteout") for name in ("big", "a", "t")}


@subjects("ours")
def test_a_name_of_a_lower_hard_link_is_deleted_without_a_copy(union):
    """overlayfs copies the file up, to keep its link count there; ours keeps a number on the side."""
    u = union([{"a": File(b"x" * 100_000), "b": Link("a")}])
    u.unlink("a")
    assert u.marks() == {("a", "whiteout")}
    assert all(place.lstat().st_size < 10_000 for place in u.work.rglob("*"))
    assert (u.stat("b").nlink, u.read_bytes("b")) == (1, b"x" * 100_000)
    u.remount()
    assert (u.stat("b").nlink, u.read_bytes("b")) == (1, b"x" * 100_000)


def test_rmdir_of_lower_upper_and_merged_directories(union):
    u = union([{"lower": Dir(), "merged": Dir(), "full/x": b""}], {"upper": Dir(), "merged": Dir()})
    for name in ("lower", "merged", "upper"):
        u.rmdir(name)
        fails(errno.ENOENT, u.stat, name)
    fails(errno.ENOTEMPTY, u.rmdir, "full")
    assert u.listdir("") == ["full"]
    u.remount()
    assert u.listdir("") == ["full"]


def test_rmdir_of_a_directory_that_whiteouts_have_emptied(union):
    u = union([{"d/a": b"", "d/e/b": b""}, {"d/c": b""}], {"d/up": b""})
    fails(errno.ENOTEMPTY, u.rmdir, "d")
    for name in ("d/a", "d/c", "d/up", "d/e/b"):
        u.unlink(name)
    fails(errno.ENOTEMPTY, u.rmdir, "d")
    u.rmdir("d/e")
    u.rmdir("d")
    assert u.listdir("") == []
    u.remount()
    assert u.listdir("") == []


def test_errors_of_deleting(union):
    u = union([{"d/x": b"", "f": b"", "l": Symlink("d")}])
    fails(errno.EISDIR, u.unlink, "d")
    fails(errno.ENOTDIR, u.rmdir, "f")
    fails(errno.ENOTDIR, u.rmdir, "l")
    fails(errno.ENOENT, u.unlink, "none")
    fails(errno.ENOENT, u.rmdir, "none")
    fails(errno.ENOENT, u.unlink, "none/x")
    fails(errno.ENOTDIR, u.unlink, "f/x")
    u.unlink("l")
    assert sorted(u.listdir("")) == ["d", "f"]


def test_deleting_moves_the_time_of_the_directory_and_of_no_other(union):
    u = union([{"a/b/c": b"", "a/b/d/x": b""}])
    u.unlink("a/b/c")
    assert u.stat("a/b").mtime_ns > EARLIEST
    assert (u.stat("a").mtime_ns, u.stat("").mtime_ns) == (time_of("a"), time_of(""))
    assert u.stat("a/b/d").mtime_ns == time_of("a/b/d")


# --- creating where something was deleted


def test_creating_over_a_whiteout(union):
    deleted = {"f": WHITEOUT, "d": WHITEOUT, "l": WHITEOUT, "h": b"hard"}
    u = union([deleted, {"f": b"old", "d/x": b"", "l": b"", "k": b""}])
    u.write_bytes("f", b"new")
    u.symlink("f", "l")
    u.mkdir("d", 0o711)
    u.unlink("k")
    u.link("h", "k")
    for _ in range(2):
        assert (u.read_bytes("f"), u.readlink("l"), u.read_bytes("k")) == (b"new", b"f", b"hard")
        assert u.listdir("d") == []
        assert stat.S_IMODE(u.stat("d").mode) == 0o711
        assert sorted(u.listdir("")) == ["d", "f", "h", "k", "l"]
        u.remount()


@subjects("real")
def test_the_whiteout_goes_when_something_is_created(union):
    names = ("f", "p", "l", "h", "r")
    u = union([dict.fromkeys(names, b"old")], {"up": b""})
    for name in names:
        u.unlink(name)
    u.write_bytes("f", b"new")
    u.mknod("p", stat.S_IFIFO | 0o600)
    u.symlink("f", "l")
    u.link("f", "h")
    u.rename("up", "r")
    assert u.marks() == {("f", "file"), ("p", "fifo"), ("l", "symlink"), ("h", "file"), ("r", "file")}
    for name in names:
        u.unlink(name)
    assert u.marks() == {(name, "whiteout") for name in names}


def test_a_directory_in_place_of_a_deleted_one_is_empty(union):
    """Opaque, whatever way it came there; and what is in it can be deleted and made in turn."""
    u = union([{"d/a": b"", "d/e/b": b""}, {"d/c": b""}])
    for name in ("d/a", "d/c", "d/e/b"):
        u.unlink(name)
    u.rmdir("d/e")
    u.rmdir("d")
    u.mkdir("d")
    assert u.listdir("d") == []
    u.mkdir("d/e")
    u.write_bytes("d/a", b"new")
    for _ in range(2):
        assert sorted(u.listdir("d")) == ["a", "e"]
        assert (u.listdir("d/e"), u.read_bytes("d/a")) == ([], b"new")
        u.remount()
    u.unlink("d/a")
    u.remount()
    assert u.listdir("d") == ["e"]


def test_a_directory_in_place_of_a_deleted_file_and_the_reverse(union):
    u = union([{"f": b"file", "d/x": b""}, {"f/below": b"", "d/y": b""}])
    u.unlink("f")
    u.mkdir("f")
    u.unlink("d/x")
    u.unlink("d/y")
    u.rmdir("d")
    u.write_bytes("d", b"now a file")
    for _ in range(2):
        assert (u.listdir("f"), u.read_bytes("d")) == ([], b"now a file")
        u.remount()


@subjects("real", dialect="overlay")
def test_the_opaque_marks_that_overlayfs_writes(union):
    """A new directory in a merged one is always opaque: what is added to the layers below later must not show in it."""
    u = union([{"d/x": b"", "gone/x": b""}], {"plain": Dir()})
    u.unlink("gone/x")
    u.rmdir("gone")
    u.mkdir("gone")
    u.mkdir("d/new")
    u.mkdir("new")
    u.mkdir("new/inside")
    opaque = {path for path, what in u.marks() if what == "opaque"}
    assert {"gone", "d/new", "new"} == opaque - {"plain"}


def test_creating_and_deleting_again_and_again(union):
    """A whiteout neither piles up nor is forgotten."""
    u = union([{"f": b"lower", "d/x": b"lower"}])
    u.unlink("d/x")
    u.rmdir("d")
    for turn in range(3):
        u.unlink("f")
        fails(errno.ENOENT, u.stat, "f")
        u.write_bytes("f", b"%d" % turn)
        u.mkdir("d")
        u.write_bytes(f"d/{turn}", b"")
        assert u.listdir("d") == [f"{turn}"]
        u.unlink(f"d/{turn}")
        u.rmdir("d")
    assert u.listdir("") == ["f"]
    assert u.read_bytes("f") == b"2"
    u.remount()
    assert u.listdir("") == ["f"]


def test_errors_of_creating(union):
    u = union([{"f": b"", "d": Dir(), "l": Symlink("nowhere")}])
    for name in ("f", "d", "l"):
        fails(errno.EEXIST, u.mkdir, name)
        fails(errno.EEXIST, u.symlink, "x", name)
        fails(errno.EEXIST, u.mknod, name, stat.S_IFIFO | 0o600)
        fails(errno.EEXIST, u.link, "f", name)
        fails(errno.EEXIST, u.open, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    for name in ("none/x", "none/y/z"):
        fails(errno.ENOENT, u.mkdir, name)
        fails(errno.ENOENT, u.open, name, os.O_CREAT | os.O_WRONLY)
        fails(errno.ENOENT, u.link, "f", name)
    fails(errno.ENOTDIR, u.mkdir, "f/x")
    fails(errno.ENOTDIR, u.symlink, "x", "f/x")
    fails(errno.EPERM, u.link, "d", "new")
    fails(errno.ENOENT, u.link, "none", "new")
    assert sorted(u.listdir("")) == ["d", "f", "l"]


def test_who_owns_what_is_created(union):
    """In a directory with the setgid bit: its group, and a directory made there passes the bit on."""
    u = union([{"d": Dir(0o2777, 7, 8)}])
    u.mkdir("d/e", 0o750)
    u.write_bytes("d/f", b"")
    u.symlink("f", "d/l")
    u.mknod("d/p", stat.S_IFIFO | 0o600)
    assert [(u.stat(name).uid, u.stat(name).gid) for name in ("d/e", "d/f", "d/l", "d/p")] == [(0, 8)] * 4
    assert [stat.S_IMODE(u.stat(name).mode) for name in ("d/e", "d/f", "d/p")] == [0o2750, 0o644, 0o600]
    u.mkdir("plain", 0o1777)
    assert (u.stat("plain").gid, stat.S_IMODE(u.stat("plain").mode)) == (0, 0o1777)
    with u.open("setuid", os.O_CREAT | os.O_WRONLY, 0o6755):
        pass
    assert stat.S_IMODE(u.stat("setuid").mode) == 0o6755
