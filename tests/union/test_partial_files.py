"""Partly copied files among others: what is refused, what survives, what reads through them.

The bytes themselves are the matter of test_partial.py.
"""

from __future__ import annotations

import errno
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unionfs import Union, events
from unionfs.changes.apply import apply
from unionfs.changes.difference import difference
from unionfs.changes.export import export
from unionfs.changes.settle import missing, settle
from unionfs.changes.upper import HeldUpper
from unionfs.errors import UnionfsError
from unionfs.layer.stack import Stack
from unionfs.linux import files
from unionfs.union.partial import BUSY, PartialFile

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes")
PAGE = 4096
MAP = "trusted.unionfs.blocks"
CONTENT = b"".join(b"%04d" % number * 1024 for number in range(40)) + b"end"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_bytes(CONTENT)
    os.utime(tmp_path / "lower/file", ns=(10**18, 10**18 + 1))
    return tmp_path


def opened(place: Path, **options: object) -> Union:
    words = {"copyup": "block", "copyup_complete": "never", **options}
    return Union([place / "lower"], place / "upper", place / "work", **words)  # type: ignore[arg-type]


def write(union: Union, name: str = "file", data: bytes = b"new", offset: int = 5 * PAGE) -> None:
    with union.open(name, os.O_RDWR) as file:
        file.pwrite(data, offset)


def changed(data: bytes = b"new", offset: int = 5 * PAGE) -> bytes:
    return CONTENT[:offset] + data + CONTENT[offset + len(data) :]


def is_partial(path: Path) -> bool:
    return MAP in os.listxattr(path)


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    events.log_to(lambda importance, message: lines.append(message))
    yield lines
    events.log_to(2)


# --- what is refused


def refused(place: Path, log: list[str]) -> str:
    """Its data is refused by each way, with EIO and a line that names it; the rest of it works."""
    with opened(place) as union:
        calls: list[Callable[[], object]] = [
            lambda: union.read_bytes("file"),
            lambda: union.open("file", os.O_RDWR),
            lambda: union.truncate("file", 10),
            lambda: union.getxattr("file", b"user.unionfs.blocks"),
        ]
        for call in calls:
            with pytest.raises(OSError) as raised:
                call()
            assert raised.value.errno == errno.EIO
        assert union.stat("file").size == len(CONTENT)
        union.chmod("file", 0o600)
        union.rename("file", "moved")
        union.rename("moved", "file")
    assert len(log) == len(calls) and len(set(log)) == 1 and str(place / "upper/file") in log[0]
    return log[0]


def test_a_lower_file_that_was_written_to_meanwhile(place: Path, log: list[str]) -> None:
    with opened(place) as union:
        write(union)
    with open(place / "lower/file", "r+b") as file:
        file.write(b"X")
    assert "the lower file file that it goes on in was changed since" in refused(place, log)


def test_a_lower_file_of_another_size_and_the_same_time(place: Path, log: list[str]) -> None:
    with opened(place) as union:
        write(union)
    os.truncate(place / "lower/file", 10)
    os.utime(place / "lower/file", ns=(10**18, 10**18 + 1))
    assert "was changed since" in refused(place, log)


def test_a_lower_file_that_is_gone(place: Path, log: list[str]) -> None:
    with opened(place) as union:
        write(union)
    os.rename(place / "lower/file", place / "lower/other")
    assert "the lower file file that it goes on in is not there" in refused(place, log)


def test_a_lower_file_that_became_a_link(place: Path, log: list[str]) -> None:
    """Nothing outside the layer is reached by it."""
    with opened(place) as union:
        write(union)
    os.rename(place / "lower/file", place / "elsewhere")
    os.symlink("../elsewhere", place / "lower/file")
    assert "is not there" in refused(place, log)


@pytest.mark.parametrize("at", [0, 1, 3, 5, 8, 20, 40, 70, -1])
def test_a_damaged_map(place: Path, log: list[str], at: int) -> None:
    with opened(place) as union:
        write(union)
    value = bytearray(os.getxattr(place / "upper/file", MAP))
    value[at] ^= 0x10
    os.setxattr(place / "upper/file", MAP, value)
    assert "its block map is " in refused(place, log)


