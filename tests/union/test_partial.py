"""One file, copied up in part: random operations, each checked against a plain local file.

The plain file lies on the same filesystem, so that fallocate(2) and the like mean the same. In between the union is
closed and opened again, or killed: opened again without the first having been closed, from a copy of what is on disk.
The number of blocks a map may have is lowered, so that short files have large blocks too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import unionfs
from unionfs.linux import files
from unionfs.union import blockmap
from unionfs.union.blockmap import BlockMap, Origin

pytestmark = pytest.mark.apart

PAGE = 4096
EXAMPLES = int(os.environ.get("UNIONFS_EXAMPLES", "50"))
MODES = {
    "allocate": 0,
    "keep": files.FALLOC_KEEP_SIZE,
    "punch": files.FALLOC_PUNCH_HOLE | files.FALLOC_KEEP_SIZE,
    "zero": files.FALLOC_ZERO,
    "zero keep": files.FALLOC_ZERO | files.FALLOC_KEEP_SIZE,
}

def near_pages(count: int) -> st.SearchStrategy[int]:
    """Offsets around the boundaries of pages, and so of blocks."""
    by = st.sampled_from([-1, 0, 0, 0, 1])
    return st.builds(lambda page, by: max(0, page * PAGE + by), st.integers(0, count), by)


near = near_pages(40)
offsets = st.one_of(near, st.integers(0, 40 * PAGE))
lengths = st.one_of(st.sampled_from([1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE, 16 * PAGE]), st.integers(1, 20 * PAGE))
operations = st.one_of(
    st.tuples(st.just("write"), offsets, lengths),
    st.tuples(st.just("write"), offsets, lengths),
    st.tuples(st.just("append"), lengths),
    st.tuples(st.just("truncate"), offsets),
    st.tuples(st.just("truncate by path"), offsets),
    st.tuples(st.just("fallocate"), st.sampled_from(sorted(MODES)), offsets, lengths),
    st.tuples(st.just("copy within"), offsets, offsets, lengths),
    st.tuples(st.just("copy in"), offsets, offsets, lengths),
    st.tuples(st.just("fsync")),
    st.tuples(st.just("syncfs")),
    st.tuples(st.just("complete"), st.sampled_from([1, 3, 100])),
    st.tuples(st.just("open again")),
    st.tuples(st.just("remount")),
    st.tuples(st.just("kill")),
    st.tuples(st.just("rename")),
    st.tuples(st.just("metadata")),
)


def pattern(size: int, seed: int) -> bytes:
    """Bytes of which no two pages are equal, and none is zero."""
    whole = bytearray()
    for number in range(0, size, 64):
        whole += b"%-62d\n." % (seed * 1_000_003 + number)
    return bytes(whole[:size])


class Twins:
    """A file of a union and a plain one that should always be equal to it."""

    def __init__(self, place: Path, size: int, hole: tuple[int, int], options: dict[str, Any]) -> None:
        self.place = place
        self.options = options
        for name in ("lower", "upper", "work"):
            (place / name).mkdir()
        lower = place / "lower/file"
        lower.write_bytes(pattern(size, 1))
        start, end = min(hole[0], size), min(hole[1], size)
        with open(lower, "r+b") as file:
            if start < end:
                files.fallocate(file.fileno(), MODES["punch"], start, end - start)
        shutil.copy(lower, place / "plain")
        self.original = lower.read_bytes()
        self.stat = lower.stat()
        self.plain = os.open(place / "plain", os.O_RDWR)
        self.name, self.seed = "file", 1
        self.mount()

    def mount(self) -> None:
        self.union = unionfs.Union(
            [self.place / "lower"], self.place / "upper", self.place / "work", **self.options
        )  # fmt: skip
        self.open()

    def open(self) -> None:
        self.file = self.union.open(self.name, os.O_RDWR)
        self.other = self.union.open(self.name, os.O_WRONLY | os.O_APPEND)

    def unmount(self) -> None:
        self.file.close()
        self.other.close()
        self.union.close()

    def kill(self) -> None:
        """What a killed daemon leaves is what is on disk at that moment; the old union is let go afterwards."""
        copy = self.place / "copy"
        subprocess_copy(self.place / "upper", copy / "upper")
        subprocess_copy(self.place / "work", copy / "work")
        self.unmount()
        for name in ("upper", "work"):
            shutil.rmtree(self.place / name)
            os.rename(copy / name, self.place / name)
        self.mount()

    def content(self, size: int) -> bytes:
        self.seed += 1
        return pattern(size, self.seed)

    def apply(self, operation: tuple[Any, ...]) -> None:
        kind, *arguments = operation
        getattr(self, "_" + kind.replace(" ", "_"))(*arguments)

    def _write(self, offset: int, size: int) -> None:
        data = self.content(size)
        assert self.file.pwrite(data, offset) == os.pwrite(self.plain, data, offset)

    def _append(self, size: int) -> None:
        data = self.content(size)
        assert self.other.pwrite(data, 0) == os.pwrite(self.plain, data, os.fstat(self.plain).st_size)

    def _truncate(self, size: int) -> None:
        self.file.truncate(size)
        os.ftruncate(self.plain, size)

    def _truncate_by_path(self, size: int) -> None:
        self.union.truncate(self.name, size)
        os.ftruncate(self.plain, size)

    def _fallocate(self, mode: str, offset: int, length: int) -> None:
        self.file.fallocate(MODES[mode], offset, length)
        files.fallocate(self.plain, MODES[mode], offset, length)

    def _copy_within(self, start: int, to: int, length: int) -> None:
        """Two ranges that overlap are refused (copy_file_range(2))."""
        length = min(length, abs(start - to))
        if length:
            wanted = os.copy_file_range(self.plain, self.plain, length, start, to)
            self._all(self.file, start, to, wanted)

    def _copy_in(self, start: int, to: int, length: int) -> None:
        """From a file that is copied up in part as well."""
        self.union.write_bytes("source", b"")
        with self.union.open("source", os.O_RDWR) as source, open(self.place / "source", "w+b", 0) as plain:
            data = self.content(20 * PAGE)
            source.pwrite(data, 0)
            plain.write(data)
            wanted = os.copy_file_range(plain.fileno(), self.plain, length, start, to)
            self._all(source, start, to, wanted)

    def _all(self, source: unionfs.File, start: int, to: int, wanted: int) -> None:
        done = 0
        while done < wanted:
            count = source.copy_range(start + done, self.file, to + done, wanted - done)
            assert 0 < count <= wanted - done
            done += count
        assert wanted or source.copy_range(start, self.file, to, 1) == 0 or start < source.stat().size

    def _fsync(self) -> None:
        self.file.fsync()

    def _syncfs(self) -> None:
        self.union.sync()

    def _complete(self, blocks: int) -> None:
        data = self.file.handle.inode.data
        if data is not None:
            before = self.file.stat().mtime_ns
            data.complete_piece(blocks * PAGE)
            assert self.file.stat().mtime_ns == before

    def _open_again(self) -> None:
        self.file.close()
        self.other.close()
        self.open()

    def _remount(self) -> None:
        self.unmount()
        self.mount()

    def _kill(self) -> None:
        self.kill()

    def _rename(self) -> None:
        new = "file" if self.name != "file" else "renamed"
        self.union.rename(self.name, new)
        self.name = new

    def _metadata(self) -> None:
        self.union.chmod(self.name, 0o600 + self.seed % 0o100)
        self.union.setxattr(self.name, b"user.seed", b"%d" % self.seed)

    # What must be true

    def check(self) -> None:
        size = os.fstat(self.plain).st_size
        assert self.file.stat().size == size
        whole = os.pread(self.plain, size + 1, 0)
        assert self.file.pread(size + 1, 0) == whole
        assert self.file.pread(PAGE, max(0, size - 10)) == whole[max(0, size - 10) :]
        self._check_holes(whole)

    def _check_holes(self, whole: bytes) -> None:
        """What SEEK_HOLE and SEEK_DATA say: a hole is zeros, and nothing that is not zeros lies between data."""
        position = 0
        while position < len(whole):
            hole = self.file.lseek(position, os.SEEK_HOLE)
            assert position <= hole <= len(whole)
            try:
                data = self.file.lseek(hole, os.SEEK_DATA) if hole < len(whole) else len(whole)
            except OSError:
                data = len(whole)
            assert whole[hole:data].count(0) == data - hole
            position = max(data, position + 1)

    def close(self) -> None:
        self.unmount()
        os.close(self.plain)
        lower = self.place / "lower/file"
        assert lower.read_bytes() == self.original
        assert lower.stat()[:9] == self.stat[:9] and lower.stat().st_mtime_ns == self.stat.st_mtime_ns


def subprocess_copy(source: Path, target: Path) -> None:
    """With holes, hard links, times and attributes: cp -a keeps them all."""
    target.parent.mkdir(exist_ok=True)
    assert os.spawnlp(os.P_WAIT, "cp", "cp", "-a", str(source), str(target)) == 0


@contextmanager
def most_blocks(count: int) -> Iterator[None]:
    before, blockmap.MOST_BLOCKS = blockmap.MOST_BLOCKS, count
    try:
        yield
    finally:
        blockmap.MOST_BLOCKS = before


sizes = st.one_of(near, st.integers(0, 40 * PAGE))


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck),
    derandomize="UNIONFS_EXAMPLES" not in os.environ,
)  # fmt: skip
@given(
    size=sizes, hole=st.tuples(offsets, offsets), blocks=st.sampled_from([8192, 16, 4, 1]),
    when=st.sampled_from(["never", "background", "close"]), volatile=st.booleans(),
    steps=st.lists(operations, min_size=12, max_size=60),
)  # fmt: skip
@example(
    size=3 * PAGE, hole=(0, 0), blocks=8192, when="never", volatile=False,
    steps=[("truncate", 5000), ("kill",), ("truncate", 9000), ("write", 20000, 10), ("kill",)],
)  # fmt: skip
def test_a_file_is_what_a_plain_file_would_be(
    tmp_path_factory: pytest.TempPathFactory, size: int, hole: tuple[int, int], blocks: int, when: str, volatile: bool,
    steps: list[tuple[Any, ...]],
) -> None:  # fmt: skip
    place = tmp_path_factory.mktemp("partial")
    options = {"copyup": "block", "copyup_complete": when, "volatile": volatile}
    with most_blocks(blocks):
        twins = Twins(place, size, hole, options)
        try:
            twins.check()
            for step in steps:
                twins.apply(step)
                twins.check()
        finally:
            twins.close()
    shutil.rmtree(place)


def test_the_map_says_who_has_each_byte() -> None:
    """Against a list of booleans, one for each byte in question."""
    blocks = BlockMap(Origin(0, b"f", 5 * PAGE + 100, 0), 4 * PAGE + 7)
    blocks.add(PAGE, 2 * PAGE)
    blocks.add(3 * PAGE + 1, 4 * PAGE)
    assert [tuple(run) for run in blocks.runs(0, 6 * PAGE)] == [
        (0, PAGE, False),
        (PAGE, 2 * PAGE, True),
        (2 * PAGE, 4 * PAGE + 7, False),
        (4 * PAGE + 7, 6 * PAGE, True),
    ]
