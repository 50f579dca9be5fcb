"""Who reads and writes a file's data, and what every mix of descriptors sees, however files are opened.

On a real mount by root. Whether the daemon carries data is seen by its log of requests. After each test the lower file
is what it was, its times too.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import unionfs
from unionfs.fuse.mount import unmount
from unionfs.linux import mounts
from unionfs.linux.libc import check, libc

_FOLLOW = 0x400
"""AT_SYMLINK_FOLLOW (linkat(2))."""
PAGE = 4096
OLD = b"".join(b"%06d--" % number for number in range(4 * PAGE // 8))
can = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 9) and os.geteuid() == 0
needs_passthrough = pytest.mark.skipif(not can, reason="needs Linux 6.9 and root, for passthrough")


def stats(merged: Path) -> Any:
    return json.loads(os.getxattr(merged, "user.unionfs.stats"))


def no_id_is_lost(merged: Path) -> bool:
    ids = stats(merged)["backing_ids"]
    return bool(ids["opened"] - ids["closed"] == ids["live"] <= stats(merged)["nodes"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_bytes(OLD)
    os.utime(tmp_path / "lower/file", ns=(1, 2))
    yield tmp_path
    while mounts.is_mountpoint(os.fsencode(tmp_path / "merged")):
        unmount(os.fsencode(tmp_path / "merged"), lazy=True)
    lower, log = tmp_path / "lower/file", tmp_path / "log"
    assert not log.exists() or ", line " not in log.read_text(), log.read_text()
    assert (lower.stat().st_atime_ns, lower.stat().st_mtime_ns, lower.read_bytes()) == (1, 2, OLD)


def mount(place: Path, **options: str | bool) -> Path:
    layers = {"lower": [place / "lower"], "upper": place / "upper", "work": place / "work"}
    options.setdefault("log", str(place / "log"))
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
    with open(merged / "new", "rb", 0) as first, open(merged / "new", "r+b", 0) as file:
        os.pwrite(file.fileno(), b"y", 99_999)
        assert os.pread(first.fileno(), 2, 99_998) == b"xy"
    with open(merged / "new", "r+b", 0) as file, mmap.mmap(file.fileno(), 100_000) as mapped:
        mapped[5:8] = b"map"
        assert os.pread(file.fileno(), 8, 1) == b"xxxxmapx"
    with open(merged / "file", "r+b", 0) as file:
        file.write(b"copied up")
    assert log.count("READ", "WRITE") == 0
    with open(merged / "file", "rb") as file:
        assert file.read() == b"copied up" + OLD[9:]


@needs_passthrough
def test_the_daemon_carries_no_data_of_lower_files(watched: tuple[Path, Log]) -> None:
    merged, log = watched
    with open(merged / "file", "rb", 0) as reading, open(merged / "file", "r+b", 0) as writing:
        writing.write(b"seen")
        assert reading.read(4) == OLD[:4]
        with open(merged / "file", "rb", 0) as late:
            assert late.read(4) == b"seen"
    assert log.count("READ", "WRITE") == 0


Options = dict[str, str | bool]
MODES: dict[str, Options] = {"passthrough": {}, "coherent": {"coherent": True}, "cached": {"open": "cached"}}
Mix = Callable[[Path, bytes], None]


def mixes() -> dict[str, Mix]:
    """What to do with descriptors of one file: each leaves "NEW" at 100 and checks what it sees on the way. `old` is
    what a descriptor that only reads shows there, when it was opened before."""

    def old_reader_new_writer(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before, open(path, "r+b", 0) as new:
            os.pwrite(new.fileno(), b"NEW", 100)
            assert os.pread(before.fileno(), 3, 100) == old
            assert os.pread(new.fileno(), 3, 100) == b"NEW"
            with open(path, "rb", 0) as late:
                assert os.pread(late.fileno(), 3, 100) == b"NEW"
            assert os.fstat(before.fileno()).st_ino == os.fstat(new.fileno()).st_ino
            os.fsync(before.fileno())
            os.fsync(new.fileno())

    def old_mapping_new_writer(path: Path, old: bytes) -> None:
        with open(path, "rb") as before, mmap.mmap(before.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[100:103] == OLD[100:103]
            with open(path, "r+b", 0) as new:
                os.pwrite(new.fileno(), b"NEW", 100)
                assert os.pread(new.fileno(), 3, 100) == b"NEW"
                assert mapped[100:103] == old

    def old_private_mapping_new_mapping(path: Path, old: bytes) -> None:
        with open(path, "rb") as before:
            with mmap.mmap(before.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mine:
                mine[0:4] = b"mine"
                with open(path, "r+b") as new, mmap.mmap(new.fileno(), 0) as shared:
                    shared[100:103] = b"NEW"
                    shared.flush()
                    assert os.pread(before.fileno(), 3, 100) == old
                assert mine[0:4] == b"mine"

    def sent_and_spliced(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before, open(path, "r+b", 0) as new:
            os.pwrite(new.fileno(), b"NEW", 100)
            for file, expected in ((before, old), (new, b"NEW")):
                with open(path.parent / "sent", "w+b", 0) as target:
                    assert os.sendfile(target.fileno(), file.fileno(), 100, 3) == 3
                    assert os.pread(target.fileno(), 3, 0) == expected
                reading, writing = os.pipe()
                assert os.splice(file.fileno(), writing, 3, offset_src=100) == 3
                assert os.read(reading, 3) == expected
                os.close(reading)
                os.close(writing)

    def copied_from(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before, open(path, "r+b", 0) as new:
            os.pwrite(new.fileno(), b"NEW", 100)
            for file, expected in ((before, old), (new, b"NEW")):
                with open(path.parent / "target", "w+b", 0) as target:
                    assert os.copy_file_range(file.fileno(), target.fileno(), 3, 100, 0) == 3
                    assert os.pread(target.fileno(), 3, 0) == expected
                assert os.lseek(file.fileno(), 100, os.SEEK_DATA) == 100
                assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == len(OLD)

    def created_again(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.pwrite(fd, b"NEW", 100)
            assert os.pread(fd, 3, 100) == b"NEW" and os.pread(before.fileno(), 3, 100) == old
            os.close(fd)

    def cut_by_name(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before:
            os.truncate(path, 100)
            assert path.stat().st_size == 100 == len(path.read_bytes())
            expected = OLD if old != b"NEW" else OLD[:100]
            assert os.pread(before.fileno(), 1 << 20, 0) == expected
            assert os.fstat(before.fileno()).st_size == len(expected)
            with open(path, "ab", 0) as new:
                new.write(b"NEW" + OLD[103:])
            assert os.pread(before.fileno(), 3, 100) == old

    def cut_when_opened(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before, open(path, "wb", 0) as new:
            assert os.fstat(new.fileno()).st_size == 0
            new.write(OLD[:100] + b"NEW" + OLD[103:])
            assert os.pread(before.fileno(), 3, 100) == old

    def attributes_first(path: Path, old: bytes) -> None:
        """Which copies it up, and leaves the data; a descriptor that is opened then shows what the older one does."""
        with open(path, "rb", 0) as before:
            os.chmod(path, 0o600)
            os.setxattr(path, "user.kept", b"1")
            assert os.fstat(before.fileno()).st_mode & 0o777 == 0o600
            with open(path, "rb", 0) as between, open(path, "r+b", 0) as new:
                assert between.read() == OLD
                os.pwrite(new.fileno(), b"NEW", 100)
                assert os.pread(between.fileno(), 3, 100) == old == os.pread(before.fileno(), 3, 100)
                assert os.getxattr(before.fileno(), "user.kept") == b"1"
                os.fchmod(before.fileno(), 0o644)
                assert path.stat().st_mode & 0o777 == 0o644 == os.fstat(before.fileno()).st_mode & 0o777

    def linked(path: Path, old: bytes) -> None:
        other = path.parent / "other"
        with open(path, "rb", 0) as before:
            os.link(path, other)
            with open(other, "r+b", 0) as new:
                os.pwrite(new.fileno(), b"NEW", 100)
            for name in (path, other):
                assert (name.stat().st_nlink, name.read_bytes()[100:103]) == (2, b"NEW")
            assert os.pread(before.fileno(), 3, 100) == old

    def renamed(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before:
            os.rename(path, path.parent / "other")
            with open(path.parent / "other", "r+b", 0) as new:
                os.pwrite(new.fileno(), b"NEW", 100)
            os.rename(path.parent / "other", path)
            assert os.pread(before.fileno(), 3, 100) == old

    def replaced(path: Path, old: bytes) -> None:
        """By rename(2): old descriptors stay with the file that was replaced, everywhere."""
        with open(path, "rb", 0) as before:
            (path.parent / "fresh").write_bytes(OLD[:100] + b"NEW" + OLD[103:])
            os.rename(path.parent / "fresh", path)
            assert os.pread(before.fileno(), 3, 100) == OLD[100:103]
            assert os.fstat(before.fileno()).st_nlink == 0

    def exchanged(path: Path, old: bytes) -> None:
        fresh = path.parent / "fresh"
        fresh.write_bytes(OLD[:100] + b"NEW" + OLD[103:])
        with open(path, "rb", 0) as before, open(fresh, "rb", 0) as other:
            check(libc.renameat2(-100, os.fsencode(path), -100, os.fsencode(fresh), 2))
            assert os.pread(before.fileno(), 3, 100) == OLD[100:103] == fresh.read_bytes()[100:103]
            assert os.pread(other.fileno(), 3, 100) == b"NEW"

    def unlinked_reader(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before:
            os.unlink(path)
            path.write_bytes(OLD[:100] + b"NEW" + OLD[103:])
            assert before.read() == OLD and os.fstat(before.fileno()).st_nlink == 0

    def by_another_process(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before:
            write = f"printf NEW | dd of={path} bs=1 seek=100 conv=notrunc status=none"
            subprocess.run(["sh", "-c", write], check=True)
            assert os.pread(before.fileno(), 3, 100) == old

    def two_mappings(path: Path, old: bytes) -> None:
        with open(path, "r+b") as one, open(path, "r+b") as two:
            with mmap.mmap(one.fileno(), 0) as first, mmap.mmap(two.fileno(), 0) as second:
                first[100:103] = b"NEW"
                assert second[100:103] == b"NEW"
                first.flush()

    def writer_then_reader(path: Path, old: bytes) -> None:
        with open(path, "r+b", 0) as new, open(path, "rb", 0) as late:
            os.pwrite(new.fileno(), b"NEW", 100)
            assert os.pread(late.fileno(), 3, 100) == b"NEW"

    def direct(path: Path, old: bytes) -> None:
        with open(path, "rb", 0) as before:
            fd = os.open(path, os.O_RDWR | os.O_DIRECT)
            buffer = mmap.mmap(-1, PAGE)
            assert os.preadv(fd, [buffer], 0) == PAGE
            buffer[100:103] = b"NEW"
            assert os.pwritev(fd, [buffer], 0) == PAGE
            os.close(fd)
            assert os.pread(before.fileno(), 3, 100) == old

    def appended_and_cut(path: Path, old: bytes) -> None:
        with open(path, "ab", 0) as end, open(path, "r+b", 0) as new:
            end.write(b"tail")
            os.pwrite(new.fileno(), b"NEW", 100)
            assert os.fstat(new.fileno()).st_size == len(OLD) + 4
            os.ftruncate(new.fileno(), len(OLD))
            assert path.stat().st_size == len(OLD)

    def by_another_name(path: Path, old: bytes) -> None:
        os.link(path, path.parent / "other")
        with open(path, "rb", 0) as before, open(path.parent / "other", "r+b", 0) as new:
            os.pwrite(new.fileno(), b"NEW", 100)
            assert os.pread(before.fileno(), 3, 100) == b"NEW"

    def unlinked(path: Path, old: bytes) -> None:
        with open(path, "r+b", 0) as new:
            os.rename(path, path.parent / "gone")
            os.pwrite(new.fileno(), b"NEW", 100)
            os.link(path.parent / "gone", path)
            os.unlink(path.parent / "gone")
            assert os.pread(new.fileno(), 3, 100) == b"NEW"

    def without_a_name(path: Path, old: bytes) -> None:
        fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o644)
        os.write(fd, OLD)
        os.pwrite(fd, b"NEW", 100)
        os.unlink(path)
        check(libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(path), _FOLLOW))
        os.close(fd)

    def copied_within(path: Path, old: bytes) -> None:
        with open(path, "r+b", 0) as new, open(path.parent / "source", "w+b", 0) as source:
            source.write(b"NEW")
            assert os.copy_file_range(source.fileno(), new.fileno(), 3, 0, 100) == 3
            assert os.pread(new.fileno(), 3, 100) == b"NEW"

    return {name: mix for name, mix in locals().items() if callable(mix)}


@needs_passthrough
@pytest.mark.parametrize("copyup", ["whole", "block"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mix", mixes().values(), ids=mixes())
def test_what_every_mix_of_descriptors_sees(place: Path, mix: Mix, mode: str, copyup: str) -> None:
    merged = mount(place, copyup=copyup, copyup_complete="never", **MODES[mode])
    expected = OLD[:100] + b"NEW" + OLD[103:]
    mix(merged / "file", OLD[100:103] if mode == "passthrough" else b"NEW")
    assert (merged / "file").read_bytes() == expected
    st = (merged / "file").stat()
    assert (st.st_size, st.st_mtime_ns) == (len(OLD), (place / "upper/file").stat().st_mtime_ns)
    assert no_id_is_lost(merged)
    unmount(os.fsencode(merged))
    mount(place, copyup=copyup)
    assert (merged / "file").read_bytes() == expected


@needs_passthrough
@pytest.mark.parametrize("mode", MODES)
def test_a_program_that_runs_while_its_file_is_replaced(place: Path, mode: str) -> None:
    """ETXTBSY for whoever would write to it, as on any filesystem."""
    (place / "lower/program").write_bytes(Path("/bin/sleep").read_bytes())
    os.chmod(place / "lower/program", 0o755)
    merged = mount(place, **MODES[mode])
    with open(merged / "copy", "wb") as file:
        file.write((merged / "program").read_bytes())
    os.chmod(merged / "copy", 0o755)
    for name in ("program", "copy"):
        with subprocess.Popen([merged / name, "0.3"]) as running:
            with pytest.raises(OSError) as raised:
                open(merged / name, "r+b").close()
            assert raised.value.errno == errno.ETXTBSY
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
