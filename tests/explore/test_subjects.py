"""What can be explored, besides a mount: a container, running or not, and an image."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.cli.running import needs_mount, unionfs
from unionfs.cli.explore import subject_of
from unionfs.explore import view

pytestmark = [needs_mount, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image of two layers, `made`, the second of which deletes a file of the first."""
    environment = {"UNIONFS_ROOT": str(tmp_path / "state"), "PATH": os.environ["PATH"], "UNIONFS_NETWORK": "none"}
    monkeypatch.setenv("UNIONFS_ROOT", environment["UNIONFS_ROOT"])
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("x" * 5000)
    archive = tmp_path / "root.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, "/")
    done = unionfs("import", str(archive), "base", environment=environment)
    assert done.status == 0, done.err
    (tmp_path / "Dockerfile").write_text("FROM base\nCOPY more /more\n")
    (tmp_path / "more").write_text("more")
    done = unionfs("build", "-t", "made", str(tmp_path), environment=environment)
    assert done.status == 0, done.err
    return "made"


def test_an_image(image: str) -> None:
    subject = subject_of(image)
    told = view.union(subject)
    assert [layer["role"] for layer in told["layers"]] == ["lower", "lower"] and not told["mounted"]
    assert "more" in told["layers"][0]["made_by"]
    found = {entry["name"]: entry["layer"] for entry in view.listing(subject, "")["entries"]}
    assert found == {"file": 1, "more": 0}
    done = unionfs("layers", "--json", image, environment={**os.environ})
    assert [layer["files"] for layer in json.loads(done.out)] == [1, 1]


def test_a_container(image: str, tmp_path: Path) -> None:
    done = unionfs("create", "--name", "one", image, "/none", environment={**os.environ})
    assert done.status == 0, done.err
    subject = subject_of("one")
    assert subject.roles[0] == "upper" and subject.mountpoint is None
    assert {"file", "more"} <= {entry["name"] for entry in view.listing(subject, "")["entries"]}
    done = unionfs("trace", "one", environment={**os.environ})
    assert done.status == 1 and "does not run" in done.err and "unionfs start one" in done.err
