"""A union that was never mounted: its layers made by hand, and recorded as a mount would have."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.changes.layers import HandMade
from unionfs.cli.main import main


class Made:
    """An upper, a work directory and lower layers, `lower1` on top of `lower2`."""

    def __init__(self, path: Path, dialect: str = "aufs") -> None:
        self.path = path
        self.upper = HandMade(path / "upper", dialect)
        self.lower = [HandMade(path / name, dialect) for name in ("lower1", "lower2")]
        self.work = path / "work"
        (self.work / "work").mkdir(parents=True)
        self.record(dialect=dialect)

    def record(self, **other: Any) -> None:
        config = {
            "version": 1, "lowerdir": [str(layer.path) for layer in self.lower], "upperdir": str(self.upper.path),
            "workdir": str(self.work), "dialect": "aufs", "userxattr": False, "volatile": False, **other,
        }  # fmt: skip
        (self.work / "stack.json").write_text(json.dumps(config))
        os.setxattr(self.upper.path, "trusted.unionfs.work", os.fsencode(self.work))


class Caller:
    """Runs the command in this process; the last run's words are kept."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: str | Path) -> int:
        self._capsys.readouterr()
        status = main(list(map(str, words)))
        self.out, self.err = self._capsys.readouterr()
        return status
