"""Directories of the lower layers, told name by name without an inode of each."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from unionfs.union.operations import Operations

pytestmark = pytest.mark.apart


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="unionfs-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_names_are_found_where_they_cannot_be_listed(open_place: Path) -> None:
    (open_place / "lower/closed").mkdir(parents=True)
    for number in range(40):
        (open_place / f"lower/closed/file{number}").touch()
    (open_place / "lower/closed").chmod(0o711)
    os.seteuid(65534)
    try:
        with closing(Operations([open_place / "lower"])) as union:
            closed = union.lookup(union.root, b"closed")[0]
            found = [union.lookup(closed, b"file%d" % number)[0] for number in range(40)]
            assert len(set(found)) == 40
    finally:
        os.seteuid(0)


def test_what_is_told_without_an_inode(tmp_path: Path) -> None:
    for name in ("lower/dir", "upper", "work"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/dir/plain").write_bytes(b"plain")
    (tmp_path / "lower/dir/held").touch()
    (tmp_path / "lower/dir/one").touch()
    os.link(tmp_path / "lower/dir/one", tmp_path / "lower/dir/two")
    (tmp_path / "lower/dir/sub").mkdir()
    with closing(Operations([tmp_path / "lower"], tmp_path / "upper", tmp_path / "work")) as union:
        directory = union.lookup(union.root, b"dir")[0]
        held = union.lookup(directory, b"held")[0]
        assert union.scan.names(union.root) is None
        scanned = union.scan.names(directory)
        assert scanned is not None
        attributes = union.scan.plain(directory, scanned)
        told = {name: found for (name, *_), found in zip(scanned, attributes, strict=True)}
        assert {name for name, found in told.items() if found} == {b"plain"}
        assert told[b"plain"] == union.lookup(directory, b"plain")[1]
        assert not union.scan.hides(directory, b"plain")
        union.unlink(directory, b"plain")
        assert union.scan.hides(directory, b"plain") and not union.scan.is_lower(directory)
        assert union.scan.names(directory) is None and not union.scan.hides(directory, b"held")
        union.forget(held)
