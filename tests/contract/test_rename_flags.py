"""renameat2(2): RENAME_NOREPLACE and RENAME_EXCHANGE are honoured, RENAME_WHITEOUT is refused, none is ignored."""

from __future__ import annotations

import errno

import pytest

from tests.contract.layers import Dir, Link, Symlink, time_of
from tests.contract.subject import differs, fails, subjects
from tests.contract.tree import EARLIEST
from tests.model import EXCHANGE, NOREPLACE, WHITEOUT

no_flags = differs(fusepy="libfuse 2 carries no flags of rename")


@subjects("fusepy")
def test_libfuse_refuses_them(union):
    """EINVAL from the kernel, and nothing happened: a flag that is dropped would lose a file."""
    u = union([{"a": b"a", "b": b"b"}])
    for flags in (NOREPLACE, EXCHANGE, WHITEOUT):
        fails(errno.EINVAL, u.rename, "a", "b" if flags == EXCHANGE else "c", flags)
    assert (sorted(u.listdir("")), u.read_bytes("a"), u.read_bytes("b")) == (["a", "b"], b"a", b"b")


@no_flags
def test_noreplace(union):
    u = union([{"a": b"a", "b": b"b", "d/x": b"", "e": Dir()}])
    fails(errno.EEXIST, u.rename, "a", "b", NOREPLACE)
    fails(errno.EEXIST, u.rename, "d", "e", NOREPLACE)
    fails(errno.EEXIST, u.rename, "a", "a", NOREPLACE)
    u.unlink("b")
    u.rename("a", "b", NOREPLACE)
    u.rename("d", "f", NOREPLACE)
    for _ in range(2):
        assert sorted(u.listdir("")) == ["b", "e", "f"]
        assert (u.read_bytes("b"), u.listdir("f")) == (b"a", ["x"])
        u.remount()


PAIRS = {
    "files": ("f", "g"), "across layers": ("f", "up"), "directories": ("d", "e"), "file and directory": ("f", "e"),
    "merged directory and upper's": ("d", "new"), "upper's file and lower directory": ("up", "d"),
    "symbolic link and file": ("l", "g"), "at two places": ("d/sub", "e/y"), "a file and one below": ("f", "e/y"),
}  # fmt: skip


@no_flags
@pytest.mark.parametrize("one, other", PAIRS.values(), ids=PAIRS)
def test_exchange(union, one, other):
    """Each then is where the other was, with all that is in it, and can be changed there."""
    lower = {"f": b"f", "g": b"g", "d/x": b"x", "d/sub/s": b"s", "e/y": b"y", "l": Symlink("f")}
    u = union([lower, {"d/below": b"b", "e/below": b"b"}], {"up": b"u", "new/n": b"n", "d/top": b"t"})

    def look(path):
        mode = u.stat(path).mode
        if mode & 0o170000 == 0o040000:
            return {name: look(f"{path}/{name}") for name in u.listdir(path)}
        return u.readlink(path) if mode & 0o170000 == 0o120000 else u.read_bytes(path)

    before = look(one), look(other)
    numbers = u.stat(one).ino, u.stat(other).ino
    u.rename(one, other, EXCHANGE)
    for _ in range(2):
        assert (look(other), look(one)) == before
        assert (u.stat(other).ino, u.stat(one).ino) == numbers
        u.remount()
    for place, what in ((one, before[1]), (other, before[0])):
        if isinstance(what, dict):
            u.mkdir(f"{place}/more")
            assert set(look(place)) == {*what, "more"}
    u.remount()
    assert sorted(look("")) == ["d", "e", "f", "g", "l", "new", "up"]


def test_errors_of_exchange(union):
    u = union([{"a/b/c": b"", "f": b""}])
    fails(errno.ENOENT, u.rename, "f", "none", EXCHANGE)
    fails(errno.ENOENT, u.rename, "none", "f", EXCHANGE)
    fails(errno.EINVAL, u.rename, "a", "a/b", EXCHANGE)
    fails(errno.EINVAL, u.rename, "a/b", "a", EXCHANGE)
    fails(errno.EINVAL, u.rename, "f", "a", EXCHANGE | NOREPLACE)
    fails(errno.EINVAL, u.rename, "f", "a", 1 << 10)
    assert (u.listdir("a"), u.listdir("a/b"), u.read_bytes("f")) == (["b"], ["c"], b"")


@no_flags
def test_exchange_of_two_names_of_one_file(union):
    u = union([{"a": b"x", "b": Link("a")}])
    u.rename("a", "b", EXCHANGE)
    assert (u.read_bytes("a"), u.stat("a").nlink, u.stat("b").nlink) == (b"x", 2, 2)


@no_flags
def test_exchange_and_then_delete_shows_nothing_of_below(union):
    u = union([{"d/x": b"", "f": b"file"}])
    u.rename("d", "f", EXCHANGE)
    u.unlink("d")
    u.unlink("f/x")
    u.rmdir("f")
    u.mkdir("d")
    u.write_bytes("f", b"new")
    for _ in range(2):
        assert (u.listdir("d"), u.read_bytes("f")) == ([], b"new")
        u.remount()


@no_flags
def test_times_of_an_exchange(union):
    u = union([{"a/d/x": b"", "b/f": b""}])
    u.rename("a/d", "b/f", EXCHANGE)
    assert (u.stat("b/f").mtime_ns, u.stat("a/d").mtime_ns) == (time_of("a/d"), time_of("b/f"))
    assert u.stat("a").mtime_ns > EARLIEST < u.stat("b").mtime_ns


def test_rename_whiteout_is_refused(union):
    """What it would leave is a whiteout for a layer below this union, and that is not for its users to write."""
    u = union([{"f": b"x", "d/y": b""}])
    fails(errno.EINVAL, u.rename, "f", "g", WHITEOUT)
    fails(errno.EINVAL, u.rename, "d", "e", WHITEOUT | NOREPLACE)
    assert sorted(u.listdir("")) == ["d", "f"]
