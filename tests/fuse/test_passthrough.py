"""Passthrough: who reads and writes a file's data, and that every mix of descriptors sees one file.

On a real mount by root. Whether the daemon carries data is seen by its log of requests.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import unionfs
from unionfs.fuse.mount import unmount
from unionfs.fuse.passthrough import Passthrough
from unionfs.linux import fusedev, mounts
from unionfs.linux.libc import check, libc

_FOLLOW = 0x400
"""AT_SYMLINK_FOLLOW (linkat(2))."""
PAGE = 4096
OLD = b"".join(b"%06d--" % number for number in range(4 * PAGE // 8))
can = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 9) and os.geteuid() == 0
needs_passthrough = pytest.mark.skipif(not can, reason="needs Linux 6.9 and root, for passthrough")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_bytes(OLD)
    os.utime(tmp_path / "lower/file", ns=(1, 2))
    yield tmp_path
    while mounts.is_mountpoint(os.fsencode(tmp_path / "merged")):
        unmount(os.fsencode(tmp_path / "merged"), lazy=True)
    lower = tmp_path / "lower/file"
    assert lower.read_bytes() == OLD and lower.stat().st_mtime_ns == 2


def mount(place: Path, **options: str | bool) -> Path:
    layers = {"lower": [place / "lower"], "upper": place / "upper", "work": place / "work"}
    return unionfs.mount(place / "merged", **layers, **options).path  # type: ignore[arg-type]


class Log:
    """The requests that a daemon in the foreground logs."""

    def __init__(self, place: Path) -> None:
        self.path = place / "log"

    def count(self, *operations: str) -> int:
        lines = self.path.read_text().splitlines()
        return sum(any(f" {operation} " in line for operation in operations) for line in lines)


@pytest.fixture
def watched(place: Path) -> Iterator[tuple[Path, Log]]:
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work,log={place}/log"
    command = [sys.executable, "-m", "unionfs", "mount", "-f", "-d", str(place / "merged"), "-o", options]
    daemon = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    while not mounts.is_mountpoint(os.fsencode(place / "merged")) and daemon.poll() is None:
        time.sleep(0.01)
    os.listdir(place / "merged")
    yield place / "merged", Log(place)
    unmount(os.fsencode(place / "merged"), lazy=True)
    daemon.wait()


@needs_passthrough
def test_the_daemon_carries_no_data_of_upper_files(watched: tuple[Path, Log]) -> None:
    merged, log = watched
    with open(merged / "new", "w+b", 0) as file:
        file.write(b"x" * 100_000)
        assert os.pread(file.fileno(), 5, 50_000) == b"xxxxx"
        os.fsync(file.fileno())
    with open(merged / "new", "r+b", 0) as file, mmap.mmap(file.fileno(), 100_000) as mapped:
        mapped[5:8] = b"map"
        assert os.pread(file.fileno(), 8, 1) == b"xxxxmapx"
    with open(merged / "file", "r+b", 0) as file:
        file.write(b"copied up")
    assert log.count("READ", "WRITE") == 0
    with open(merged.parent / "lower/file", "rb") as lower, open(merged / "file", "rb") as file:
        assert file.read() == b"copied up" + lower.read()[9:]


@needs_passthrough
def test_a_file_that_is_open_from_below_goes_through_the_daemon(watched: tuple[Path, Log]) -> None:
    merged, log = watched
    with open(merged / "file", "rb", 0) as reading, open(merged / "file", "r+b", 0) as writing:
        writing.write(b"seen")
        assert reading.read(4) == b"seen"
    assert log.count("WRITE") == 1
    with open(merged / "file", "r+b", 0) as writing:
        writing.write(b"more")
    assert log.count("WRITE") == 1


def mixes() -> dict[str, Callable[[Path, Path], None]]:
    """What to do with descriptors of one file: each leaves "NEW" at 100 and checks what it sees on the way."""

    def old_reader_new_writer(path: Path, upper: Path) -> None:
        with open(path, "rb", 0) as old, open(path, "r+b", 0) as new:
            os.pwrite(new.fileno(), b"NEW", 100)
            assert os.pread(old.fileno(), 3, 100) == b"NEW"

    def old_mapping_new_writer(path: Path, upper: Path) -> None:
        with open(path, "rb") as old, mmap.mmap(old.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[100:103] == OLD[100:103]
            with open(path, "r+b", 0) as new:
                os.pwrite(new.fileno(), b"NEW", 100)
                assert os.pread(new.fileno(), 3, 100) == b"NEW" == mapped[100:103]

    def two_mappings(path: Path, upper: Path) -> None:
        with open(path, "r+b") as one, open(path, "r+b") as two:
            with mmap.mmap(one.fileno(), 0) as first, mmap.mmap(two.fileno(), 0) as second:
                first[100:103] = b"NEW"
                assert second[100:103] == b"NEW"
                first.flush()

    def writer_then_reader(path: Path, upper: Path) -> None:
        with open(path, "r+b", 0) as new, open(path, "rb", 0) as late:
            os.pwrite(new.fileno(), b"NEW", 100)
            assert os.pread(late.fileno(), 3, 100) == b"NEW"

    def direct(path: Path, upper: Path) -> None:
        with open(path, "rb", 0) as old:
            fd = os.open(path, os.O_RDWR | os.O_DIRECT)
            buffer = mmap.mmap(-1, PAGE)
            assert os.preadv(fd, [buffer], 0) == PAGE
            buffer[100:103] = b"NEW"
            assert os.pwritev(fd, [buffer], 0) == PAGE
            os.close(fd)
            assert os.pread(old.fileno(), 3, 100) == b"NEW"

    def appended_and_cut(path: Path, upper: Path) -> None:
        with open(path, "ab", 0) as end, open(path, "r+b", 0) as new:
            end.write(b"tail")
            os.pwrite(new.fileno(), b"NEW", 100)
            assert os.fstat(new.fileno()).st_size == len(OLD) + 4
            os.ftruncate(new.fileno(), len(OLD))
            assert path.stat().st_size == len(OLD)

    def by_another_name(path: Path, upper: Path) -> None:
        os.link(path, path.parent / "other")
        with open(path, "rb", 0) as old, open(path.parent / "other", "r+b", 0) as new:
            os.pwrite(new.fileno(), b"NEW", 100)
            assert os.pread(old.fileno(), 3, 100) == b"NEW"

    def unlinked(path: Path, upper: Path) -> None:
        with open(path, "r+b", 0) as new:
            os.rename(path, path.parent / "gone")
            os.pwrite(new.fileno(), b"NEW", 100)
            os.link(path.parent / "gone", path)
            os.unlink(path.parent / "gone")
            assert os.pread(new.fileno(), 3, 100) == b"NEW"

    def without_a_name(path: Path, upper: Path) -> None:
        fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o644)
        os.write(fd, OLD)
        os.pwrite(fd, b"NEW", 100)
        os.unlink(path)
        check(libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(path), _FOLLOW))
        os.close(fd)

    def copied_within(path: Path, upper: Path) -> None:
        with open(path, "r+b", 0) as new, open(path.parent / "source", "w+b", 0) as source:
            source.write(b"NEW")
            assert os.copy_file_range(source.fileno(), new.fileno(), 3, 0, 100) == 3
            assert os.pread(new.fileno(), 3, 100) == b"NEW"

    return {name: mix for name, mix in locals().items() if callable(mix)}


@needs_passthrough
@pytest.mark.parametrize("copyup", ["whole", "block"])
@pytest.mark.parametrize("mix", mixes().values(), ids=mixes())
def test_every_mix_of_descriptors_sees_one_file(place: Path, mix: Callable[[Path, Path], None], copyup: str) -> None:
    merged = mount(place, copyup=copyup, copyup_complete="never")
    expected = OLD[:100] + b"NEW" + OLD[103:]
    mix(merged / "file", place / "upper/file")
    assert (merged / "file").read_bytes() == expected
    st = (merged / "file").stat()
    assert (st.st_size, st.st_mtime_ns) == (len(OLD), (place / "upper/file").stat().st_mtime_ns)
    unmount(os.fsencode(merged))
    mount(place, copyup=copyup)
    assert (merged / "file").read_bytes() == expected


@needs_passthrough
def test_a_program_that_runs_while_its_file_is_replaced(place: Path) -> None:
    (place / "lower/program").write_bytes(Path("/bin/sleep").read_bytes())
    os.chmod(place / "lower/program", 0o755)
    merged = mount(place)
    with open(merged / "copy", "wb") as file:
        file.write((merged / "program").read_bytes())
    os.chmod(merged / "copy", 0o755)
    for name in ("program", "copy"):
        with subprocess.Popen([merged / name, "0.3"]) as running:
            with pytest.raises(OSError):
                open(merged / name, "r+b").close()
            (merged / "fresh").write_bytes(b"#!/bin/sh\n")
            os.rename(merged / "fresh", merged / name)
            assert running.wait() == 0


@needs_passthrough
def test_setuid_goes_when_somebody_else_writes(place: Path) -> None:
    merged = mount(place)
    (merged / "new").write_bytes(b"x")
    os.chmod(merged / "new", 0o6777)
    for folder in (place, *place.parents):
        if folder.stat().st_mode & 0o5 != 0o5 and folder != Path("/"):
            os.chmod(folder, folder.stat().st_mode | 0o5)
        if folder.name.startswith("pytest-of"):
            break
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    subprocess.run([*user, "sh", "-c", f"printf y > {merged}/new"], check=True)
    assert (merged / "new").stat().st_mode & 0o7777 == 0o777


@needs_passthrough
def test_setuid_that_comes_while_it_is_open_goes_with_the_next_write(place: Path) -> None:
    merged = mount(place)
    with open(merged / "new", "w+b", 0) as file:
        file.write(b"x")
        os.fchmod(file.fileno(), 0o6777)
        file.write(b"y")
        assert (place / "upper/new").stat().st_mode & 0o7777 == 0o777
    assert (merged / "new").read_bytes() == b"xy"


def test_the_first_descriptor_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as one is open, all go the same way; ids are given back."""
    ids, closed = iter([7, 8]), []
    monkeypatch.setattr(fusedev, "backing_open", lambda connection, descriptor: next(ids))
    monkeypatch.setattr(fusedev, "backing_close", lambda connection, number: closed.append(number))
    through = Passthrough()
    through.connection = 3

    def backing() -> int:
        return os.open("/dev/null", os.O_RDWR)

    before = len(os.listdir("/proc/self/fd"))
    assert through.opened(2, lambda: None) == 0 == through.opened(2, backing)
    through.closed(2)
    assert through.opened(2, backing) == 0
    through.closed(2)
    through.closed(2)
    assert through.opened(2, backing) == 7 == through.opened(2, lambda: None)
    assert through.opened(5, backing) == 8
    through.closed(2)
    assert closed == []
    through.closed(2)
    through.closed(5)
    through.closed(9)
    assert closed == [7, 8] and len(os.listdir("/proc/self/fd")) == before


def test_where_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: int, descriptor: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(fusedev, "backing_open", refuse)
    through = Passthrough()
    through.connection = 3
    assert through.opened(2, lambda: os.open("/dev/null", os.O_RDWR)) == 0
    assert through.connection is None
    through.closed(2)
