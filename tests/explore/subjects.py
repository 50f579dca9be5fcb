"""Layers for the explorer: something of every kind in three of them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.changes.layers import HandMade
from unionfs.explore.view import Subject
from unionfs.layer.stack import Stack


def layers(path: Path) -> list[HandMade]:
    upper, middle, base = (HandMade(path / name) for name in ("upper", "middle", "base"))
    base.file("etc/passwd", "root\n")
    base.file("etc/services", "x" * 5000)
    base.file("usr/manual", "x" * 9000)
    base.file("home/user/file", "x")
    middle.file("etc/services", "y" * 6000)
    middle.file("etc/motd", "hello\n")
    middle.whiteout("usr/manual")
    upper.file("etc/hosts", "mine\n")
    upper.whiteout("etc/passwd")
    upper.opaque("home")
    upper.whiteout("nothing")
    os.symlink("etc/motd", upper.path / "link")
    return [upper, middle, base]


def subject(path: Path) -> Subject:
    paths = [os.fsencode(layer.path) for layer in layers(path)]
    return Subject("made", lambda: Stack.open(paths), ("upper", "lower", "lower"))
