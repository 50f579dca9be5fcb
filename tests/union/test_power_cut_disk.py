"""Power cuts on real filesystems: snapshots of a disk that is written to, mounted, and looked at through the union.

The disk is an image file, behind a loop device, on an XFS that can share extents. FICLONE of the image is one moment of
it: XFS holds its lock and waits until the writes that are under way are done (ioctl_ficlone(2); the loop device writes
past the page cache). So the snapshot has all writes that the disk acknowledged, whole, and none that it did not begin:
what a power cut leaves on a disk without a volatile cache. What a filesystem has not yet sent to the disk is missing.

A child writes through the union, asks for writeback of some pages, and has the journal committed by others' fsync(2),
so that metadata and data get to the disk in every order. It tells when it begins and ends each operation.
"""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import unionfs
from tests.union.disks import Disks, disks
from tests.union.powercut import PAGE, Event, History
from tests.union.test_partial import MODES, most_blocks, pattern
from unionfs.linux import files
from unionfs.linux.libc import libc
from unionfs.union import source

pytestmark = pytest.mark.stress
ROUNDS = int(os.environ.get("UNIONFS_EXAMPLES", "5"))
OPERATIONS = 150
PAGES = 60
SYNC_FILE_RANGE_WRITE = 2
OPTIONS = {"ext4": "", "xfs": "nouuid"}
KINDS = {
    "write": 8, "append": 2, "truncate": 1, "punch": 1, "zero": 1, "complete": 1, "fsync": 2, "fdatasync": 1,
    "syncfs": 1, "open again": 1, "writeback": 6, "commit": 3,
}  # fmt: skip


class Step(NamedTuple):
    kind: str
    offset: int
    size: int
    seed: int


class Plan:
    """What the child does, and what comes of it. Steps are numbered as in the history, from 1."""

    def __init__(self, chance: random.Random) -> None:
        size = chance.choice([PAGES * PAGE, chance.randrange(PAGES * PAGE)])
        self.blocks = chance.choice([8192, 8192, 20, 5])
        self.original = pattern(size, 1)
        self.history = History(self.original)
        self.history.seams = {size: 0}
        self.steps = [Step("open", 0, 0, 0)]
        self.history.add(Event("nothing", None))
        for seed in range(2, OPERATIONS):
            kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
            offset = chance.choice([chance.randrange(PAGES) * PAGE, chance.randrange(PAGES * PAGE)])
            length = chance.choice([1, PAGE, 3 * PAGE, chance.randrange(1, 10 * PAGE)])
            if kind == "append":
                kind, offset = "write", len(self.history.contents[-1])
                if offset > 2 * PAGES * PAGE:
                    kind, offset = "truncate", chance.randrange(PAGES * PAGE)
            step = Step(kind, offset, length, seed)
            self.steps.append(step)
            self.history.add(self._event(step))

    def _event(self, step: Step) -> Event:
        if step.kind == "write":
            return Event("data", None, start=step.offset, data=pattern(step.size, step.seed))
        if step.kind == "truncate":
            if step.offset < len(self.original):
                self.history.seams[step.offset] = len(self.history.contents)
            return Event("size", None, end=step.offset)
        if step.kind in ("punch", "zero"):
            return Event("allocate", None, start=step.offset, end=step.offset + step.size, mode=MODES[step.kind])
        return Event("nothing", None)


class Child:
    """A process that carries out a plan; `begun` and `synced` are steps."""

    def __init__(self, plan: Plan, lower: Path, disk: Path) -> None:
        self.plan, self.lower, self.disk = plan, lower, disk
        self.begun = self.synced = self.ended = 0
        self.pipe, self._told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self._work()
                status = 0
            finally:
                os._exit(status)
        os.close(self._told)

    def _work(self) -> None:
        union = open_union(self.lower, self.disk)
        file = union.open("f", os.O_RDWR)
        other = os.open(self.disk / "other", os.O_RDWR | os.O_CREAT)
        raw = os.open(self.disk / "upper/f", os.O_RDWR)
        for number, step in enumerate(self.plan.steps, 1):
            os.write(self._told, b"%d begins\n" % number)
            if step.kind == "write":
                assert file.pwrite(pattern(step.size, step.seed), step.offset) == step.size
            elif step.kind == "truncate":
                file.truncate(step.offset)
            elif step.kind in ("punch", "zero"):
                file.fallocate(MODES[step.kind], step.offset, step.size)
            elif step.kind in ("fsync", "fdatasync"):
                file.fsync(datasync=step.kind == "fdatasync")
            elif step.kind == "syncfs":
                union.sync()
            elif step.kind == "complete":
                complete(file, step.size)
            elif step.kind == "open again":
                file.close()
                file = union.open("f", os.O_RDWR)
            elif step.kind == "writeback":
                libc.sync_file_range(raw, step.offset, step.size, SYNC_FILE_RANGE_WRITE)
            elif step.kind == "commit":
                os.pwrite(other, pattern(PAGE, step.seed), 0)
                os.fsync(other)
            os.write(self._told, b"%d ends\n" % number)

    def listen(self, seconds: float = 0) -> None:
        """Take note of what it told, waiting for it as long as that."""
        while select.select([self.pipe], [], [], seconds)[0]:
            words = os.read(self.pipe, 1 << 16)
            if not words:
                raise EOFError
            while not words.endswith(b"\n"):
                words += os.read(self.pipe, 1)
            for number, word in (line.split() for line in words.splitlines()):
                if word == b"begins":
                    self.begun = int(number)
                else:
                    self.ended = int(number)
                    if self.plan.steps[self.ended - 1].kind in ("fsync", "fdatasync", "syncfs"):
                        self.synced = self.ended
            seconds = 0

    def finish(self) -> int:
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def open_union(lower: Path, disk: Path) -> unionfs.Union:
    return unionfs.Union([lower], disk / "upper", disk / "work", copyup="block", copyup_complete="never")


