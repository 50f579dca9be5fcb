"""Files without data, in the words of overlayfs: what the kernel wrote we read, and the reverse.

The kernel's overlayfs is mounted with metacopy=on, on the same layers, before or after our union.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unionfs import Union, events
from unionfs.changes.upper import HeldUpper

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for trusted attributes and mounts"),
    pytest.mark.skipif("\toverlay\n" not in Path("/proc/filesystems").read_text(), reason="no overlayfs in the kernel"),
]
DATA = {name: name.encode() * 3000 for name in ("one", "two", "dir/three", "dir/sub/four")}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    for name, content in DATA.items():
        path = tmp_path / "lower" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def ours(place: Path) -> Union:
    layers = ([place / "lower"], place / "upper", place / "work")
    return Union(*layers, dialect="overlay", copyup="auto", copyup_threshold=1, copyup_complete="never")


@contextmanager
def kernel(place: Path) -> Iterator[Path]:
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work,metacopy=on,redirect_dir=on,index=on"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(place / "merged")], check=True)
    try:
        yield place / "merged"
    finally:
        subprocess.run(["umount", str(place / "merged")], check=True)


def lacks_data(path: Path) -> bool:
    return "trusted.overlay.metacopy" in os.listxattr(path)


def test_the_kernel_reads_what_we_copied_up_without_data(place: Path) -> None:
    with ours(place) as union:
        union.chmod("one", 0o600)
        union.rename("two", "dir/renamed")
        union.link("dir/three", "linked")
        union.rename("dir/sub", "moved")
        union.setxattr("moved/four", b"user.a", b"b")
        union.rename("moved/four", "moved/five")
        assert union.read_bytes("one") == DATA["one"] and union.read_bytes("moved/five") == DATA["dir/sub/four"]
    for name in ("one", "dir/renamed", "linked", "moved/five"):
        assert lacks_data(place / "upper" / name), name
        assert (place / "upper" / name).stat().st_blocks <= 8
    with kernel(place) as merged:
        assert (merged / "one").read_bytes() == DATA["one"] and (merged / "one").stat().st_mode & 0o777 == 0o600
        assert (merged / "dir/renamed").read_bytes() == DATA["two"]
        assert (merged / "linked").read_bytes() == DATA["dir/three"] == (merged / "dir/three").read_bytes()
        assert (merged / "moved/five").read_bytes() == DATA["dir/sub/four"]
        with open(merged / "dir/renamed", "r+b") as file:
            file.write(b"X")
    with ours(place) as union:
        assert union.read_bytes("dir/renamed") == b"X" + DATA["two"][1:]
        assert not lacks_data(place / "upper/dir/renamed")


def test_we_read_and_write_what_the_kernel_copied_up_without_data(place: Path) -> None:
    with kernel(place) as merged:
        os.chmod(merged / "one", 0o600)
        os.rename(merged / "two", merged / "dir/renamed")
        os.rename(merged / "dir/sub", merged / "moved")
        os.chmod(merged / "moved/four", 0o600)
        os.chmod(merged / "dir/three", 0o600)
    assert lacks_data(place / "upper/one") and lacks_data(place / "upper/moved/four")
    with ours(place) as union:
        moved = {"one": "one", "two": "dir/renamed", "dir/three": "dir/three", "dir/sub/four": "moved/four"}
        for old, new in moved.items():
            assert union.read_bytes(new) == DATA[old]
        union.rename("one", "dir/one")
        assert union.read_bytes("dir/one") == DATA["one"] and lacks_data(place / "upper/dir/one")
        with union.open("dir/three", os.O_RDWR) as file:
            file.pwrite(b"Y", 10)
        union.truncate("moved/four", 100)
        assert union.read_bytes("moved/four") == DATA["dir/sub/four"][:100]
        assert not lacks_data(place / "upper/dir/three") and not lacks_data(place / "upper/moved/four")
    with kernel(place) as merged:
        assert (merged / "dir/one").read_bytes() == DATA["one"]
        assert (merged / "dir/three").read_bytes()[:12] == (DATA["dir/three"][:10] + b"Y" + DATA["dir/three"][11:])[:12]
        assert (merged / "moved/four").read_bytes() == DATA["dir/sub/four"][:100]


def test_a_former_upper_is_a_lower_layer(place: Path) -> None:
    with kernel(place) as merged:
        os.chmod(merged / "one", 0o600)
    with Union([place / "upper", place / "lower"], dialect="overlay") as union:
        assert union.read_bytes("one") == DATA["one"]
    (place / "upper2").mkdir()
    (place / "work2").mkdir()
    layers = ([place / "upper", place / "lower"], place / "upper2", place / "work2")
    with Union(*layers, dialect="overlay", copyup="auto", copyup_threshold=1) as union:
        union.chmod("one", 0o640)
        assert union.read_bytes("one") == DATA["one"]
        with union.open("one", os.O_RDWR) as file:
            file.pwrite(b"Z", 0)
    assert (place / "upper2/one").read_bytes() == b"Z" + DATA["one"][1:]


def test_by_default_nothing_is_left_without_data(place: Path) -> None:
    with Union([place / "lower"], place / "upper", place / "work", dialect="overlay") as union:
        union.chmod("one", 0o600)
    assert (place / "upper/one").read_bytes() == DATA["one"]


def test_data_that_is_nowhere_is_an_error(place: Path) -> None:
    """EIO and a line in the log, never zeros."""
    with kernel(place) as merged:
        os.chmod(merged / "one", 0o600)
    os.unlink(place / "lower/one")
    log: list[str] = []
    events.log_to(lambda importance, message: log.append(message))
    try:
        with ours(place) as union:
            assert union.stat("one").size == len(DATA["one"])
            with pytest.raises(OSError) as raised:
                union.read_bytes("one")
            union.unlink("one")
    finally:
        events.log_to(2)
    assert raised.value.errno == errno.EIO
    assert f"{place}/upper/one" in log[-1] and "metacopy" in log[-1]


def test_copyup_block_is_refused_in_this_dialect(place: Path) -> None:
    with pytest.raises(Exception, match="copyup=block: the overlay dialect has no block maps"):
        Union([place / "lower"], place / "upper", place / "work", dialect="overlay", copyup="block")


def test_held_uppers_are_settled(place: Path) -> None:
    from unionfs.changes.settle import settle
    from unionfs.layer.stack import Stack

    with ours(place) as union:
        union.chmod("one", 0o600)
    held = HeldUpper(os.fsencode(place / "upper"), os.fsencode(place / "work"))
    lower = Stack.open([os.fsencode(place / "lower")], dialect="overlay")
    try:
        assert settle(held.stack(lower, lower.dialect)) == 1
    finally:
        lower.close()
        held.close()
    assert (place / "upper/one").read_bytes() == DATA["one"] and not lacks_data(place / "upper/one")
