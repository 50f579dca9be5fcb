"""The two dialects: what they write is what their formats say, and they read it back; neither reads the other's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.layer.layer import Directory
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import WHITEOUT, Dialect

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes and device nodes")


class Layers:
    """An open stack of one lower layer and an upper."""

    def __init__(self, path: Path, dialect: str) -> None:
        for name in ("lower", "upper", "work"):
            (path / name).mkdir(exist_ok=True)
        lower, upper, work = (os.fsencode(path / name) for name in ("lower", "upper", "work"))
        self.stack = Stack.open([lower], upper, work, dialect)
        self.path = path / "upper"
        self.upper = self.stack.layers[0].root
        self.lower = self.stack.layers[1].root
        assert self.stack.work is not None
        self.work = self.stack.work

    @property
    def dialect(self) -> Dialect:
        return self.stack.dialect

    def again(self) -> Directory:
        """The upper as somebody sees it who opens it now."""
        return Directory(self.upper.layer, None, b"", os.open(self.path, os.O_PATH | os.O_DIRECTORY))


@pytest.fixture(params=["aufs", "overlay"])
def layers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layers]:
    opened = Layers(tmp_path, request.param)
    yield opened
    opened.stack.close()


@pytest.fixture
def aufs(tmp_path: Path) -> Iterator[Layers]:
    opened = Layers(tmp_path, "aufs")
    yield opened
    opened.stack.close()


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Layers]:
    opened = Layers(tmp_path, "overlay")
    yield opened
    opened.stack.close()


def test_a_whiteout_hides_and_is_read_back(layers: Layers) -> None:
    layers.dialect.whiteout(layers.upper, b"f", layers.work)
    for directory in (layers.upper, layers.again()):
        assert layers.dialect.find(directory, b"f") is WHITEOUT
        assert layers.dialect.hides(directory, b"f") and not layers.dialect.hides(directory, b"g")
        assert layers.dialect.read(directory) == ({}, {b"f"})


def test_a_whiteout_takes_the_uppers_own_object(layers: Layers) -> None:
    (layers.path / "f").write_text("x")
    (layers.path / "d" / "e").mkdir(parents=True)
    for name in (b"f", b"d"):
        layers.dialect.whiteout(layers.upper, name, layers.work)
        assert layers.dialect.find(layers.again(), name) is WHITEOUT
    assert layers.dialect.read(layers.again()) == ({}, {b"f", b"d"})


def test_whiteouts_of_aufs(aufs: Layers) -> None:
    for name in (b"f", b"g"):
        aufs.dialect.whiteout(aufs.upper, name, aufs.work)
    one, other = (os.lstat(aufs.path / name) for name in (".wh.f", ".wh.g"))
    assert stat.S_ISREG(one.st_mode) and one.st_size == 0
    assert one.st_ino == other.st_ino


def test_whiteouts_of_overlay(overlay: Layers) -> None:
    overlay.dialect.whiteout(overlay.upper, b"f", overlay.work)
    made = os.lstat(overlay.path / "f")
    assert stat.S_ISCHR(made.st_mode) and made.st_rdev == 0


def test_no_dialect_reads_the_others_marks(aufs: Layers, tmp_path: Path) -> None:
    os.mknod(aufs.path / "device", stat.S_IFCHR, 0)
    found = aufs.dialect.find(aufs.upper, b"device")
    assert isinstance(found, os.stat_result)
    aufs.stack.close()
    overlay = Layers(tmp_path, "overlay")
    (overlay.path / ".wh.f").touch()
    assert overlay.dialect.find(overlay.upper, b"f") is None
    assert isinstance(overlay.dialect.find(overlay.upper, b".wh.f"), os.stat_result)
    overlay.stack.close()


def test_opaque_and_redirect(layers: Layers) -> None:
    for name in ("opaque", "moved"):
        (layers.path / name).mkdir()
    opaque, moved = layers.upper.child(b"opaque"), layers.upper.child(b"moved")
    os.utime(layers.path / "opaque", ns=(1, 2))
    os.utime(layers.path / "moved", ns=(3, 4))
    layers.dialect.set_opaque(opaque)
    layers.dialect.set_redirect(moved, b"/old/path", layers.work)
    upper = layers.again()
    assert layers.dialect.is_opaque(upper.child(b"opaque")) and layers.dialect.redirect(upper.child(b"opaque")) is None
    assert layers.dialect.redirect(upper.child(b"moved")) == b"/old/path" and not layers.dialect.is_opaque(moved)
    assert os.stat(layers.path / "opaque").st_mtime_ns == 2 and os.stat(layers.path / "moved").st_mtime_ns == 4
    assert layers.dialect.read(opaque)[0] == layers.dialect.read(moved)[0] == {}
    layers.dialect.set_redirect(moved, b"/newer", layers.work)
    assert layers.dialect.redirect(layers.again().child(b"moved")) == b"/newer"


def test_what_the_formats_look_like(aufs: Layers) -> None:
    (aufs.path / "d").mkdir()
    directory = aufs.upper.child(b"d")
    aufs.dialect.set_opaque(directory)
    aufs.dialect.set_redirect(directory, b"name", aufs.work)
    assert sorted(os.listdir(aufs.path / "d")) == [".wh..wh..opq", ".wh..wh..redirect"]
    assert os.readlink(aufs.path / "d" / ".wh..wh..redirect") == "name"


def test_what_the_kernels_formats_look_like(overlay: Layers) -> None:
    (overlay.path / "d").mkdir()
    directory = overlay.upper.child(b"d")
    overlay.dialect.set_opaque(directory)
    overlay.dialect.set_redirect(directory, b"name", overlay.work)
    attributes = {name: os.getxattr(overlay.path / "d", name) for name in os.listxattr(overlay.path / "d")}
    assert attributes == {"trusted.overlay.opaque": b"y", "trusted.overlay.redirect": b"name"}


def test_an_object_beside_its_own_whiteout_is_there_and_opaque(aufs: Layers) -> None:
    """OCI image specification, layer.md: a whiteout hides lower layers only, whatever the order."""
    (aufs.path / "d").mkdir()
    (aufs.path / ".wh.d").touch()
    assert isinstance(aufs.dialect.find(aufs.upper, b"d"), os.stat_result)
    assert aufs.dialect.is_opaque(aufs.upper.child(b"d"))
    assert aufs.dialect.read(aufs.upper) == ({b"d": 4}, {b"d"})


def test_the_kernels_other_whiteout_is_read(overlay: Layers, tmp_path: Path) -> None:
    """overlayfs.rst: an empty file with the attribute `whiteout`, in a directory marked opaque=x."""
    lower = tmp_path / "lower"
    (lower / "f").touch()
    os.setxattr(lower / "f", "trusted.overlay.whiteout", b"y")
    assert isinstance(overlay.dialect.find(overlay.lower, b"f"), os.stat_result)
    os.setxattr(lower, "trusted.overlay.opaque", b"x")
    overlay.lower.marks.clear()
    assert overlay.dialect.find(overlay.lower, b"f") is WHITEOUT
    assert overlay.dialect.read(overlay.lower) == ({}, {b"f"})
    assert not overlay.dialect.is_opaque(overlay.lower)


def test_renaming_leaves_a_whiteout(layers: Layers) -> None:
    (layers.path / "old").write_text("x")
    layers.dialect.whiteout(layers.upper, b"new", layers.work)
    old, new = (layers.upper, b"old"), (layers.upper, b"new")
    layers.dialect.move(old, new, False, True, layers.work)
    upper = layers.again()
    assert layers.dialect.find(upper, b"old") is WHITEOUT
    assert isinstance(layers.dialect.find(upper, b"new"), os.stat_result)
    assert layers.dialect.read(upper) == ({b"new": 8}, {b"old"})
    assert layers.dialect.read(layers.upper) == layers.dialect.read(upper)


@pytest.mark.parametrize("leave", [False, True])
def test_a_directory_takes_the_place_of_a_whiteout(layers: Layers, leave: bool) -> None:
    (layers.path / "old").mkdir()
    layers.dialect.whiteout(layers.upper, b"new", layers.work)
    layers.dialect.move((layers.upper, b"old"), (layers.upper, b"new"), True, leave, layers.work)
    assert layers.dialect.read(layers.again()) == ({b"new": 4}, {b"old"} if leave else set())


def test_bookkeeping_attributes(layers: Layers) -> None:
    dialect = layers.dialect
    assert dialect.is_mark(b"trusted.unionfs.origin") and not dialect.is_mark(b"user.mine")
    assert dialect.shown(dialect.stored(b"trusted.overlay.opaque")) == b"trusted.overlay.opaque"
    assert not dialect.is_mark(dialect.stored(b"trusted.overlay.opaque"))
    assert dialect.is_mark(b"trusted.overlay.opaque") == (dialect.name == "overlay")


def test_reserved_names_and_nodes(aufs: Layers) -> None:
    assert aufs.dialect.is_reserved(b".wh.x") and not aufs.dialect.is_reserved(b".wha")
    assert aufs.dialect.longest_name == 251
    assert not aufs.dialect.is_reserved_node(stat.S_IFCHR, 0)


def test_reserved_nodes_of_overlay(overlay: Layers) -> None:
    assert overlay.dialect.is_reserved_node(stat.S_IFCHR | 0o600, 0)
    assert not overlay.dialect.is_reserved_node(stat.S_IFBLK, 0)
    assert not overlay.dialect.is_reserved(b".wh.x")
