"""How the daemon is scheduled: it gives way while there is work, is itself again when there is none or it starves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from unionfs.fuse import session
from unionfs.fuse.affinity import Affinity
from unionfs.fuse.calls import PID_XATTR, STATS_XATTR
from unionfs.fuse.wire import Request
from unionfs.linux import fusedev
from unionfs.linux.capabilities import CAP_SYS_NICE, rules_the_machine
from unionfs.linux.scheduling import CPUS, begin_thread

pytestmark = [
    pytest.mark.skipif(not os.access(fusedev.DEVICE, os.R_OK | os.W_OK), reason="needs access to /dev/fuse"),
    pytest.mark.skipif(not rules_the_machine(CAP_SYS_NICE), reason="needs CAP_SYS_NICE, to leave SCHED_IDLE again"),
    pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs"),
]


def eventually(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.002)
    return False


def processes_below(parent: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            if int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry))
    return found


class Mounted:
    def __init__(self, place: Path, **options: str) -> None:
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir()
        self.mount = session.mount(
            place / "merged", lower=[place / "lower"], upper=place / "upper", work=place / "work", **options
        )
        self.path = place / "merged"
        self.daemon = int(os.getxattr(self.path, PID_XATTR))
        self._made = 0

    def work(self, count: int = 200) -> None:
        for _ in range(count):
            self._made += 1
            os.mkdir(self.path / str(self._made))

    def gives_way(self) -> bool:
        return os.sched_getscheduler(self.daemon) == os.SCHED_IDLE


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    made = Mounted(tmp_path)
    with made.mount:
        yield made


def works_until(mounted: Mounted, condition: Callable[[], bool]) -> bool:
    def step() -> bool:
        mounted.work()
        return condition()

    return eventually(step)


def test_it_gives_way_while_there_is_work_and_only_then(mounted: Mounted) -> None:
    assert works_until(mounted, mounted.gives_way)
    assert eventually(lambda: not mounted.gives_way())
    assert works_until(mounted, mounted.gives_way)  # and again


def test_a_request_that_names_no_process_parts_it_from_nobody() -> None:
    """Such as each RELEASE: every other request of a program that reads many files."""

    def look() -> None:
        affinity = Affinity()
        client, nobody = Request(), Request()
        client.pid, nobody.pid = os.getpid(), 0
        for request in (client, client, nobody, client):
            affinity.follow(request)
        found.append(os.sched_getaffinity(0))

    found: list[set[int]] = []
    thread = Thread(target=look)
    thread.start()
    thread.join()
    assert len(found[0]) == 1


def test_a_starved_daemon_is_itself_again_and_answers(mounted: Mounted) -> None:
    """Everything runs on one CPU, and two processes compute there; so the daemon only runs if it is given its turn."""
    assert works_until(mounted, mounted.gives_way)
    cpu = min(CPUS)
    computing = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        for process in (*(one.pid for one in computing), 0):
            os.sched_setaffinity(process, {cpu})
        assert works_until(mounted, lambda: not mounted.gives_way())
        os.listdir(mounted.path)
    finally:
        os.sched_setaffinity(0, CPUS)
        for one in computing:
            one.kill()
            one.wait()
    assert works_until(mounted, mounted.gives_way)


def test_threads_are_scheduled_as_others_are(mounted: Mounted, tmp_path: Path) -> None:
    """fsync is a helper's to answer."""
    assert works_until(mounted, mounted.gives_way)

    def helpers_are_normal() -> bool:
        with open(mounted.path / "file", "wb") as file:
            mounted.work()
            os.fsync(file.fileno())
        threads = [int(name) for name in os.listdir(f"/proc/{mounted.daemon}/task") if int(name) != mounted.daemon]
        return bool(threads) and all(
            os.sched_getscheduler(thread) == os.SCHED_OTHER and os.sched_getaffinity(thread) == CPUS
            for thread in threads
        )

    assert eventually(helpers_are_normal)


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM])
def test_the_guard_ends_with_the_daemon(tmp_path: Path, way: signal.Signals) -> None:
    made = Mounted(tmp_path)
    (guard,) = processes_below(made.daemon)
    made.work()
    os.kill(made.daemon, way)
    assert eventually(lambda: not os.path.exists(f"/proc/{guard}"))
    if way == signal.SIGKILL:
        with pytest.raises(OSError, match="not connected"):
            os.mkdir(made.path / "more")
        made.mount.unmount()


def test_the_guard_holds_nothing_open_and_outlives_no_unmount(tmp_path: Path) -> None:
    made = Mounted(tmp_path)
    with made.mount:
        (guard,) = processes_below(made.daemon)
        made.work()
        opened = [os.readlink(f"/proc/{guard}/fd/{name}") for name in os.listdir(f"/proc/{guard}/fd")]
        assert all(name.startswith((f"/proc/{made.daemon}/", "pipe:")) for name in opened), opened
    assert eventually(lambda: not os.path.exists(f"/proc/{guard}"))


def test_a_killed_guard_leaves_a_daemon_that_works(mounted: Mounted) -> None:
    assert works_until(mounted, mounted.gives_way)
    (guard,) = processes_below(mounted.daemon)
    os.kill(guard, signal.SIGKILL)
    assert works_until(mounted, lambda: not mounted.gives_way())
    mounted.work(1000)
    assert not mounted.gives_way() and not processes_below(mounted.daemon)


@pytest.mark.parametrize(
    ("option", "told"), [("follow", "follows its client and gives way"), ("normal", "normal")]
)
def test_it_is_told_and_can_be_left_out(tmp_path: Path, option: str, told: str) -> None:
    made = Mounted(tmp_path, scheduling=option)
    with made.mount:
        made.work()
        assert f'"scheduling": "{told}"'.encode() in os.getxattr(made.path, STATS_XATTR)
        assert len(processes_below(made.daemon)) == (option == "follow")


def test_begin_thread_changes_nothing_of_a_usual_one() -> None:
    before = os.sched_getscheduler(0), os.sched_getaffinity(0)
    begin_thread()
    assert (os.sched_getscheduler(0), os.sched_getaffinity(0)) == before
