"""`unionfs bench`: it finds the suite, gives it all words as they are, and says so when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import ROOT, unionfs
from unionfs.cli import bench
from unionfs.errors import UnionfsError


def test_the_words_are_the_suites() -> None:
    result = unionfs("bench", "--list")
    assert (result.status, result.err) == (0, "")
    assert "walk + stat, cold" in result.out


def test_its_faults_are_the_suites(tmp_path: Path) -> None:
    result = unionfs("bench", "--rows", "wakl", cwd=tmp_path)
    assert (result.status, result.out) == (1, "")
    assert result.err == '--rows wakl: no row has this in its name: did you mean "walk"?\n'


def test_a_checkout_has_it_beside_the_package() -> None:
    assert bench.find() == str(ROOT / "benchmarks" / "suite.py")


def test_an_installed_package_has_it_among_its_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "share" / "unionfs" / "benchmarks"
    place.mkdir(parents=True)
    (place / "suite.py").touch()
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "site" / "unionfs" / "cli" / "bench.py"))
    monkeypatch.setattr(bench.sysconfig, "get_path", lambda name: str(tmp_path))
    assert bench.find() == str(place / "suite.py")


def test_when_it_was_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_places", lambda: iter(["/one", "/other"]))
    with pytest.raises(UnionfsError) as caught:
        bench.find()
    assert str(caught.value) == (
        "bench: the benchmarks are not installed: no suite.py in /one, /other\n"
        "  run it in a checkout of the sources, or install the package anew"
    )
