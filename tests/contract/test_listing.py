"""Listing: each name once; one that was there throughout is neither lost nor repeated, whatever changes meanwhile."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
import stat
import threading

import pytest

from tests.contract.conftest import require
from tests.contract.layers import Dir, Special, Symlink
from tests.contract.subject import blocks, fails, subjects
from tests.model import EXCHANGE

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
@pytest.mark.parametrize("where", ["lower", "merged", "upper"])
def test_reading_on_from_a_name_that_is_gone(union, where):
    """A reader stands after a name that is removed; another one reads all; the first one gets what follows."""
    names = {f"d/{number:03}": b"" for number in range(300)}
    u = union(*{"lower": ([names],), "merged": ([names], {"d/more": b""}), "upper": ([{}], names)}[where])
    u.listdir("d")
    with u.open_directory("d") as fd:
        seen = names_of(next(blocks(fd, 1024)))
        u.unlink(f"d/{seen[-1]}")
        there = set(u.listdir("d"))
        assert u.listdir("d") == u.listdir("d")
        rest = [name for block in blocks(fd, 1024) for name in names_of(block)]
    assert len(rest) == len(set(rest))
    assert set(seen[:-1]) | set(rest) == there and not set(seen) & set(rest)


@subjects("native", "kernel")
@pytest.mark.parametrize("way", ["rename", "made anew", "exchange"])
def test_who_begins_after_a_change_does_not_see_what_others_began_to_read_before(union, way):
    u = union([{f"d/{number:03}": b"" for number in range(200)} | {"link": Symlink("x")}])
    with u.open_directory("d") as early, u.open_directory("d") as late:
        name = [name for block in itertools.islice(blocks(early, 280), 5) for name in names_of(block)][-1]
        if way == "made anew":
            u.unlink(f"d/{name}")
            u.symlink("x", f"d/{name}")
        else:
            u.rename("link", f"d/{name}", EXCHANGE if way == "exchange" else 0)
        found = next(blocks(late, 280))
        assert len(list(blocks(early, 280))) > 5
        found += [entry for block in blocks(late, 280) for entry in block]
    assert {entry.name: entry.type for entry in found}[os.fsencode(name)] == stat.S_IFLNK >> 12
    assert len(found) == 202


@subjects("mounted")
def test_a_directory_that_moved_has_another_parent(union):
    u = union([{"a/d/x": b"", "b/y": b""}], {"c/d/z": b""})

    def parent(path):
        with u.open_directory(path) as fd:
            return {entry.name: entry.ino for block in blocks(fd) for entry in block}[b".."]

    for moved in ("a/d", "c/d"):
        for _ in range(2):
            assert parent(moved) == u.stat(os.path.dirname(moved)).ino
    u.rename("a/d", "b/d")
    u.rename("c/d", "a/e")
    assert parent("b/d") == u.stat("b").ino
    assert parent("a/e") == u.stat("a").ino


class Reader:
    """One open directory, and what it must and may see from its last rewinding to the end."""

    def __init__(self, fd, directory, names):
        self.fd, self.directory = fd, directory
        self.rewind(names)

    def rewind(self, names):
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.throughout, self.ever, self.seen = set(names), set(names.items()), []

    def step(self, size, identity):
        """Read on. At the end: what it saw wrongly."""
        block = next(blocks(self.fd, size), None)
        if block is not None:
            self.seen += [(os.fsdecode(e.name), identity(e)) for e in block if e.name not in (b".", b"..")]
            return None
        seen = [name for name, _ in self.seen if name in self.throughout]
        ever = {(name, part) for name, identity in self.ever for part in identity}
        never = {name for name, _ in self.seen} - {name for name, _ in self.ever}
        return {
            "twice": {name for name in seen if seen.count(name) > 1}, "missing": self.throughout - set(seen),
            "others": {
                (name, identity) for name, identity in self.seen
                if name in never or (name in self.throughout and not ever >= {(name, part) for part in identity})
            },
        }  # fmt: skip


@subjects("mounted")
@pytest.mark.parametrize("seed", range(6))
def test_readers_anywhere_while_anything_changes(union, seed):
    """Several readers at their own places in directories of all kinds, and whole listings in between."""
    chance = random.Random(seed)
    lower = {f"{d}/{number:02}": b"" for d in ("low", "both") for number in range(40)} | {"low/sub/x": b""}
    upper = {f"{d}/{number:02}": b"" for d in ("both", "up") for number in range(30, 70)}
    u = union([lower, {"both/sub/y": b"", "low/low": b""}], upper)
    numbers = itertools.count(100)

    def identity(entry):
        return 0 if u.kind == "kernel" else entry.ino, entry.type  # its numbers of hard links differ

    def listing(directory):
        return {os.fsdecode(e.name): identity(e) for e in u.entries(directory) if e.name not in (b".", b"..")}

    truth = {d: listing(d) for d in ("low", "both", "up")}
    with contextlib.ExitStack() as stack:
        readers = [Reader(stack.enter_context(u.open_directory(d)), d, truth[d]) for d in truth for _ in range(3)]

        def readers_of(directory):
            return [reader for reader in readers if reader.directory == directory]

        def gone(directory, name):
            del truth[directory][name]
            for reader in readers_of(directory):
                reader.throughout.discard(name)

        def there(directory, name):
            st = u.stat(f"{directory}/{name}")
            truth[directory][name] = 0 if u.kind == "kernel" else st.ino, stat.S_IFMT(st.mode) >> 12
            for reader in readers_of(directory):
                reader.ever.add((name, truth[directory][name]))

        def change():
            d, other = chance.choice(list(truth)), chance.choice(list(truth))
            old = chance.choice(sorted(truth[d].keys() - {"sub"}) or [None])
            new = chance.choice([f"n{next(numbers)}", f"{chance.randrange(70):02}"])
            way = chance.choice(["make", "unlink", "unlink", "rename", "link", "dir", "symlink", "move"])
            to = d if way == "rename" else other
            is_dir = old is not None and stat.S_ISDIR(u.stat(f"{d}/{old}").mode)
            if way in ("make", "dir", "symlink") and new not in truth[d]:
                make = {"make": lambda path: u.write_bytes(path, b""), "dir": u.mkdir}
                make.get(way, lambda path: u.symlink("x", path))(f"{d}/{new}")
                there(d, new)
            elif way == "unlink" and old is not None:
                (u.rmdir if is_dir else u.unlink)(f"{d}/{old}")
                gone(d, old)
            elif way == "link" and new not in truth[to] and old is not None and not is_dir:
                u.link(f"{d}/{old}", f"{to}/{new}")
                there(to, new)
            elif way in ("rename", "move") and old is not None:
                there_is = new in truth[to]
                if there_is and (is_dir or truth[to][new][1] == 4 or truth[to][new] == truth[d][old]):
                    return
                u.rename(f"{d}/{old}", f"{to}/{new}")
                gone(d, old)
                there(to, new)

        for _ in range(600):
            for _ in range(chance.choice([0, 0, 1, 3])):
                change()
            reader = chance.choice(readers)
            if chance.random() < 0.05:
                reader.rewind(truth[reader.directory])
            faults = reader.step(chance.choice([280, 400, 1000]), identity)
            if faults is not None:
                assert not any(faults.values()), (reader.directory, faults)
                reader.rewind(truth[reader.directory])
            if chance.random() < 0.1:
                d = chance.choice(list(truth))
                assert listing(d) == truth[d]


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
