"""Whatever is killed, whenever: `ps` tells the truth, names and layers are not leaked, and what is left is cleaned."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.container.launcher import Launcher
from tests.fuse.scheduled import eventually, processes_below
from unionfs.image.database import Database
from unionfs.linux import mounts, namespaces

SECONDS = 30

pytestmark = pytest.mark.stress


def row(launcher: Launcher, name: str) -> dict[str, object]:
    with Database(str(launcher.root)) as database:
        found = database.row("SELECT * FROM containers WHERE name=?", name)
    assert found is not None
    return dict(found)


def until_gone(pid: int) -> None:
    assert eventually(lambda: not namespaces.start_time(pid))


def is_waiting(process: int, awaited: int) -> bool:
    """It has a descriptor of the other process, or has ended."""
    return not namespaces.start_time(process) or f"\nPid:\t{awaited}\n" in descriptors_of(process)


def descriptors_of(pid: int) -> str:
    """proc_pid_fdinfo(5): a descriptor of a process says "Pid:"."""
    text = ""
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(OSError):
            text += path.read_text()
    return text


def is_clean(launcher: Launcher) -> None:
    """No container's directory, no mount, no cgroup is there without a container."""
    ids = set(launcher.ok("ps", "-aq", "--no-trunc").split())
    assert set(os.listdir(launcher.root / "containers")) <= ids
    inside = os.fsencode(launcher.root) + b"/"
    assert not [mount.point for mount in mounts.table() if mount.point.startswith(inside)]


@pytest.fixture
def running(launcher: Launcher) -> Launcher:
    launcher.ok("run", "-d", "--name", "box", "host", "sleep", "1000")
    return launcher


def test_a_killed_monitor_takes_its_container_along(running: Launcher) -> None:
    found = row(running, "box")
    monitor, pid = int(str(found["owner"])), int(str(found["pid"]))
    others = processes_below(monitor)
    os.kill(monitor, signal.SIGKILL)
    for process in (monitor, pid, *others):
        until_gone(process)
    state = running.inspect("box")["State"]
    assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 137, "its monitor was killed")
    assert "Exited (137)" in running.ok("ps", "-a", "--format", "{{.Status}}")
    running.ok("start", "box")
    assert running.inspect("box")["State"]["Running"]


def test_a_killed_daemon_ends_its_container(running: Launcher) -> None:
    """Its root is gone: nothing in it can go on, and it is said why."""
    found = row(running, "box")
    daemons = [child for child in processes_below(int(str(found["owner"]))) if child != int(str(found["pid"]))]
    assert daemons
    os.kill(daemons[0], signal.SIGKILL)
    assert running.ok("wait", "box") == "137"
    assert running.inspect("box")["State"]["Error"] == "the daemon that served its root was killed"
    running.ok("rm", "box")
    is_clean(running)


def test_a_killed_command_line_leaves_the_container_running(launcher: Launcher) -> None:
    attached = launcher.start("run", "--name", "box", "host", "sh", "-c", "echo begun; sleep 1000")
    assert attached.stdout is not None and attached.stdout.readline() == b"begun\n"
    attached.kill()
    attached.wait()
    assert launcher.inspect("box")["State"]["Running"]
    launcher.ok("rm", "-f", "box")
    is_clean(launcher)


def test_a_killed_first_process(running: Launcher) -> None:
    os.kill(int(str(row(running, "box")["pid"])), signal.SIGKILL)
    assert running.ok("wait", "box") == "137"
    is_clean(running)


def test_rm_of_one_whose_monitor_was_killed(launcher: Launcher) -> None:
    """With --rm: it is gone for good once somebody cleans, and in nobody's way until then."""
    launcher.ok("run", "-d", "--rm", "--name", "box", "-v", "/srv", "host", "sleep", "1000")
    monitor = int(str(row(launcher, "box")["owner"]))
    os.kill(monitor, signal.SIGKILL)
    until_gone(monitor)
    assert "removed container box" in launcher.ok("doctor", "--clean")
    assert launcher.names() == []
    assert launcher.ok("volume", "ls", "-q") == ""
    is_clean(launcher)


def test_fifty_at_once(launcher: Launcher) -> None:
    """In parallel, with one name for every two: each name once, no one waits in vain, nothing is left."""
    started = [
        launcher.start("run", "--rm", "--name", f"box{number // 2}", "host", "sh", "-c", "sleep 0.5; echo done")
        for number in range(50)
    ]
    results = [(process.communicate(timeout=240), process.returncode) for process in started]
    outputs = [out for (out, _), status in results if status == 0]
    refused = [error for (_, error), status in results if status != 0]
    assert set(outputs) == {b"done\n"}
    assert len(outputs) >= 25
    assert all(b"is in use by container" in error for error in refused), refused
    assert launcher.names() == []
    is_clean(launcher)


@pytest.mark.parametrize("chances", range(3))
def test_killed_at_any_moment(launcher: Launcher, chances: int) -> None:
    """run, killed with all that it had begun at a random moment: names are free again, and nothing is leaked."""
    chance = random.Random(chances)
    for number in range(12):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "unionfs", "run", "--rm", "--name", "box", "-v", "/data", "host", "true"],
            env=launcher.environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(chance.uniform(0.02, 0.25))
        if number % 2:
            for child in processes_below(process.pid) if process.poll() is None else ():
                os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()
        deadline = time.monotonic() + SECONDS
        while launcher("run", "--rm", "--name", "box", "host", "true").status != 0:
            launcher.ok("doctor", "--clean")
            assert time.monotonic() < deadline, launcher("run", "--rm", "--name", "box", "host", "true")
    launcher.ok("doctor", "--clean")
    assert launcher.names() == []
    assert launcher.ok("volume", "ls", "-q") == ""
    is_clean(launcher)
    assert os.listdir(launcher.root / "tmp") == []


def test_clean_takes_nothing_that_is_in_use(running: Launcher) -> None:
    running.ok("create", "--name", "other", "host")
    running.ok("volume", "create", "kept")
    assert "there is nothing to clean" in running.ok("doctor", "--clean")
    assert sorted(running.names()) == ["box", "other"]
    assert running.inspect("box")["State"]["Running"]
    assert running.ok("volume", "ls", "-q") == "kept"


def test_concurrent_commands_on_one_container(running: Launcher) -> None:
    started = [running.start(*words, "box") for words in [["stop", "-t", "0"], ["rm", "-f"], ["kill"]] * 3]
    said = [(*process.communicate(timeout=120), process.returncode) for process in started]
    assert {status for *_, status in said} <= {0, 1}, said
    assert running.names() == [], said
    is_clean(running)


def test_one_that_has_ended_and_is_not_entered_as_ended(running: Launcher) -> None:
    """Between the two its monitor waits for the state, which may be on a slow disk."""
    found = row(running, "box")
    with Database(str(running.root)) as database, database.writing():
        os.kill(int(str(found["pid"])), signal.SIGKILL)
        assert eventually(lambda: not os.path.exists(f"/proc/{found['pid']}"))  # reaped
        started = [running.start(*words, "box") for words in (["kill"], ["stop"], ["rm", "-f"])]
        assert eventually(lambda: all(is_waiting(process.pid, int(str(found["owner"]))) for process in started))
    said = [(*process.communicate(timeout=120), process.returncode) for process in started]
    assert [status for *_, status in said] == [0, 0, 0], said
    assert running.names() == []
    is_clean(running)
