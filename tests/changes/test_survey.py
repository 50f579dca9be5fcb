"""What each layer holds, and how much of it the merged tree shows; compared with a walk over a real overlayfs."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.changes.layers import HandMade, Make, open_stack
from unionfs.changes.survey import Survey, survey
from unionfs.linux import mounts
from unionfs.union.union import Union

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for devices and trusted attributes")


def of(*layers: HandMade) -> Survey:
    with closing(open_stack(*(layer.path for layer in layers), dialect=layers[0].dialect)) as stack:
        return survey(stack)


def wasted(*layers: HandMade) -> list[tuple[int, str]]:
    return sorted((one.layer, os.fsdecode(one.path)) for one in of(*layers).wasted)


def stacked(make: Make) -> tuple[HandMade, HandMade]:
    """Each way in which a lower object is not shown, beside one that is."""
    upper, lower = make("upper"), make("lower")
    for name in ("kept", "changed", "deleted", "opaque/gone", "merged/kept", "tree/one", "file/below", "old/moved"):
        lower.file(name, "x" * 5000)
    upper.file("changed", "y")
    upper.whiteout("deleted")
    upper.opaque("opaque")
    upper.file("opaque/new", "y")
    upper.whiteout("tree")
    upper.file("file", "y")
    upper.dir("merged")
    upper.redirect("new", "old")
    upper.whiteout("old")
    return upper, lower


def test_what_no_name_leads_to(make: Make) -> None:
    upper, lower = stacked(make)
    hidden = ["/changed", "/deleted", "/file/below", "/opaque/gone", "/tree/one"]
    assert wasted(upper, lower) == [(1, name) for name in hidden]
    found = of(upper, lower)
    above, below = found.layers
    sizes = sum((lower.path / name[1:]).stat().st_blocks * 512 for name in hidden)
    directories = sum((lower.path / name).stat().st_blocks * 512 for name in ("tree", "file", "opaque"))
    assert below.wasted == sizes + directories and above.wasted == 0
    assert (above.marks, above.opaque, below.marks) == (3, 1, 0)
    assert (below.files, below.wasted_files) == (8, 5)
    assert found.efficiency == pytest.approx(1 - below.wasted / found.size)


def test_what_is_shown_is_what_overlayfs_shows(tmp_path: Path) -> None:
    """The bytes that are not wasted are those of the objects that a walk over the kernel's mount meets."""
    layers = stacked(lambda name: HandMade(tmp_path / name, "overlay"))
    merged, work = tmp_path / "merged", tmp_path / "work"
    merged.mkdir()
    work.mkdir()
    options = f"lowerdir={layers[1].path},upperdir={layers[0].path},workdir={work},redirect_dir=follow"
    mounts.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode())
    try:
        shown = [os.path.join(where, name) for where, _, names in os.walk(merged) for name in names]
        files = {os.path.relpath(path, merged): os.lstat(path).st_size for path in shown}
    finally:
        mounts.unmount(os.fsencode(merged))
    hidden = {path for _, path in wasted(*layers)}
    below = [path for path in lower_files(layers[1].path) if f"/{path}" not in hidden]
    above = lower_files(layers[0].path)
    assert len(files) == len(below) + len([path for path in above if not os.path.islink(path)])


def lower_files(layer: Path) -> list[str]:
    """Regular files: marks of this dialect are none."""
    return [
        os.path.relpath(os.path.join(where, name), layer)
        for where, _, names in os.walk(layer)
        for name in names
        if os.path.isfile(os.path.join(where, name))
    ]


def test_a_file_with_two_names_counts_once_and_is_in_use_by_one(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    file = lower.file("one", "x" * 9000)
    os.link(file, lower.path / "two")
    upper.whiteout("one")
    found = of(upper, lower)
    assert found.layers[1].size == file.stat().st_blocks * 512 and found.layers[1].wasted == 0
    upper.whiteout("two")
    assert of(upper, lower).layers[1].wasted == file.stat().st_blocks * 512


def test_what_a_partly_copied_file_goes_on_in_is_in_use(tmp_path: Path) -> None:
    upper, lower = HandMade(tmp_path / "upper"), HandMade(tmp_path / "lower")
    lower.file("big", "x" * 400_000)
    (tmp_path / "work").mkdir()
    with Union(lower=[lower.path], upper=upper.path, work=tmp_path / "work", copyup="block") as union:
        with union.open("big", os.O_WRONLY) as file:
            file.pwrite(b"y", 100_000)
    assert wasted(upper, lower) == []
    with Union(lower=[lower.path], upper=upper.path, work=tmp_path / "work") as union:
        union.write_bytes("big", b"all of it")
    assert wasted(upper, lower) == [(1, "/big")]


def test_nothing_at_all(make: Make) -> None:
    assert of(make("upper"), make("lower")).efficiency == 1


def test_the_largest_come_first(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    for number in range(150):
        lower.file(f"file{number}", "x" * (5000 * (number % 7 + 1)))
        upper.whiteout(f"file{number}")
    sizes = [one.size for one in of(upper, lower).wasted]
    assert len(sizes) == 100 and sizes == sorted(sizes, reverse=True) and sizes[0] == 36_864
