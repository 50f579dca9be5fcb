"""Listing: each name once; one that was there throughout is neither lost nor repeated, whatever changes meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading

import pytest

from tests.contract.conftest import require
from tests.contract.layers import Dir, Special, Symlink
from tests.contract.subject import blocks, fails, subjects

MANY = 100_000


def names_of(block):
    return [os.fsdecode(entry.name) for entry in block if entry.name not in (b".", b"..")]


def test_types_and_names(union):
    kinds = {
        "f": b"", "l": Symlink("f"), "d": Dir(),
        "p": Special(stat.S_IFIFO | 0o600), "s": Special(stat.S_IFSOCK | 0o600),
        "c": Special(stat.S_IFCHR | 0o600, os.makedev(1, 3)), "b": Special(stat.S_IFBLK | 0o600, os.makedev(7, 1)),
    }  # fmt: skip
    u = union([kinds, {"f": b"", "g": b""}], {"l": b"now a file"})
    found = {os.fsdecode(entry.name): entry.type for entry in u.entries("")}
    assert found == {"f": 8, "g": 8, "l": 8, "d": 4, "p": 1, "s": 12, "c": 2, "b": 6}


def test_every_change_shows_in_the_next_listing(union):
    u = union([{"d/a": b"", "d/b": b"", "d/c/x": b""}, {"d/e": b""}])
    assert sorted(u.listdir("d")) == ["a", "b", "c", "e"]
    u.unlink("d/a")
    assert sorted(u.listdir("d")) == ["b", "c", "e"]
    u.write_bytes("d/a", b"")
    u.rename("d/b", "d/f")
    u.link("d/e", "d/g")
    u.symlink("x", "d/h")
    assert sorted(u.listdir("d")) == ["a", "c", "e", "f", "g", "h"]
    u.rename("d/c", "c")
    u.rename("d/e", "d/f")
    assert sorted(u.listdir("d")) == ["a", "f", "g", "h"]


def test_bytes_that_are_no_text(union):
    """Names are any bytes but a slash and a zero."""
    u = union([{"d/x": b""}])
    odd = [b"\xff\xfe", b"new\nline", "ümlaut".encode(), b" ", b"-", b"\\", b"*", b"..." * 20, b"n" * 250]
    for name in odd:
        u.write_bytes(b"d/" + name, name)
    u.unlink("d/x")
    for _ in range(2):
        assert sorted(u.listdir(b"d")) == sorted(odd)
        assert [u.read_bytes(b"d/" + name) for name in odd] == odd
        u.remount()


@subjects("mounted")
def test_dots_come_once(union):
    u = union([{"d/e/f": b""}, {"d/e/g": b""}])
    with u.open_directory("d/e") as fd:
        names = [entry.name for block in blocks(fd) for entry in block]
    assert sorted(names) == [b".", b"..", b"f", b"g"]


@subjects("mounted")
@pytest.mark.parametrize("size", [280, 4096])
def test_a_listing_goes_on_while_names_come_and_go(union, size):
    """In small pieces; after each, names that were listed and names that were not yet are deleted and made."""
    layer = {f"d/low{number:03}": b"" for number in range(150)}
    more = {f"d/low{number:03}": b"" for number in range(100, 250)}
    u = union([layer, more], {f"d/up{number:03}": b"" for number in range(100)})
    everything = set(u.listdir("d"))
    stays = {name for name in everything if int(name[-3:]) % 3 == 0}
    goes = sorted(everything - stays)
    seen: list[str] = []
    with u.open_directory("d") as fd:
        for turn, block in enumerate(blocks(fd, size)):
            seen += names_of(block)
            for name in (goes[turn % len(goes)], goes[-1 - turn % len(goes)]):
                if os.path.lexists(u.at(f"d/{name}")):
                    u.unlink(f"d/{name}")
            u.write_bytes(f"d/new{turn:03}", b"")
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)
    assert set(seen) <= everything | {f"new{turn:03}" for turn in range(1000)}


@subjects("mounted")
def test_a_listing_goes_on_from_any_offset(union):
    """seekdir(3) to what telldir(3) gave: what follows is what followed, in whatever order one asks."""
    u = union([{f"d/{number:04}": b"" for number in range(0, 900, 2)}], {f"d/{n:04}": b"" for n in range(1, 900, 3)})
    with u.open_directory("d") as fd:
        whole = [entry for block in blocks(fd) for entry in block]
        assert len({entry.offset for entry in whole}) == len(whole)
        for index in (0, len(whole) - 1, 1, 400, 2, 399, len(whole) // 2):
            os.lseek(fd, whole[index].offset, os.SEEK_SET)
            rest = [entry.name for block in blocks(fd, 1024) for entry in block]
            assert rest == [entry.name for entry in whole[index + 1 :]]


@subjects("mounted")
def test_a_listing_that_is_resumed_after_changes(union):
    """Offsets that were given keep their meaning for this open directory."""
    u = union([{f"d/{number:03}": b"" for number in range(300)}])
    with u.open_directory("d") as fd:
        whole = [entry for block in blocks(fd) for entry in block]
        middle = len(whole) // 2
        for entry in whole[1:middle:2] + whole[middle + 1 :: 2]:
            if entry.name not in (b".", b".."):
                u.unlink(b"d/" + entry.name)
        os.lseek(fd, whole[middle].offset, os.SEEK_SET)
        rest = [name for block in blocks(fd, 512) for name in names_of(block)]
    gone = {os.fsdecode(entry.name) for entry in whole[1:middle:2] + whole[middle + 1 :: 2]}
    expected = names_of(whole[middle + 1 :])
    assert [name for name in rest if name not in gone] == [name for name in expected if name not in gone]
    assert len(rest) == len(set(rest))


@subjects("mounted")
def test_rewinding_shows_what_is_there_now(union):
    u = union([{"d/a": b"", "d/b": b""}])
    with u.open_directory("d") as fd:
        assert sorted(name for block in blocks(fd) for name in names_of(block)) == ["a", "b"]
        u.unlink("d/a")
        u.write_bytes("d/c", b"")
        os.lseek(fd, 0, os.SEEK_SET)
        assert sorted(name for block in blocks(fd) for name in names_of(block)) == ["b", "c"]


@subjects("mounted")
def test_removing_a_tree_while_it_is_listed(union):
    """What rm -rf does."""
    layer = {f"t/{folder}/{number}": b"" for folder in "abc" for number in range(300)}
    u = union([layer, {f"t/{folder}/{number}": b"" for folder in "bcd" for number in range(200, 400)}])
    shutil.rmtree(u.at("t"))
    assert u.listdir("") == []
    u.remount()
    assert u.listdir("") == []


@subjects("mounted")
def test_an_open_directory_that_is_removed(union):
    u = union([{"d/a": b"", "e/x": b""}])
    with u.open_directory("d") as fd:
        u.unlink("d/a")
        u.rmdir("d")
        fails(errno.ENOENT, next, blocks(fd))
        with pytest.raises(FileNotFoundError):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        with pytest.raises(FileNotFoundError):
            os.mkdir("new", dir_fd=fd)
        u.mkdir("d")
        fails(errno.ENOENT, next, blocks(fd))
    assert u.listdir("d") == []


@subjects("mounted")
def test_several_at_once(union):
    """Threads that list one directory while another changes it: each sees what stays, once."""
    u = union([{f"d/stays{number:03}": b"" for number in range(200)} | {f"d/{n:03}": b"" for n in range(200)}])
    stays = {f"stays{number:03}" for number in range(200)}
    faults: list[str] = []
    stop = threading.Event()

    def list_again_and_again():
        while not stop.is_set():
            with u.open_directory("d") as fd:
                names = [name for block in blocks(fd, 1024) for name in names_of(block)]
            if len(names) != len(set(names)) or not stays <= set(names):
                faults.append(f"{len(names)} names, {len(set(names))} different, {len(stays - set(names))} missing")

    readers = [threading.Thread(target=list_again_and_again) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(200):
        u.unlink(f"d/{number:03}")
        u.write_bytes(f"d/new{number:03}", b"")
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == []


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Two lower layers with MANY names between them, some in both. Made once, and only read."""
    root = tmp_path_factory.mktemp("crowd")
    layers = [root / "top", root / "bottom"]
    for layer, numbers in zip(layers, (range(60_000), range(50_000, MANY)), strict=True):
        (layer / "d").mkdir(parents=True)
        first = layer / "d" / f"{numbers[0]:06}"
        for number in numbers:
            path = layer / "d" / f"{number:06}"
            if number % 1000 == 0:
                first = path
                path.touch()
            else:
                os.link(first, path)
    yield layers
    shutil.rmtree(root)


@subjects("real")
def test_a_hundred_thousand_names(subject_kind, crowd, workshop):
    """Each once, also when a thousand were deleted and a thousand made."""
    require(subject_kind[0])
    upper = workshop.directory("upper")
    times = [os.stat(layer / "d").st_mtime_ns for layer in crowd]
    u = workshop.subject(subject_kind, crowd, upper, workshop.directory("work"))
    workshop.subjects.remove(u)
    u.open_union()
    try:
        names = [f"{number:06}" for number in range(MANY)]
        assert sorted(u.listdir("d")) == names
        for number in range(0, MANY, 1000):
            u.unlink(f"d/{names[number]}")
            u.write_bytes(f"d/new{number}", b"")
        expected = sorted({*names, *(f"new{number}" for number in range(0, MANY, 1000))} - set(names[::1000]))
        assert sorted(u.listdir("d")) == expected
        u.remount()
        assert sorted(u.listdir("d")) == expected
    finally:
        u.close()
    assert [os.stat(layer / "d").st_mtime_ns for layer in crowd] == times
