"""Tables: plain text in a pipe, rich's on a terminal, plain there too without rich."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from tests.cli.running import ROOT
from unionfs.cli import table

ROWS = [("one", 7, "a [bold]name[/bold]"), ("three", 1234, None)]
SCRIPT = f"from unionfs.cli import table; table.show(('name', '>count', 'what'), {ROWS!r})"
PLAIN = ["NAME   COUNT  WHAT", "one        7  a [bold]name[/bold]", "three   1234"]


def on_a_terminal(*words: str) -> list[str]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "60", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, *words, "-c", SCRIPT], env=environment, stdin=theirs, stdout=theirs)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:
        pass  # the other side is closed
    os.close(ours)
    assert process.wait() == 0
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in said.decode().splitlines()]


def test_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_on_terminal", False)
    table.show(("name", ">count", "what"), ROWS)
    assert capsys.readouterr().out.splitlines() == PLAIN


def test_without_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_on_terminal", False)
    table.show(("name", ">count"), [])
    assert capsys.readouterr().out == "NAME  COUNT\n"


def test_on_a_terminal() -> None:
    pytest.importorskip("rich")
    assert on_a_terminal() == PLAIN


def test_on_a_terminal_without_rich() -> None:
    """-S: no packages beside the standard library."""
    assert on_a_terminal("-S") == PLAIN


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3500, "3.4 KiB"), (10240, "10 KiB"), (1023 * 1024, "1.0 MiB"),
     (120 << 20, "120 MiB"), (5 << 30, "5.0 GiB"), (7 << 40, "7.0 TiB"), (1 << 60, "1048576 TiB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert table.size(count) == text
