"""A partly copied file through a mount: what many descriptors, mappings and processes see, and a killed daemon leaves.

`tests/union/test_partial.py` has the random operations in this process; here they go through the kernel, and the daemon
is killed for real. Everything is compared with a plain local file.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import unionfs
from unionfs.fuse.calls import PID_XATTR
from unionfs.fuse.mount import unmount
from unionfs.linux import files, mounts

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount by mount(2)")
PAGE = 4096
SIZE = 200 * PAGE + 1234
STEPS = int(os.environ.get("UNIONFS_EXAMPLES", "120"))
PUNCH = files.FALLOC_PUNCH_HOLE | files.FALLOC_KEEP_SIZE


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_bytes(os.urandom(SIZE))
    yield tmp_path
    while mounts.is_mountpoint(os.fsencode(tmp_path / "merged")):
        unmount(os.fsencode(tmp_path / "merged"), lazy=True)


def mount(place: Path, engine: str = "native", complete: str = "never", **options: str) -> Path:
    layers = {"lower": [place / "lower"], "upper": place / "upper", "work": place / "work"}
    words = {"copyup": "block", "copyup_complete": complete, "engine": engine, "log": str(place / "log"), **options}
    return unionfs.mount(place / "merged", **layers, **words).path


def blocks(path: Path) -> dict[str, object]:
    return json.loads(os.getxattr(path, "user.unionfs.blocks"))  # type: ignore[no-any-return]


def kill(place: Path) -> None:
    """What is open in the dead mount stays open, and fails."""
    daemon = os.pidfd_open(int(os.getxattr(place / "merged", PID_XATTR)))
    signal.pidfd_send_signal(daemon, signal.SIGKILL)
    select.select([daemon], [], [])
    os.close(daemon)
    unmount(os.fsencode(place / "merged"), lazy=True)


class Twins:
    """The file in the mount, and a plain one."""

    def __init__(self, path: Path, plain: Path) -> None:
        self.path, self.plain = path, os.open(plain, os.O_RDWR)
        self.open()

    def open(self) -> None:
        self.file = os.open(self.path, os.O_RDWR)
        self.end = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        """Of a dead mount, close(2) may say so."""
        for fd in (self.file, self.end):
            with suppress(OSError):
                os.close(fd)

    def step(self, choose: random.Random, with_fallocate: bool) -> str:
        kinds = ["write"] * 4 + ["append", "truncate", "map", "copy", "fsync"] + ["punch", "zero"] * with_fallocate
        kind = choose.choice(kinds)
        size = os.fstat(self.plain).st_size
        offset = choose.choice([choose.randrange(size + 5 * PAGE), choose.randrange(size // PAGE + 2) * PAGE])
        length = choose.choice([1, PAGE, choose.randrange(1, 20 * PAGE)])
        if kind == "write":
            data = choose.randbytes(length)
            assert os.pwrite(self.file, data, offset) == os.pwrite(self.plain, data, offset)
        elif kind == "append":
            data = choose.randbytes(length)
            assert os.write(self.end, data) == os.pwrite(self.plain, data, size)
        elif kind == "truncate":
            for fd in (self.file, self.plain):
                os.ftruncate(fd, offset)
        elif kind == "map" and size:
            offset = min(offset, size - 1)
            data = choose.randbytes(min(length, size - offset))
            for fd in (self.file, self.plain):
                with mmap.mmap(fd, size) as mapped:
                    mapped[offset : offset + len(data)] = data
        elif kind == "copy" and size > 2:
            start, length = 0, min(length, size // 2)
            to = choose.randrange(size // 2, size + PAGE)
            for fd in (self.file, self.plain):
                done = 0
                while done < length:
                    count = os.copy_file_range(fd, fd, length - done, start + done, to + done)
                    assert count
                    done += count
        elif kind in ("punch", "zero"):
            for fd in (self.file, self.plain):
                files.fallocate(fd, PUNCH if kind == "punch" else files.FALLOC_ZERO, offset, length)
        elif kind == "fsync":
            os.fsync(self.file)
        return f"{kind} {offset} {length}"

    def check(self, told: str) -> None:
        size = os.fstat(self.plain).st_size
        assert os.fstat(self.file).st_size == size == self.path.stat().st_size, told
        found, wanted = os.pread(self.file, size + 1, 0), os.pread(self.plain, size + 1, 0)
        if found != wanted:
            at = next(number for number, (one, other) in enumerate(zip(found, wanted, strict=False)) if one != other)
            raise AssertionError(f"after {told}: different at {at}, of {len(found)} and {len(wanted)} bytes")


@pytest.mark.parametrize("complete", ["never", "background"])
@pytest.mark.parametrize("engine", ["native", "fusepy"])
def test_random_operations_and_killed_daemons(place: Path, engine: str, complete: str) -> None:
    choose = random.Random(f"{engine} {complete}")
    original = (place / "lower/file").read_bytes()
    (place / "plain").write_bytes(original)
    merged = mount(place, engine, complete)
    twins = Twins(merged / "file", place / "plain")
    for number in range(STEPS):
        twins.check(twins.step(choose, engine == "native"))
        if number % 30 == 29:
            if number % 60 == 59:
                # What was mapped has reached the daemon only when it was synced, as on any filesystem.
                os.fsync(twins.file)
                kill(place)
                twins.close()
            else:
                twins.close()
                unmount(os.fsencode(merged))
            mount(place, engine, complete)
            twins.open()
            twins.check("mounting again")
    twins.close()
    assert (place / "lower/file").read_bytes() == original


def test_what_was_acknowledged_is_there_after_a_kill(place: Path) -> None:
    """Without any sync: a killed daemon is no power cut."""
    merged = mount(place)
    expected = bytearray((place / "lower/file").read_bytes())
    fd = os.open(merged / "file", os.O_RDWR)
    for number in range(50):
        data = b"%04d" % number * 10
        at = number * 3 * PAGE + 100
        os.pwrite(fd, data, at)
        expected[at : at + len(data)] = data
    kill(place)
    os.close(fd)
    mount(place)
    assert (merged / "file").read_bytes() == expected
    assert blocks(merged / "file")["partial"] is True


APPENDER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(300):
    os.write(fd, b"%s%05d\\n" % (sys.argv[2].encode(), number))
"""


