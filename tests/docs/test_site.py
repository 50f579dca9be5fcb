"""The documentation as a site: it is built, nothing in it leads nowhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unionfs.cli.main import PLACES

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("zensical", reason="needs zensical: pip install '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Strict: a link without a page, or an anchor without a heading, fails."""
    place = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run([sys.executable, ROOT / "docs" / "build", place], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{place}/index.html\n"
    yield place


def test_every_page_is_there(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "starter"]
    for page in pages:
        if page == Path("README.md"):
            continue
        folder = site / page.parent if page.name == "README.md" else site / page.with_suffix("")
        assert (folder / "index.html").is_file(), page
    assert 'href="tutorial/"' in (site / "index.html").read_text()


def test_it_names_every_command_and_the_library(site: Path) -> None:
    commands = (site / "commands" / "index.html").read_text()
    assert [name for name, place in PLACES.items() if place.summary and f"usage: unionfs {name}" not in commands] == []
    library = (site / "library" / "index.html").read_text()
    for name in ("unionfs.Union", "unionfs.mount", "unionfs.Container", "write_bytes", "UnionfsError"):
        assert name in library


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"?(https?:[^\" >]+)", page.read_text())
        assert fetched == [], page


def test_no_place_of_this_machine_is_in_it(site: Path) -> None:
    found = [page.name for page in site.rglob("*.html") if str(ROOT) in page.read_text()]
    assert found == []


def test_what_is_no_site_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("mine")
    done = subprocess.run([sys.executable, ROOT / "docs" / "build", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1 and "is there already, and no site" in done.stderr
    assert (tmp_path / "letter").read_text() == "mine"
