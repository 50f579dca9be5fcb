"""A container's monitor: what it looks after, and what it takes while nothing happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.container.launcher import Launcher
from tests.fuse.scheduled import NEEDS, Served, busy_cpu, eventually, processes_below


@pytest.fixture
def box(launcher: Launcher) -> Launcher:
    launcher.ok("run", "-d", "--name", "box", "host", "sleep", "1000")
    return launcher


def family(launcher: Launcher) -> tuple[int, list[int], int]:
    """The monitor, what it made besides its container, and that container's first process."""
    first = launcher.inspect("box")["State"]["Pid"]
    monitor = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    return monitor, [child for child in processes_below(monitor) if child != first], first


def resident(process: int, kind: str) -> int:
    """KiB (proc_pid_status(5))."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def test_a_container_is_two_processes_and_its_own(box: Launcher) -> None:
    monitor, (daemon,), _ = family(box)
    assert processes_below(daemon) == []
    box.ok("rm", "-f", "box")
    assert eventually(lambda: not any(os.path.exists(f"/proc/{process}") for process in (monitor, daemon)))


@pytest.mark.parametrize("driver", ["unionfs", "overlay"])
def test_an_idle_monitor_gives_back_what_the_start_took(launcher: Launcher, driver: str) -> None:
    launcher.ok("run", "-d", "--storage", driver, "--name", "box", "host", "sleep", "1000")
    monitor, _, _ = family(launcher)
    other = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with other:
        assert eventually(lambda: resident(monitor, "RssFile") < resident(other.pid, "RssFile"))
        other.communicate(b"\n")
    assert launcher.ok("exec", "box", "echo", "more") == "more"
    launcher.ok("kill", "box")
    assert launcher.ok("wait", "box") == "137"


class TestScheduling:
    pytestmark = NEEDS

    @pytest.fixture
    def served(self, box: Launcher) -> Served:
        _, (daemon,), first = family(box)
        return Served(Path("/proc", str(first), "root", "srv"), daemon)

    def test_the_daemon_gives_way_while_there_is_work_and_only_then(self, served: Served) -> None:
        assert served.works_until(served.gives_way)
        assert eventually(lambda: not served.gives_way())
        assert served.works_until(served.gives_way)  # and again

    def test_a_starved_one_is_itself_again(self, served: Served) -> None:
        assert served.works_until(served.gives_way)
        with busy_cpu():
            assert served.works_until(lambda: not served.gives_way())
        assert served.works_until(served.gives_way)

    def test_it_ends_whatever_else_computes(self, box: Launcher, served: Served) -> None:
        assert served.works_until(served.gives_way)
        with busy_cpu():
            served.work()
            box.ok("rm", "-f", "box")
        assert not os.path.exists(f"/proc/{served.daemon}")

    def test_as_the_option_says(self, launcher: Launcher) -> None:
        options = ("--storage-opt", "scheduling=normal")
        launcher.ok("run", "-d", *options, "--name", "box", "host", "sleep", "1000")
        _, (daemon,), first = family(launcher)
        served = Served(Path("/proc", str(first), "root", "srv"), daemon)
        served.work(2000)
        assert not served.gives_way()
