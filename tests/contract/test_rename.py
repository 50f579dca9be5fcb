"""rename(2): anything, a lower or merged directory too, without EXDEV and without a copy of what is in it."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.contract.layers import WHITEOUT, Dir, File, Link, Special, Symlink, time_of
from tests.contract.subject import fails, subjects
from tests.contract.tree import EARLIEST


def test_files_of_each_layer(union):
    u = union([{"lower": b"l", "both": b"old", "d/x": b"dx"}], {"upper": b"u", "both": b"b"})
    for name in ("lower", "both", "upper"):
        u.rename(name, f"d/{name}")
        fails(errno.ENOENT, u.stat, name)
    u.rename("d/x", "x")
    for _ in range(2):
        assert sorted(u.listdir("")) == ["d", "x"]
        assert sorted(u.listdir("d")) == ["both", "lower", "upper"]
        assert [u.read_bytes(name) for name in ("d/lower", "d/both", "d/upper", "x")] == [b"l", b"b", b"u", b"dx"]
        u.remount()


def test_each_type_keeps_what_it_is(union):
    kinds = {
        "f": File(b"x", 0o4751, 1, 2, {b"user.a": b"1"}), "l": Symlink("f", 3, 4), "d": Dir(0o1770, 7, 8),
        "p": Special(stat.S_IFIFO | 0o640, 0, 5, 6), "s": Special(stat.S_IFSOCK | 0o600),
        "c": Special(stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    }  # fmt: skip
    u = union([kinds])
    before = {name: u.stat(name) for name in kinds}
    for name in kinds:
        u.rename(name, name * 2)
    for _ in range(2):
        for name in kinds:
            was, st = before[name], u.stat(name * 2)
            same = ("ino", "mode", "uid", "gid", "rdev", "size", "mtime_ns")
            assert [getattr(st, field) for field in same] == [getattr(was, field) for field in same]
        assert u.getxattr("ff", b"user.a") == b"1"
        assert u.readlink("ll") == b"f"
        u.remount()


def test_onto_a_file_of_another_layer(union):
    u = union([{"a": b"a", "b": b"b", "c": b"c"}, {"b": b"older"}], {"u": b"u", "v": b"v"})
    u.rename("a", "b")
    u.rename("u", "c")
    u.rename("b", "v")
    for _ in range(2):
        assert sorted(u.listdir("")) == ["c", "v"]
        assert (u.read_bytes("c"), u.read_bytes("v")) == (b"u", b"a")
        u.remount()


@subjects("real")
def test_what_is_replaced_is_not_copied_up_first(union):
    u = union([{"victim": File(b"x", hole_after=1 << 24), "l": b"l"}, {"victim": b"older"}], {"u": b"new", "v": b"v"})
    u.rename("u", "victim")
    u.rename("v", "l")
    assert u.marks() == {("victim", "file"), ("l", "file")}
    assert u.upper.joinpath("victim").read_bytes() == b"new"


def test_a_lower_directory(union):
    """Its tree comes with it, whatever the depth, and can be changed at the new place; the old name is free."""
    u = union([{"d/a": b"1", "d/e/b": b"2"}, {"d/c": b"3", "d/e/f/g": b"4"}])
    u.rename("d", "moved")
    fails(errno.ENOENT, u.stat, "d")
    u.write_bytes("moved/e/f/new", b"5")
    u.unlink("moved/a")
    u.mkdir("d")
    for _ in range(2):
        assert u.listdir("d") == []
        assert sorted(u.listdir("moved")) == ["c", "e"]
        assert (u.read_bytes("moved/e/f/g"), u.read_bytes("moved/e/b"), u.read_bytes("moved/c")) == (b"4", b"2", b"3")
        assert u.read_bytes("moved/e/f/new") == b"5"
        u.remount()


@subjects("real")
def test_a_renamed_directory_is_not_copied(union):
    """A redirect and nothing else: no file of it in the upper."""
    u = union([{f"d/{name}": b"x" for name in "abc"} | {"d/e/f": b"x", "to/x": b""}])
    u.rename("d", "to/d")
    files = {path for path, what in u.marks() if what == "file"}
    assert files == set()
    assert ("d", "whiteout") in u.marks()
    assert ("to/d", "redirect /d") in u.marks()


def test_a_merged_directory(union):
    u = union([{"d/a": b"1", "d/b": b"2"}, {"d/c": b"3", "to/x": b""}], {"d/up": b"4", "d/b": WHITEOUT})
    u.rename("d", "to/e")
    u.rename("to/e", "to/f")
    u.rename("to", "there")
    u.write_bytes("there/f/c", b"5")
    for _ in range(2):
        assert u.listdir("") == ["there"]
        assert sorted(u.listdir("there/f")) == ["a", "c", "up"]
        assert [u.read_bytes(f"there/f/{name}") for name in ("a", "c", "up")] == [b"1", b"5", b"4"]
        u.remount()


def test_directories_take_each_others_names(union):
    """a becomes b and b becomes a: neither may find the other's lower directory."""
    u = union([{"a/x": b"of a", "b/y": b"of b"}])
    u.rename("a", "t")
    u.rename("b", "a")
    u.rename("t", "b")
    for _ in range(2):
        assert (u.listdir("a"), u.listdir("b")) == (["y"], ["x"])
        assert (u.read_bytes("a/y"), u.read_bytes("b/x")) == (b"of b", b"of a")
        u.remount()


