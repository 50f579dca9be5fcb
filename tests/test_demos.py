"""The demos run, say what they do, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unionfs.linux import mounts

ROOT = Path(__file__).resolve().parents[1]
DEMOS = {
    "layers": [".wh.services", "hello", "Using cache"],
    "volumes": ["from inside", "Read-only file system", "volume is in use"],
    "data-volume-container": ["kept", "Read-only file system"],
    "exec": ["green", "Exited (137)"],
    "networks": ["bob.custom", "0 received", "bob.custom", "custom  (uf-", "ip link add name ve-", "endpoints: ann"],
    "ports": ["127.0.0.1:8080->80/tcp", "hello from the container", "No such file", "is already allocated", "refused"],
    "chroot-escape": ["outside", "still inside"],
}


@pytest.mark.stress
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make namespaces without a user namespace")
@pytest.mark.parametrize("name", DEMOS)
def test_a_demo(name: str, tmp_path: Path) -> None:
    before = {mount.point for mount in mounts.table()}
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "UNIONFS_PYTHON": sys.executable}
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$0"', ROOT / "demos" / name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    position = 0
    for words in DEMOS[name]:
        position = done.stdout.index(words, position)
    assert list(tmp_path.iterdir()) == []
    assert {mount.point for mount in mounts.table()} <= before
