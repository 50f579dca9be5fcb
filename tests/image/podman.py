"""podman, the oracle of what images and containers mean."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.cli.running import need


class Podman:
    """podman with a storage of its own."""

    def __init__(self, place: Path) -> None:
        self.words = [
            need("podman", "podman"), "--root", str(place / "root"), "--runroot", str(place / "run"),
            "--storage-driver", "vfs", "--runtime", need("runc", "runc"), "--cgroup-manager", "cgroupfs",
            "--events-backend", "file",
        ]  # fmt: skip

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.words, *words], capture_output=True, text=True, timeout=120)

    def ok(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.removesuffix("\n")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Without a network, and with limits below our own, which a machine without CAP_SYS_RESOURCE cannot raise."""
        limits = ("--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000")
        done = self("run", "--rm", "--network", "none", *limits, *words)
        assert done.returncode < 125, done.stderr
        return done
