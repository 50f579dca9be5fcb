"""The explorer's page in a real browser: headless Chromium, by Playwright; by keys, in both themes, with many files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.running import COMMAND, ROOT, Stage, needs_mount, stage

__all__ = ["stage"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    needs_mount,
    pytest.mark.stress,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (the package chromium)"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def explored(stage: Stage) -> Iterator[tuple[Stage, str]]:
    """A mounted union with a change of every kind, and the page's address."""
    lower = stage.path / "lower"
    for name in ("etc/passwd", "etc/motd", "home/user/file"):
        (lower / name).parent.mkdir(parents=True, exist_ok=True)
        (lower / name).write_text(name)
    (lower / "big").write_bytes(os.urandom(1 << 20))
    (lower / "many").mkdir()
    for number in range(1203):
        (lower / "many" / f"name{number:04}").touch()
    assert stage.mount().status == 0
    (stage.merged / "etc/passwd").unlink()
    shutil.rmtree(stage.merged / "home")
    (stage.merged / "home").mkdir()
    with open(stage.merged / "big", "r+b") as file:
        file.seek(500_000)
        file.write(b"boot")
    yield from exploring(stage)


def exploring(stage: Stage) -> Iterator[tuple[Stage, str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, "explore", "merged"]
    process = subprocess.Popen(command, cwd=stage.path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address is not None
        yield stage, address[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0


@pytest.fixture
def page(browser: Any, explored: tuple[Stage, str]) -> Iterator[Any]:
    """The page, which must not complain about itself, nor ask another address for anything."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="dark")
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(explored[1])
    opened.wait_for_selector(".shelf .space")
    yield opened
    opened.close()
    assert said == []
    assert all(url.startswith((explored[1], "data:")) for url in asked)


def rows(page: Any) -> list[str]:
    return [" ".join(text.split()) for text in page.locator("#tree li").all_inner_texts()]


def until(page: Any, condition: str) -> None:
    """Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_shelves_tree_and_marks(page: Any) -> None:
    shelves = page.locator(".shelf").all_inner_texts()
    assert [shelf.split()[:2] for shelf in shelves] == [["0", "upper"], ["1", "lower"]]
    assert "1 whiteout, 1 opaque" in shelves[0] and "wasted" in shelves[1]
    shown = rows(page)
    assert "▸ etc/ 0 1" in shown and "▸ home/ opaque 0" in shown
    assert any(re.fullmatch(r"big partial 1\.0 MiB 0", row) for row in shown)


def test_by_keys_alone(page: Any) -> None:
    """Open a directory, look a deleted name up, step through the layers, and close it again."""
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.getAttribute('role')") != "treeitem":
        page.keyboard.press("Tab")
    press(page, "Home", "ArrowRight")
    page.wait_for_selector("#tree li.gone")
    assert "passwd whiteout 0" in rows(page)
    press(page, "ArrowDown", "ArrowDown", "Enter")
    page.wait_for_selector("#steps")
    assert page.locator("#detail h3").first.inner_text() == "/etc/passwd"
    steps = page.locator("#steps li")
    assert "has a whiteout: the name is deleted" in steps.nth(0).inner_text()
    assert "a whiteout in layer 0 hides it" in steps.nth(1).inner_text()
    assert "The union shows no such name" in page.locator("#detail").inner_text()
    page.keyboard.press(" ")
    assert page.locator("#steps li.later").count() == 1 and page.locator(".shelf.here").count() == 1
    assert not page.locator(".answer").is_visible()
    page.keyboard.press(" ")
    assert page.locator("#steps li.later").count() == 0 and page.locator(".answer").is_visible()
    press(page, "ArrowLeft", "ArrowLeft")
    assert "passwd whiteout 0" not in rows(page)
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")


def test_blocks_and_search(page: Any) -> None:
    press(page, "/")
    page.keyboard.type("big")
    until(page, "document.querySelectorAll('#tree li').length === 1")
    press(page, "ArrowDown", "Enter")
    page.wait_for_selector(".blocks")
    cells = page.evaluate("[...document.querySelectorAll('.blocks i')].map(cell => cell.title)")
    assert cells[122] == "488 KiB: layer 0" and cells.count(cells[122]) == 1 and len(cells) == 256
    told = page.locator("#detail").inner_text()
    assert "4.0 KiB in layer 0, 1.0 MiB in layer 1" in told and "Copied up 4.0 KiB for 4 B" in told
    press(page, "/")
    page.keyboard.type("no such name")
    until(page, "document.querySelector('#tree').textContent === 'no such name is shown'")
    page.keyboard.press("Escape")
    until(page, "document.querySelectorAll('#tree li').length > 3")


def test_live_changes_arrive(page: Any, explored: tuple[Stage, str]) -> None:
    stage, _ = explored
    (stage.merged / "made just now").write_text("x")
    until(page, "document.querySelector('#tree').textContent.includes('made just now')")
    (stage.merged / "etc/motd").write_text("y")
    page.wait_for_selector("tr.copied")
    text = page.locator("#requests").inner_text()
    assert "copy-up by OPEN: the whole object of /etc/motd" in text and "CREATE" in text
    press(page, "p")
    count = page.locator("#requests tr").count()
    (stage.merged / "one more").touch()
    until(page, "document.querySelector('#tree').textContent.includes('one more')")
    assert page.locator("#requests tr").count() == count


def test_waste(page: Any) -> None:
    press(page, "w")
    assert "/etc/passwd" in page.locator("#wasted").inner_text()
    page.locator("#wasted button", has_text="/etc/passwd").click()
    page.wait_for_selector("#steps")
    assert page.locator("#detail h3").first.inner_text() == "/etc/passwd"
    assert page.evaluate("document.activeElement.textContent").startswith("passwd")


def test_themes(page: Any) -> None:
    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert background() == "rgb(22, 24, 29)"
    press(page, "t", "t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert background() == "rgb(251, 250, 248)"


def test_a_long_directory_comes_in_pages(page: Any) -> None:
    page.locator("#tree .name", has_text="many/").dblclick()
    until(page, "document.querySelectorAll('#tree li').length > 500")
    page.locator("#tree .more").click()
    until(page, "document.querySelectorAll('#tree li').length > 1000")
    page.locator("#tree .more").click()
    until(page, "document.querySelectorAll('#tree .more').length === 0")
    assert sum(row.startswith("name") for row in rows(page)) == 1203


def test_a_hundred_thousand_files(browser: Any, stage: Stage) -> None:
    """The tree is there before they are counted, and a search finds the last of them."""
    for directory in range(100):
        place = stage.path / "lower" / f"directory{directory:02}"
        place.mkdir()
        for number in range(1000):
            os.close(os.open(place / f"name{number:03}", os.O_CREAT))
    assert stage.mount().status == 0
    for _, address in exploring(stage):
        page = browser.new_page()
        page.goto(address)
        until(page, "document.querySelectorAll('#tree li').length > 100")
        press(page, "/")
        page.keyboard.type("name999")
        until(page, "document.querySelectorAll('#tree li').length === 100")
        page.wait_for_selector(".shelf .space", timeout=60_000)
        assert "100001 files, 100 directories" in page.locator(".shelf").nth(1).inner_text()
        page.close()
