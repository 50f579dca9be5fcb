"""Fixtures for the image floor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.image.database import Database
from unionfs.image.store import Store


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root, to keep owners and make device nodes"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Database(str(tmp_path / "state")) as database:
        yield Store(database)
