"""Snapshots and backing ids over the life of a mount, files without OPEN, and what is told of both.

On a real mount by root, beside `test_passthrough.py`; and the table of backing files without a kernel.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.fake_operations import FakeOperations, Node
from tests.fuse.test_passthrough import MODES, OLD, Log, mount, needs_passthrough, no_id_is_lost, place, stats, watched
from unionfs.fuse import passthrough
from unionfs.fuse.mount import unmount
from unionfs.fuse.passthrough import Passthrough
from unionfs.linux import fusedev

__all__ = ["place", "watched"]
ROOT = Path(__file__).parents[2]
TEXT = b"other names lead to the same node"


def live(merged: Path) -> int:
    return int(stats(merged)["backing_ids"]["live"])


def wait_for_live(merged: Path, count: int) -> None:
    """RELEASE and FORGET are not waited for by whoever causes them."""
    for _ in range(200):
        if live(merged) == count:
            break
        time.sleep(0.01)
    assert live(merged) == count and no_id_is_lost(merged)


def crowd(work: Callable[[int], None]) -> None:
    """Eight threads at once, each with a seed of its own."""
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- backing ids


@needs_passthrough
def test_an_id_is_kept_until_the_file_is_forgotten(place: Path) -> None:
    merged = mount(place)
    before = stats(merged)["backing_ids"]["opened"]
    for _ in range(20):
        assert (merged / "file").read_bytes() == OLD
    assert stats(merged)["backing_ids"]["opened"] == before + 1
    (merged / "new").write_bytes(b"x")
    wait_for_live(merged, 2)
    os.unlink(merged / "new")
    wait_for_live(merged, 1)
    with open(merged / "file", "r+b"):
        wait_for_live(merged, 1)
    os.unlink(merged / "file")
    wait_for_live(merged, 0)


@needs_passthrough
def test_a_deleted_file_takes_its_space_until_it_is_closed(place: Path) -> None:
    merged = mount(place)

    def used() -> int:
        return int(sum(path.stat().st_blocks for path in (place / "upper").iterdir()))

    with open(merged / "big", "w+b", 0) as file:
        file.write(bytes(1 << 20))
        os.unlink(merged / "big")
        file.write(b"more")
        assert os.pread(file.fileno(), 4, 1 << 20) == b"more" and live(merged) == 1
    wait_for_live(merged, 0)
    assert used() == 0


@needs_passthrough
def test_snapshots_leave_nothing(place: Path) -> None:
    merged = mount(place)
    for number in range(5):
        (place / f"lower/f{number}").write_bytes(OLD)
    for number in range(5):
        with open(merged / f"f{number}", "rb") as old, open(merged / f"f{number}", "r+b") as new:
            new.write(b"NEW")
            new.flush()
            assert old.read(3) == OLD[:3] and stats(merged)["former_nodes"] >= 1
        os.unlink(merged / f"f{number}")
        assert (place / f"lower/f{number}").read_bytes() == OLD
    wait_for_live(merged, 0)
    found = stats(merged)
    assert (found["former_nodes"], found["open_handles"], found["nodes"]) == (0, 0, 1)


@needs_passthrough
def test_a_lower_file_with_several_names_is_not_a_snapshot(place: Path) -> None:
    (place / "lower/one").write_bytes(TEXT)
    os.link(place / "lower/one", place / "lower/two")
    merged = mount(place)
    with open(merged / "one", "rb", 0) as old, open(merged / "two", "r+b", 0) as new:
        new.write(b"OTHER")
        assert os.pread(old.fileno(), 5, 0) == b"OTHER" == (merged / "two").read_bytes()[:5]
    assert (place / "lower/one").read_bytes() == TEXT == (place / "lower/two").read_bytes()


@needs_passthrough
def test_a_snapshot_cannot_be_opened_again_to_be_written_to(place: Path) -> None:
    merged = mount(place)
    with open(merged / "file", "rb", 0) as old:
        with pytest.raises(OSError) as raised:
            os.open(f"/proc/self/fd/{old.fileno()}", os.O_RDWR)
        assert raised.value.strerror == "Stale file handle"
        with open(merged / "file", "r+b") as new:
            new.write(b"by its name")
        assert old.read() == OLD


@needs_passthrough
def test_pages_from_before_are_not_shown_once_the_kernel_wrote_past_them(place: Path) -> None:
    """A file with setuid goes through the page cache; without, past it; and then with again."""
    merged = mount(place)
    (merged / "file2").write_bytes(b"one")
    os.chmod(merged / "file2", 0o4755)
    assert (merged / "file2").read_bytes() == b"one"
    os.chmod(merged / "file2", 0o755)
    with open(merged / "file2", "r+b") as file:
        file.write(b"two")
    os.chmod(merged / "file2", 0o4755)
    assert (merged / "file2").read_bytes() == b"two"


@needs_passthrough
def test_a_mapping_outlives_its_daemon_and_the_lower_file_is_safe(place: Path) -> None:
    merged = mount(place)
    with open(merged / "file", "rb", 0) as old, open(merged / "file", "r+b", 0) as new:
        os.kill(int(os.getxattr(merged, "user.unionfs.pid")), signal.SIGKILL)
        time.sleep(0.1)
        assert old.read(8) == OLD[:8]
        assert new.write(b"NEW") == 3
    unmount(os.fsencode(merged), lazy=True)
    assert (mount(place) / "file").read_bytes() == b"NEW" + OLD[3:]


@needs_passthrough
@pytest.mark.stress
@pytest.mark.parametrize("mode", MODES)
def test_many_threads_open_to_read_and_to_write(place: Path, mode: str) -> None:
    """Each reader sees a whole old or a whole new file; no open fails; after all is closed nothing is left."""
    names = [f"f{number}" for number in range(40)]
    for name in names:
        (place / "lower" / name).write_bytes(OLD)
    merged = mount(place, copyup="whole", **MODES[mode])
    failures: list[Any] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(250):
            path = merged / chance.choice(names)
            try:
                if chance.random() < 0.2:
                    with open(path, "r+b", 0) as file:
                        assert os.pwrite(file.fileno(), b"NEW", 100) == 3
                        assert os.pread(file.fileno(), 3, 100) == b"NEW"
                else:
                    found = path.read_bytes()
                    assert len(found) == len(OLD) and found[100:103] in (b"NEW", OLD[100:103]), found[90:110]
            except Exception as failure:
                failures.append((path, failure))

    crowd(work)
    assert failures == []
    for name in names:
        assert (place / "lower" / name).read_bytes() == OLD
        os.unlink(merged / name)
    wait_for_live(merged, 0)
    assert stats(merged)["former_nodes"] == 0


@needs_passthrough
@pytest.mark.parametrize("mode", MODES)
def test_locks_of_a_snapshot_are_its_own(place: Path, mode: str) -> None:
    """A limit, and documented as one: to the kernel it is another inode than the file that was written to."""
    merged = mount(place, **MODES[mode])
    with open(merged / "file", "rb") as old, open(merged / "file", "r+b") as new:
        fcntl.flock(old, fcntl.LOCK_EX)
        try:
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert mode == "passthrough"
        except BlockingIOError:
            assert mode != "passthrough"


# --- without OPEN


@needs_passthrough
def test_opening_and_closing_cost_no_request(place: Path) -> None:
    merged = mount(place, open="cached")
    (merged / "file").read_bytes()
    before = stats(merged)["requests"]
    for _ in range(50):
        os.close(os.open(merged / "file", os.O_RDONLY))
    after = stats(merged)["requests"]
    assert after["OPEN"] == before["OPEN"] == 1 and "RELEASE" not in after
    assert sum(after.values()) - sum(before.values()) < 10


def mount_with_few_descriptors(place: Path, most: int) -> Path:
    layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    options = f"{layers},open=cached,copyup=block,log={place}/log"
    command = f"ulimit -n {most}; exec {sys.executable} -m unionfs mount {place}/merged -o {options}"
    subprocess.run(["sh", "-c", command], check=True, cwd=ROOT)
    return place / "merged"


@needs_passthrough
@pytest.mark.stress
def test_files_are_closed_and_opened_again_under_many_threads(place: Path) -> None:
    """Each file holds its own number throughout, in whatever block it is read and written."""
    for number in range(300):
        (place / f"lower/f{number}").write_bytes(b"%06d" % number * 3000)
    merged = mount_with_few_descriptors(place, 1024)
    failures: list[Any] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(400):
            number = chance.randrange(300)
            try:
                with open(merged / f"f{number}", "r+b" if chance.random() < 0.4 else "rb", 0) as file:
                    if file.writable():
                        os.pwrite(file.fileno(), b"%06d" % number, 6 * chance.randrange(3000))
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    assert file.read() == b"%06d" % number * 3000
            except Exception as failure:
                failures.append((number, failure))

    crowd(work)
    assert failures == [] and stats(merged)["open_files"] <= 128


@needs_passthrough
def test_more_files_than_are_kept_open(place: Path) -> None:
    """With few descriptors: those used last stay open, the others are opened again."""
    merged = mount_with_few_descriptors(place, 256)
    for number in range(200):
        (merged / f"n{number}").write_bytes(b"%d" % number)
    for number in range(200):
        with open(merged / f"n{number}", "r+b", 0) as file:
            assert file.read() == b"%d" % number
            file.write(b"+")
    assert [(merged / f"n{number}").read_bytes() for number in range(200)] == [b"%d+" % n for n in range(200)]
    assert stats(merged)["open_files"] <= 32


@needs_passthrough
def test_files_without_names_where_nothing_is_opened(place: Path) -> None:
    merged = mount(place, open="cached")
    fd = os.open(merged, os.O_TMPFILE | os.O_RDWR)
    with open(merged / "file", "r+b", 0) as file, open(merged / "new", "w+b", 0) as new:
        for name in ("file", "new"):
            os.unlink(merged / name)
        for descriptor in (file.fileno(), new.fileno(), fd):
            assert os.pwrite(descriptor, b"text", 0) == 4 and os.pread(descriptor, 4, 0) == b"text"
            os.fsync(descriptor)
            os.ftruncate(descriptor, 2)
            assert os.fstat(descriptor).st_size == 2 and os.fstat(descriptor).st_nlink == 0
    os.close(fd)
    assert os.listdir(merged) == []
    for _ in range(200):
        if not stats(merged)["open_files"]:
            break
        time.sleep(0.01)
    assert stats(merged)["open_files"] == 0


@needs_passthrough
def test_o_sync_is_honoured_without_open(place: Path) -> None:
    merged = mount(place, open="cached")
    fd = os.open(merged / "file", os.O_RDWR | os.O_SYNC)
    assert os.write(fd, b"NEW") == 3
    os.close(fd)
    assert (place / "upper/file").read_bytes()[:3] == b"NEW"


@needs_passthrough
def test_a_read_only_union_where_nothing_is_opened(place: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "unionfs", "mount", place / "merged", "-o", f"lowerdir={place}/lower,open=cached"],
        check=True, cwd=ROOT,
    )  # fmt: skip
    with pytest.raises(OSError, match="Read-only"):
        open(place / "merged/file", "r+b")
    assert (place / "merged/file").read_bytes() == OLD


# --- what is told


@needs_passthrough
@pytest.mark.parametrize(
    "mode, told",
    [("passthrough", "files by itself"), ("coherent", "those below through the daemon"), ("cached", "without asking")],
)
def test_the_log_and_stats_say_how_data_goes(place: Path, mode: str, told: str) -> None:
    merged = mount(place, log=str(place / "log"), **MODES[mode])
    assert told in Log(place).path.read_text()
    (merged / "file").read_bytes()
    command = [sys.executable, "-m", "unionfs", "stats", merged]
    text = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert "LOOKUP" in text and "backing ids" in text
    found = json.loads(subprocess.run([*command, "--json"], check=True, cwd=ROOT, capture_output=True).stdout)
    assert found["data_path"] == ("cached" if mode == "cached" else "passthrough")
    assert found["coherent"] == (mode != "passthrough") and found["requests"]["LOOKUP"] >= 1


@needs_passthrough
def test_layers_on_a_stacked_filesystem(place: Path) -> None:
    """Upon overlayfs the kernel takes no backing file: the daemon carries the data, and says why."""
    for name in ("under", "above", "area", "stacked"):
        (place / name).mkdir()
    overlay = f"lowerdir={place}/under,upperdir={place}/above,workdir={place}/area"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", overlay, place / "stacked"], check=True)
    try:
        for name in ("lower", "upper", "work"):
            (place / "stacked" / name).mkdir()
        (place / "stacked/lower/file").write_bytes(OLD)
        options = ",".join(f"{name}dir={place}/stacked/{name}" for name in ("lower", "upper", "work"))
        command = [sys.executable, "-m", "unionfs", "mount", place / "merged", "-o", f"{options},log={place}/log"]
        subprocess.run(command, check=True, cwd=ROOT)
        with open(place / "merged/file", "r+b", 0) as file:
            file.write(b"NEW")
        assert (place / "merged/file").read_bytes() == b"NEW" + OLD[3:]
        told = (place / "log").read_text()
        assert f"data goes through the daemon: {place}/stacked/upper lies on a stacked filesystem" in told
        assert (stats(place / "merged")["data_path"], live(place / "merged")) == ("daemon", 0)
        unmount(os.fsencode(place / "merged"))
    finally:
        subprocess.run(["umount", place / "stacked"], check=True)


def test_the_engine_fusepy_refuses_what_it_cannot_do(place: Path) -> None:
    pytest.importorskip("fuse", reason="needs the Python package fusepy", exc_type=ImportError)
    options = f"lowerdir={place}/lower,open=cached,engine=fusepy"
    command = [sys.executable, "-m", "unionfs", "mount", place / "merged", "-o", options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "open=cached: libfuse 2 opens each file" in result.stderr


# --- the table of backing files


class Ids:
    """Stands for the ioctls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: set[int] = set()
        self.count = 0
        monkeypatch.setattr(fusedev, "backing_open", self._open)
        monkeypatch.setattr(fusedev, "backing_close", lambda connection, number: self.open.remove(number))

    def _open(self, connection: int, descriptor: int) -> int:
        self.count += 1
        self.open.add(self.count)
        return self.count


