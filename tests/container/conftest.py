"""Fixtures for all that needs containers: they are run, with real namespaces and a real mount."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.launcher import Launcher, copy_state


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root, to make namespaces without a user namespace"))


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with the image `host`."""
    root = tmp_path_factory.mktemp("seed") / "state"
    launcher = Launcher(root)
    launcher.ok("import", "host", "host")
    launcher.ok("tag", "host", "ubuntu:14.04")
    return root


@pytest.fixture
def launcher(seed: Path, tmp_path: Path) -> Iterator[Launcher]:
    """A state of the test's own."""
    root = tmp_path / "state"
    copy_state(seed, root)
    launcher = Launcher(root)
    yield launcher
    launcher.close()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a short name: podman wants its own below 50 characters."""
    path = Path(tempfile.mkdtemp(prefix="pod-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def shared(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """One state for a module whose tests do not get in each other's way."""
    root = tmp_path_factory.mktemp("shared") / "state"
    copy_state(seed, root)
    launcher = Launcher(root)
    yield launcher
    launcher.close()
