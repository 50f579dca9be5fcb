"""Partial copy-up on the filesystems that an upper may lie on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import unionfs
from tests.union.disks import MIB, Disks, disks, run
from tests.union.test_partial import MODES, PAGE, pattern
from unionfs import events
from unionfs.union.blockmap import MOST_BLOCKS, BlockMap

MAP = "trusted.unionfs.blocks"
SIZE = 2 * MIB + 100


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Disks]:
    with disks(tmp_path) as made:
        yield made


@contextmanager
def upper_on(machine: Disks, kind: str, options: tuple[str, ...] = ()) -> Iterator[Path]:
    """A place for upper and work on a new filesystem."""
    if kind in ("tmpfs", "ramfs"):
        place = machine.special(kind)
    else:
        place = machine.mount(machine.image(kind, kind, *options), kind)
    for name in ("upper", "work"):
        (place / name).mkdir()
    yield place


def opened(lower: Path, place: Path, **options: Any) -> unionfs.Union:
    return unionfs.Union([lower], place / "upper", place / "work", copyup_complete="never", **options)


def lower_file(lower: Path, size: int = SIZE) -> bytes:
    lower.mkdir()
    (lower / "f").write_bytes(pattern(size, 1))
    return pattern(size, 1)


def map_of(place: Path) -> BlockMap | None:
    with suppress(OSError):
        return BlockMap.parse(os.getxattr(place / "upper/f", MAP), BOOT)
    return None


def _boot() -> bytes:
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""))


BOOT = _boot()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_a_file_by_block(kind: str, machine: Disks, tmp_path: Path) -> None:
    """Written to, changed in every way, after another mount too, and completed: always what a plain file would be."""
    wanted = bytearray(lower_file(tmp_path / "lower"))
    with upper_on(machine, kind) as place:
        with opened(tmp_path / "lower", place, copyup="block") as union:
            write(union, wanted, 5 * PAGE + 7)
            found = map_of(place)
            assert found is not None and (found.have, found.copied, found.asked) == (1 << 5, PAGE, 5)
            assert os.stat(place / "upper/f").st_size == SIZE
            assert os.stat(place / "upper/f").st_blocks * 512 <= 64 << 10, "that is more than a block and its map"
            with union.open("f", os.O_RDWR) as file:
                change(file, wanted)
                file.fsync()
            assert union.read_bytes("f") == wanted
        if kind != "tmpfs":
            place = again(machine)
        with opened(tmp_path / "lower", place) as union:
            assert map_of(place) is not None
            assert union.read_bytes("f") == wanted
            write(union, wanted, 300 * PAGE - 2)
            with union.open("f", os.O_RDWR) as file:
                complete(file)
            assert map_of(place) is None
            assert union.read_bytes("f") == wanted
    assert (place / "upper/f").read_bytes() == wanted
    assert (tmp_path / "lower/f").read_bytes() == pattern(SIZE, 1)


def write(union: unionfs.Union, wanted: bytearray, offset: int) -> None:
    with union.open("f", os.O_RDWR) as file:
        assert file.pwrite(b"write", offset) == 5
    wanted[offset : offset + 5] = b"write"


def change(file: unionfs.File, wanted: bytearray) -> None:
    for mode, start, end in ("punch", 10 * PAGE + 5, 13 * PAGE + 5), ("zero", 20 * PAGE - 5, 22 * PAGE):
        try:
            file.fallocate(MODES[mode], start, end - start)
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP
        else:
            wanted[start:end] = bytes(end - start)
    file.truncate(400 * PAGE + 50)
    file.truncate(500 * PAGE)
    wanted[400 * PAGE + 50 :] = bytes(100 * PAGE - 50)
    file.pwrite(b"end", 500 * PAGE + 100)
    wanted += bytes(100) + b"end"


def complete(file: unionfs.File) -> None:
    data = file.handle.inode.data
    assert data is not None
    data.complete()


def again(machine: Disks) -> Path:
    """Unmount the filesystem, and mount it again."""
    command, point = machine.undo[-1]
    assert command == "umount"
    with open("/proc/self/mounts", encoding="ascii") as file:
        device, _, kind, *_ = next(line for line in file if f" {point} " in line).split()
    run("umount", point)
    run("mount", "-t", kind, device, point)
    return Path(point)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_reflinks_are_better_than_blocks(kind: str, machine: Disks) -> None:
    """copyup=auto, both layers on one filesystem: all data is shared, and there is no map."""
    with upper_on(machine, kind) as place:
        wanted = bytearray(lower_file(place / "lower", 16 * MIB))
        os.sync()
        free = os.statvfs(place).f_bfree
        with opened(place / "lower", place, copyup="auto") as union:
            write(union, wanted, 5 * PAGE + 7)
            os.sync()
            assert map_of(place) is None
            assert (free - os.statvfs(place).f_bfree) * os.statvfs(place).f_frsize < 4 * MIB
            assert union.read_bytes("f") == wanted
    assert (place / "upper/f").read_bytes() == wanted


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_without_reflinks_auto_means_blocks(kind: str, machine: Disks, tmp_path: Path) -> None:
    wanted = bytearray(lower_file(tmp_path / "lower"))
    with upper_on(machine, kind) as place, opened(tmp_path / "lower", place, copyup="auto") as union:
        write(union, wanted, 5 * PAGE + 7)
        assert map_of(place) is not None
        assert union.read_bytes("f") == wanted


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_the_largest_map_fits(kind: str, machine: Disks, tmp_path: Path) -> None:
    """Beside the file's other attributes; a file of 2 GiB, which is all holes, has a map as large as any."""
    wanted = 2 << 30
    (tmp_path / "lower").mkdir()
    with open(tmp_path / "lower/f", "wb") as file:
        file.truncate(wanted)
    os.setxattr(tmp_path / "lower/f", "user.some", bytes(1000))
    with upper_on(machine, kind) as place, opened(tmp_path / "lower", place, copyup="block") as union:
        with union.open("f", os.O_RDWR) as opened_file:
            opened_file.pwrite(b"x", 3 * wanted // 4)
            opened_file.fsync()
            found = map_of(place)
            assert found is not None and found.count == MOST_BLOCKS
            assert opened_file.pread(3, 3 * wanted // 4 - 1) == b"\0x\0"
        assert union.getxattr("f", b"user.some") == bytes(1000)


@pytest.mark.parametrize("how", ["auto", "block"])
def test_no_room_for_a_map_alone(how: str, machine: Disks, tmp_path: Path) -> None:
    """ext4 has one block for all attributes of a file. This one, of 1 KiB, is too small for a large map: it is copied
    whole."""
    no_map(machine, tmp_path, how, MOST_BLOCKS * PAGE, 700, "-b", "1024")


@pytest.mark.parametrize("size", [16 * PAGE, MOST_BLOCKS * PAGE])
@pytest.mark.parametrize("how", ["auto", "block"])
def test_no_room_for_a_map_and_other_attributes(how: str, size: int, machine: Disks, tmp_path: Path) -> None:
    """It has room for one or the other."""
    no_map(machine, tmp_path, how, size, 4000 if size < MIB else 3000)


def no_map(machine: Disks, tmp_path: Path, how: str, size: int, attribute: int, *options: str) -> None:
    (tmp_path / "lower").mkdir()
    with open(tmp_path / "lower/f", "wb") as file:
        file.truncate(size)
    os.setxattr(tmp_path / "lower/f", "user.some", bytes(attribute))
    with upper_on(machine, "ext4", options) as place, opened(tmp_path / "lower", place, copyup="whole") as union:
        union.chmod("f", 0o600)
        assert union.getxattr("f", b"user.some") == bytes(attribute), "a whole copy has no room"
        union.unlink("f")
    for name in ("upper", "work"):
        run("find", place / name, "-mindepth", "1", "-delete")
    with opened(tmp_path / "lower", place, copyup=how) as union:
        with union.open("f", os.O_RDWR) as changed:
            changed.pwrite(b"x", 100)
            assert changed.pread(3, 99) == b"\0x\0"
        assert union.getxattr("f", b"user.some") == bytes(attribute)
        assert map_of(place) is None


@pytest.mark.parametrize("how", ["auto", "block"])
def test_without_attributes_files_are_copied_whole(how: str, machine: Disks, tmp_path: Path) -> None:
    """ramfs has none."""
    wanted = bytearray(lower_file(tmp_path / "lower"))
    with upper_on(machine, "ramfs") as place, opened(tmp_path / "lower", place, copyup=how) as union:
        write(union, wanted, 5 * PAGE + 7)
        assert union.read_bytes("f") == wanted
        assert (place / "upper/f").read_bytes() == wanted
    with opened(tmp_path / "lower", place, copyup=how) as union:
        assert union.read_bytes("f") == wanted


def test_the_log_says_that_files_are_copied_whole(machine: Disks, tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    lines: list[str] = []
    events.log_to(lambda importance, message: lines.append(message))
    try:
        with upper_on(machine, "ramfs") as place, opened(tmp_path / "lower", place):
            assert any("whole" in line for line in lines), lines
    finally:
        events.log_to(2)
