"""Lookup: what the layers say of a name, from the top down."""

from __future__ import annotations

import errno
import os
import stat

from tests.contract import tree
from tests.contract.layers import WHITEOUT, Dir, File, Special, Symlink, merged
from tests.contract.subject import fails, subjects


def test_the_topmost_layer_wins(union):
    u = union([{"f": b"middle", "g": b"middle"}, {"f": b"lower", "g": b"lower", "h": b"lower"}], {"f": b"upper"})
    assert [u.read_bytes(name) for name in "fgh"] == [b"upper", b"middle", b"lower"]
    assert sorted(u.listdir("")) == ["f", "g", "h"]


def test_directories_are_merged_and_the_topmost_gives_their_attributes(union):
    top = {"d": Dir(0o711, 3, 4), "d/a": b"1", "d/e/x": b"1"}
    u = union([top, {"d": Dir(0o700), "d/a": b"2", "d/b": b"2", "d/e/y": b"2"}])
    assert sorted(u.listdir("d")) == ["a", "b", "e"]
    assert sorted(u.listdir("d/e")) == ["x", "y"]
    st = u.stat("d")
    assert (stat.S_IMODE(st.mode), st.uid, st.gid) == (0o711, 3, 4)
    assert (u.read_bytes("d/a"), u.read_bytes("d/b")) == (b"1", b"2")


def test_a_whiteout_ends_the_search(union):
    u = union([{"f": WHITEOUT, "d/g": WHITEOUT}, {"f": b"x", "d/g": b"x", "d/h": b"x"}, {"f": b"y", "d/g": b"y"}])
    fails(errno.ENOENT, u.stat, "f")
    fails(errno.ENOENT, u.stat, "d/g")
    assert u.listdir("") == ["d"]
    assert u.listdir("d") == ["h"]


def test_a_whiteout_in_the_middle_hides_only_what_is_below_it(union):
    u = union([{"d/a": b"top"}, {"d": WHITEOUT}, {"d/b": b"bottom"}])
    assert u.listdir("d") == ["a"]
    fails(errno.ENOENT, u.stat, "d/b")


def test_an_opaque_directory_hides_those_below_it(union):
    u = union([{"d": Dir(opaque=True), "d/a": b"1"}, {"d/b": b"2", "d/c/x": b"2"}])
    assert u.listdir("d") == ["a"]
    fails(errno.ENOENT, u.stat, "d/b")
    fails(errno.ENOENT, u.stat, "d/c/x")


def test_an_opaque_directory_in_the_middle_is_still_merged_with_those_above(union):
    u = union([{"d/a": b"1"}, {"d": Dir(opaque=True), "d/b": b"2"}, {"d/c": b"3"}])
    assert sorted(u.listdir("d")) == ["a", "b"]


def test_a_file_hides_a_directory_and_a_directory_a_file(union):
    u = union([{"a": b"file", "b/x": b""}, {"a/x": b"", "b": b"file"}, {"a/y": b"", "b/y": b""}])
    assert u.read_bytes("a") == b"file"
    fails(errno.ENOTDIR, u.stat, "a/x")
    assert u.listdir("b") == ["x"]


def test_a_file_between_two_directories_cuts_off_the_lower_one(union):
    u = union([{"d/a": b""}, {"d": b"file"}, {"d/b": b""}])
    assert u.listdir("d") == ["a"]


def test_every_type_of_object_shows(union):
    device = os.makedev(7, 200)
    u = union([
        {
            "f": File(b"text", 0o4750, 1, 2), "l": Symlink("f", 5, 6), "p": Special(stat.S_IFIFO | 0o620, 0, 1, 1),
            "s": Special(stat.S_IFSOCK | 0o600), "c": Special(stat.S_IFCHR | 0o640, device),
            "b": Special(stat.S_IFBLK | 0o660, device), "d": Dir(0o1777),
        }
    ])  # fmt: skip
    kinds = {name: stat.filemode(u.stat(name).mode) for name in u.listdir("")}
    assert kinds == {
        "f": "-rwsr-x---", "l": "lrwxrwxrwx", "p": "prw--w----", "s": "srw-------",
        "c": "crw-r-----", "b": "brw-rw----", "d": "drwxrwxrwt",
    }  # fmt: skip
    assert u.stat("c").rdev == u.stat("b").rdev == device
    assert u.readlink("l") == b"f"
    assert u.read_bytes("l") == b"text"
    assert (u.stat("l").uid, u.stat("l").size) == (5, 1)
    fails(errno.EINVAL, u.readlink, "f")


def test_errors_of_a_path(union):
    u = union([{"f": b"", "loop": Symlink("loop"), "dangling": Symlink("nowhere"), "d/x": b""}])
    fails(errno.ENOENT, u.stat, "d/none")
    fails(errno.ENOENT, u.stat, "none/x")
    fails(errno.ENOTDIR, u.stat, "f/x")
    fails(errno.ELOOP, u.stat, "loop/x")
    fails(errno.ENOENT, u.stat, "dangling/x")
    fails(errno.ENOENT, u.read_bytes, "dangling")
    fails(errno.ELOOP, u.read_bytes, "loop")
    fails(errno.ENOTDIR, u.listdir, "f")
    assert stat.S_ISLNK(u.stat("loop").mode)


