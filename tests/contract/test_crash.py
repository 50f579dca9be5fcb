"""Daemons that are killed, copy-ups that meet, readers and lookups meanwhile: what is there is old or new, never half.

Mounted as a program mounts, by unionfs.mount. Nothing depends on how fast the machine is; times are printed only.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import unionfs
from tests.contract import layers, tree
from tests.contract.conftest import manifest, require
from tests.contract.subject import Native
from tests.model import Model
from unionfs.fuse.calls import PID_XATTR

MIB = 1 << 20
STACKS = [("native", "aufs"), ("native", "overlay"), ("fusepy", "aufs")]


class Place:
    """The directories of one mount. `mount` may be called again after `kill`."""

    def __init__(self, path: Path, engine: str, dialect: str) -> None:
        require(engine)
        self.lower, self.upper, self.work, self.merged = (path / name for name in ("lower", "upper", "work", "merged"))
        for directory in (self.lower, self.upper, self.work, self.merged):
            directory.mkdir(0o755)
        self.options = {"engine": engine, "dialect": dialect}
        self.mounted: unionfs.Mount | None = None

    def mount(self) -> None:
        layers_of = {"lower": [self.lower], "upper": self.upper, "work": self.work}
        self.mounted = unionfs.mount(self.merged, **layers_of, **self.options)

    def unmount(self) -> None:
        if self.mounted is not None:
            self.mounted.unmount()
            self.mounted = None

    def kill(self) -> None:
        """kill -9 of the daemon; then the dead mount goes."""
        daemon = int(os.getxattr(self.merged, PID_XATTR))
        descriptor = os.pidfd_open(daemon)
        os.kill(daemon, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll()
        os.close(descriptor)
        subprocess.run(["umount", "-l", str(self.merged)], check=True)
        self.mounted = None

    def building(self) -> list[os.stat_result]:
        """What stands in the work directory: copies that are being made."""
        found = []
        for name in os.listdir(self.work / "work"):
            try:
                found.append(os.lstat(self.work / "work" / name))
            except FileNotFoundError:
                pass
        return found


@pytest.fixture(params=STACKS, ids="-".join)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, *request.param)
    try:
        yield place
    finally:
        if place.mounted is not None:
            subprocess.run(["umount", "-l", str(place.merged)], check=True)
        for directory in (place.lower, place.upper, place.work):
            subprocess.run(["rm", "-rf", str(directory)], check=True)


def fill(path: Path, size: int) -> str:
    """A file of random bytes that repeat, no two MiB alike; its digest."""
    block = os.urandom(MIB)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for number in range(size // MIB):
            piece = number.to_bytes(8, "big") + block[8:]
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Background:
    """A call in a thread; `failure` is what it raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.done, self.failure = threading.Event(), None
        self.call = call
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.call()
        except OSError as failure:
            self.failure = failure
        finally:
            self.done.set()

    def join(self) -> None:
        self.thread.join()


