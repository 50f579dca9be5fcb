"""Why the merged tree shows a path, or does not."""

from __future__ import annotations

import os
import random
from contextlib import closing
from pathlib import Path

import pytest

from tests.changes.deeds import do_anything
from tests.changes.layers import DIALECTS, HandMade, Make, open_stack
from unionfs.changes.difference import visible_roots
from unionfs.changes.explain import explain, given
from unionfs.layer.stack import Stack
from unionfs.union.lookup import find
from unionfs.union.union import Union

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for devices and trusted attributes")

def say(path: str, *layers: HandMade) -> list[str]:
    """Each finding as "INDEX SAYS PLACE", with what hides it or where it leads to; places below the layers' parent."""
    told = []
    with closing(open_stack(*(layer.path for layer in layers), dialect=layers[0].dialect)) as stack:
        for finding in explain(stack, os.fsencode(path)):
            where = os.path.relpath(os.fsdecode(finding.where), layers[0].path.parent) if finding.where else ""
            by = f" by {finding.by.layer.index} {finding.by.says}" if finding.by else ""
            to = f" to {os.fsdecode(finding.to)}" if finding.to else ""
            told.append(f"{finding.layer.index} {finding.says} {where}{by}{to}".rstrip())
    return told


def mark(layer: HandMade, path: str) -> str:
    """Where the whiteout of a path stands."""
    parent, name = os.path.split(path)
    return os.path.join(layer.path.name, parent, f".wh.{name}" if layer.dialect == "aufs" else name)


def test_a_file_hides_those_below(make: Make) -> None:
    top, middle, bottom = make("top"), make("middle"), make("bottom")
    middle.file("dir/file")
    bottom.file("dir/file")
    assert say("/dir/file", top, middle, bottom) == [
        "0 nothing", "1 gives middle/dir/file", "2 hidden bottom/dir/file by 1 gives",
    ]  # fmt: skip


def test_directories_merge_until_a_file(make: Make) -> None:
    layers = [make(name) for name in "abcd"]
    layers[0].dir("dir")
    layers[1].dir("dir")
    layers[2].file("dir")
    layers[3].dir("dir")
    assert say("dir", *layers) == [
        "0 gives a/dir",
        "1 merges b/dir",
        "2 hidden c/dir by 0 gives",
        "3 hidden d/dir by 0 gives",
    ]


def test_a_whiteout(make: Make) -> None:
    top, bottom = make("top"), make("bottom")
    top.whiteout("dir/file")
    bottom.file("dir/file")
    whiteout = mark(top, "dir/file")
    assert say("dir/file", top, bottom) == [f"0 whiteout {whiteout}", "1 hidden bottom/dir/file by 0 whiteout"]


def test_a_whiteout_on_the_way(make: Make) -> None:
    top, middle, bottom = make("top"), make("middle"), make("bottom")
    middle.whiteout("dir")
    bottom.file("dir/sub/file")
    assert say("dir/sub/file", top, middle, bottom) == [
        "0 nothing", f"1 whiteout {mark(middle, 'dir')}", "2 hidden bottom/dir/sub/file by 1 whiteout",
    ]  # fmt: skip


def test_an_opaque_directory_on_the_way(make: Make) -> None:
    top, bottom = make("top"), make("bottom")
    top.opaque("dir")
    bottom.file("dir/sub/file")
    assert say("dir/sub/file", top, bottom) == [
        "0 opaque top/dir", "0 nothing", "1 hidden bottom/dir/sub/file by 0 opaque",
    ]  # fmt: skip


def test_an_opaque_root(make: Make) -> None:
    top, bottom = make("top"), make("bottom")
    top.opaque("")
    bottom.file("file")
    assert say("file", top, bottom) == ["0 opaque top", "0 nothing", "1 hidden bottom/file by 0 opaque"]


def test_a_file_on_the_way(make: Make) -> None:
    top, bottom = make("top"), make("bottom")
    top.file("name")
    bottom.file("name/file")
    assert say("name/file", top, bottom) == ["0 file top/name", "1 hidden bottom/name/file by 0 file"]


def test_redirects(make: Make) -> None:
    top, middle, bottom = make("top"), make("middle"), make("bottom")
    top.redirect("new", "/old")
    middle.dir("old")
    bottom.file("old/sub/file")
    bottom.file("new/sub/file")
    assert say("new/sub/file", top, middle, bottom) == [
        "0 redirect top/new to /old", "0 nothing", "1 nothing", "2 gives bottom/old/sub/file",
    ]  # fmt: skip


def test_a_redirect_in_the_same_parent(make: Make) -> None:
    top, bottom = make("top"), make("bottom")
    top.redirect("dir/new", "old")
    bottom.file("dir/old/file")
    assert say("dir/new", top, bottom) == [
        "0 gives top/dir/new", "0 redirect top/dir/new to old", "1 merges bottom/dir/old",
    ]  # fmt: skip


def test_the_root(make: Make) -> None:
    assert say("/", make("top"), make("bottom")) == ["0 gives top", "1 merges bottom"]


def test_nothing_anywhere(make: Make) -> None:
    assert say("no/such", make("top"), make("bottom")) == ["0 nothing", "1 nothing"]


def looked_up(stack: Stack, path: bytes) -> bytes | None:
    """The real path that lookup.py finds."""
    directories = visible_roots(stack, 0)
    where = directories[0].path
    for name in path.strip(b"/").split(b"/"):
        found = find(stack, directories, name) if directories else None
        if found is None:
            return None
        directories, where = found.directories, os.path.join(found.where.path, found.name)
    return where


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("dialect", DIALECTS)
def test_it_agrees_with_the_lookup(dialect: str, seed: int, tmp_path: Path) -> None:
    layers = [HandMade(tmp_path / f"layer{number}", dialect) for number in range(3)]
    for name in ("a", "b/a", "b/b", "c/a/b", "c/a/c", "c/b"):
        layers[-1].file(name)
    for number in (1, 0):
        work = tmp_path / f"work{number}"
        work.mkdir()
        lower = [layer.path for layer in layers[number + 1 :]]
        with Union(lower=lower, upper=layers[number].path, work=work, dialect=dialect) as union:
            do_anything(union, random.Random(seed + 100 * number), 20)
    paths = {b"/".join(os.fsencode(name) for name in names) for names in _paths("abcd", 3)}
    with closing(open_stack(*(layer.path for layer in layers), dialect=dialect)) as stack:
        for path in paths:
            found = given(explain(stack, path))
            assert (found.where if found else None) == looked_up(stack, path), path


def _paths(names: str, depth: int) -> list[tuple[str, ...]]:
    if not depth:
        return []
    return [(name, *rest) for name in names for rest in [(), *_paths(names, depth - 1)]]
