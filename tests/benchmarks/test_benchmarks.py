"""A benchmark about ours alone, and what all of them do: they leave nothing behind, and tell what is wrong."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.benchmarks.running import ground, needs_fuse, refusal, run, start
from unionfs.linux import mounts

__all__ = ["ground"]
pytestmark = [pytest.mark.stress, needs_fuse]


def test_copyup_threshold(ground: Path) -> None:
    shown, found = run("copyup_threshold", ground, "--on", "disk", "--sizes", "4K,64K")
    assert "from which size on" in shown
    rows = {(row["what"], row["peer"], row["size"]) for row in found["rows"]}
    for what in ("first write", "rewrite", "two reads", "all"):
        for peer in ("unionfs whole", "unionfs block", "unionfs block, background"):
            assert {(what, peer, 4 << 10), (what, peer, 64 << 10)} <= rows
    assert any(row["what"] == "crossing, all" for row in found["rows"])


def test_watching(ground: Path) -> None:
    shown, found = run("watching", ground, "--requests", "5", "--rounds", "1")
    rows = {row["peer"]: row for row in found["rows"]}
    assert list(rows) == ["unionfs", "watched before", "control", "watched"] and "a LOOKUP of a name" in shown
    assert rows["unionfs"]["to_unionfs"]["median"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_that_an_interrupted_one_leaves_nothing_behind(ground: Path, number: signal.Signals) -> None:
    """And shows what it has until then."""
    words = ("--rows", "stat", "--peers", "unionfs", "--scale", "0.05", "--rounds", "99")
    process = start("suite", ground, *words, "--json", str(ground.parent / "report.json"))
    end = monotonic() + 60
    while not [mount for mount in mounts.table() if mount.fstype == b"fuse.unionfs" and _is_in(mount, ground)]:
        assert process.poll() is None and monotonic() < end
        sleep(0.01)
    process.send_signal(number)
    shown, said = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "left out: the rest: interrupted" in shown and "stat, cold" in shown
    assert (ground.parent / "report.json").exists()


@pytest.mark.parametrize(
    ("program", "words", "told"),
    [
        ("copyup_threshold", ["--sizes", "4X"], "4X is not a size: write 4K, 16M or 1G"),
        ("suite", ["--rows", "wakl"], '--rows wakl: no row has this in its name: did you mean "walk"?'),
        ("suite", ["--rows", "zebra"], "--rows zebra: no row has this in its name: see --list"),
        ("suite", ["--peers", "overlaysf"], 'no peer has this in its name: did you mean "overlayfs"?'),
        ("suite", ["--peers", "zebra"], "no peer has this in its name: they are: unionfs"),
        ("suite", ["--on", "tmpsf"], '--on tmpsf: did you mean "tmpfs"?'),
        ("suite", ["--scale", "0"], "must be above 0"),
        ("suite", ["--scale", "11"], "must be 10 at most"),
        ("suite", ["--minutes", "0"], "must be above 0"),
        ("suite", ["--rounds", "0"], "must be 1 at least"),
        ("suite", ["--from", "nowhere.json"], "--from nowhere.json: no such file or directory"),
    ],
)
def test_that_a_wrong_option_is_told(ground: Path, program: str, words: list[str], told: str) -> None:
    status, said = refusal(program, ground, *words)
    assert status and told in said
    assert "Traceback" not in said


def _is_in(mount: mounts.Mount, directory: Path) -> bool:
    return mount.point.startswith(os.fsencode(directory) + b"/")
