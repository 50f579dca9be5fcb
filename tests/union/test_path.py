"""Paths in the union: symbolic links and dots never lead out of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.union.union import Union

pytestmark = pytest.mark.apart


@pytest.fixture
def union(tmp_path: Path) -> Iterator[Union]:
    lower = tmp_path / "lower"
    (lower / "dir" / "sub").mkdir(parents=True)
    (lower / "dir" / "file").write_text("inside")
    (tmp_path / "outside").write_text("outside")
    for name, target in (
        ("absolute", "/dir"), ("relative", "dir/sub/.."), ("up", "../../outside"), ("abs-file", "/dir/file"),
        ("out", str(tmp_path / "outside")), ("loop", "loop"), ("dangling", "nowhere"),
    ):  # fmt: skip
        (lower / name).symlink_to(target)
    with Union([lower]) as opened:
        yield opened


@pytest.mark.parametrize(
    "path", ["dir/file", "/dir/file", "dir//./file", "dir/sub/../file", "absolute/file", "relative/file", "abs-file",
             "../../dir/file", b"dir/file", Path("dir/file")]
)  # fmt: skip
def test_ways_to_a_file(union: Union, path: str) -> None:
    assert union.read_bytes(path) == b"inside"


@pytest.mark.parametrize("path", ["up", "out", "../outside", "dangling", "dir/nothing", "nothing/../dir/file"])
def test_ways_that_lead_nowhere(union: Union, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        union.read_bytes(path)


def test_other_failures(union: Union) -> None:
    for path, number in (("loop", errno.ELOOP), ("loop/x", errno.ELOOP), ("dir/file/x", errno.ENOTDIR)):
        with pytest.raises(OSError) as raised:
            union.read_bytes(path)
        assert raised.value.errno == number
    with pytest.raises(OSError) as raised:
        union.open("abs-file", os.O_RDONLY | os.O_NOFOLLOW)
    assert raised.value.errno == errno.ELOOP


def test_the_last_link_is_an_object_too(union: Union) -> None:
    assert union.readlink("up") == b"../../outside"
    assert union.stat("absolute").mode != union.stat("dir").mode
    assert sorted(union.listdir("absolute")) == ["file", "sub"]
    assert sorted(union.listdir(b"absolute")) == [b"file", b"sub"]