def overwrite(path: Path, data: bytes = b"WRITTEN!", offset: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


@pytest.mark.stress
def test_killed_in_mid_copy_up(place: Place) -> None:
    """After a remount the file is whole, old or new; its directories are as they were; nothing is left half made."""
    size = 96 * MIB
    (place.lower / "d" / "e").mkdir(parents=True)
    old = fill(place.lower / "d" / "e" / "big", size)
    os.utime(place.lower / "d", ns=(1, 2))
    before = manifest([str(place.lower)])
    path = place.merged / "d" / "e" / "big"
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    in_the_middle = 0
    for _ in range(4):
        place.mount()
        enough = chance.randrange(size // 512)
        writing = Background(lambda: overwrite(path))
        while not writing.done.is_set() and not any(st.st_blocks > enough for st in place.building()):
            pass
        in_the_middle += not writing.done.is_set()
        place.kill()
        writing.join()
        assert writing.failure is None or writing.failure.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        place.mount()
        assert place.building() == []
        content = digest_of(path)
        with open(path, "rb") as file:
            start = file.read(8)
        if start == b"WRITTEN!":
            overwrite(path, bytes(8))
            assert digest_of(path) == old, "new at its beginning, and not whole"
        else:
            assert content == old, "neither old nor new"
            assert writing.failure is not None, "acknowledged, and not there"
        assert (os.stat(path).st_size, os.stat(place.merged / "d").st_mtime_ns) == (size, 2)
        place.unmount()
        subprocess.run(["rm", "-rf", str(place.upper / "d")], check=True)
    assert in_the_middle, "no copy-up was met in its middle"
    assert manifest([str(place.lower)]) == before


START = {f"{folder}/{name}": b"text" for folder in ("a", "b", "c/d") for name in "xyz"}


def deeds(chance: random.Random, model: Model) -> Iterator[tuple[object, ...]]:
    """Operations on names, each done at once or not at all, and each of which succeeds."""
    while True:
        paths = dict(model.paths())
        folders = [path for path, node in paths.items() if node.is_dir]
        path, folder, fresh = chance.choice(list(paths)), chance.choice(folders), f"n{chance.randrange(1 << 30)}"
        yield chance.choice([
            ("mkdir", f"{folder}/{fresh}"), ("symlink", "target", f"{folder}/{fresh}"),
            ("rename", path, f"{folder}/{fresh}"), ("link", path, f"{folder}/{fresh}"),
            ("chmod", path, chance.choice([0o700, 0o755])), ("rename", path, chance.choice(list(paths))),
            ("unlink", path), ("unlink", path), ("rmdir", path),
        ])  # fmt: skip


@pytest.mark.stress
def test_killed_between_two_operations(place: Place) -> None:
    """What was acknowledged is there after a remount, and of the rest all or nothing of the one that was under way."""
    layers.build(place.lower, START, place.options["dialect"])
    before = manifest([str(place.lower)])
    model = layers.merged([START])
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    for _ in range(4):
        place.mount()
        subject = Native([place.lower], place.upper, place.work, place.options["dialect"], place.merged)
        acknowledged, enough = 0, chance.randrange(10, 150)
        killed = threading.Event()
        under_way: list[tuple[object, ...]] = []

        def work(subject=subject, under_way=under_way, killed=killed) -> None:
            nonlocal acknowledged
            for operation, *arguments in deeds(chance, model):
                under_way[:] = [(operation, *arguments)]
                try:
                    getattr(subject, str(operation))(*arguments)
                except OSError as failure:
                    if failure.errno in (errno.ENOTCONN, errno.ECONNABORTED) or killed.is_set():
                        return
                    continue
                getattr(model, str(operation))(*arguments)
                acknowledged += 1

        working = Background(work)
        while acknowledged < enough and not working.done.is_set():
            pass
        killed.set()
        place.kill()
        working.join()
        place.mount()
        got = tree.of(subject)
        wrong = tree.differences(tree.of_model(model), got, but=("time",))
        if wrong:
            operation, *arguments = under_way[0]
            getattr(model, str(operation))(*arguments)
            assert tree.differences(tree.of_model(model), got, but=("time",)) == [], f"without {under_way}: {wrong}"
        place.unmount()
    assert manifest([str(place.lower)]) == before


@pytest.mark.stress
def test_parallel_copy_ups(place: Place) -> None:
    """Of many files at once, byte by byte what they should be."""
    contents = {f"f{number}": os.urandom(MIB + number) for number in range(48)}
    for name, content in contents.items():
        (place.lower / name).write_bytes(content)
    place.mount()
    names = list(contents)

    def write_some(which: int) -> None:
        for name in names[which::8]:
            overwrite(place.merged / name, b"changed", 1000)

    writers = [Background(lambda which=which: write_some(which)) for which in range(8)]
    for writer in writers:
        writer.join()
        assert writer.failure is None
    for _ in range(2):
        for name, content in contents.items():
            assert (place.merged / name).read_bytes() == content[:1000] + b"changed" + content[1007:], name
        place.unmount()
        place.mount()
    place.unmount()


@pytest.mark.stress
def test_one_file_by_many_writers(place: Place) -> None:
    """They meet in its copy-up: it is made once, and no write is lost."""
    size = 8 * MIB
    fill(place.lower / "big", size)
    expected = bytearray((place.lower / "big").read_bytes())
    place.mount()
    offsets = [number * size // 16 + 5 for number in range(16)]
    path = place.merged / "big"
    writers = [Background(lambda at=offset: overwrite(path, b"%08d" % at, at)) for offset in offsets]
    for offset, writer in zip(offsets, writers, strict=True):
        writer.join()
        assert writer.failure is None
        expected[offset : offset + 8] = b"%08d" % offset
    assert path.read_bytes() == expected
    place.unmount()


@pytest.mark.stress
def test_a_reader_during_the_copy_up(place: Place) -> None:
    """Whoever opens the file meanwhile, and whoever has it open: full size, and the last bytes are there."""
    size = 64 * MIB
    fill(place.lower / "big", size)
    with open(place.lower / "big", "rb") as file:
        file.seek(size - 4096)
        end = file.read()
    place.mount()
    path = place.merged / "big"
    faults: list[str] = []
    looks = 0
    with open(path, "rb", buffering=0) as held:
        writing = Background(lambda: overwrite(path))
        finished = 0
        while finished < 20:
            finished += writing.done.is_set()
            with open(path, "rb", buffering=0) as fresh:
                for file in (held, fresh):
                    found = os.fstat(file.fileno()).st_size, os.pread(file.fileno(), 8192, size - 4096)
                    if found != (size, end):
                        faults.append(f"look {looks}: size {found[0]}, {len(found[1])} bytes at the end")
            looks += not writing.done.is_set()
        writing.join()
        assert writing.failure is None
        assert os.pread(held.fileno(), 8, 0) == b"WRITTEN!"
    print(f"{looks} looks during the copy-up")
    assert faults == []
    place.unmount()


def look_up_meanwhile(place: Place, size: int) -> None:
    fill(place.lower / "big", size)
    for number in range(10_000):
        (place.lower / f"other{number}").touch()
    place.mount()
    writing = Background(lambda: overwrite(place.merged / "big"))
    while not writing.done.is_set() and not any(st.st_blocks for st in place.building()):
        pass
    took, number = [], 0
    while not writing.done.is_set() and number < 10_000:
        begin = time.perf_counter()
        os.stat(place.merged / f"other{number}")
        if not writing.done.is_set():
            took.append(time.perf_counter() - begin)
        number += 1
    writing.join()
    assert writing.failure is None
    assert took, "no lookup was answered before the copy-up ended"
    took.sort()
    print(f"{len(took)} lookups: median {took[len(took) // 2] * 1e6:.0f} us, longest {took[-1] * 1e3:.1f} ms")
    place.unmount()


@pytest.mark.stress
def test_lookups_during_a_copy_up(place: Place) -> None:
    """Of other names: they do not wait for its end."""
    look_up_meanwhile(place, 256 * MIB)


@pytest.mark.long
@pytest.mark.stress
def test_lookups_during_a_copy_up_of_a_gib(place: Place) -> None:
    look_up_meanwhile(place, 1024 * MIB)