class Layer:
    writable, device, path = True, 1, b"/upper"


class Whole(Node):
    """An open file of the upper."""

    is_whole = True
    fd = -1

    def __init__(self) -> None:
        super().__init__(1, 0o100644)
        self.location = self.directory = self
        self.layer = Layer()


def table() -> Passthrough:
    through = Passthrough(FakeOperations(), lambda nodeid: None)  # type: ignore[arg-type]
    through.connection = 3
    return through


def test_the_first_descriptor_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, through = Ids(monkeypatch), table()
    whole, other = Whole(), Node(2, 0o100644)
    assert through.opened(2, other) == 0 == through.opened(2, whole)  # type: ignore[arg-type]
    through.closed(2)
    assert through.opened(2, whole) == 0  # type: ignore[arg-type]
    through.closed(2)
    through.closed(2)
    assert through.opened(2, whole) == 1 == through.opened(2, other)  # type: ignore[arg-type]
    through.closed(2)
    through.closed(2)
    through.closed(9)
    assert ids.open == {1} and through.opened(2, whole) == 1  # type: ignore[arg-type]
    through.closed(2)
    through.forgotten(2)
    assert ids.open == set() and through.live_ids == 0


def test_the_ids_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, through = Ids(monkeypatch), table()
    monkeypatch.setattr(passthrough, "KEPT", 3)
    for nodeid in (2, 3, 4, 2, 5):
        through.opened(nodeid, Whole())  # type: ignore[arg-type]
        through.closed(nodeid)
    assert ids.open == {1, 3, 4} and through.live_ids == 3
    for nodeid in (2, 3, 4, 5):
        through.forgotten(nodeid)
    assert ids.open == set() and (through.opened_ids, through.closed_ids) == (4, 4)


def test_where_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: int, descriptor: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(fusedev, "backing_open", refuse)
    through = table()
    assert through.opened(2, Whole()) == 0  # type: ignore[arg-type]
    assert through.connection is None and "not permitted" in through.why
    through.closed(2)


def test_what_may_write_never_gets_a_lower_file(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, through = Ids(monkeypatch), table()
    below: Any = Whole()

    class Below:
        def pin(self, handle: Any, before: Any = None) -> Any:
            return below

        def join(self, handle: Any, location: Any) -> bool:
            return False

        def end(self, inode: Any) -> None: ...

    through._operations.snapshots = Below()  # type: ignore[assignment]
    assert through.opened(2, Whole()) == 1  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Stale"):
        through.opened(2, Whole())  # type: ignore[arg-type]
    assert through.parted(2, Whole())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Stale"):
        through.parted(2, Whole())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Stale"):
        through.opened(2, Whole())  # type: ignore[arg-type]
    through.closed(2)
    assert ids.open == set() and through.former == {2: below}
    through.forgotten(2)
    assert through.former == {}