@pytest.mark.parametrize("length", [0, 1, 8, 67, 71, 83])
def test_a_map_that_was_cut(place: Path, log: list[str], length: int) -> None:
    with opened(place) as union:
        write(union)
    os.setxattr(place / "upper/file", MAP, os.getxattr(place / "upper/file", MAP)[:length])
    assert "damaged" in refused(place, log)


def test_a_map_of_a_later_version(place: Path, log: list[str]) -> None:
    with opened(place) as union:
        write(union)
    value = bytearray(os.getxattr(place / "upper/file", MAP))
    value[0] = 2
    value[4:8] = bytes(4)
    value[4:8] = struct.pack("<I", zlib.crc32(value))
    os.setxattr(place / "upper/file", MAP, value)
    assert "of version 2, and this unionfs knows version 1" in refused(place, log)


def test_a_map_that_leads_out_of_its_layer(place: Path, log: list[str]) -> None:
    """One with a good checksum, made by somebody who may."""
    with opened(place) as union:
        write(union)
    os.rename(place / "lower/file", place / "xile")
    value = bytearray(os.getxattr(place / "upper/file", MAP))
    at = value.index(b"file")
    for path in (b"../xile", b"/xile", b"..", b"a//b"):
        made = value[:at] + path + value[at + 4 :]
        made[2:4] = struct.pack("<H", len(path))
        made[4:8] = bytes(4)
        made[4:8] = struct.pack("<I", zlib.crc32(made))
        os.setxattr(place / "upper/file", MAP, made)
        with opened(place) as union, pytest.raises(OSError) as raised:
            union.read_bytes("file")
        assert raised.value.errno == errno.EIO
        assert "is not there" in log[-1]


def test_options_that_make_no_sense(place: Path) -> None:
    for words, why in (
        ({"copyup": "blok"}, 'copyup=blok: there is no such copyup\n  did you mean "block"'),
        ({"copyup_threshold": -1}, "copyup_threshold=-1: is less than 0"),
        ({"copyup_complete": "clsoe"}, 'copyup_complete=clsoe: there is no such time\n  did you mean "close"'),
    ):
        with pytest.raises(UnionfsError) as raised:
            opened(place, **words)
        assert why in str(raised.value)


# --- what is copied up in part, and what whole


def test_auto_copies_short_files_whole_and_long_ones_by_block(place: Path) -> None:
    (place / "lower/short").write_bytes(b"s" * 9999)
    with opened(place, copyup="auto", copyup_threshold=10_000) as union:
        write(union)
        write(union, "short", b"x", 0)
    assert is_partial(place / "upper/file") and not is_partial(place / "upper/short")
    assert (place / "upper/short").read_bytes() == b"x" + b"s" * 9998


def test_a_truncate_that_leaves_little_copies_it_whole(place: Path) -> None:
    with opened(place, copyup="auto", copyup_threshold=PAGE) as union:
        union.truncate("file", 100)
    assert (place / "upper/file").read_bytes() == CONTENT[:100] and not is_partial(place / "upper/file")


def test_whole_copies_everything(place: Path) -> None:
    with opened(place, copyup="whole") as union:
        write(union)
    assert (place / "upper/file").read_bytes() == changed() and not is_partial(place / "upper/file")


def test_a_path_that_is_too_long_for_a_map_is_copied_whole(place: Path) -> None:
    folder = "/".join(["d" * 200] * 6)
    (place / "lower" / folder).mkdir(parents=True)
    (place / "lower" / folder / "file").write_bytes(CONTENT)
    with opened(place) as union:
        write(union, f"{folder}/file")
    assert (place / "upper" / folder / "file").read_bytes() == changed()


