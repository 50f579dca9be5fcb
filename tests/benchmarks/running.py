"""The programs of benchmarks/ as a user runs them: a process, what it shows, the JSON it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unionfs.linux import mounts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount what ours is compared with")


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """A directory to measure in, that must be as empty afterwards as before."""
    path = tmp_path / "ground"
    path.mkdir()
    yield path
    assert not list(path.iterdir())
    assert not [mount for mount in mounts.table() if mount.point.startswith(os.fsencode(path))]


def start(program: str, ground: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(BENCHMARKS / f"{program}.py"), "--dir", str(ground), "--rounds", "1", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ground.parent)


def run(program: str, ground: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What it shows, and its JSON."""
    report = ground.parent / "report.json"
    process = start(program, ground, "--json", str(report), *arguments)
    shown, progress = process.communicate()
    assert process.returncode == 0, progress
    found = json.loads(report.read_text())
    assert found["benchmark"] == program
    assert {"kernel", "processor", "unionfs"} <= found["machine"].keys()
    timed = [row["ms"] for row in found["rows"] if "ms" in row]
    assert timed and all(0 <= ms["low"] <= ms["median"] <= ms["high"] <= ms["longest"] for ms in timed)
    return shown, found


def refusal(program: str, ground: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and words of a run that was asked for what cannot be."""
    process = start(program, ground, *arguments)
    _, said = process.communicate()
    return process.returncode, said
