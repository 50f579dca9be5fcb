"""The operations by inode: references, locks, interrupts, events. What each operation means is in tests/contract."""

from __future__ import annotations

import errno
import gc
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs import events
from unionfs.union import content
from unionfs.union.inode import FileInode
from unionfs.union.operations import Caller, Inode, Operations
from unionfs.union.union import Union

pytestmark = pytest.mark.apart

ME = Caller(os.geteuid(), os.getegid())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("lower/a/b/c", "lower2/a/b", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    for number in range(20):
        (tmp_path / "lower" / "a" / "b" / f"file{number}").write_text(f"content {number}")
    (tmp_path / "lower2" / "a" / "b" / "below").write_text("below")
    os.link(tmp_path / "lower" / "a" / "b" / "file0", tmp_path / "lower" / "a" / "link")
    return tmp_path


@pytest.fixture(params=["aufs", "overlay"])
def union(request: pytest.FixtureRequest, place: Path) -> Iterator[Union]:
    if request.param == "overlay" and os.geteuid():
        pytest.skip("needs root, for the overlay dialect's trusted attributes")
    lower = [place / "lower", place / "lower2"]
    with Union(lower, place / "upper", place / "work", dialect=request.param) as opened:
        yield opened


def walk(operations: Operations, inode: Inode) -> list[Inode]:
    """Look everything up, as a kernel does: one reference each."""
    found = []
    handle = operations.opendir(inode)
    for entry in list(operations.readdir(handle))[2:]:
        child, _ = operations.lookup(inode, entry.name)
        found.append(child)
        if child.is_dir:
            found += walk(operations, child)
    operations.releasedir(handle)
    return found


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_what_is_forgotten_is_freed(union: Union) -> None:
    operations = union.operations
    before = open_descriptors()
    found = walk(operations, operations.root)
    assert len(found) == 25
    for inode in found:
        operations.forget(inode)
    table = operations._inodes
    assert table.root.children == {} and table.by_identity == {}
    assert open_descriptors() <= before


def test_what_was_changed_and_forgotten_is_freed(union: Union) -> None:
    operations = union.operations
    union.write_bytes("a/b/file1", b"copied up")
    union.rename("a/b", "a/renamed")
    union.unlink("a/renamed/file0")
    union.chmod("a/link", 0o600)
    union.mkdir("new")
    union.rmdir("new")
    with union.open("a/renamed/file2", os.O_RDWR) as file:
        union.unlink("a/renamed/file2")
        assert file.pread(9, 0) == b"content 2"
    before = open_descriptors()
    for inode in walk(operations, operations.root):
        operations.forget(inode)
    assert operations._inodes.root.children == {} and operations._inodes.by_identity == {}
    assert open_descriptors() <= before


def test_one_object_is_one_inode_by_whatever_name(union: Union) -> None:
    operations = union.operations
    a, _ = operations.lookup(operations.root, b"a")
    b, _ = operations.lookup(a, b"b")
    one, _ = operations.lookup(a, b"link")
    other, attributes = operations.lookup(b, b"file0")
    assert one is other and attributes.nlink == 2
    union.chmod("a/link", 0o600)
    assert operations.lookup(b, b"file0")[0] is one
    assert operations.getattr(other).mode == stat.S_IFREG | 0o600


def test_dot_and_dot_dot(union: Union) -> None:
    operations = union.operations
    a, _ = operations.lookup(operations.root, b"a")
    assert operations.lookup(a, b".")[0] is a
    assert operations.lookup(a, b"..")[0] is operations.root is operations.lookup(operations.root, b"..")[0]


def test_a_removed_directory_is_dead(union: Union) -> None:
    operations = union.operations
    made, _ = operations.mkdir(operations.root, b"new", 0o755, ME)
    handle = operations.opendir(made)
    operations.rmdir(operations.root, b"new")
    for call in (
        lambda: operations.mkdir(made, b"x", 0o755, ME),
        lambda: operations.create(made, b"x", os.O_RDWR, 0o644, ME),
        lambda: operations.tmpfile(made, os.O_RDWR, 0o644, ME),
        lambda: operations.lookup(made, b"x"),
        lambda: union.rename("a", "new/a"),
    ):
        with pytest.raises(FileNotFoundError):
            call()
    assert operations.getattr(made).nlink == 0
    assert [entry.name for entry in operations.readdir(handle)] == [b".", b".."]


def test_a_copy_up_can_be_interrupted(union: Union, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with EINTR, and nothing is left: the file is as it was, and can be copied up later."""
    (place / "lower" / "big").write_bytes(os.urandom(60_000))
    monkeypatch.setattr(content, "_CHUNK", 4096)
    monkeypatch.setattr(content.files, "clone_data", lambda target, source: False)
    union.operations.set_interrupt_check(lambda: True)
    try:
        with pytest.raises(OSError) as raised:
            union.open("big", os.O_RDWR)
        assert raised.value.errno == errno.EINTR
    finally:
        union.operations.set_interrupt_check(None)
    assert os.listdir(place / "upper") == [] == os.listdir(place / "work" / "work")
    union.open("big", os.O_RDWR).close()
    assert (place / "upper" / "big").read_bytes() == (place / "lower" / "big").read_bytes()


def test_two_who_write_first_at_once(union: Union, place: Path) -> None:
    """One copies up, the other waits for it; nobody sees half of it."""
    (place / "lower" / "big").write_bytes(os.urandom(8 << 20))
    failures: list[BaseException] = []

    def write(offset: int) -> None:
        try:
            with union.open("big", os.O_RDWR) as file:
                file.pwrite(b"x", offset)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=(number * 4096,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    expected = bytearray((place / "lower" / "big").read_bytes())
    for number in range(8):
        expected[number * 4096] = ord("x")
    assert union.read_bytes("big") == expected


def test_may_block_says_what_has_to_be_copied(union: Union) -> None:
    operations = union.operations
    a, _ = operations.lookup(operations.root, b"a")
    link, _ = operations.lookup(a, b"link")
    assert isinstance(link, FileInode)
    assert operations.may_block(link) and not operations.may_block(a)
    operations.setattr(link, mode=0o600)
    assert not operations.may_block(link)


def test_changes_and_copies_are_events(union: Union) -> None:
    seen: list[tuple[str, object]] = []

    def listen(kind: str, fields: dict[str, object]) -> None:
        seen.append((kind, fields.get("what") or fields.get("bytes")))

    events.listeners.append(listen)
    try:
        union.read_bytes("a/link")
        assert seen == []
        union.chmod("a/link", 0o600)
    finally:
        events.listeners.remove(listen)
    assert ("copy-up", 9) in seen and ("change", "rename") in seen and ("change", "chmod") in seen


def test_an_upper_without_room(union: Union, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be finished is not there at all."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(content, "copy_range", full)
    monkeypatch.setattr(content.files, "clone_data", lambda target, source: False)
    with pytest.raises(OSError) as raised:
        union.chmod("a/b/file1", 0o600)
    assert raised.value.errno == errno.ENOSPC
    assert os.listdir(place / "work" / "work") == []
    assert not (place / "upper" / "a").exists()
    assert union.read_bytes("a/b/file1") == b"content 1"


def test_an_alias_of_a_copied_up_link_is_the_same_inode(place: Path) -> None:
    """Looked up after a remount by its name in the upper first, then by one that a lower layer alone has."""
    stack = ([place / "lower", place / "lower2"], place / "upper", place / "work")
    with Union(*stack) as union:
        union.chmod("a/link", 0o600)
    with Union(*stack) as union:
        operations = union.operations
        a, _ = operations.lookup(operations.root, b"a")
        b, _ = operations.lookup(a, b"b")
        upper, _ = operations.lookup(a, b"link")
        alias, attributes = operations.lookup(b, b"file0")
        assert alias is upper and attributes.nlink == 2
        with union.open("a/link", os.O_RDWR) as one, union.open("a/b/file0", os.O_RDWR) as other:
            one.pwrite(b"AA", 0)
            other.pwrite(b"BB", 2)
        assert union.read_bytes("a/link")[:4] == b"AABB"


def test_names_removed_of_many_hard_links_hold_no_descriptors(union: Union) -> None:
    """cp -al a b; rm -r a"""
    operations = union.operations
    held = []
    for number in range(50):
        union.write_bytes(f"one{number}", b"")
        union.link(f"one{number}", f"other{number}")
        for name in (f"one{number}", f"other{number}"):
            held.append(operations.lookup(operations.root, name.encode())[0])
    before = open_descriptors()
    for number in range(50):
        union.unlink(f"one{number}")
    assert open_descriptors() <= before
    assert union.stat("other7").nlink == 1


def test_a_deep_tree(union: Union, place: Path, request: pytest.FixtureRequest) -> None:
    """Deeper than the interpreter's recursion limit, so that rm(1) has to clear it away."""
    request.addfinalizer(lambda: subprocess.run(["rm", "-rf", place / "lower", place / "upper"], check=True))
    fd = os.open(place / "lower", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    operations = union.operations
    inode = operations.root
    for _ in range(1100):
        inode, _ = operations.lookup(inode, b"d")
    operations.mkdir(inode, b"new", 0o755, ME)
    operations.setattr(inode, mode=0o700)
    assert operations.lookup(inode, b"new")[1].mode == stat.S_IFDIR | 0o755


def test_the_default_acl_of_a_work_directory_is_not_inherited(place: Path) -> None:
    acl = bytes.fromhex("02000000 01000700ffffffff 02000700d2040000 04000500ffffffff 10000700ffffffff 20000500ffffffff")
    try:
        os.setxattr(place / "work", "system.posix_acl_default", acl)
    except OSError as error:
        pytest.skip(f"needs a filesystem with POSIX ACLs: {error}")
    with Union([place / "lower"], place / "upper", place / "work") as union:
        union.chmod("a/link", 0o600)
        assert union.listxattr("a/link") == [] == union.listxattr("a")
