"""Programs as an ordinary user, for tests that run as root: with a node of /dev/fuse and a copy of the package that
this user may read, in a mount namespace that goes with the program.

Two ways lead such a user to a mount: a user namespace of its own (unshare -Urm), and the setuid fusermount3.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dnslib
import pytest

from unionfs.linux import fusedev

ROOT = Path(__file__).resolve().parents[1]
UID = 65534
WAYS = ("user namespace", "fusermount3")
"""A third one, "plain", leaves it to the program itself."""
_USER = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "sh", "-c", 'exec "$@"', "sh"]
_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


class Runner:
    """Runs a Python program as the user; `folder` belongs to the user."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self._command = command

    def __call__(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(self.folder / "code"), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [*self._command, "-c", program, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/", env=environment, timeout=60
        )


@contextmanager
def user(way: str) -> Iterator[Runner]:
    """Skips where this machine has no such way."""
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    if way == "fusermount3" and fusedev.find_helper() is None:
        pytest.skip("needs fusermount3 (package fuse3)")
    needs_namespace = way in ("user namespace", "plain")
    if needs_namespace and subprocess.run([*_USER, *_NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("needs a kernel that gives ordinary users namespaces")
    folder = Path(tempfile.mkdtemp(prefix="unionfs-test-"))
    try:
        folder.chmod(0o755)
        for package in (ROOT / "unionfs", ROOT / "tests", Path(dnslib.__file__).parent):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(package, folder / "code" / package.name, ignore=ignored)
        os.chown(folder, UID, UID)
        made = f"test -e {folder}/fuse || mknod -m 666 {folder}/fuse c 10 229"
        node = f'{made}; mount --bind {folder}/fuse /dev/fuse && exec "$@"'
        python = _interpreter(folder / "code")
        become = [*_USER, *(_NAMESPACE if way == "user namespace" else []), python]  # "plain": the program sees to it
        yield Runner(folder, ["unshare", "--mount", "sh", "-c", node, "sh", *become])
    finally:
        shutil.rmtree(folder)


def _interpreter(code: Path) -> str:
    """A Python that the user may run; the one that runs the tests may lie in root's home."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        probe = [*_USER, candidate, "-c", "import sys, ctypes; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(probe, capture_output=True, cwd="/").returncode == 0:
            return candidate
    pytest.skip("needs a Python 3.11 or later that other users may run")
