"""What a layer changes of the tree below it: A, C, D."""

from __future__ import annotations

import os
import random
from contextlib import closing
from pathlib import Path

import pytest

from tests.changes.deeds import do_anything
from tests.changes.layers import DIALECTS, HandMade, Make, open_stack, shown_by, snapshot
from unionfs.changes.difference import difference
from unionfs.union.union import Union

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for devices and trusted attributes")

def diff(*layers: HandMade, index: int = 0) -> list[str]:
    with closing(open_stack(*(layer.path for layer in layers), dialect=layers[0].dialect)) as stack:
        return [f"{kind} {os.fsdecode(path)}" for kind, path, _ in difference(stack, stack.layers[index])]


def test_nothing_changed(make: Make) -> None:
    lower = make("lower")
    lower.file("file")
    assert diff(make("upper"), lower) == []


def test_added_changed_deleted(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    for name in ("same", "dir/changed", "dir/deleted", "tree/in/it"):
        lower.file(name)
    upper.file("new/file")
    upper.file("dir/changed", "other")
    upper.whiteout("dir/deleted")
    upper.whiteout("tree")
    assert diff(upper, lower) == ["C /dir", "C /dir/changed", "D /dir/deleted", "A /new", "A /new/file", "D /tree"]


def test_the_lower_layers_count_together(make: Make) -> None:
    """What a layer in between deleted or covered is not there to be changed."""
    upper, middle, bottom = make("upper"), make("middle"), make("bottom")
    for name in ("deleted", "covered/below", "deep"):
        bottom.file(name)
    middle.whiteout("deleted")
    middle.file("covered")
    for name in ("deleted", "covered", "deep"):
        upper.file(name)
    assert diff(upper, middle, bottom) == ["C /covered", "C /deep", "A /deleted"]
    assert diff(upper, middle, bottom, index=1) == ["C /covered", "D /deleted"]
    assert diff(upper, middle, bottom, index=2) == ["A /covered", "A /covered/below", "A /deep", "A /deleted"]


def test_a_whiteout_of_nothing_is_not_listed(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    lower.file("other")
    upper.whiteout("never")
    upper.whiteout("new/never")
    assert diff(upper, lower) == ["A /new"]


def test_an_opaque_directory_deletes_what_it_has_not(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    for name in ("dir/gone", "dir/kept", "dir/sub/gone", "dir/sub/kept", "dir/tree/file"):
        lower.file(name)
    upper.opaque("dir")
    upper.file("dir/kept")
    upper.file("dir/sub/kept")
    upper.file("dir/new")
    assert diff(upper, lower) == [
        "C /dir", "D /dir/gone", "C /dir/kept", "A /dir/new", "C /dir/sub", "D /dir/sub/gone", "C /dir/sub/kept",
        "D /dir/tree",
    ]  # fmt: skip


def test_an_opaque_directory_over_nothing(make: Make) -> None:
    upper = make("upper")
    upper.opaque("dir")
    assert diff(upper, make("lower")) == ["A /dir"]


def test_an_opaque_root(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    lower.file("gone")
    lower.file("kept")
    upper.opaque("")
    upper.file("kept")
    assert diff(upper, lower) == ["D /gone", "C /kept"]


def test_a_file_over_a_directory_and_the_reverse(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    lower.file("dir/file")
    lower.file("file")
    upper.file("dir")
    upper.file("file/inside")
    assert diff(upper, lower) == ["C /dir", "C /file", "A /file/inside"]


def test_a_renamed_directory(make: Make) -> None:
    """What comes along from below is neither walked nor listed."""
    upper, lower = make("upper"), make("lower")
    for name in ("old/along", "old/changed", "old/deleted"):
        lower.file(name)
    upper.whiteout("old")
    upper.redirect("new", "/old")
    upper.file("new/changed")
    upper.file("new/own")
    upper.whiteout("new/deleted")
    assert diff(upper, lower) == ["A /new", "A /new/changed", "A /new/own", "D /old"]


def test_a_renamed_directory_in_place_of_another(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    for name in ("from/both", "from/one", "to/both", "to/other"):
        lower.file(name)
    upper.redirect("to", "/from")
    upper.whiteout("from")
    assert diff(upper, lower) == ["D /from", "C /to", "C /to/both", "D /to/other"]


def test_an_object_beside_its_own_whiteout(tmp_path: Path) -> None:
    """OCI's case: new in this layer, whatever is below."""
    upper, lower = HandMade(tmp_path / "upper"), HandMade(tmp_path / "lower")
    lower.file("dir/below")
    upper.whiteout("dir")
    upper.file("dir/own")
    assert diff(upper, lower) == ["C /dir", "D /dir/below", "A /dir/own"]


def test_marks_of_the_other_dialect_are_names(tmp_path: Path) -> None:
    upper, lower = HandMade(tmp_path / "upper", "overlay"), HandMade(tmp_path / "lower", "overlay")
    lower.file("name")
    upper.file(".wh.name")
    assert diff(upper, lower) == ["A /.wh.name"]


def test_names_that_are_no_text(make: Make) -> None:
    upper, lower = make("upper"), make("lower")
    (upper.path / os.fsdecode(b"\xff\n")).touch()
    assert diff(upper, lower) == ["A /\udcff\n"]


def test_space_counts_an_object_once(make: Make) -> None:
    upper = make("upper")
    upper.file("one", "x" * 10_000)
    os.link(upper.path / "one", upper.path / "two")
    with closing(open_stack(upper.path, dialect=upper.dialect)) as stack:
        changes = difference(stack, stack.layers[0])
    assert sum(change.space for change in changes) == (upper.path / "one").stat().st_blocks * 512


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("dialect", DIALECTS)
def test_whatever_is_done_it_says_what_is_so(dialect: str, seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    upper, lower, work = HandMade(tmp_path / "upper", dialect), HandMade(tmp_path / "lower", dialect), tmp_path / "work"
    for name in ("a", "b/a", "b/b", "c/a/b", "c/a/c", "c/b"):
        lower.file(name)
    work.mkdir()
    with Union(lower=[lower.path], upper=upper.path, work=work, dialect=dialect) as union:
        do_anything(union, chance, 20)
    before = shown_by(lower.path, dialect=dialect)
    with closing(open_stack(upper.path, lower.path, dialect=dialect)) as stack:
        after, changes = snapshot(stack), difference(stack, stack.layers[0])
    assert [change.path for change in changes] == sorted({change.path for change in changes})
    for kind, path, _ in changes:
        assert ("A" if path not in before else "D" if path not in after else "C") == kind, path
    said = {change.path for change in changes}
    for path in before.keys() - after.keys():
        assert any(path == one or path.startswith(one + b"/") for one in said), path
    for path in (before.keys() & after.keys()) - said:
        within = any(path.startswith(one + b"/") for one in said if b"redirect" in _marks(upper, one))
        assert before[path] == after[path] or within, path


def _marks(upper: HandMade, path: bytes) -> bytes:
    """What stands in an upper directory, or on it, that may be a redirect."""
    place = os.path.join(os.fsencode(upper.path), path[1:])
    if not os.path.isdir(place) or os.path.islink(place):
        return b""
    return b" ".join([*os.listdir(place), *map(os.fsencode, os.listxattr(place))])
