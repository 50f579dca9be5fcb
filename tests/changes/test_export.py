"""The merged tree as a directory of its own."""

from __future__ import annotations

import os
import random
import stat
from contextlib import closing
from pathlib import Path

import pytest

from tests.changes.deeds import do_anything
from tests.changes.layers import HandMade, shown_by
from tests.changes.test_apply import Bench, fill
from unionfs.changes.export import export
from unionfs.errors import UnionfsError
from unionfs.union.union import Union

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for devices, owners and trusted attributes")


@pytest.fixture(params=["aufs", "overlay"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(tmp_path, request.param, 2)


def export_to(bench: Bench, target: Path) -> tuple[int, int]:
    with closing(bench.hold()) as held, closing(bench.below()) as below:
        return export(held.stack(below, below.dialect), os.fsencode(target))


@pytest.mark.parametrize("seed", range(15))
def test_any_deeds(seed: int, bench: Bench, tmp_path: Path) -> None:
    chance = random.Random(seed)
    fill(bench.lower[1], chance, "abc", marks=False)
    fill(bench.lower[0], chance, "abc", marks=True)
    lowers = [layer.path for layer in bench.lower]
    with Union(lower=lowers, upper=bench.upper.path, work=bench.work, dialect=bench.dialect) as union:
        do_anything(union, chance, 25)
    before = bench.union()
    names, _ = export_to(bench, tmp_path / "new")
    assert shown_by(tmp_path / "new", dialect=bench.dialect) == before
    assert names == len(before)
    assert bench.union() == before


def test_the_root_too(bench: Bench, tmp_path: Path) -> None:
    bench.upper.path.chmod(0o1770)
    os.utime(bench.upper.path, ns=(1, 2))
    export_to(bench, tmp_path / "new")
    after = (tmp_path / "new").stat()
    assert (stat.filemode(after.st_mode), after.st_mtime_ns) == ("drwxrwx--T", 2)
    assert os.listxattr(tmp_path / "new") == []


def test_into_an_empty_directory(bench: Bench, tmp_path: Path) -> None:
    bench.upper.file("file", "content")
    (tmp_path / "empty").mkdir()
    assert export_to(bench, tmp_path / "empty") == (1, 7)
    assert (tmp_path / "empty/file").read_text() == "content"


def test_never_over_something(bench: Bench, tmp_path: Path) -> None:
    bench.upper.file("file")
    HandMade(tmp_path / "full").file("mine")
    with pytest.raises(UnionfsError, match=r"full: directory not empty\n  name a new directory"):
        export_to(bench, tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["mine"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_was_left_half_made_goes(bench: Bench, tmp_path: Path) -> None:
    bench.upper.file("file")
    HandMade(tmp_path / ".new.unionfs-apply").file("half")
    export_to(bench, tmp_path / "new")
    assert os.listdir(tmp_path / "new") == ["file"]
    assert not (tmp_path / ".new.unionfs-apply").exists()
