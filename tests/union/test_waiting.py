"""What the engine's one answering thread may do itself, and what it leaves to others."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unionfs import Union
from unionfs.union.operations import Inode

pytestmark = pytest.mark.apart

LARGE = 1 << 20


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/large").write_bytes(os.urandom(LARGE))
    (tmp_path / "lower/small").write_bytes(b"small")
    return tmp_path


@contextmanager
def inode(union: Union, name: str) -> Iterator[Inode]:
    found, _ = union.operations.lookup(union.operations.root, os.fsencode(name))
    yield found
    union.operations.forget(found)


def opens_at_once(union: Union, name: str, flags: int = os.O_RDWR) -> bool:
    with inode(union, name) as found:
        return not union.operations.may_open_wait(found, flags)


def test_opening(place: Path) -> None:
    """By block nothing is copied; where the filesystem shares data the whole file is, which may take a moment."""
    layers = ([place / "lower"], place / "upper", place / "work")
    with Union(*layers, copyup="block") as union:
        assert opens_at_once(union, "large") and opens_at_once(union, "small")
        assert not opens_at_once(union, "large", os.O_RDONLY | os.O_TRUNC)
    with Union(*layers, copyup="whole") as union:
        assert not opens_at_once(union, "large") and opens_at_once(union, "large", os.O_RDONLY)
    with Union(*layers, copyup="auto") as union:
        assert not opens_at_once(union, "small")
        shares = union.operations._waiting._can_clone  # what this filesystem can is not ours to say
        with inode(union, "large") as found:
            assert opens_at_once(union, "large") != shares(found.location)
        assert os.listdir(place / "work/work") == []
    with Union([place / "lower"]) as union:
        assert opens_at_once(union, "large")


def test_changing(place: Path) -> None:
    with Union([place / "lower"], place / "upper", place / "work", copyup="block", copyup_complete="never") as union:
        blocks = union.operations.may_block
        with inode(union, "large") as found:
            assert not blocks(found) and blocks(found, cut=True)
            with union.open("large"):
                union.chmod("large", 0o600)
                assert blocks(found), "it may be completed just now"
            assert not blocks(found) and not blocks(found, cut=True)


def test_opening_while_somebody_copies(place: Path) -> None:
    with Union([place / "lower"], place / "upper", place / "work", copyup="block") as union:
        with inode(union, "large") as found, found.lock:
            answers: list[bool] = []
            thread = threading.Thread(target=lambda: answers.append(opens_at_once(union, "large")))
            thread.start()
            thread.join()
            assert answers == [False]


def test_writing(place: Path) -> None:
    layers = ([place / "lower"], place / "upper", place / "work")
    with Union(*layers, copyup="block", copyup_complete="never") as union:
        waits = union.operations.may_write_wait
        with union.open("large", os.O_RDWR) as file:
            assert not waits(file.handle, 4096, 4096), "a whole block: nothing is copied"
            assert not waits(file.handle, 4097, 10), "its bytes are in the page cache"
            assert not waits(file.handle, LARGE, 10)
            data = file.handle.inode.data
            assert data is not None
            with data.lock:
                assert waits(file.handle, 4096, 4096)
        with union.open("small", os.O_RDWR) as file:
            assert waits(file.handle, 3, 10), "on both sides of the old end: it is synced"
        with union.open("large", os.O_RDWR | os.O_SYNC) as file:
            assert waits(file.handle, 4096, 4096)
