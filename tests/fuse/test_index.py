"""The layer index: what it holds, when it is built anew, and that what is seen through it is what the layers have."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import unionfs
from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.fuse import indexing
from unionfs.fuse.index import NUMBER, DamagedIndex, Index
from unionfs.fuse.mount import unmount, wants_index
from unionfs.fuse.records import SHIFT, Counts
from unionfs.linux import mounts
from unionfs.union.operations import Operations

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("UNIONFS_CACHE", str(tmp_path / "cache"))
    for name in ("top/d/sub", "bottom/d/sub/deep", "bottom/e", "upper", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "top/d/new").write_bytes(b"new")
    (tmp_path / "top/d/.wh.gone").touch()
    (tmp_path / "bottom/d/gone").write_bytes(b"gone")
    (tmp_path / "bottom/d/old").write_bytes(b"old")
    (tmp_path / "bottom/e/one").write_bytes(b"linked")
    os.link(tmp_path / "bottom/e/one", tmp_path / "bottom/e/other")
    os.symlink("d/old", tmp_path / "bottom/link")
    yield tmp_path
    while mounts.is_mountpoint(os.fsencode(tmp_path / "merged")):
        unmount(os.fsencode(tmp_path / "merged"), lazy=True)


def load(place: Path, **options: str) -> Index:
    lowers = [place / "top", place / "bottom"]
    with closing(Operations(lowers, place / "upper", place / "work", **options)) as union:
        return indexing.load(union.stack, union.scan.lower_roots(), lambda count: None)


def names(index: Index) -> dict[str, bool]:
    """Path -> whether its record has a node."""
    found = {}
    paths = {0: ""}
    for node in range(1, len(index)):
        name, *_ = index.item(node - 1)
        paths[node] = f"{paths[index.parents[node]]}/{name.decode()}"
        found[paths[node]] = index.node_at(node - 1) is not None
    return found


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many indexes were built."""
    count = 0

    def listen(kind: str, fields: dict[str, object]) -> None:
        nonlocal count
        count += kind == "log" and str(fields["message"]).startswith("indexed")

    events.listeners.append(listen)
    yield lambda: count
    events.listeners.remove(listen)


