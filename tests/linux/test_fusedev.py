"""/dev/fuse: mounted both ways, without anybody who answers."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.linux import fusedev, mounts

INIT = 26
needs_device = pytest.mark.skipif(not os.access(fusedev.DEVICE, os.R_OK | os.W_OK), reason="needs access to /dev/fuse")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mount(2)")
needs_helper = pytest.mark.skipif(fusedev.find_helper() is None, reason="needs fusermount3 (package fuse3)")


@pytest.fixture
def point(tmp_path: Path) -> Iterator[bytes]:
    path = os.fsencode(tmp_path / "a point, with a comma")
    os.mkdir(path)
    yield path
    while mounts.is_mountpoint(path):
        mounts.unmount(path, mounts.MNT_DETACH)


@pytest.fixture
def device(point: bytes) -> Iterator[int]:
    descriptor = fusedev.open_device()
    fusedev.mount_direct(descriptor, point, b"unionfs", b"the, source", mounts.MS_NODEV, [b"default_permissions"])
    yield descriptor
    os.close(descriptor)


def first_request(descriptor: int) -> tuple[int, int]:
    """Length and opcode of the message that waits."""
    length, opcode = struct.unpack_from("=II", os.read(descriptor, 1 << 20))
    return length, opcode


@needs_root
@needs_device
def test_mounted_by_mount_2_the_kernel_says_init(point: bytes, device: int) -> None:
    entry = mounts.find(point)
    assert (entry.point, entry.fstype, entry.source) == (point, b"fuse.unionfs", b"the, source")
    assert {b"nodev", b"default_permissions"} <= set(entry.options)
    length, opcode = first_request(device)
    assert opcode == INIT and length >= 56


@needs_root
@needs_device
def test_an_option_that_fuse_does_not_know(point: bytes) -> None:
    descriptor = fusedev.open_device()
    try:
        with pytest.raises(OSError) as raised:
            fusedev.mount_direct(descriptor, point, b"unionfs", b"x", 0, [b"lowerdir=/"])
        assert (raised.value.errno, raised.value.filename) == (errno.EINVAL, os.fsdecode(point))
    finally:
        os.close(descriptor)


@needs_device
@needs_helper
def test_mounted_and_unmounted_by_the_helper(point: bytes) -> None:
    helper = fusedev.find_helper()
    assert helper is not None
    options = [b"fsname=" + fusedev.escape(b"a,b\\c"), b"subtype=unionfs", b"nosuid"]
    descriptor = fusedev.mount_by_helper(helper, point, options)
    try:
        assert stat.S_ISCHR(os.fstat(descriptor).st_mode)
        assert not os.get_inheritable(descriptor)
        entry = mounts.find(point)
        assert (entry.point, entry.fstype, entry.source) == (point, b"fuse.unionfs", b"a,b\\c")
        assert first_request(descriptor)[1] == INIT
        fusedev.unmount_by_helper(helper, point)
        assert not mounts.is_mountpoint(point)
    finally:
        os.close(descriptor)


@needs_helper
def test_the_helper_speaks_for_itself_when_it_fails(tmp_path: Path) -> None:
    helper = fusedev.find_helper()
    assert helper is not None
    missing = os.fsencode(tmp_path / "missing")
    before = set(os.listdir("/proc/self/fd"))
    for call in (lambda: fusedev.mount_by_helper(helper, missing, [b"nosuid"]),
                 lambda: fusedev.unmount_by_helper(helper, missing)):  # fmt: skip
        with pytest.raises(OSError, match="missing") as raised:
            call()
        assert "fusermount" in str(raised.value.strerror)
        assert raised.value.filename == os.fsdecode(missing)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_helper_that_is_none(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        fusedev.mount_by_helper(str(tmp_path / "none"), os.fsencode(tmp_path), [])
    with pytest.raises(OSError, match="ended with status 1"):
        fusedev.mount_by_helper("/bin/false", os.fsencode(tmp_path), [])
    assert set(os.listdir("/proc/self/fd")) == before


@needs_helper
def test_the_helper_is_found_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fusedev.find_helper()
    monkeypatch.delenv("PATH")
    assert os.path.basename(fusedev.find_helper() or "") == os.path.basename(found or "-")
    monkeypatch.setenv("PATH", "relative:/nowhere")
    assert fusedev.find_helper() is not None


@needs_root
@needs_device
def test_read_ahead_of_our_mount(point: bytes, device: int) -> None:
    number = mounts.find(point).device
    try:
        fusedev.set_read_ahead(number, 1024)
    except OSError as error:
        pytest.skip(f"needs root of the machine, to set the read-ahead: {error.strerror}")
    path = f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb"
    assert Path(path).read_text() == "1024\n"


@needs_root
@needs_device
def test_a_second_channel_of_a_connection(device: int) -> None:
    channel = fusedev.open_device()
    try:
        fusedev.clone(channel, device)
        assert first_request(channel)[1] == INIT
    finally:
        os.close(channel)


@needs_root
@needs_device
def test_backing_files_need_an_agreement_on_passthrough(device: int) -> None:
    """Before INIT has agreed on it the kernel refuses; one that does not know the ioctl (before 6.9) does so too."""
    with open("/proc/self/exe", "rb") as file, pytest.raises(OSError) as raised:
        fusedev.backing_open(device, file.fileno())
    assert raised.value.errno in (errno.EPERM, errno.ENOTTY)
    with pytest.raises(OSError):
        fusedev.backing_close(device, 1)
