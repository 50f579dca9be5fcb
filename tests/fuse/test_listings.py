"""Directories that nobody opens: what the kernel asks for, and what the daemon keeps."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import unionfs
from unionfs.fuse.calls import STATS_XATTR
from unionfs.fuse.listings import Listings
from unionfs.fuse.mount import unmount
from unionfs.fuse.nodes import Nodes
from unionfs.linux import fusedev, mounts
from unionfs.union.operations import Caller, Operations

mounting = [
    pytest.mark.skipif(not os.access(fusedev.DEVICE, os.R_OK | os.W_OK), reason="needs access to /dev/fuse"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts"),
]
ROOT = Caller(0, 0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("UNIONFS_CACHE", str(tmp_path / "cache"))
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    for number in range(20):
        (tmp_path / f"lower/{number}/sub").mkdir(parents=True)
        (tmp_path / f"lower/{number}/file").touch()
    (tmp_path / "lower/many").mkdir()
    for number in range(2000):
        (tmp_path / f"lower/many/{number}").touch()
    (tmp_path / "upper/mine/sub").mkdir(parents=True)
    yield tmp_path
    while mounts.is_mountpoint(os.fsencode(tmp_path / "merged")):
        unmount(os.fsencode(tmp_path / "merged"), lazy=True)


def mount(place: Path, index: bool) -> Path:
    return unionfs.mount(place / "merged", [place / "lower"], place / "upper", place / "work", engine="native", index=index)


def counts(merged: Path) -> Callable[[], dict[str, int]]:
    """How many requests there were of each kind since it was called last."""
    last: dict[str, int] = {}

    def since() -> dict[str, int]:
        now = json.loads(os.getxattr(merged, STATS_XATTR))["requests"]
        new = {name: count - last.get(name, 0) for name, count in now.items() if count != last.get(name, 0)}
        last.update(now)
        return new

    since()
    return since


def walk(path: Path) -> list[str]:
    """Every name, as find(1) without any tests."""
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            found.append(entry.path)
            if entry.is_dir(follow_symlinks=False):
                found += walk(Path(entry.path))
    return found
