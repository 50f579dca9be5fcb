"""How the daemon is scheduled: it gives way while there is work, is itself again when there is none or it starves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.fuse.scheduled import NEEDS, Served, busy_cpu, eventually, processes_below
from unionfs.fuse import session
from unionfs.fuse.affinity import Affinity
from unionfs.fuse.calls import PID_XATTR, STATS_XATTR
from unionfs.fuse.wire import Request
from unionfs.linux.scheduling import CPUS, begin_thread

pytestmark = NEEDS


class Mounted(Served):
    def __init__(self, place: Path, **options: str) -> None:
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir()
        self.mount = session.mount(
            place / "merged", lower=[place / "lower"], upper=place / "upper", work=place / "work", **options
        )
        super().__init__(place / "merged", int(os.getxattr(place / "merged", PID_XATTR)))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    made = Mounted(tmp_path)
    with made.mount:
        yield made


def test_it_gives_way_while_there_is_work_and_only_then(mounted: Mounted) -> None:
    assert mounted.works_until(mounted.gives_way)
    assert eventually(lambda: not mounted.gives_way())
    assert mounted.works_until(mounted.gives_way)  # and again


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
    assert mounted.works_until(mounted.gives_way)
    with busy_cpu():
        assert mounted.works_until(lambda: not mounted.gives_way())
        os.listdir(mounted.path)
    assert mounted.works_until(mounted.gives_way)


def test_threads_are_scheduled_as_others_are(mounted: Mounted, tmp_path: Path) -> None:
    """fsync is a helper's to answer."""
    assert mounted.works_until(mounted.gives_way)

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
    assert mounted.works_until(mounted.gives_way)
    (guard,) = processes_below(mounted.daemon)
    os.kill(guard, signal.SIGKILL)
    assert mounted.works_until(lambda: not mounted.gives_way())
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