def test_a_directory_out_of_a_renamed_one(union):
    u = union([{"a/b/c/x": b"x", "a/b/y": b"y"}, {"a/b/c/z": b"z"}])
    u.rename("a", "aa")
    u.rename("aa/b/c", "c")
    u.rename("aa/b", "b")
    u.rmdir("aa")
    u.rename("c", "b/cc")
    for _ in range(2):
        assert u.listdir("") == ["b"]
        assert (sorted(u.listdir("b")), sorted(u.listdir("b/cc"))) == (["cc", "y"], ["x", "z"])
        assert (u.read_bytes("b/cc/x"), u.read_bytes("b/cc/z"), u.read_bytes("b/y")) == (b"x", b"z", b"y")
        u.remount()


def test_a_new_directory_onto_the_name_of_a_deleted_one(union):
    """Nothing of the lower directory may show in it."""
    u = union([{"d/old": b"", "e/older": b""}], {"new/x": b"x"})
    u.unlink("d/old")
    u.rmdir("d")
    u.rename("new", "d")
    u.mkdir("other")
    u.unlink("e/older")
    u.rename("other", "e")
    for _ in range(2):
        assert (u.listdir("d"), u.listdir("e")) == (["x"], [])
        u.remount()


def test_a_new_directory_into_a_merged_one_that_has_the_name_below(union):
    u = union([{"d/sub/old": b"", "d/keep": b""}], {"sub/new": b""})
    u.unlink("d/sub/old")
    u.rmdir("d/sub")
    u.rename("sub", "d/sub")
    for _ in range(2):
        assert u.listdir("d/sub") == ["new"]
        u.remount()


def test_onto_an_empty_directory_that_holds_whiteouts(union):
    u = union([{"empty/a": b"", "empty/b/c": b"", "d/x": b"x", "full/x": b""}], {"up/y": b"y"})
    for name in ("empty/a", "empty/b/c"):
        u.unlink(name)
    u.rmdir("empty/b")
    fails(errno.ENOTEMPTY, u.rename, "d", "full")
    u.rename("d", "empty")
    for _ in range(2):
        assert (u.listdir("empty"), u.read_bytes("empty/x")) == (["x"], b"x")
        u.remount()
    u.unlink("empty/x")
    u.rename("up", "empty")
    for _ in range(2):
        assert (u.listdir("empty"), sorted(u.listdir(""))) == (["y"], ["empty", "full"])
        u.remount()


