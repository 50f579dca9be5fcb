"""Mounts and the table of them, on real mounts of tmpfs."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.linux import mounts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[bytes]:
    point = os.fsencode(tmp_path / "point")
    os.mkdir(point)
    mounts.mount(b"the source", point, b"tmpfs", mounts.MS_NOSUID, b"size=1m")
    yield point
    while mounts.is_mountpoint(point):
        mounts.unmount(point, mounts.MNT_DETACH)


def test_a_line_of_mountinfo() -> None:
    line = b"36 35 98:1 /a\\040b /mnt/c\\134d rw,noatime master:1 - fuse.unionfs none\\011x rw,user_id=0\n"
    entry = mounts.parse(line)
    assert entry == mounts.Mount(
        36, 35, os.makedev(98, 1), b"/a b", b"/mnt/c\\d", (b"rw", b"noatime", b"user_id=0"), b"fuse.unionfs", b"none\tx"
    )


def test_a_line_with_an_empty_source_and_no_optional_fields() -> None:
    entry = mounts.parse(b"1 1 0:5 / / rw - tmpfs  rw\n")
    assert (entry.fstype, entry.source, entry.options) == (b"tmpfs", b"", (b"rw",))


def test_what_is_no_line_of_mountinfo() -> None:
    with pytest.raises(ValueError, match="not a line of mountinfo"):
        mounts.parse(b"garbage\n")


@pytest.mark.parametrize(
    ("field", "name"),
    [(b"a\\040b", b"a b"), (b"\\134040", b"\\040"), (b"\\011\\012", b"\t\n"), (b"#\\043", b"##"), (b"\\999", b"\\999")],
)
def test_octal_escapes(field: bytes, name: bytes) -> None:
    assert mounts.unescape(field) == name


def test_words_to_flags() -> None:
    assert mounts.flags_of(["ro", "nosuid"]) == mounts.MS_RDONLY | mounts.MS_NOSUID
    assert mounts.flags_of(["ro", "rw", "noatime"]) == mounts.MS_NOATIME
    with pytest.raises(KeyError):
        mounts.flags_of(["size=1m"])


def test_the_table_of_this_process() -> None:
    assert any(entry.fstype == b"proc" and entry.point == b"/proc" for entry in mounts.table())


@needs_root
def test_mount_and_find(tmpfs: bytes) -> None:
    assert mounts.is_mountpoint(tmpfs)
    assert not mounts.is_mountpoint(tmpfs + b"/..")
    entry = mounts.find(tmpfs + b"/not/there")
    assert (entry.point, entry.fstype, entry.source) == (tmpfs, b"tmpfs", b"the source")
    assert entry.device == os.stat(tmpfs).st_dev
    assert b"nosuid" in entry.options


@needs_root
def test_the_newest_of_two_mounts_on_one_point_is_found(tmpfs: bytes) -> None:
    mounts.mount(b"upper", tmpfs, b"tmpfs")
    assert mounts.find(tmpfs).source == b"upper"
    mounts.unmount(tmpfs)
    assert mounts.find(tmpfs).source == b"the source"


@needs_root
def test_a_neighbour_with_a_longer_name_is_not_inside(tmpfs: bytes) -> None:
    os.mkdir(tmpfs + b"er")
    assert mounts.find(tmpfs + b"er").point != tmpfs


@needs_root
def test_a_mount_in_use_is_busy_and_can_be_detached(tmpfs: bytes) -> None:
    with open(tmpfs + b"/file", "wb"):
        with pytest.raises(OSError) as raised:
            mounts.unmount(tmpfs)
        assert (raised.value.errno, raised.value.filename) == (errno.EBUSY, os.fsdecode(tmpfs))
        mounts.unmount(tmpfs, mounts.MNT_DETACH)
    assert not mounts.is_mountpoint(tmpfs)


@needs_root
def test_a_mount_is_found_through_a_symbolic_link_and_not_unmounted_through_it(tmpfs: bytes, tmp_path: Path) -> None:
    link = os.fsencode(tmp_path / "link")
    os.symlink(tmpfs, link)
    assert mounts.absolute(link) == tmpfs
    assert mounts.is_mountpoint(link)
    with pytest.raises(OSError):
        mounts.unmount(link)


def test_failures_name_the_path(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for call in (lambda p: mounts.mount(b"x", p, b"tmpfs"), mounts.unmount):
        with pytest.raises(OSError) as raised:
            call(os.fsencode(missing))
        assert raised.value.filename == str(missing)


@needs_root
def test_any_byte_in_a_name(tmp_path: Path) -> None:
    point = os.fsencode(tmp_path) + b"/a b\tc\nd\\e#\xff"
    os.mkdir(point)
    mounts.mount(b"none", point, b"tmpfs")
    try:
        assert mounts.find(point).point == point
    finally:
        mounts.unmount(point)
