"""The command as a user runs it: a process, its words on standard output and error, its exit status."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from unionfs.linux import fusedev, mounts

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-P", "-m", "unionfs")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
can_mount = os.access(fusedev.DEVICE, os.R_OK | os.W_OK) and os.geteuid() == 0
needs_mount = pytest.mark.skipif(not can_mount, reason="needs root and access to /dev/fuse, to mount by mount(2)")


class Result(NamedTuple):
    status: int
    out: str
    err: str


def run(
    words: Sequence[str | bytes | Path], cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Result:
    """Run a program, with nothing in its environment but PATH (and what finds this checkout) unless it is given."""
    variables = {"PATH": os.environ.get("PATH", "")} if environment is None else dict(environment)
    variables.setdefault("PYTHONPATH", str(ROOT))
    done = subprocess.run(words, cwd=cwd, env=variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    out, err = (stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr))
    return Result(done.returncode, out, err)


def unionfs(
    *words: str | bytes | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Result:
    return run([*COMMAND, *words], cwd, environment)


class Stage:
    """Directories for a union in a place of their own, and the mounts in it, which are undone at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("lower", "upper", "work", "merged"):
            (path / name).mkdir()
        (path / "lower" / "file").write_text("lower\n")
        self.merged = path / "merged"
        self.layers = "lowerdir=lower,upperdir=upper,workdir=work"

    def mount(self, options: str = "", *words: str) -> Result:
        both = f"{self.layers},{options}" if options else self.layers
        return unionfs("mount", "merged", "-o", both, *words, cwd=self.path)

    def umount(self) -> Result:
        return unionfs("umount", "merged", cwd=self.path)

    def entry(self) -> mounts.Mount | None:
        """The mount on `merged`, if it is there."""
        point = os.fsencode(self.merged.resolve())
        return next((entry for entry in reversed(mounts.table()) if entry.point == point), None)

    def close(self) -> None:
        inside = os.fsencode(self.path.resolve()) + b"/"
        for entry in reversed(mounts.table()):
            if entry.point.startswith(inside):
                mounts.unmount(entry.point, mounts.MNT_DETACH)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def need(program: str, package: str) -> str:
    """The path of a program, or a skip that names it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program} ({package})")
    return path
