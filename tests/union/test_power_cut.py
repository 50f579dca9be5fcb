"""Power cuts, simulated: after every system call of every sequence of operations on a partly copied file.

The system calls are recorded, and each prefix of the record gives what journaling filesystems may leave
(`powercut.py`). That is written into a fresh upper, which is opened under another boot id: it must open, and show of
each page one state that the page had since it was synced last, and nothing older. Where the daemon was killed instead,
all is on disk and the boot id is the same: it must show all that was acknowledged.

The page in which the lower file ends, or was cut, counts as two, before that offset and from it on, for changes of one
of the two; a change of both is in both or in neither.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import unionfs
from tests.union.powercut import PAGE, Disk, Event, History, Recorder, State
from tests.union.test_partial import MODES, most_blocks, near_pages, pattern
from unionfs.linux import files
from unionfs.union import source

pytestmark = pytest.mark.apart

EXAMPLES = int(os.environ.get("UNIONFS_EXAMPLES", "25"))
PAGES = 12
ZEROED = {name: MODES[name] for name in ("allocate", "punch", "zero", "zero keep")}

near = near_pages(PAGES)
offsets = st.one_of(near, st.integers(0, PAGES * PAGE))
lengths = st.one_of(st.sampled_from([1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE]), st.integers(1, 6 * PAGE))
operations = st.one_of(
    st.tuples(st.just("write"), offsets, lengths),
    st.tuples(st.just("write"), offsets, lengths),
    st.tuples(st.just("write through"), offsets, lengths),
    st.tuples(st.just("append"), lengths),
    st.tuples(st.just("truncate"), offsets),
    st.tuples(st.just("truncate by path"), offsets),
    st.tuples(st.just("fallocate"), st.sampled_from(sorted(ZEROED)), offsets, lengths),
    st.tuples(st.just("copy in"), offsets, offsets, lengths),
    st.tuples(st.just("fsync")),
    st.tuples(st.just("fdatasync")),
    st.tuples(st.just("syncfs")),
    st.tuples(st.just("write while syncing"), st.sampled_from(["fsync", "fdatasync", "syncfs"]), offsets, lengths),
    st.tuples(st.just("complete"), st.sampled_from([1, 3, 100])),
    st.tuples(st.just("open again")),
    st.tuples(st.just("power cut")),
)


class Bench:
    """One file `f` of a union, and what its users did to it since the last power cut."""

    def __init__(self, place: Path, size: int, hole: tuple[int, int], when: str, seed: int) -> None:
        self.place, self.when = place, when
        self.chance = random.Random(seed)
        self.boot, self.seed = 0, 1
        for name in ("lower", "upper", "work"):
            (place / name).mkdir()
        lower = place / "lower/f"
        lower.write_bytes(pattern(size, 1))
        (place / "lower/source").write_bytes(pattern(PAGES * PAGE, 2))
        start, end = min(hole[0], size), min(hole[1], size)
        if start < end:
            with open(lower, "r+b") as file:
                files.fallocate(file.fileno(), MODES["punch"], start, end - start)
        self.original = lower.read_bytes()
        self.recorder = Recorder(b"f")
        self.found = self.original
        self.seams = {size: 0}
        """Where the watermark is or was."""
        self.mount()

    # The union

    def mount(self) -> None:
        """`self.found` is what the file has; all of it is on disk."""
        self.history = History(self.found)
        self.seams = self.history.seams = dict.fromkeys(self.seams, 0)
        self.ends: list[int] = []
        """How many events were recorded after each operation."""
        self.synced: list[tuple[int, int]] = []
        """Operations that are on disk, and after how many events they are."""
        self.seen: set[tuple[State, int, int]] = set()
        self.before = self.on_disk(self.place / "upper/f")
        self.recorder.events.clear()
        with self.boots(self.boot):
            self.union = self.opened("upper", "work")
        self.files: list[unionfs.File] = []
        self.did(Event("nothing", None))

    @contextmanager
    def boots(self, number: int) -> Iterator[None]:
        """Whoever asks is told that boot id."""
        before = source._boot_id
        source._boot_id = lambda: number.to_bytes(16)
        try:
            yield
        finally:
            source._boot_id = before

    def opened(self, upper: str, work: str) -> unionfs.Union:
        lower, complete = self.place / "lower", self.when
        return unionfs.Union(
            [lower], self.place / upper, self.place / work, copyup="block", copyup_complete=complete
        )  # fmt: skip

    @staticmethod
    def on_disk(path: Path) -> State:
        if not path.exists():
            return State()
        value = None
        for name in os.listxattr(path):
            if name.endswith("unionfs.blocks"):
                value = os.getxattr(path, name)
        return State(path.read_bytes(), value, True)

    def open(self) -> None:
        if not self.files:
            flags = (os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_DSYNC)
            self.files = [self.union.open("f", flag) for flag in flags]

    def close(self) -> bool:
        """And wait until the file is let go. Whether there was something to sync, which is done then."""
        opened, self.files = self.files, []
        inode = opened[0].handle.inode if opened else None
        is_unsynced = inode is not None and inode.data is not None and not inode.data.is_synced
        for file in opened:
            file.close()
        while inode is not None and inode.handles:
            time.sleep(0.0005)
        return is_unsynced

    def unmount(self) -> None:
        with self.recorder.paused():
            self.close()
            self.union.close()

    def did(self, event: Event, synced: bool = False) -> None:
        self.history.add(event)
        self.ends.append(len(self.recorder.events))
        if synced:
            self.synced.append((len(self.ends), self.ends[-1]))

    # Operations

    def apply(self, operation: tuple[Any, ...]) -> None:
        kind, *arguments = operation
        if kind not in ("truncate by path", "power cut"):
            self.open()
        self.did(Event("nothing", None))
        getattr(self, "_" + kind.replace(" ", "_"))(*arguments)
        assert self.union.stat("f").size == len(self.history.contents[-1])

    def data(self, size: int) -> bytes:
        self.seed += 1
        return pattern(size, self.seed + 2)

    def _write(self, offset: int, size: int, file: int = 0) -> None:
        data = self.data(size)
        assert self.files[file].pwrite(data, offset) == size
        self.did(Event("data", None, start=offset, data=data), synced=file == 2)

    def _write_through(self, offset: int, size: int) -> None:
        self._write(offset, size, 2)

    def _append(self, size: int) -> None:
        data, end = self.data(size), len(self.history.contents[-1])
        assert self.files[1].pwrite(data, 0) == size
        self.did(Event("data", None, start=end, data=data))

    def _truncate(self, size: int) -> None:
        self.files[0].truncate(size)
        self.cut(size)

    def _truncate_by_path(self, size: int) -> None:
        self.union.truncate("f", size)
        self.cut(size)

    def cut(self, size: int) -> None:
        if size < len(self.original):
            self.seams[size] = len(self.history.contents)
        self.did(Event("size", None, end=size))

    def _fallocate(self, mode: str, offset: int, length: int) -> None:
        self.files[0].fallocate(ZEROED[mode], offset, length)
        self.did(Event("allocate", None, start=offset, end=offset + length, mode=ZEROED[mode]))

    def _copy_in(self, start: int, to: int, length: int) -> None:
        wanted = pattern(PAGES * PAGE, 2)[start : start + length]
        with self.union.open("source") as file:
            done = 0
            while done < len(wanted):
                count = file.copy_range(start + done, self.files[0], to + done, len(wanted) - done)
                assert count > 0
                done += count
        if wanted:
            self.did(Event("data", None, start=to, data=wanted))

    def _fsync(self) -> None:
        self.files[0].fsync()
        self.did(Event("nothing", None), synced=True)

    def _fdatasync(self) -> None:
        self.files[0].fsync(datasync=True)
        self.did(Event("nothing", None), synced=True)

    def _syncfs(self) -> None:
        self.union.sync()
        self.did(Event("nothing", None), synced=True)

    def _write_while_syncing(self, how: str, offset: int, size: int) -> None:
        """Between the sync of the data and the note of it."""
        number = len(self.ends)
        self.recorder.after_sync = lambda: self._write(offset, size)
        getattr(self, "_" + how)()
        self.synced[-1] = number, self.ends[-1]

    def _complete(self, blocks: int) -> None:
        data = self.files[0].handle.inode.data
        if data is not None:
            data.complete_piece(blocks * PAGE)
        self.did(Event("nothing", None))

    def _open_again(self) -> None:
        """Blocks that are not synced are, after the last close."""
        self.did(Event("nothing", None), synced=self.close())

    def _power_cut(self) -> None:
        """Soon before the end of what was done. The file goes on as one that this leaves."""
        self.check()
        disk = self.disk()
        at = max(0, len(disk.events) - self.chance.choice([0, 0, 1, 2, 3, 5]))
        self.go_on(self.any_state(disk, at), at)

    def go_on(self, state: State, at: int) -> None:
        since, until = self.window(at)
        self.unmount()
        self.build(state, "upper", "work")
        self.boot += 1
        with self.recorder.paused(), self.boots(self.boot), self.opened("upper", "work") as union:
            self.found = union.read_bytes("f")
        self.judge(self.found, since, until)
        self.mount()

    # Power cuts

    def disk(self, **options: bool) -> Disk:
        """The record of the file that has the name now."""
        with suppress(FileNotFoundError):
            inode = os.stat(self.place / "upper/f").st_ino
            events = [event if event.inode in (None, inode) else OTHER for event in self.recorder.events]
            return Disk(self.before, events, **options)
        return Disk(self.before, [])

    def check(self, **options: bool) -> None:
        """A power cut after each of the system calls since the last one."""
        disk = self.disk(**options)
        with self.recorder.paused():
            for at in range(len(disk.events) + 1):
                since, until = self.window(at)
                for state in self.states(disk, at):
                    self.check_state(state, since, until, self.boot + 1)
                is_done = self.ends[until - 1] == at
                self.check_state(disk.states[at], until if is_done else until - 1, until, self.boot)

    def window(self, at: int) -> tuple[int, int]:
        """Before event `at`, the operations that was synced last, and that had begun last."""
        until = next(number for number, end in enumerate(self.ends, 1) if end >= at)
        since = max((number for number, end in self.synced if end <= at), default=0)
        return since, max(since, until)

    def states(self, disk: Disk, at: int) -> Iterator[State]:
        low, data = disk.ordered[at], disk.synced[at]
        for cut in (low, at):
            for moment in (data, at):
                yield disk.left(at, cut, lambda page, moment=moment: moment, False)
        for _ in range(2):
            yield self.any_state(disk, at)

    def any_state(self, disk: Disk, at: int) -> State:
        chance, synced = self.chance, disk.synced[at]
        moments = [synced, at, *(chance.randint(synced, at) for _ in range(2))]
        cut = chance.choice([disk.ordered[at], at, chance.randint(disk.ordered[at], at)])
        return disk.left(at, cut, lambda page: chance.choice(moments), chance.random() < 0.5)

    def check_state(self, state: State, since: int, until: int, boot: int) -> None:
        key = state, since, until, boot
        if key in self.seen:
            return
        self.seen.add(key)
        self.build(state, "left/upper", "left/work")
        with self.boots(boot), self.opened("left/upper", "left/work") as union:
            found = union.read_bytes("f")
            self.judge(found, since, until)
            with union.open("f", os.O_RDWR) as file:
                data = file.handle.inode.data
                while data is not None and data.complete_piece(2 * PAGE):
                    pass
                assert file.pread(len(found) + 1, 0) == found, "completed after a power cut, the file is another"

    def build(self, state: State, upper: str, work: str) -> None:
        for name in (upper, work):
            shutil.rmtree(self.place / name, ignore_errors=True)
            (self.place / name).mkdir(parents=True)
        if state.is_there:
            path = self.place / upper / "f"
            path.write_bytes(state.content)
            if state.map is not None:
                os.setxattr(path, MAP, state.map)

    def judge(self, found: bytes, since: int, until: int) -> None:
        wrong = self.history.wrong(found, since, until)
        assert not wrong, f"cut off during operation {until}, operation {since} was synced last: {wrong}"


OTHER = Event("other", 0)
MAP = "trusted.unionfs.blocks" if os.geteuid() == 0 else "user.unionfs.blocks"


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck),
    derandomize="UNIONFS_EXAMPLES" not in os.environ,
)  # fmt: skip
@given(
    size=offsets, hole=st.tuples(offsets, offsets), blocks=st.sampled_from([8192, 6, 3, 1]),
    when=st.sampled_from(["never", "never", "close"]), seed=st.integers(0, 1 << 30),
    steps=st.lists(operations, min_size=4, max_size=20),
)  # fmt: skip
def test_a_power_cut_after_every_system_call(
    tmp_path_factory: pytest.TempPathFactory, size: int, hole: tuple[int, int], blocks: int, when: str, seed: int,
    steps: list[tuple[Any, ...]],
) -> None:  # fmt: skip
    with bench(tmp_path_factory.mktemp("cut"), size, hole, blocks, when, seed) as case:
        for step in steps:
            case.apply(step)
        case.check()


@contextmanager
def bench(
    place: Path, size: int, hole: tuple[int, int] = (0, 0), blocks: int = 8192, when: str = "never", seed: int = 0
) -> Iterator[Bench]:
    with most_blocks(blocks):
        case = Bench(place, size, hole, when, seed)
        try:
            with case.recorder.recording():
                yield case
        finally:
            case.unmount()
    shutil.rmtree(place)


SEAM = 2 * PAGE - 110


ACROSS = [("write", SEAM, 20), ("write through", SEAM, 20), ("copy in", 0, SEAM, 20), ("fallocate", "punch", SEAM, 20)]


@pytest.mark.parametrize("longer", [False, True], ids=["grows", "was longer"])
@pytest.mark.parametrize("step", ACROSS, ids=lambda step: step[0])
def test_the_block_of_the_watermark_is_one(step: tuple[Any, ...], longer: bool, tmp_path: Path) -> None:
    """One change across the old end of the file: a power cut does not leave half of it."""
    with bench(tmp_path, 2 * PAGE - 100) as case:
        case.seams.clear()
        for before in [("truncate", 3 * PAGE), ("fsync",)] if longer else []:
            case.apply(before)
        case.apply(step)
        case.check()


@pytest.mark.parametrize("then", [("truncate", 3 * PAGE), ("write", 3 * PAGE, 1)])
def test_a_file_grows_whose_map_was_not_told_of_its_end(then: tuple[Any, ...], tmp_path: Path) -> None:
    """Two power cuts, the first between a cut and the map that tells of it."""
    with bench(tmp_path, 3 * PAGE) as case:
        case.apply(("truncate", PAGE + 1))
        disk = case.disk()
        at = len(disk.events) - 1
        assert [event.kind for event in disk.events[at - 1 :]] == ["size", "map"]
        case.go_on(disk.states[at], at)
        case.apply(then)
        case.check()


def test_syncfs_during_a_sync_of_the_file(tmp_path: Path) -> None:
    """Of fsync(2), or of the last close, all but the last step is done while syncfs(2) is: the map is not on disk."""

    def sync() -> None:
        os.fdatasync(data.fd)
        data.note_synced(data.blocks.have)

    with bench(tmp_path, 3 * PAGE) as case:
        case.apply(("write", 0, PAGE))
        data = case.files[0].handle.inode.data
        case.recorder.after_sync = sync
        case.apply(("syncfs",))
        case.check()


def test_what_fdatasync_synced_has_its_name(tmp_path: Path) -> None:
    """ext4 commits for fdatasync(2) what its data need, and a rename of the file is not among that."""
    with bench(tmp_path, 3 * PAGE) as case:
        for step in ("truncate by path", PAGE + 1), ("fdatasync",):
            case.apply(step)
        case.check(names_need_fsync=True)
