"""The benchmarks run, show their tables, write the rows they promise, and leave nothing behind. No time is judged.

Peers that are not installed are left out, as the programs themselves do it; without privileges, ours alone is measured.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from unionfs.linux import mounts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZE = 128 << 10
pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"),
]


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """A directory to measure in, that must be as empty afterwards as before."""
    path = tmp_path / "ground"
    path.mkdir()
    yield path
    assert not list(path.iterdir())
    assert not [mount for mount in mounts.table() if mount.point.startswith(os.fsencode(path))]


def start(program: str, ground: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(BENCHMARKS / f"{program}.py"), "--dir", str(ground), "--rounds", "1"]
    command += arguments
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
    assert timed and all(0 < ms["low"] <= ms["median"] <= ms["high"] <= ms["longest"] for ms in timed)
    return shown, found


def test_first_write(ground: Path) -> None:
    shown, found = run("first_write", ground, "--on", "disk", "--sizes", str(SIZE), "--hold", "0.05")
    assert "write 4 KiB" in shown and "a lookup of another name" in shown
    rows = {(row["what"], row["peer"]): row for row in found["rows"]}
    for what in ("write 4 KiB", "chmod", "append 1 byte", "truncate to half"):
        for peer in ("unionfs whole", "unionfs block", "unionfs auto"):
            assert rows[what, peer]["size"] == SIZE
    assert rows["write 4 KiB", "unionfs whole"]["upper_bytes"] >= SIZE > rows["chmod", "unionfs block"]["upper_bytes"]
    assert rows["stall", "unionfs whole"]["lookups"] > 0


def test_after_first_write(ground: Path) -> None:
    shown, found = run("after_first_write", ground, "--size", "256K", "--count", "5", "--peers", "unionfs,volatile")
    assert "completed after s" in shown.lower()
    rows = {(row["what"], row["peer"]): row for row in found["rows"]}
    for what in ("first write", "random writes", "random reads", "sequential read"):
        for peer in ("whole", "block, never", "block, background", "block, close, completed"):
            assert (what, f"unionfs {peer}") in rows
    assert len({row["filesystem"] for row in found["rows"]}) == (2 if os.geteuid() == 0 else 1)
    done = rows["first write", "unionfs block, background, completed"]
    assert done["completion_s"] > 0 and done["upper_bytes"][1] >= 256 << 10


def test_copyup_threshold(ground: Path) -> None:
    shown, found = run("copyup_threshold", ground, "--sizes", "4K,64K")
    assert "from which size on" in shown
    rows = {(row["what"], row["peer"], row["size"]) for row in found["rows"]}
    for what in ("first write", "rewrite", "two reads", "all"):
        for peer in ("unionfs whole", "unionfs block", "unionfs block, background"):
            assert {(what, peer, 4 << 10), (what, peer, 64 << 10)} <= rows
    assert any(row["what"] == "crossing, all" for row in found["rows"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_that_an_interrupted_one_leaves_nothing_behind(ground: Path, number: signal.Signals) -> None:
    process = start("first_write", ground, "--on", "disk", "--sizes", "4K", "--rounds", "99", "--peers", "block")
    end = monotonic() + 60
    while not [mount for mount in mounts.table() if mount.fstype == b"fuse.unionfs" and _is_in(mount, ground)]:
        assert process.poll() is None and monotonic() < end
        sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said


def test_that_a_wrong_option_is_told(ground: Path) -> None:
    process = start("first_write", ground, "--sizes", "4X")
    _, said = process.communicate()
    assert process.returncode == 2
    assert "4X is not a size: write 4K, 16M or 1G" in said


def _is_in(mount: mounts.Mount, directory: Path) -> bool:
    return mount.point.startswith(os.fsencode(directory) + b"/")
