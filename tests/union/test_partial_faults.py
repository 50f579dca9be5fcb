"""What fails in the midst of work on a partly copied file: nothing is lost, nothing leaks, nothing else changes.

The faults are injected into single system calls of this process.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from tests.union.test_partial_files import CONTENT, MAP, PAGE, changed, is_partial, log, opened, place, write
from unionfs.union import partial
from unionfs.union.blockmap import BlockMap, Origin
from unionfs.union.content import Content

__all__ = ["log", "place"]
pytestmark = [
    pytest.mark.apart,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes"),
]


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def survives_a_power_cut(path: Path) -> int:
    """The blocks that count under another boot id."""
    return BlockMap.parse(os.getxattr(path, MAP), bytes(16)).have


def test_a_cut_of_a_closed_file_that_others_open_meanwhile(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share what is known of its blocks, although nobody has the file open who could tell."""
    cutting, may_go_on = threading.Event(), threading.Event()
    real = os.ftruncate

    def slowly(fd: int, size: int) -> None:
        real(fd, size)
        if threading.current_thread() is thread:
            cutting.set()
            may_go_on.wait()

    with opened(place) as union:
        union.chmod("file", 0o600)
        thread = threading.Thread(target=lambda: union.truncate("file", 30 * PAGE))
        monkeypatch.setattr(partial.os, "ftruncate", slowly)
        thread.start()
        cutting.wait()
        union.open("file", os.O_RDWR).close()
        with union.open("file", os.O_RDWR) as file:
            assert file.handle.inode.data.lock.locked()
            may_go_on.set()
            file.pwrite(b"N" * PAGE, 0)
            file.fsync()
        thread.join()
        monkeypatch.undo()
    with opened(place) as union:
        assert union.read_bytes("file") == b"N" * PAGE + CONTENT[PAGE : 30 * PAGE]


def test_completion_that_fails_is_followed_by_a_sync(
    place: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    with opened(place, copyup_complete="close") as union:
        with union.open("file", os.O_RDWR) as file:
            file.pwrite(b"N" * PAGE, 0)
            monkeypatch.setattr(Content, "copy", lambda *arguments, **words: fail(errno.EIO))
        while file.handle.fd >= 0:
            time.sleep(0.001)
    assert survives_a_power_cut(place / "upper/file") == 1
    assert log == ["a partly copied file could not be completed: Input/output error"]


def test_completion_that_fails_leaves_the_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Content.copy

    def half(self: Content, target: int, start: int, end: int, quick: bool = False) -> int:
        real(self, target, start, start + PAGE, quick)
        fail(errno.ENOSPC)
        return 0

    with opened(place) as union:
        union.chmod("file", 0o600)
        with union.open("file") as file:
            monkeypatch.setattr(Content, "copy", half)
            with pytest.raises(OSError):
                file.handle.inode.data.complete_piece(10 * PAGE)
    assert (place / "upper/file").stat().st_mtime_ns == 10**18 + 1


def test_a_copy_that_cannot_be_partial_has_no_map(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.ftruncate, []

    def first_fails(fd: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 1:
            fail(errno.ENOSPC)
        real(fd, size)

    with opened(place) as union:
        with union.open("file") as reading:
            monkeypatch.setattr(os, "ftruncate", first_fails)
            write(union)
            monkeypatch.undo()
            assert reading.pread(len(CONTENT), 0) == changed()
        assert not is_partial(place / "upper/file")
        assert union.read_bytes("file") == changed()


def test_an_open_that_cannot_sync_leaves_nothing_open(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(place) as union:
        write(union)
        inode, _ = union.operations.lookup(union.operations.root, b"file")
        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, "fsync", lambda fd: fail(errno.EIO))
        for _ in range(5):
            with pytest.raises(OSError):
                union.open("file", os.O_RDWR | os.O_SYNC)
        monkeypatch.undo()
        while inode.handles:  # the last close is worked on by another thread
            time.sleep(0.001)
        assert len(os.listdir("/proc/self/fd")) <= before
        union.operations.forget(inode)


def test_a_map_that_leads_to_itself(place: Path, log: list[str]) -> None:
    """One that somebody made who may: in a lower layer, and in the upper one."""
    st = (place / "lower/file").stat()
    value = BlockMap(Origin(0, b"file", st.st_size, st.st_mtime_ns), st.st_size).pack(bytes(16))
    os.setxattr(place / "lower/file", MAP, value)
    with opened(place) as union:
        for flags in (os.O_RDONLY, os.O_RDWR):
            with pytest.raises(OSError) as raised:
                union.open("file", flags)
            assert raised.value.errno == errno.EIO
    assert "is in no layer below" in log[0]