def test_metadata_copies_nothing(place: Path) -> None:
    with opened(place) as union:
        union.chmod("file", 0o4751)
        union.chown("file", 7, 8)
        union.utime("file", 1, 2)
        union.setxattr("file", b"user.a", b"b")
        union.rename("file", "renamed")
        union.link("renamed", "linked")
    with opened(place) as union:
        st = union.stat("linked")
        assert (st.mode & 0o7777, st.uid, st.gid, st.atime_ns, st.mtime_ns, st.nlink) == (0o751, 7, 8, 1, 2, 2)
        assert union.read_bytes("renamed") == CONTENT
        assert union.getxattr("linked", b"user.a") == b"b"
    assert (place / "upper/renamed").stat().st_blocks <= 8


def test_the_last_block_makes_it_an_ordinary_file(place: Path) -> None:
    with opened(place) as union:
        with union.open("file", os.O_RDWR) as file:
            for offset in range(0, len(CONTENT), PAGE):
                file.pwrite(b"z" * PAGE, offset)
            file.fsync()
            assert not is_partial(place / "upper/file")
            file.pwrite(b"y", 0)
    assert (place / "upper/file").read_bytes()[:2] == b"yz"


def test_hard_links_share_their_blocks(place: Path) -> None:
    os.link(place / "lower/file", place / "lower/other")
    with opened(place) as union:
        write(union, "file", b"one", 0)
        write(union, "other", b"two", 20 * PAGE)
    with opened(place) as union:
        both = b"one" + changed(b"two", 20 * PAGE)[3:]
        assert union.read_bytes("file") == both == union.read_bytes("other")
        assert union.stat("file").ino == union.stat("other").ino


def test_an_open_file_that_was_unlinked(place: Path) -> None:
    with opened(place) as union, union.open("file", os.O_RDWR) as file:
        union.unlink("file")
        file.pwrite(b"new", 5 * PAGE)
        assert file.pread(len(CONTENT), 0) == changed()
        file.truncate(10)
        assert file.pread(100, 0) == CONTENT[:10]


def test_a_capability_survives_completion_and_not_a_write(place: Path) -> None:
    """The kernel takes it away when somebody writes, and completing a file is nobody's writing."""
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr(place / "lower/file", "security.capability", capability)
    with opened(place) as union:
        union.chmod("file", 0o755)
        with union.open("file") as file:
            data = file.handle.inode.data
            assert isinstance(data, PartialFile)
            data.complete()
        assert os.getxattr(place / "upper/file", "security.capability") == capability
        write(union)
        assert "security.capability" not in os.listxattr(place / "upper/file")


def test_time_and_mode_survive_completion(place: Path) -> None:
    with opened(place, copyup_complete="close") as union:
        union.chmod("file", 0o6755)
        union.open("file").close()
        for _ in range(1000):
            if not is_partial(place / "upper/file"):
                break
            time.sleep(0.01)
    st = (place / "upper/file").stat()
    assert (st.st_mode & 0o7777, st.st_mtime_ns) == (0o6755, 10**18 + 1)
    assert not is_partial(place / "upper/file") and (place / "upper/file").read_bytes() == CONTENT


def test_times_set_during_completion_stay(place: Path) -> None:
    (place / "lower/large").write_bytes(os.urandom(64 << 20))
    with opened(place, copyup_complete="background") as union, union.open("large", os.O_RDWR) as file:
        for number in range(BUSY):
            file.pread(1, number)
        for number in range(100):
            union.utime("large", number, number)
            assert union.stat("large").mtime_ns == number
            time.sleep(0.0005)
            assert file.stat().mtime_ns == number
        assert file.stat().blocks * 512 > 4 << 20, "nothing was completed meanwhile"
    assert (place / "upper/large").stat().st_mtime_ns == 99


