"""Directories that nobody opens: what the kernel asks for, and what the daemon keeps."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import unionfs
from unionfs.fuse.calls import STATS_XATTR
from unionfs.fuse.listings import Listings
from unionfs.fuse.mount import unmount
from unionfs.fuse.nodes import Nodes
from unionfs.linux import fusedev, mounts
from unionfs.union.operations import Caller, Operations

mounting = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(fusedev.DEVICE, os.R_OK | os.W_OK), reason="needs root and /dev/fuse, for mounts"
)
ROOT = Caller(0, 0)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("UNIONFS_CACHE", str(tmp_path / "cache"))
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    for number in range(20):
        (tmp_path / f"lower/{number}/sub").mkdir(parents=True)
        (tmp_path / f"lower/{number}/file").touch()
    (tmp_path / "lower/many").mkdir()
    for number in range(2000):
        (tmp_path / f"lower/many/{number}").touch()
    (tmp_path / "upper/mine/sub").mkdir(parents=True)
    yield tmp_path
    while mounts.is_mountpoint(os.fsencode(tmp_path / "merged")):
        unmount(os.fsencode(tmp_path / "merged"), lazy=True)


def mount(place: Path, index: str = "off") -> Path:
    lower, upper, work = place / "lower", place / "upper", place / "work"
    return unionfs.mount(place / "merged", lower=[lower], upper=upper, work=work, engine="native", index=index).path


def counts(merged: Path) -> Callable[[], dict[str, int]]:
    """How many requests there were of each kind since it was called last."""
    last: dict[str, int] = {}

    def since() -> dict[str, int]:
        now = json.loads(os.getxattr(merged, STATS_XATTR))["requests"]
        new = {name: count - last.get(name, 0) for name, count in now.items() if count != last.get(name, 0)}
        last.update(now)
        return new

    since()
    return since


def walk(path: Path) -> list[str]:
    """Every name, as find(1) without any tests."""
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            found.append(entry.path)
            if entry.is_dir(follow_symlinks=False):
                found += walk(Path(entry.path))
    return found


@mounting
@pytest.mark.parametrize("index", ["off", "on"])
def test_a_walk_opens_nothing_and_a_second_one_asks_for_no_name(place: Path, index: str) -> None:
    merged = mount(place, index)
    since = counts(merged)
    names = walk(merged)
    first = since()
    assert len(names) == 20 * 3 + 2001 + 2
    assert first.get("OPENDIR", 0) <= 1 and "RELEASEDIR" not in first
    assert index == "off" or not {"LOOKUP", "READDIR"} & first.keys()
    assert walk(merged) == names
    assert not {"OPENDIR", "RELEASEDIR", "READDIR", "READDIRPLUS", "LOOKUP"} & since().keys()


def temporary(directory: Path) -> None:
    with open(os.open(directory, os.O_TMPFILE | os.O_RDWR), "wb") as file:
        fd = file.fileno()
        os.link(f"/proc/self/fd/{fd}", directory / "made", src_dir_fd=fd, follow_symlinks=True)


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda d: (d / "made").touch(),
    "mkdir": lambda d: (d / "made").mkdir(),
    "symlink": lambda d: (d / "made").symlink_to("x"),
    "fifo": lambda d: os.mkfifo(d / "made"),
    "link": lambda d: os.link(d / "file", d / "made"),
    "a file without a name": temporary,
    "unlink": lambda d: (d / "file").unlink(),
    "rmdir": lambda d: (d / "sub").rmdir(),
    "made anew": lambda d: ((d / "file").unlink(), (d / "file").mkdir()),
    "rename": lambda d: (d / "file").rename(d / "made"),
    "rename away": lambda d: (d / "sub").rename(d.parent / "5/made"),
    "rename to it": lambda d: (d.parent / "5/sub").rename(d / "made"),
    "rename over": lambda d: (d.parent / "5/file").rename(d / "file"),
    "copy-up": lambda d: (d / "file").write_bytes(b"x"),
    "mode": lambda d: (d / "file").chmod(0o600),
    "whiteout and back": lambda d: ((d / "file").unlink(), (d / "file").touch()),
}


@mounting
@pytest.mark.parametrize("before", ["never changed", "changed"])
@pytest.mark.parametrize("change", CHANGES)
def test_no_change_leaves_a_kept_listing_stale(place: Path, change: str, before: str) -> None:
    merged = mount(place)

    def listed() -> None:
        for number in (4, 5):
            path = merged / str(number)
            with os.scandir(path) as entries:
                seen = {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}
            stats = {name: (path / name).lstat() for name in os.listdir(path)}
            assert seen == {name: (st.st_ino, stat.S_ISDIR(st.st_mode)) for name, st in stats.items()}
            real = {name for name in ("file", "sub", "made", "other") if os.path.lexists(path / name)}
            assert seen.keys() == real

    if before == "changed":
        (merged / "4/other").touch()
        (merged / "5/other").touch()
    for _ in range(2):
        listed()
    CHANGES[change](merged / "4")
    for _ in range(2):
        listed()


def names_in(listings: Listings, nodeid: int) -> dict[bytes, int]:
    return {entry.name: entry.offset for entry in listings.of(nodeid, 0).after(0, numbers=True)}


def test_what_came_and_went_between_two_listings_leaves_nothing(place: Path) -> None:
    with closing(Operations([place / "lower"], place / "upper", place / "work")) as union:
        nodes = Nodes(union)
        listings = Listings(union, nodes)
        spool = nodes.remember(union.mkdir(union.root, b"spool", 0o755, ROOT)[0])
        inode = nodes.inodes[spool]
        union.mknod(inode, b"stays", stat.S_IFREG | 0o644, 0, ROOT)
        first = names_in(listings, spool)
        for number in range(1000):
            union.mknod(inode, b"%d" % number, stat.S_IFREG | 0o644, 0, ROOT)
            union.unlink(inode, b"%d" % number)
        assert names_in(listings, spool) == first
        for number in range(5):
            union.mknod(inode, b"%d" % number, stat.S_IFREG | 0o644, 0, ROOT)
            assert len(names_in(listings, spool)) == 2
            union.unlink(inode, b"%d" % number)
        union.mknod(inode, b"new", stat.S_IFREG | 0o644, 0, ROOT)
        assert names_in(listings, spool) == {b"stays": first[b"stays"], b"new": first[b"stays"] + 6}


def test_a_listing_goes_when_its_directory_is_forgotten(place: Path) -> None:
    with closing(Operations([place / "lower"], place / "upper", place / "work")) as union:
        nodes = Nodes(union)
        listings = Listings(union, nodes)
        nodes.died = listings.forgotten
        nodeid = nodes.remember(union.lookup(union.root, b"mine")[0])
        inode = nodes.inodes[nodeid]
        assert list(names_in(listings, nodeid)) == [b"sub"] and inode.handles
        nodes.forget(nodeid, 1)
        assert not inode.handles and b"mine" not in union.root.children


def test_a_listing_goes_on_where_the_records_were_read(place: Path) -> None:
    with closing(Operations([place / "lower"], place / "upper", place / "work")) as union:
        nodes = Nodes(union)
        listings = Listings(union, nodes)
        nodeid = nodes.remember(union.lookup(union.root, b"many")[0])
        records = nodes.scan(nodeid)
        assert records is not None
        records.told = True
        told = {name: position for position, (name, *_) in enumerate(records.items(), 3)}
        union.unlink(nodes.inodes[nodeid], b"7")
        union.mknod(nodes.inodes[nodeid], b"new", stat.S_IFREG | 0o644, 0, ROOT)
        del told[b"7"]
        assert names_in(listings, nodeid) == told | {b"new": 2003}
