"""Hard links stay links: one inode number, one content, one count, across copy-up and remount."""

from __future__ import annotations

import os
import stat

from tests.contract.layers import File, Link
from tests.contract.subject import subjects


def same(u, *names):
    """The names are one object, with as many links."""
    found = [u.stat(name) for name in names]
    return len({st.ino for st in found}) == 1 and {st.nlink for st in found} == {len(names)}


FILE = File(b"content", 0o640, 1, 2, {b"user.a": b"1"})
LINKS = {"a": FILE, "d/b": Link("a"), "d/e/c": Link("a"), "other": b"content"}


def test_a_write_through_one_name_shows_through_all(union):
    u = union([LINKS])
    before = u.stat("a").ino
    with u.open("d/b", os.O_RDWR) as file:
        file.pwrite(b"C", 0)
    for _ in range(2):
        for name in ("a", "d/b", "d/e/c"):
            assert u.read_bytes(name) == b"Content"
            assert (u.stat(name).ino, u.stat(name).nlink) == (before, 3)
        assert u.read_bytes("other") == b"content"
        u.remount()


def test_every_change_shows_through_all_names(union):
    u = union([LINKS])
    u.chmod("a", 0o600)
    u.chown("d/b", 5, 6)
    u.setxattr("d/e/c", b"user.b", b"2")
    u.truncate("a", 3)
    u.utime("d/b", 1, 2)
    for _ in range(2):
        for name in ("d/e/c", "d/b", "a"):
            st = u.stat(name)
            assert (stat.S_IMODE(st.mode), st.uid, st.gid, st.mtime_ns, st.size) == (0o600, 5, 6, 2, 3)
            assert (u.getxattr(name, b"user.a"), u.getxattr(name, b"user.b")) == (b"1", b"2")
        assert same(u, "a", "d/b", "d/e/c")
        u.remount()


def test_names_that_are_looked_up_after_the_copy_up(union):
    """In another order, with a remount between: the copy is found for a name that nobody had asked for."""
    u = union([LINKS])
    u.write_bytes("d/e/c", b"new")
    u.remount()
    assert u.read_bytes("d/b") == b"new"
    u.write_bytes("d/b", b"newer")
    u.remount()
    assert u.read_bytes("a") == b"newer"
    assert same(u, "a", "d/b", "d/e/c")


def test_a_new_link_of_a_lower_file(union):
    u = union([{"a": b"x", "d/y": b""}])
    number = u.stat("a").ino
    u.link("a", "d/b")
    for _ in range(2):
        assert same(u, "a", "d/b")
        assert u.stat("a").ino == number
        u.remount()
    u.write_bytes("a", b"both")
    assert u.read_bytes("d/b") == b"both"
    u.unlink("a")
    for _ in range(2):
        assert (u.stat("d/b").nlink, u.read_bytes("d/b"), u.stat("d/b").ino) == (1, b"both", number)
        u.remount()


def test_a_new_link_of_a_lower_hard_link(union):
    u = union([LINKS])
    u.link("d/b", "new")
    for _ in range(2):
        assert same(u, "a", "d/b", "d/e/c", "new")
        u.remount()
    u.write_bytes("new", b"all")
    for _ in range(2):
        assert [u.read_bytes(name) for name in ("a", "d/b", "d/e/c")] == [b"all"] * 3
        u.remount()


def test_links_of_an_upper_file(union):
    u = union([{"x": b""}], {"a": b"up", "b": Link("a")})
    u.link("a", "c")
    assert same(u, "a", "b", "c")
    u.unlink("a")
    u.write_bytes("b", b"new")
    for _ in range(2):
        assert same(u, "b", "c")
        assert u.read_bytes("c") == b"new"
        u.remount()


def test_deleting_names_counts_down(union):
    """Before and after the copy-up, down to none; a remount forgets nothing."""
    u = union([LINKS])
    u.unlink("a")
    for _ in range(2):
        assert same(u, "d/b", "d/e/c")
        u.remount()
    u.write_bytes("d/b", b"up")
    for _ in range(2):
        assert same(u, "d/b", "d/e/c")
        assert u.read_bytes("d/e/c") == b"up"
        u.remount()
    u.unlink("d/b")
    for _ in range(2):
        assert same(u, "d/e/c")
        assert u.read_bytes("d/e/c") == b"up"
        u.remount()
    u.unlink("d/e/c")
    u.remount()
    assert u.listdir("d/e") == []
    assert u.read_bytes("other") == b"content"


def test_deleting_the_name_that_was_copied_up(union):
    u = union([LINKS])
    u.write_bytes("a", b"up")
    u.unlink("a")
    for _ in range(2):
        assert same(u, "d/b", "d/e/c")
        assert u.read_bytes("d/b") == b"up"
        u.remount()


def test_replacing_a_name_counts_down(union):
    u = union([LINKS])
    u.rename("other", "d/b")
    for _ in range(2):
        assert same(u, "a", "d/e/c")
        assert same(u, "d/b")
        u.remount()
    u.write_bytes("a", b"up")
    u.rename("d/b", "d/e/c")
    for _ in range(2):
        assert (same(u, "a"), same(u, "d/e/c")) == (True, True)
        assert (u.read_bytes("a"), u.read_bytes("d/e/c")) == (b"up", b"content")
        u.remount()


def test_deleting_and_linking_again(union):
    u = union([LINKS])
    u.unlink("d/b")
    u.link("a", "d/b")
    for _ in range(2):
        assert same(u, "a", "d/b", "d/e/c")
        u.remount()


def test_a_renamed_directory_takes_its_links_along(union):
    u = union([LINKS])
    u.rename("d/e", "e")
    u.write_bytes("e/c", b"moved")
    u.rename("d", "dd")
    for _ in range(2):
        assert same(u, "a", "dd/b", "e/c")
        assert [u.read_bytes(name) for name in ("a", "dd/b", "e/c")] == [b"moved"] * 3
        u.remount()


def test_many_names(union):
    """More names than anything keeps in a short list, deleted one by one."""
    names = [f"d/{number:03}" for number in range(100)]
    u = union([{"a": b"x", **{name: Link("a") for name in names}}])
    for name in names[::2]:
        u.unlink(name)
    u.write_bytes(names[1], b"y")
    for name in names[1:50:2]:
        u.unlink(name)
    left = ["a", *names[51::2]]
    for _ in range(2):
        assert same(u, *left)
        assert {u.read_bytes(name) for name in left} == {b"y"}
        u.remount()


@subjects("real")
def test_links_of_two_layers_are_two_files(union):
    u = union([{"a": b"top", "b": Link("a")}, {"a": b"bottom", "c": Link("a")}])
    u.write_bytes("c", b"changed")
    for _ in range(2):
        assert (u.read_bytes("a"), u.read_bytes("b"), u.read_bytes("c")) == (b"top", b"top", b"changed")
        assert u.stat("a").ino == u.stat("b").ino != u.stat("c").ino
        u.remount()