def test_a_full_upper_changes_nothing_that_it_does_not_report(place: Path) -> None:
    """On a tmpfs of a few pages: what a write reports is there, and the rest is as it was."""
    tiny = place / "tiny"
    tiny.mkdir()
    assert os.spawnlp(os.P_WAIT, "mount", "mount", "-t", "tmpfs", "-o", "size=88k", "tmpfs", str(tiny)) == 0
    try:
        (tiny / "upper").mkdir()
        (tiny / "work").mkdir()
        expected = bytearray(CONTENT)
        with Union([place / "lower"], tiny / "upper", tiny / "work", copyup="block", copyup_complete="never") as union:
            with union.open("file", os.O_RDWR) as file:
                for offset, size in ((100, 10), (3 * PAGE + 5, 9 * PAGE), (15 * PAGE + 1, 20 * PAGE), (38 * PAGE, 50)):
                    data = bytes([offset % 251]) * size
                    try:
                        count = file.pwrite(data, offset)
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
                        count = 0
                    expected[offset : offset + count] = data[:count]
                    assert file.pread(len(CONTENT), 0) == expected
        with Union([place / "lower"], tiny / "upper", tiny / "work", copyup="block") as union:
            assert union.read_bytes("file") == expected
    finally:
        assert os.spawnlp(os.P_WAIT, "umount", "umount", str(tiny)) == 0


# --- what reads through them


def test_a_former_upper_is_a_lower_layer(place: Path) -> None:
    """Its files are still partly copied, and may be copied in part again."""
    with opened(place) as union:
        write(union)
    with Union([place / "upper", place / "lower"]) as union:
        assert union.read_bytes("file") == changed()
    (place / "upper2").mkdir()
    (place / "work2").mkdir()
    layers = ([place / "upper", place / "lower"], place / "upper2", place / "work2")
    for _ in range(2):
        with Union(*layers, copyup="block", copyup_complete="never") as union:
            write(union, data=b"again", offset=30 * PAGE)
            assert union.read_bytes("file") == changed()[: 30 * PAGE] + b"again" + CONTENT[30 * PAGE + 5 :]
            with union.open("file") as file:
                assert file.lseek(0, os.SEEK_HOLE) == len(CONTENT)
    assert (place / "upper2/file").stat().st_blocks <= 16
    with Union(*layers, copyup="whole") as union:
        union.rename("file", "renamed")
        assert union.read_bytes("renamed") == changed()[: 30 * PAGE] + b"again" + CONTENT[30 * PAGE + 5 :]


def test_a_layer_that_lies_deeper_now(place: Path) -> None:
    """Layers count from the bottom: more of them on top change nothing."""
    with opened(place) as union:
        write(union)
    (place / "top").mkdir()
    with Union([place / "top", place / "lower"], place / "upper", place / "work") as union:
        assert union.read_bytes("file") == changed()


def held(place: Path) -> tuple[HeldUpper, Stack]:
    return (
        HeldUpper(os.fsencode(place / "upper"), os.fsencode(place / "work")),
        Stack.open([os.fsencode(place / "lower")]),
    )


def test_settle(place: Path) -> None:
    os.link(place / "lower/file", place / "lower/other")
    (place / "lower/dir").mkdir()
    (place / "lower/dir/plain").write_bytes(CONTENT)
    with opened(place) as union:
        write(union)
        write(union, "dir/plain")
        union.write_bytes("new", CONTENT)
    upper, lower = held(place)
    try:
        stack = upper.stack(lower, lower.dialect)
        assert missing(stack)[0] == 2
        told: list[tuple[bytes, int]] = []
        assert settle(stack, lambda path, copied: told.append((path, copied))) == 2
        assert missing(stack) == (0, 0) and settle(stack) == 0
    finally:
        lower.close()
        upper.close()
    assert {path for path, _ in told} == {os.fsencode(place / "upper/file"), os.fsencode(place / "upper/dir/plain")}
    assert (place / "upper/file").read_bytes() == changed() == (place / "upper/dir/plain").read_bytes()
    os.truncate(place / "lower/file", 0)
    with opened(place) as union:
        assert union.read_bytes("other") == changed()


def test_settle_goes_on_where_it_was_interrupted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        (place / f"lower/f{number}").write_bytes(CONTENT)
    with opened(place) as union:
        for number in range(6):
            write(union, f"f{number}")
    monkeypatch.setattr("unionfs.changes.settle._PIECE", 7 * PAGE)
    for stop_after in (1, 2, 5, 9, 20):

        def stop(path: bytes, copied: int, left: list[int] = [stop_after]) -> None:  # noqa: B006
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        upper, lower = held(place)
        try:
            settle(upper.stack(lower, lower.dialect), stop)
        except KeyboardInterrupt:
            pass
        finally:
            lower.close()
            upper.close()
        with opened(place) as union:
            for number in range(6):
                assert union.read_bytes(f"f{number}") == changed()
    assert not any(is_partial(path) for path in (place / "upper").iterdir())


