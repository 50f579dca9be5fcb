"""What many at once, and a daemon that is killed, must not break: on real mounts of the native engine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import unionfs
from unionfs.fuse.calls import PID_XATTR
from unionfs.fuse.mount import unmount
from unionfs.linux import mounts

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount by mount(2)"),
]
SECONDS = 60 if os.environ.get("UNIONFS_LONG") else 8


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    yield tmp_path
    while mounts.is_mountpoint(os.fsencode(tmp_path / "merged")):
        unmount(os.fsencode(tmp_path / "merged"), lazy=True)


def mount(place: Path, **options: str) -> unionfs.Mount:
    layers = {"lower": [place / "lower"], "upper": place / "upper", "work": place / "work"}
    return unionfs.mount(place / "merged", **layers, **options)


def daemon_of(place: Path) -> int:
    return int(os.getxattr(place / "merged", PID_XATTR))


@pytest.mark.parametrize("copyup", ["whole", "block"])
@pytest.mark.parametrize("seed", range(4))
def test_a_daemon_killed_during_copy_up_leaves_old_or_new(place: Path, seed: int, copyup: str) -> None:
    """Each file is as it was, or changed; what was acknowledged is there; the work directory is swept."""
    choose = random.Random(seed)
    contents = {f"f{number}": bytes([number]) * choose.choice([1, 70_000, 3 << 20]) for number in range(24)}
    for name, content in contents.items():
        (place / "lower" / name).write_bytes(content)
    mount(place, copyup=copyup)
    daemon = daemon_of(place)
    done: list[str] = []

    def append() -> None:
        try:
            for name in contents:
                fd = os.open(place / "merged" / name, os.O_WRONLY | os.O_APPEND)
                try:
                    os.write(fd, b"+")
                finally:
                    os.close(fd)
                done.append(name)
        except OSError:
            pass  # the daemon is gone

    thread = threading.Thread(target=append)
    thread.start()
    time.sleep(choose.uniform(0, 0.15))
    os.kill(daemon, signal.SIGKILL)
    thread.join()
    unmount(os.fsencode(place / "merged"))
    acknowledged = list(done)
    with mount(place) as union:
        for name, content in contents.items():
            found = (union.path / name).read_bytes()
            assert found == content + b"+" if name in acknowledged else found in (content, content + b"+"), name
        assert os.listdir(place / "work" / "work") == []


@pytest.mark.parametrize("copyup", ["whole", "block"])
def test_parallel_copy_up_byte_by_byte(place: Path, copyup: str) -> None:
    """32 files, 8 at once, two writers each: every byte of the copy is the lower's or what was written."""
    contents = {f"f{number}": os.urandom(1 << 20) for number in range(32)}
    for name, content in contents.items():
        (place / "lower" / name).write_bytes(content)
    script = (
        "import os, sys\n"
        "for name in sys.argv[2:]:\n"
        " f = os.open(name, os.O_RDWR); os.pwrite(f, b'XY', int(sys.argv[1])); os.close(f)\n"
    )
    names = list(contents)
    with mount(place, copyup=copyup) as union:
        turns = [(offset, names[start:] + names[:start]) for start in (0, 8, 16, 24) for offset in (100, 500_001)]
        running = [
            subprocess.Popen([sys.executable, "-c", script, str(offset), *order], cwd=union.path)
            for offset, order in turns
        ]
        assert [process.wait() for process in running] == [0] * 8
        for name, content in contents.items():
            expected = bytearray(content)
            expected[100:102] = expected[500_001:500_003] = b"XY"
            assert (union.path / name).read_bytes() == expected
            assert (place / "lower" / name).read_bytes() == content
            if copyup == "whole":
                assert (place / "upper" / name).read_bytes() == expected


@pytest.fixture
def big(place: Path) -> Path:
    """A lower file of 1 GiB, all of it data."""
    with open(place / "lower" / "big", "wb") as file:
        piece = os.urandom(1 << 20)
        for _ in range(1024):
            file.write(piece)
    (place / "lower" / "other").write_text("other")
    return place


def test_nobody_waits_for_a_big_copy_up(big: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A gibibyte is copied up; meanwhile other names are looked up, and the file's readers see it whole."""
    with mount(big, copyup="whole") as union:
        finished = threading.Event()

        def write() -> None:
            fd = os.open(union.path / "big", os.O_RDWR)
            os.close(fd)
            finished.set()

        thread = threading.Thread(target=write)
        thread.start()
        waits, during = [], 0
        while not finished.is_set():
            start = time.perf_counter()
            assert not (union.path / f"none{len(waits)}").exists()
            waits.append(time.perf_counter() - start)
            with open(union.path / "big", "rb") as file:
                assert file.seek(0, os.SEEK_END) == 1 << 30
                file.seek((1 << 30) - 10)
                assert len(file.read()) == 10
            during += not finished.is_set()
            time.sleep(0.002)
        thread.join()
        assert during > 3, "the copy-up was over before anybody could have waited for it"
        with capsys.disabled():
            waits.sort()
            median, longest = waits[len(waits) // 2] * 1000, waits[-1] * 1000
            print(f"\n{len(waits)} lookups during a 1 GiB copy-up: median {median:.2f} ms, longest {longest:.1f} ms")


CROWD = """
import os, random, sys, time
choose, me, end = random.Random(int(sys.argv[1])), sys.argv[1], time.monotonic() + float(sys.argv[2])
mine, serial = {}, 0
while time.monotonic() < end:
    what = choose.randrange(4)
    if what <= 1 or not mine:
        serial += 1
        name = f"{me}-{serial}"
        with open(name, "x") as file:
            file.write(name)
        mine[name] = name
    elif what == 2:
        serial += 1
        old, new = choose.choice(list(mine)), f"{me}-{serial}"
        os.rename(old, new)
        mine[new] = mine.pop(old)
    else:
        name = choose.choice(list(mine))
        os.unlink(name)
        del mine[name]
    if choose.random() < 0.02:
        os.listdir(".")
for name, content in mine.items():
    print(name, content)
"""


def test_a_crowd_in_one_directory(place: Path) -> None:
    """20 processes create, rename and delete; then the directory is what they say, mounted and after a remount."""
    (place / "lower" / "dir").mkdir()
    for number in range(20):
        (place / "lower" / "dir" / f"{number}-0").write_text(f"{number}-0")
    with mount(place) as union:
        crowd = [
            subprocess.Popen(
                [sys.executable, "-c", CROWD, str(number), str(SECONDS)],
                cwd=union.path / "dir",
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(20)
        ]
        told = [process.communicate()[0] for process in crowd]
        assert [process.returncode for process in crowd] == [0] * 20
        expected = dict(line.split() for text in told for line in text.splitlines())
        expected |= {f"{number}-0": f"{number}-0" for number in range(20)}
        assert {path.name: path.read_text() for path in (union.path / "dir").iterdir()} == expected
    with mount(place) as union:
        assert {path.name: path.read_text() for path in (union.path / "dir").iterdir()} == expected