def test_errors_of_renaming(union):
    u = union([{"d/e/f": b"", "file": b"", "other/x": b"", "empty": Dir(), "l": Symlink("d")}])
    fails(errno.ENOENT, u.rename, "none", "new")
    fails(errno.ENOENT, u.rename, "file", "none/new")
    fails(errno.EINVAL, u.rename, "d", "d/inside")
    fails(errno.EINVAL, u.rename, "d", "d/e/inside")
    fails(errno.EISDIR, u.rename, "file", "other")
    fails(errno.ENOTEMPTY, u.rename, "d/e", "d")
    fails(errno.EISDIR, u.rename, "file", "empty")
    fails(errno.ENOTDIR, u.rename, "d", "file")
    fails(errno.ENOTDIR, u.rename, "d", "l")
    fails(errno.ENOTDIR, u.rename, "file", "l/e/f/x")
    fails(errno.ENOTEMPTY, u.rename, "empty", "other")
    u.rename("file", "file")
    u.rename("d", "d")
    assert sorted(u.listdir("")) == ["d", "empty", "file", "l", "other"]
    u.remount()
    assert u.listdir("d/e") == ["f"]


def test_two_names_of_one_file(union):
    """Nothing happens: rename(2), "If oldpath and newpath are existing hard links"."""
    u = union([{"a": b"x", "b": Link("a")}])
    u.write_bytes("c", b"y")
    u.link("c", "d")
    u.rename("a", "b")
    u.rename("c", "d")
    assert sorted(u.listdir("")) == ["a", "b", "c", "d"]
    assert [u.stat(name).nlink for name in "abcd"] == [2, 2, 2, 2]


def test_one_name_of_a_hard_link(union):
    u = union([{"a": b"x", "b": Link("a"), "d/c": b"y"}])
    u.rename("a", "d/a")
    u.write_bytes("d/a", b"changed")
    for _ in range(2):
        assert u.read_bytes("b") == b"changed"
        assert u.stat("b").ino == u.stat("d/a").ino
        assert u.stat("b").nlink == 2
        u.remount()
    u.rename("d/c", "b")
    assert (u.stat("d/a").nlink, u.read_bytes("d/a"), u.read_bytes("b")) == (1, b"changed", b"y")


def test_times(union):
    """The object keeps its own; both directories get new ones; those above keep theirs."""
    u = union([{"a/b/f": b"", "a/b/d/x": b"", "a/c/x": b""}])
    u.rename("a/b/f", "a/c/f")
    u.rename("a/b/d", "a/c/d")
    for _ in range(2):
        assert u.stat("a/c/f").mtime_ns == time_of("a/b/f")
        assert u.stat("a/c/d").mtime_ns == time_of("a/b/d")
        assert u.stat("a/b").mtime_ns > EARLIEST < u.stat("a/c").mtime_ns
        assert u.stat("a").mtime_ns == time_of("a")
        u.remount()


def test_into_a_directory_that_is_in_use(union):
    """The rename itself copies up the target's directory, while a file in it is open: who comes in keeps its own."""
    u = union([{"a/f": b"f", "d/x": b"x", "e/y": b"y"}])
    with u.open("a/f", os.O_RDONLY) as held:
        u.rename("d", "a/b")
        assert u.listdir("a/b") == ["x"]
        u.mkdir("d")
        u.rename("e", "a/b/c")
        assert (u.listdir("d"), sorted(u.listdir("a/b")), u.listdir("a/b/c")) == ([], ["c", "x"], ["y"])
        assert held.pread(5, 0) == b"f"
    for _ in range(2):
        assert (u.read_bytes("a/b/x"), u.read_bytes("a/b/c/y")) == (b"x", b"y")
        u.remount()


def test_directories_in_use_that_are_renamed_in_turn(union):
    u = union([{"a/x": b"x", "b/y": b"y"}])
    with u.open("b/y", os.O_RDONLY) as held:
        u.rename("a", "c")
        u.rename("c", "b/b")
        u.rename("b", "a")
        assert (sorted(u.listdir("a")), u.listdir("a/b")) == (["b", "y"], ["x"])
        assert held.pread(5, 0) == b"y"
    u.remount()
    assert (sorted(u.listdir("a")), u.listdir("a/b")) == (["b", "y"], ["x"])


@pytest.mark.parametrize("depth", [30])
def test_a_deep_tree_moves_in_one_step(union, depth):
    path = "/".join("d" * depth)
    u = union([{f"{path}/f": b"deep", "to/x": b""}])
    u.rename("d", "to/e")
    u.rename(f"to/e/{'/'.join('d' * (depth - 2))}", "bottom")
    u.remount()
    assert u.read_bytes("bottom/d/f") == b"deep"
