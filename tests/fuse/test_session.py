"""`unionfs.mount(...)`: the mount as a Python program uses it, on real mounts."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import unionfs
from unionfs.linux import fusedev, mounts

pytestmark = [
    pytest.mark.skipif(not os.access(fusedev.DEVICE, os.R_OK | os.W_OK), reason="needs access to /dev/fuse"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount by mount(2)"),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, with directories for a union; what is mounted in it goes at the end."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_text("lower\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for entry in reversed(mounts.table()):
        if entry.point.startswith(os.fsencode(tmp_path.resolve()) + b"/"):
            mounts.unmount(entry.point, mounts.MNT_DETACH)


def mounted(**options: Any) -> unionfs.Mount:
    return unionfs.mount("merged", lower=["lower"], upper="upper", work="work", **options)


def test_the_whole_life(place: Path) -> None:
    with mounted() as union:
        assert union.path == place / "merged"
        assert os.listdir(union.path) == ["file"]
        (union.path / "file").write_text("changed\n")
        (union.path / "new").mkdir()
    assert not mounts.is_mountpoint(os.fsencode(place / "merged"))
    assert (place / "lower" / "file").read_text() == "lower\n"
    assert (place / "upper" / "file").read_text() == "changed\n"


def test_read_only_layers(place: Path) -> None:
    with unionfs.mount("merged", lower=["upper", "lower"]) as union:
        with pytest.raises(OSError, match="Read-only"):
            (union.path / "new").touch()


def test_names_of_any_type(place: Path) -> None:
    with unionfs.mount(b"merged", lower=[Path("lower"), b"/etc"], upper=place / "upper", work="work") as union:
        assert (union.path / "file").read_text() == "lower\n"
        assert (union.path / "passwd").exists()


@pytest.mark.parametrize(
    "name",
    ["a,b", "a:b", "a\\b", "\\:,\\", " a b ", "a\udcffb", "ä", "-o", "--help"],
)
def test_any_name_can_be_a_layer(place: Path, name: str) -> None:
    for kind in ("l", "u", "w"):
        (place / kind / name).mkdir(parents=True)
    (place / "l" / name / "found").touch()
    (place / name).mkdir()
    with unionfs.mount(name, lower=[f"l/{name}"], upper=f"u/{name}", work=f"w/{name}", source=name) as union:
        assert os.listdir(union.path) == ["found"]
        assert mounts.find(os.fsencode(union.path)).source == os.fsencode(name)


def test_options(place: Path) -> None:
    with mounted(nosuid=True, noexec=False, dialect="overlay", log="messages", source="a name") as union:
        entry = mounts.find(os.fsencode(union.path))
        assert entry.source == b"a name"
        assert b"nosuid" in entry.options and b"noexec" not in entry.options
        (union.path / "file").unlink()
    assert (place / "upper" / "file").is_char_device()
    assert "mounted on" in (place / "messages").read_text()


@pytest.mark.parametrize("engine", ["native", "fusepy"])
def test_engines(place: Path, engine: str) -> None:
    if engine == "fusepy" and importlib.util.find_spec("fuse") is None:
        pytest.skip("needs the Python package fusepy")
    with mounted(engine=engine) as union:
        assert (union.path / "file").read_text() == "lower\n"


def test_every_fault_at_once(place: Path) -> None:
    with pytest.raises(unionfs.UnionfsError) as raised:
        unionfs.mount("missing", lower=["nowhere", "lower/file"], upper="upper", work="work", kazoo=True, engine="rust")
    words = ("kazoo", "engine=rust", "mount point", "nowhere: no such file", "file: not a directory")
    assert all(word in str(raised.value) for word in words)


def test_without_layers(place: Path) -> None:
    with pytest.raises(unionfs.UnionfsError, match="at least one lower layer"):
        unionfs.mount("merged")


def test_a_failure_inside_unmounts(place: Path) -> None:
    with pytest.raises(RuntimeError, match="of its own"), mounted():
        raise RuntimeError("of its own")
    assert not mounts.is_mountpoint(os.fsencode(place / "merged"))


def test_one_in_use(place: Path) -> None:
    union = mounted()
    with open(union.path / "file"):
        with pytest.raises(unionfs.UnionfsError, match="it is in use"):
            union.unmount()
        assert mounts.is_mountpoint(os.fsencode(union.path))
        union.unmount(lazy=True)
    assert not mounts.is_mountpoint(os.fsencode(union.path))


def test_unmounted_twice(place: Path) -> None:
    union = mounted()
    union.unmount()
    with pytest.raises(unionfs.UnionfsError, match="nothing is mounted there"):
        union.unmount()


def test_two_at_once_and_one_on_top_of_another(place: Path) -> None:
    (place / "top").mkdir()
    with mounted() as first, unionfs.mount("top", lower=[first.path]) as second:
        assert (second.path / "file").read_text() == "lower\n"


def test_the_current_directory_is_not_imported(place: Path) -> None:
    (place / "argparse.py").write_text("raise SystemExit('imported from the current directory')\n")
    with mounted() as union:
        assert "file" in os.listdir(union.path)


def test_the_current_directory_may_change(place: Path) -> None:
    with mounted() as union:
        os.chdir("/")
        assert os.listdir(union.path) == ["file"]


def test_one_name_is_no_sequence_of_layers(place: Path) -> None:
    with pytest.raises(TypeError, match="a sequence of names"):
        unionfs.mount("merged", lower="lower")
    with pytest.raises(TypeError, match="a sequence of names"):
        unionfs.Union("lower")
