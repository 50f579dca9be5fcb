"""The launcher as a user runs it, on a state of its own with one small image, `host`, of this machine's programs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.cli.running import COMMAND, ROOT, Result, run

SECONDS = 60


class Launcher:
    """Commands on one state directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {"PATH": os.environ["PATH"], "UNIONFS_ROOT": str(root), "PYTHONPATH": str(ROOT)}
        self.environment["UNIONFS_NETWORK"] = "none"  # no test touches the machine's own network

    def __call__(self, *words: str | Path, cwd: Path | None = None) -> Result:
        return run([*COMMAND, *words], cwd, self.environment)

    def ok(self, *words: str | Path, cwd: Path | None = None) -> str:
        """What a command that must succeed prints, without the end of its last line."""
        result = self(*words, cwd=cwd)
        assert result.status == 0, f"{words}: {result}"
        return result.out.removesuffix("\n")

    def piped(self, words: list[str], data: bytes) -> bytes:
        """The standard output of a command that gets `data` on its standard input."""
        command = [*COMMAND, *words]
        done = subprocess.run(command, input=data, env=self.environment, capture_output=True, timeout=SECONDS)
        assert done.returncode == 0, (done.returncode, len(done.stdout), done.stderr.decode())
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        pipe = subprocess.PIPE
        command = [*COMMAND, *words]
        return subprocess.Popen(command, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe)

    def inspect(self, name: str) -> Any:
        return json.loads(self.ok("inspect", name))[0]

    def names(self) -> list[str]:
        return self.ok("ps", "-a", "--format", "{{.Names}}").split()

    def close(self) -> None:
        """Nothing of it is left: no container, no process, no cgroup."""
        ids = self.ok("ps", "-aq", "--no-trunc").split()
        if ids:
            self("rm", "-f", "-v", *ids)


def copy_state(source: Path, target: Path) -> None:
    """A state with the same images; files are hard links, the database is a copy."""
    subprocess.run(["cp", "-al", str(source), str(target)], check=True)
    for name in target.glob("state.db*"):
        content = name.read_bytes()
        name.unlink()
        name.write_bytes(content)