def test_settle_names_what_it_cannot_complete(place: Path, log: list[str]) -> None:
    (place / "lower/other").write_bytes(CONTENT)
    with opened(place) as union:
        write(union)
        write(union, "other")
    os.unlink(place / "lower/file")
    upper, lower = held(place)
    try:
        with pytest.raises(UnionfsError, match="upper/file: cannot be completed: input/output error"):
            settle(upper.stack(lower, lower.dialect))
    finally:
        lower.close()
        upper.close()
    assert is_partial(place / "upper/file") and (place / "upper/other").read_bytes() == changed()


def test_apply_and_diff_and_export(place: Path) -> None:
    with opened(place) as union:
        write(union)
        union.rename("file", "renamed")
        with union.open("new", os.O_CREAT | os.O_RDWR) as new, union.open("renamed") as old:
            assert old.copy_range(4 * PAGE, new, 0, 3 * PAGE) == PAGE
    upper, lower = held(place)
    try:
        stack = upper.stack(lower, lower.dialect)
        found = {change.path: change for change in difference(stack, stack.layers[0])}
        assert {path: change.kind for path, change in found.items()} == {b"/file": "D", b"/new": "A", b"/renamed": "A"}
        assert found[b"/renamed"].space <= 2 * PAGE + 4096
        export(stack, os.fsencode(place / "exported"))
        assert (place / "exported/renamed").read_bytes() == changed() and is_partial(place / "upper/renamed")
    finally:
        lower.close()
        upper.close()
    upper, lower = held(place)
    try:
        apply(upper, lower)
    finally:
        lower.close()
        upper.close()
    assert (place / "lower/renamed").read_bytes() == changed()
    assert sorted(os.listdir(place / "lower")) == ["new", "renamed"] and os.listdir(place / "upper") == []
    assert os.listxattr(place / "lower/renamed") == []


# --- the middle of an operation


def test_a_cut_that_was_killed_half_way_reads_zeros_when_it_grows(place: Path) -> None:
    """ftruncate(2) was done and the map not written: what lay behind the end does not come back."""
    with opened(place) as union:
        write(union)
    os.truncate(place / "upper/file", 100)
    with opened(place) as union:
        assert union.read_bytes("file") == CONTENT[:100]
        union.truncate("file", 3 * PAGE)
    with opened(place) as union:
        assert union.read_bytes("file") == CONTENT[:100] + bytes(3 * PAGE - 100)


def test_a_punched_hole_costs_no_space(place: Path) -> None:
    with opened(place) as union, union.open("file", os.O_RDWR) as file:
        file.fallocate(files.FALLOC_PUNCH_HOLE | files.FALLOC_KEEP_SIZE, PAGE, 30 * PAGE)
        assert file.stat().blocks <= 8
        assert file.pread(31 * PAGE, 0) == CONTENT[:PAGE] + bytes(30 * PAGE)


@pytest.mark.parametrize("mode", [files.FALLOC_COLLAPSE, files.FALLOC_INSERT])
def test_moving_ranges(place: Path, mode: int) -> None:
    with opened(place) as union:
        write(union)
        with union.open("file", os.O_RDWR) as file:
            try:
                file.fallocate(mode, 2 * PAGE, 3 * PAGE)
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    pytest.skip("this filesystem cannot collapse or insert ranges")
                raise
            whole, middle = changed(), bytes(3 * PAGE)
            if mode == files.FALLOC_COLLAPSE:
                assert file.pread(len(whole), 0) == whole[: 2 * PAGE] + whole[5 * PAGE :]
            else:
                assert file.pread(2 * len(whole), 0) == whole[: 2 * PAGE] + middle + whole[2 * PAGE :]