def age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as if nothing had changed shortly before it is indexed."""
    monkeypatch.setattr(indexing, "_RACY_SECONDS", -3600)


def test_what_it_holds(place: Path) -> None:
    index = load(place)
    assert names(index) == {
        "/d": True, "/e": True, "/link": True, "/d/new": True, "/d/old": True, "/d/sub": True, "/d/sub/deep": True,
        "/e/one": False, "/e/other": False,
    }  # fmt: skip
    d = index.find(0, b"d")
    assert d is not None and index.find(0, b"old") is None and index.find(d, b"gone") is None
    old = index.find(d, b"old")
    assert old is not None and index.nodeid_of_parent(old - 1) == index.nodeid(d)


def test_it_is_used_again_while_the_layers_are_the_same(
    place: Path, built: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    age(monkeypatch)
    first = names(load(place))
    assert names(load(place)) == first and built() == 1


CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda place: (place / "bottom/d/sub/deep/file").touch(),
    "a deletion": lambda place: (place / "bottom/d/old").unlink(),
    "content, mtime put back": lambda place: rewrite(place / "bottom/d/old", b"odd"),
    "mode": lambda place: (place / "top/d/new").chmod(0o600),
    "an attribute": lambda place: os.setxattr(place / "top/d/new", "user.a", b"b"),
    "a whiteout": lambda place: (place / "top/.wh.e").touch(),
    "opaque": lambda place: (place / "top/d/.wh..wh..opq").touch(),
    "a name": lambda place: (place / "bottom/d/old").rename(place / "bottom/d/renamed"),
    "a file over another": lambda place: (place / "top/link").write_bytes(b"file"),
    "the mode of a directory below": lambda place: (place / "bottom/d/sub").chmod(0o700),
}


def rewrite(path: Path, content: bytes) -> None:
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("what", CHANGES)
def test_it_is_built_anew_when_a_layer_differs(
    place: Path, built: Callable[[], int], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    age(monkeypatch)
    load(place)
    time.sleep(0.02)  # ctime is that of the clock's last tick
    CHANGES[what](place)
    load(place)
    assert built() == 2


def test_what_changed_just_before_is_looked_at_again(place: Path, built: Callable[[], int]) -> None:
    load(place)
    load(place)
    assert built() == 2


def test_each_stack_has_its_own(place: Path, built: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    age(monkeypatch)
    load(place)
    with closing(Operations([place / "bottom", place / "top"], place / "upper", place / "work")) as union:
        indexing.load(union.stack, union.scan.lower_roots(), lambda count: None)
    assert built() == 2 and len(list((place / "cache").iterdir())) == 2
    load(place)
    assert built() == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "empty"])
def test_a_damaged_file_is_not_believed(
    place: Path, built: Callable[[], int], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    age(monkeypatch)
    expected = names(load(place))
    (file,) = (place / "cache").iterdir()
    content = file.read_bytes()
    file.write_bytes({
        "cut": content[:-8], "changed": content[:-8] + b"\1" * 8, "foreign": b"another file\n" + content, "empty": b"",
    }[damage])  # fmt: skip
    with pytest.raises(DamagedIndex):
        Index(os.fsencode(file))
    assert names(load(place)) == expected and built() == 2


def test_a_folder_of_others_is_refused(place: Path) -> None:
    (place / "cache").mkdir(mode=0o777)
    (place / "cache").chmod(0o777)
    with pytest.raises(UnionfsError, match=r"others may write to it\n.*index=off"):
        load(place)


def test_many_may_build_the_same(place: Path) -> None:
    (place / "x").mkdir()
    for number in range(4):
        for name in ("upper", "work"):
            (place / f"x/{name}{number}").mkdir()
    found: list[dict[str, bool]] = []

    def build(number: int) -> None:
        lowers = [place / "top", place / "bottom"]
        with closing(Operations(lowers, place / f"x/upper{number}", place / f"x/work{number}")) as union:
            found.append(names(indexing.load(union.stack, union.scan.lower_roots(), lambda count: None)))

    threads = [threading.Thread(target=build, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 4 and len(list((place / "cache").iterdir())) == 1


def test_one_that_nobody_used_for_long_goes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(monkeypatch)
    load(place)
    (old,) = (place / "cache").iterdir()
    os.utime(old, (1, 1))
    with closing(Operations([place / "bottom"], place / "upper", place / "work")) as union:
        indexing.load(union.stack, union.scan.lower_roots(), lambda count: None)
    assert old not in (place / "cache").iterdir()


def test_counts() -> None:
    counts = Counts(10)
    assert counts.count(3) == 0
    counts.add_range(2, 5)
    assert [counts.count(position) for position in range(6)] == [0, 0, 1, 1, 1, 0]
    assert counts.count(3, 4) == 5 and counts.count(3, -5) == 0
    for _ in range(200):
        counts.add_range(0, 10)
    assert [counts.count(position) for position in (0, 2, 3, 9)] == [200, 201, 200, 200]


# --- through a mount


def mount(place: Path, **options: str | bool) -> Path:
    lowers = [place / "top", place / "bottom"]
    return unionfs.mount(
        place / "merged", lower=lowers, upper=place / "upper", work=place / "work", index="on", **options
    ).path


@needs_root
def test_a_mount_shows_what_the_layers_have(place: Path) -> None:
    merged = mount(place)
    tree = {str(path.relative_to(merged)) for path in merged.rglob("*")}
    assert tree == {"d", "d/new", "d/old", "d/sub", "d/sub/deep", "e", "e/one", "e/other", "link"}
    for name, lower in (("d/new", "top"), ("d/old", "bottom"), ("e/one", "bottom"), ("link", "bottom")):
        seen, real = (merged / name).lstat(), (place / lower / name).lstat()
        for field in ("st_ino", "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_nlink", "st_uid", "st_blocks"):
            assert getattr(seen, field) == getattr(real, field)
    assert stat.S_ISDIR((merged / "d").stat().st_mode) and (merged / "d").stat().st_nlink == 1
    assert os.readlink(merged / "link") == "d/old"


@needs_root
def test_what_changes_through_the_mount_is_seen_at_once(place: Path) -> None:
    merged = mount(place)
    assert sorted(os.listdir(merged / "d")) == ["new", "old", "sub"]
    (merged / "d/old").unlink()
    (merged / "d/more").write_bytes(b"more")
    assert sorted(os.listdir(merged / "d")) == ["more", "new", "sub"]
    (merged / "d/new").rename(merged / "d/sub/moved")
    assert (merged / "d/sub/moved").read_bytes() == b"new"
    (merged / "d").rename(merged / "e/d")
    assert sorted(os.listdir(merged / "e/d/sub")) == ["deep", "moved"] and not (merged / "d").exists()
    (merged / "e/d/sub/deep").rmdir()
    (merged / "e/one").write_bytes(b"changed")
    assert (merged / "e/other").read_bytes() == b"changed"
    assert (place / "bottom/e/one").read_bytes() == b"linked"


@needs_root
def test_a_directory_is_read_on_after_its_first_change(place: Path) -> None:
    for number in range(2000):
        (place / f"bottom/e/file{number:04}").touch()
    merged = mount(place)
    with os.scandir(merged / "e") as entries:
        first = [next(entries).name for _ in range(10)]
        gone = "file1990" if "file1990" not in first else "file1991"
        (merged / "e" / gone).unlink()
        (merged / "e/new").touch()
        rest = [entry.name for entry in entries]
    seen = [*first, *rest]
    assert len(seen) == len(set(seen)) and {f"file{number:04}" for number in range(2000)} - {gone} <= set(seen)
    assert not (merged / "e" / gone).exists()


@needs_root
def test_a_file_that_changed_below_is_stale_and_nothing_worse(place: Path) -> None:
    merged = mount(place)
    (place / "bottom/d/sub/deep").rmdir()
    (place / "bottom/d/old").unlink()
    with pytest.raises(OSError):
        (merged / "d/old").read_bytes()
    with pytest.raises(OSError):
        (merged / "d/sub/deep/x").touch()
    assert (merged / "d/new").read_bytes() == b"new"


@needs_root
def test_it_is_not_for_the_fusepy_engine(place: Path) -> None:
    with pytest.raises(UnionfsError, match="fusepy engine has no layer index"):
        mount(place, engine="fusepy")
    assert not mounts.is_mountpoint(os.fsencode(place / "merged"))


@needs_root
@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs mksquashfs (package squashfs-tools)")
def test_auto_is_on_where_nobody_can_write(place: Path, built: Callable[[], int]) -> None:
    image, point = place / "image", place / "image.d"
    subprocess.run(["mksquashfs", str(place / "bottom"), str(image), "-quiet"], check=True, stdout=subprocess.DEVNULL)
    point.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", str(image), str(point)], check=True)
    try:
        unions = {"layers": [point], "mixed": [point, place / "top"]}
        wanted = {}
        for name, lowers in unions.items():
            with closing(Operations(lowers)) as union:
                wanted[name] = wants_index("auto", union)
        assert wanted == {"layers": True, "mixed": False}
        with unionfs.mount(place / "merged", lower=[point], index="auto") as mounted:
            assert (mounted.path / "d/old").read_bytes() == b"old"
        assert len(list((place / "cache").iterdir())) == 1
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_nodeids_of_the_index_are_above_all_others(place: Path) -> None:
    assert load(place).nodeid(1) == NUMBER << SHIFT | 1 < 1 << 63
