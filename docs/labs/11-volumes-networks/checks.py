"""Lab 11: the script is run in a network namespace and a state of its own, and what it made is asked."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unionfs.lab.checks import Wrong, check, expect
from unionfs.linux import namespaces

COMMAND = f"{sys.executable} -P -m unionfs"


class Stage:
    """A place where the script can do what it likes, which is cleared afterwards."""

    def __init__(self, student, place):
        self.script = student.directory / "compose.sh"
        self.environment = {**os.environ, "UNIONFS_ROOT": str(place / "state"), "unionfs": COMMAND}

    def compose(self, word):
        done = self._run(["sh", str(self.script), word])
        if done.returncode:
            raise Wrong(f"compose.sh {word} ended with status {done.returncode}: {done.stderr.strip()}")

    def unionfs(self, *words):
        done = self._run([*COMMAND.split(), *words])
        return done.returncode, done.stdout.strip() or done.stderr.strip()

    def _run(self, words):
        return subprocess.run(words, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def clear(self):
        _, names = self.unionfs("ps", "-aq")
        if names:
            self.unionfs("rm", "-f", "-v", *names.split())


@contextmanager
def stage(student):
    namespaces.unshare(namespaces.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with TemporaryDirectory(prefix="unionfs-lab-", dir="/var/tmp") as name:
        made = Stage(student, Path(name))
        try:
            yield made
        finally:
            made.clear()


def fetch(url):
    """The page, when the server is up at last."""
    for _ in range(100):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            failure = error
            time.sleep(0.05)
    raise Wrong(f"{url} does not answer: {failure}")


@check(3)
def the_page_is_served(student):
    """http://127.0.0.1:8080/page is what the volume has."""
    with stage(student) as made:
        made.compose("up")
        expect("the page", fetch("http://127.0.0.1:8080/page"), "hello from a volume\n")


@check(2)
def the_volume_is_read_only_there(student):
    """web cannot write to its volume, and the file is in the volume data."""
    with stage(student) as made:
        made.compose("up")
        status, words = made.unionfs("exec", "web", "sh", "-c", "echo x > /srv/more")
        if not status:
            raise Wrong("web could write to /srv")
        if "ead-only" not in words:
            raise Wrong(f"web cannot write to /srv, but for another reason: {words}")
        found = json.loads(made.unionfs("volume", "inspect", "data")[1])[0]["Mountpoint"]
        expect("the volume's names", os.listdir(found), ["page"])


@check(2)
def others_find_it_by_name(student):
    """On the network lab, the name web leads to it; on another one it does not."""
    with stage(student) as made:
        made.compose("up")
        look = ("--rootfs", "/", "getent", "hosts", "web")
        status, _ = made.unionfs("run", "--rm", "--network", "lab", *look)
        expect("getent hosts web on lab: status", status, 0)
        status, _ = made.unionfs("run", "--rm", "--network", "none", *look)
        if not status:
            raise Wrong("web is found without the network lab, too: is it in /etc/hosts?")


@check(3)
def down_leaves_nothing(student):
    """After down there is no container, volume or network of it, and it can be brought up again."""
    with stage(student) as made:
        for _ in range(2):
            made.compose("up")
            made.compose("down")
            expect("containers", made.unionfs("ps", "-aq"), (0, ""))
            expect("volumes", made.unionfs("volume", "ls", "-q"), (0, ""))
            names = set(made.unionfs("network", "ls", "--format", "{{.Name}}")[1].split())
            if "lab" in names:
                raise Wrong("the network lab is still there")
