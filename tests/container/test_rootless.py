"""Without root: the same launcher in one user namespace, by an ordinary user of this machine."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unprivileged import UID, Runner, user

_COMMAND = "import sys; from unionfs.cli.main import main; sys.exit(main(sys.argv[1:]))"


class Rootless:
    """Commands of the user, on a state of their own."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.folder = runner, runner.folder
        self._set = f"import os; os.environ['UNIONFS_ROOT'] = {str(runner.folder / 'state')!r}; {_COMMAND}"

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._runner(self._set, *words)

    def ok(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")


@pytest.fixture(scope="module")
def rootless() -> Iterator[Rootless]:
    with user("plain") as runner:
        rootless = Rootless(runner)
        rootless.ok("import", "host", "host")
        yield rootless
        ids = rootless.ok("ps", "-aq").split()
        if ids:
            rootless("rm", "-f", *ids)


def test_a_container(rootless: Rootless) -> None:
    script = "id -u; id -g; touch /x; hostname; cat /proc/self/uid_map; ls /sys/class/net"
    lines = rootless.ok("run", "--rm", "-h", "box", "host", "sh", "-c", script).splitlines()
    assert lines[:3] == ["0", "0", "box"] and lines[-1] == "lo"
    assert lines[3].split()[:2] == ["0", str(UID)]


@pytest.mark.parametrize("driver", ["unionfs", "overlay"])
def test_both_drivers(rootless: Rootless, driver: str) -> None:
    changes = "echo new > /etc/motd; rm /etc/protocols; mv /etc/services /moved"
    script = f"{changes}; cat /etc/motd; ls /etc/protocols /moved 2>&1; true"
    out = rootless.ok("run", "--rm", "--storage", driver, "host", "sh", "-c", script)
    assert out.startswith("new\n") and "No such file" in out and out.endswith("/moved")


def test_from_start_to_end(rootless: Rootless) -> None:
    rootless.ok("run", "-d", "--name", "box", "-v", "vol:/data", "host", "sh", "-c", "echo up; sleep 1000")
    assert rootless.ok("exec", "box", "sh", "-c", "touch /data/x; echo $$; ls /data").split()[1:] == ["x"]
    assert "Up" in rootless.ok("ps", "--format", "{{.Status}}")
    assert rootless.ok("logs", "box") == "up"
    rootless.ok("stop", "-t", "0", "box")
    assert rootless.ok("diff", "box") == ""
    rootless.ok("commit", "box", "again")
    assert rootless.ok("run", "--rm", "--volumes-from", "box", "again", "ls", "/data") == "x"
    rootless.ok("rm", "-v", "box")
    rootless.ok("rmi", "again")
    assert rootless.ok("volume", "rm", "vol") == "vol"


def test_closed_files_are_shown_kept_and_dropped(rootless: Rootless) -> None:
    """Only root of the user namespace may look into them."""
    script = "mkdir /closed && echo x > /closed/file && chmod 0 /closed/file /closed"
    rootless.ok("run", "--name", "closed", "host", "sh", "-c", script)
    assert rootless.ok("diff", "closed").splitlines() == ["A /closed", "A /closed/file"]
    rootless.ok("commit", "closed", "kept")
    assert rootless.ok("save", "kept", "-o", "/dev/null") == ""
    rootless.ok("discard", "-y", "closed")
    assert rootless.ok("diff", "closed") == ""
    rootless.ok("rm", "closed")
    assert rootless.ok("doctor", "--clean").startswith("there is nothing to clean")


def test_networks_names_and_ports(rootless: Rootless) -> None:
    """In the user's own lab host: a name, another network, a port of this machine's loopback; it goes with the last."""
    made = rootless("network", "create", "red")
    assert made.returncode == 0 and "no way from it into the world is promised" in made.stderr
    server = "while true; do echo hello | nc -l -q0 7000; done"
    words = ("--network", "red", "-p", "127.0.0.1::7000", "--rootfs", "/", "sh", "-c", server)
    rootless.ok("run", "-d", "--name", "one", *words)
    assert "1 received" in rootless.ok("run", "--rm", "--network", "red", "host", "ping", "-c1", "one")
    other = rootless("run", "--rm", "host", "sh", "-c", "hostname -i; ping -c1 -W1 one")
    assert other.returncode != 0 and other.stdout.startswith("172.")
    rootless.ok("run", "-d", "--name", "two", "host", "sleep", "1000")
    rootless.ok("network", "connect", "red", "two")
    assert "1 received" in rootless.ok("exec", "two", "ping", "-c1", "one.red")
    port = int(rootless.ok("port", "one", "7000").rpartition(":")[2])
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as connection:
            if connection.recv(100) == b"hello\n":
                break
        assert time.monotonic() < deadline
    keeper = int((rootless.folder / "state" / "lab").read_text().split()[0])
    rootless.ok("rm", "-f", "one", "two")
    rootless.ok("network", "rm", "red")
    while Path(f"/proc/{keeper}").exists():
        assert time.monotonic() < deadline + 20
        time.sleep(0.02)


def test_what_it_cannot_have_is_said(rootless: Rootless) -> None:
    limited = rootless("run", "--rm", "--memory", "64m", "host", "true")
    if limited.returncode:
        assert "offers no cgroup controller memory to this user" in limited.stderr
    other = rootless("run", "--rm", "-u", "5", "host", "id", "-u")
    assert other.stdout == "5\n" or "is not mapped in this user namespace" in other.stderr
    assert rootless.ok("ps", "-aq") == ""


def test_the_machine_is_out_of_reach(rootless: Rootless) -> None:
    tries = ("mount -t tmpfs none /mnt", "echo x > /proc/sysrq-trigger", "mknod /disk b 7 0")
    script = "; ".join(f"({one}) 2>/dev/null || echo refused" for one in tries)
    assert rootless.ok("run", "--rm", "host", "sh", "-c", script) == "refused\nrefused\nrefused"