def test_symbolic_links_lead_through_layers(union):
    u = union([{"top": Symlink("d/e"), "d/up": Symlink("../f")}, {"d/e/x": b"below", "f": b"file"}])
    assert u.read_bytes("top/x") == b"below"
    assert u.read_bytes("d/up") == b"file"
    u.write_bytes("top/y", b"new")
    assert u.read_bytes("d/e/y") == b"new"


@subjects("ours", dialect="aufs")
def test_names_of_the_other_dialect_are_names(union):
    """In the aufs dialect a character device 0:0 is a device. Nothing is guessed."""
    u = union([{"c": Special(stat.S_IFCHR | 0o600, 0)}, {"c": b"below"}])
    assert stat.S_ISCHR(u.stat("c").mode)


@subjects("real", dialect="overlay")
def test_aufs_names_are_names_in_the_overlay_dialect(union):
    u = union([{".wh.f": b"a file", "f": b"there"}, {"f": b"below"}])
    assert sorted(u.listdir("")) == [".wh.f", "f"]
    assert u.read_bytes(".wh.f") == b"a file"
    u.write_bytes(".wh.g", b"")
    u.unlink(".wh.f")
    assert sorted(u.listdir("")) == [".wh.g", "f"]


@subjects("real", dialect="overlay")
def test_whiteouts_that_are_files(union):
    """overlayfs.rst, "Whiteouts": in a lower directory marked opaque=x an empty file may be one."""

    def mark(lowers, upper):
        os.setxattr(lowers[0] / "d", "trusted.overlay.opaque", b"x")
        for name in ("deleted", "full"):
            os.setxattr(lowers[0] / "d" / name, "trusted.overlay.whiteout", b"y")
        (lowers[0] / "d" / "full").write_bytes(b"has content")
        os.setxattr(lowers[0] / "e" / "not", "trusted.overlay.whiteout", b"y")

    first = {"d/deleted": b"", "d/full": b"", "d/empty": b"", "e/not": b""}
    u = union([first, {"d/deleted": b"x", "d/full": b"y", "d/more": b"z", "e/not": b"w"}], prepare=mark)
    assert sorted(u.listdir("d")) == ["empty", "full", "more"]
    fails(errno.ENOENT, u.stat, "d/deleted")
    assert u.listdir("e") == ["not"]


@subjects("ours", dialect="aufs")
def test_an_object_beside_its_whiteout_is_new(union):
    """OCI layer.md: a whiteout hides what is in the layers below, not what is in its own."""

    def whiteouts(lowers, upper):
        for name in ("f", "d"):
            (lowers[0] / f".wh.{name}").touch()

    u = union([{"f": b"new", "d/a": b"new"}, {"f": b"old", "d/b": b"old"}], prepare=whiteouts)
    assert u.read_bytes("f") == b"new"
    assert u.listdir("d") == ["a"]
    assert sorted(u.listdir("")) == ["d", "f"]


@subjects("ours", dialect="aufs")
def test_bookkeeping_of_aufs_is_never_shown(union):
    """aufs(5): names that begin with .wh..wh. are its own; a bare .wh. is nobody's."""

    def more(lowers, upper):
        for name in (".wh..wh.plnk", ".wh..wh.aufs", ".wh."):
            (lowers[0] / name).touch()
        (lowers[0] / ".wh..wh.orph").mkdir()

    u = union([{"f": b""}, {"g": b""}], prepare=more)
    assert sorted(u.listdir("")) == ["f", "g"]
    fails(errno.ENOENT, u.stat, ".wh..wh.plnk")


def test_the_whole_tree_of_three_layers(union):
    """The merge rule once more, as a whole; a second look and one after a remount see the same."""
    layers = [
        {"a/1": b"top", "a/2": WHITEOUT, "b": Dir(0o750, opaque=True), "b/x": b"", "l": Symlink("a"), "gone": WHITEOUT},
        {"a/1": b"middle", "a/2": b"middle", "a/3": b"middle", "b/hidden": b"", "c/d/e": b"deep", "gone/x": b""},
        {"a/3": b"bottom", "a/4": b"bottom", "b/more": b"", "c/d/f": b"deeper", "c/g": Special(stat.S_IFIFO | 0o600)},
    ]
    u = union(layers)
    if u.kind == "model":
        assert sorted(path for path, _ in u.paths()) == [
            "a", "a/1", "a/3", "a/4", "b", "b/x", "c", "c/d", "c/d/e", "c/d/f", "c/g", "l"
        ]  # fmt: skip
        return
    expected = tree.of_model(merged(layers))
    assert tree.differences(expected, tree.of(u)) == []
    assert tree.differences(expected, tree.of(u)) == []
    u.remount()
    assert tree.differences(expected, tree.of(u)) == []