def complete(file: unionfs.File, piece: int = 0) -> None:
    """All that is missing, or a piece of it."""
    data = file.handle.inode.data
    if data is not None and piece:
        data.complete_piece(piece)
    elif data is not None:
        data.complete()


class Moment(NamedTuple):
    image: Path
    since: int
    until: int


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Disks]:
    with disks(tmp_path) as made:
        yield made


def snapshot(image: Path, number: int) -> Path:
    path = image.with_name(f"{image.name}.{number}")
    with open(image, "rb") as original, open(path, "xb") as copy:
        assert files.clone_data(copy.fileno(), original.fileno())
    return path


def watched(child: Child, image: Path, chance: random.Random) -> list[Moment]:
    """Snapshots, until the child has ended."""
    moments: list[Moment] = []
    try:
        while True:
            child.listen(0.02)
            since = child.synced
            path = snapshot(image, len(moments))
            child.listen()
            moments.append(Moment(path, since, max(child.begun, 1)))
            time.sleep(chance.random() * 0.02)
    except EOFError:
        return moments
    finally:
        assert child.finish() == 0


def looked_at(machine: Disks, moment: Moment, kind: str, plan: Plan, lower: Path) -> None:
    with machine.mounted(moment.image, kind, OPTIONS[kind]) as disk, open_union(lower, disk) as union:
        found = union.read_bytes("f")
        wrong = plan.history.wrong(found, moment.since, moment.until)
        steps = list(enumerate(plan.steps, 1))[max(0, moment.since - 1) : moment.until]
        assert not wrong, f"synced {moment.since}, of {steps}: {wrong}"
        with union.open("f", os.O_RDWR) as file:
            complete(file)
            assert file.pread(len(found) + 1, 0) == found
    moment.image.unlink()


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cuts_of_a_disk(kind: str, machine: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    host = machine.mount(machine.image("host", "xfs"), "xfs")
    machine.place = host
    seen = 0
    for number in range(ROUNDS):
        chance = random.Random(number if "UNIONFS_EXAMPLES" not in os.environ else None)
        plan = Plan(chance)
        lower = host.parent / f"lower{number}"
        lower.mkdir()
        (lower / "f").write_bytes(plan.original)
        image = machine.image(f"disk{number}", kind)
        with most_blocks(plan.blocks):
            with machine.mounted(image, kind, direct=True) as disk:
                for name in ("upper", "work"):
                    (disk / name).mkdir()
                os.sync()
                moments = watched(Child(plan, lower, disk), image, chance)
            with monkeypatch.context() as patched:
                patched.setattr(source, "_boot_id", lambda: bytes(16))
                for moment in moments:
                    looked_at(machine, moment, kind, plan, lower)
        seen += len(moments)
        image.unlink()
    assert seen > ROUNDS


def test_what_fdatasync_synced_is_there(machine: Disks) -> None:
    """A file that was copied up whole, then written to in place: ext4 has no cause of its own to commit its rename."""
    host = machine.mount(machine.image("host", "xfs"), "xfs")
    machine.place = host
    image = machine.image("disk", "ext4")
    disk = machine.mount(image, "ext4", "commit=300", direct=True)
    lower = host.parent / "lower"
    for path in (lower, disk / "upper", disk / "work"):
        path.mkdir()
    (lower / "f").write_bytes(pattern(3 * PAGE, 1))
    os.sync()
    with unionfs.Union([lower], disk / "upper", disk / "work", copyup="whole") as union:
        with union.open("f", os.O_RDWR) as file:
            file.pwrite(b"new", 0)
            file.fsync(datasync=True)
            left = snapshot(image, 0)
    with machine.mounted(left, "ext4") as disk, open_union(lower, disk) as union:
        assert union.read_bytes("f")[:3] == b"new"