@pytest.mark.parametrize("engine", ["native", "fusepy"])
def test_two_processes_append(place: Path, engine: str) -> None:
    merged = mount(place, engine)
    before = (merged / "file").read_bytes()
    running = [subprocess.Popen([sys.executable, "-c", APPENDER, merged / "file", name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    content = (merged / "file").read_bytes()
    assert content[: len(before)] == before
    lines = content[len(before) :].split()
    assert sorted(lines) == sorted(b"%s%05d" % (name, number) for name in (b"a", b"b") for number in range(300))


def test_readers_during_the_first_writes(place: Path) -> None:
    """Each page that a reader sees is the lower's or the new one, while blocks appear under it."""
    merged = mount(place)
    old = (place / "lower/file").read_bytes()
    pages = SIZE // PAGE
    new = os.urandom(PAGE)
    faults: list[int] = []
    is_over = threading.Event()
    reading = os.open(merged / "file", os.O_RDONLY)

    def read() -> None:
        choose = random.Random(0)
        while not is_over.is_set():
            number = choose.randrange(pages)
            os.posix_fadvise(reading, 0, 0, os.POSIX_FADV_DONTNEED)
            if os.pread(reading, PAGE, number * PAGE) not in (old[number * PAGE :][:PAGE], new):
                faults.append(number)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    fd = os.open(merged / "file", os.O_WRONLY)
    for number in random.Random(1).sample(range(pages), pages):
        os.pwrite(fd, new, number * PAGE)
    is_over.set()
    for thread in threads:
        thread.join()
    os.close(fd)
    os.close(reading)
    assert not faults
    assert (merged / "file").read_bytes() == new * pages + old[pages * PAGE :]


def wait_for(what: str, condition: object) -> None:
    for _ in range(1000):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.01)
    pytest.fail(f"never: {what}")


def test_completed_in_the_background_while_it_is_open(place: Path) -> None:
    (place / "lower/large").write_bytes(os.urandom(30 << 20))
    os.utime(place / "lower/large", ns=(1, 2))
    merged = mount(place, complete="background")
    with open(merged / "large", "r+b", 0) as file:
        os.pwrite(file.fileno(), b"new", 1000)
        time.sleep(0.1)
        assert blocks(merged / "large")["copied"] == PAGE, "one write is no use that is worth a copy"
        for number in range(100):
            os.pwrite(file.fileno(), b"new", 1000 + number)
        modified = os.fstat(file.fileno()).st_mtime_ns
        wait_for("complete", lambda: not blocks(merged / "large")["partial"])
        assert os.fstat(file.fileno()).st_mtime_ns == modified == (merged / "large").stat().st_mtime_ns
        wait_for("told the kernel", lambda: (merged / "large").stat().st_blocks * 512 >= 30 << 20)
        os.pwrite(file.fileno(), b"more", 5 << 20)
    expected = bytearray((place / "lower/large").read_bytes())
    expected[1000:1102], expected[5 << 20 : (5 << 20) + 4] = b"n" * 100 + b"ew", b"more"
    assert (merged / "large").read_bytes() == expected
    unmount(os.fsencode(merged))
    assert (place / "upper/large").read_bytes() == expected
    assert "trusted.unionfs.blocks" not in os.listxattr(place / "upper/large")


def test_completed_after_the_last_close(place: Path) -> None:
    merged = mount(place, complete="close")
    with open(merged / "file", "r+b", 0) as file:
        file.write(b"x")
        assert blocks(merged / "file")["partial"]
    wait_for("complete", lambda: not blocks(merged / "file")["partial"])
    assert (place / "upper/file").read_bytes() == b"x" + (place / "lower/file").read_bytes()[1:]


def test_not_completed_and_synced_after_the_last_close(place: Path) -> None:
    """Blocks that are not synced count until the machine is started anew only: nobody has to remember a sync."""
    merged = mount(place, complete="never")
    with open(merged / "file", "r+b", 0) as file:
        file.write(b"x")
    path = place / "upper/file"

    def is_synced() -> bool:
        value = os.getxattr(path, "trusted.unionfs.blocks")
        bitmaps = value[value.index(b"file") + 4 :]
        return bitmaps[: len(bitmaps) // 2] == bitmaps[len(bitmaps) // 2 :]

    wait_for("synced", is_synced)
    assert blocks(merged / "file")["partial"] and path.stat().st_blocks * 512 <= 4 * PAGE


def test_a_gibibyte_is_changed_by_one_block(place: Path) -> None:
    """All that changes no data takes no data, however large the file is."""
    for name in ("a", "b", "c", "d", "e"):
        with open(place / "lower" / name, "wb") as file:
            file.truncate(10 << 30)
            file.seek(5 << 30)
            file.write(b"middle")
    merged = mount(place)
    os.chmod(merged / "a", 0o600)
    os.rename(merged / "b", merged / "renamed")
    os.link(merged / "c", merged / "linked")
    os.truncate(merged / "d", 0)
    with open(merged / "e", "r+b", 0) as file:
        os.pwrite(file.fileno(), b"x", 5 << 30)
    os.setxattr(merged / "a", "user.a", b"b")
    os.utime(merged / "a", ns=(5, 6))
    for name in ("a", "renamed", "linked", "e"):
        with open(merged / name, "rb") as file:
            file.seek(5 << 30)
            assert file.read(6) == (b"xiddle" if name == "e" else b"middle")
            assert file.seek(0, os.SEEK_END) == 10 << 30
    for path in (place / "upper").iterdir():
        assert path.stat().st_blocks * 512 <= (4 << 20), path
    assert (place / "upper/d").stat().st_size == 0


def test_seeking_and_space(place: Path) -> None:
    """st_blocks is what the upper holds; SEEK_DATA and SEEK_HOLE see both layers."""
    with open(place / "lower/sparse", "wb") as file:
        file.truncate(100 * PAGE)
        file.seek(50 * PAGE)
        file.write(b"x" * PAGE)
    merged = mount(place)
    with open(merged / "sparse", "r+b", 0) as file:
        os.pwrite(file.fileno(), b"y" * PAGE, 10 * PAGE)
        found, position = [], 0
        while position < 100 * PAGE:
            try:
                data = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            found.append((data // PAGE, position // PAGE))
        assert found == [(10, 11), (50, 51)]
    assert (merged / "sparse").stat().st_blocks == (place / "upper/sparse").stat().st_blocks < 8 * 10
