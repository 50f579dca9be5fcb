"""The manual: man(1) has no complaint, and it names what the parsers know, no more and no less."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from tests.cli.running import ROOT, need, run
from unionfs.cli import manual
from unionfs.cli.command import Parser, UsageError, make_parser
from unionfs.cli.main import INTERRUPTED, READER_GONE, UNIONS, load
from unionfs.errors import UnionfsError
from unionfs.fuse.options import ENGINES, OTHERS_PREFIXES, OTHERS_WORDS, SWITCHES, VALUES, known
from unionfs.layer.whiteout import DIALECTS
from unionfs.linux.mounts import FLAG_WORDS
from unionfs.union.completion import WHEN
from unionfs.union.copyup import COPYUP

MANUAL = ROOT / "docs" / "man" / "unionfs.1"
HELPER = ROOT / "docs" / "man" / "mount.fuse.unionfs.8"
MADE = {name: ROOT / "docs" / "man" / f"unionfs-{name}.1" for name in manual.PAGES}
PAGES = (MANUAL, HELPER, *MADE.values())
COMMANDS = [name for name, place in UNIONS.items() if place.summary]
EXIT_STATUS = {0, UnionfsError.exit_status, UsageError.exit_status, INTERRUPTED, READER_GONE}
EVERYWHERE = {"-h", "--help"}


def section(page: Path, title: str, macro: str = "Sh") -> str:
    """The source below a heading, to the next one of the same rank or higher."""
    ends = "Sh" if macro == "Sh" else "S[hs]"
    found = re.search(
        rf"^\.{macro} {re.escape(title)}\n(.*?)(?=^\.{ends} |\Z)", page.read_text(), re.DOTALL | re.MULTILINE
    )
    assert found, f"no section {title}"
    return found[1]


def flags(source: str) -> set[str]:
    """The options that have an item of their own, as they are typed."""
    items = re.findall(r"^\.It (Fl .*)$", source, re.MULTILINE)
    return {f"-{flag}" for item in items for flag in re.findall(r"Fl (\S+)", item)}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    assert isinstance(parser, Parser)
    return {word for action in parser.visible_actions() for word in action.option_strings} - EVERYWHERE


def commands_in(text: str) -> set[str]:
    return set(re.findall(r"^\.Nm\n\.Cm (\S+)", text, re.MULTILINE))


def words(text: str) -> set[str]:
    """What stands behind Cm, without the marks of a sentence."""
    return set(" ".join(re.findall(r"^\.Cm (.*)$", text, re.MULTILINE)).split()) - {",", ".", ";"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_man_has_no_complaint(page: Path) -> None:
    result = run(
        [need("man", "man-db"), "--warnings", "-l", page], environment={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    )
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[0].startswith(page.stem.upper())


def test_every_command_and_no_other() -> None:
    assert commands_in(section(MANUAL, "SYNOPSIS")) == set(COMMANDS)
    assert re.findall(r"^\.Ss (\S+)$", section(MANUAL, "COMMANDS"), re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("name", MADE)
def test_a_page_is_what_the_parsers_make(name: str) -> None:
    """unionfs manual NAME > docs/man/unionfs-NAME.1"""
    text, page = MADE[name].read_text(), manual.PAGES[name]
    assert text == manual.text_of(page)
    names = [name for name, place in page.places.items() if place.summary]
    assert re.findall(r"^\.Ss (.+)$", text, re.MULTILINE) == [*names, *(["Groups"] if page.has_groups else [])]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_no_other(name: str) -> None:
    assert flags(section(MANUAL, name, "Ss")) == options_of(make_parser(name, load(name)))


def in_synopsis(line: str) -> set[str]:
    """`Fl fd` is -f and -d, `Fl -json | -other` two long options; a capital ends them."""
    found: list[str] = []
    after = False
    for word in line.split():
        if after and re.fullmatch("-?[a-z-]+", word):
            found += [word] if word.startswith("-") else word
        elif word != "|":
            after = word.lstrip(".") == "Fl"
    return {f"-{word}" for word in found}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_synopsis(name: str) -> None:
    """Each option in one of its spellings, each argument, and no other."""
    lines = re.split(r"^\.Nm\n", section(MANUAL, "SYNOPSIS"), flags=re.MULTILINE)
    line = next(line for line in lines if line.startswith(f".Cm {name}\n"))
    parser = make_parser(name, load(name))
    assert in_synopsis(line) <= options_of(parser)
    for action in parser.visible_actions():
        if action.option_strings:
            assert {*action.option_strings} & (in_synopsis(line) | EVERYWHERE)
        else:
            assert set(map(str, action.choices or str(action.metavar).split("|"))) <= set(line.split())


def test_every_mount_option_and_no_other() -> None:
    text = section(MANUAL, "MOUNT OPTIONS")
    items = set(re.findall(r"^\.It Cm (\S+)", text, re.MULTILINE))
    assert items == {*VALUES, *SWITCHES}
    lists = words(text.split("As in\n")[1])
    assert lists == {*FLAG_WORDS, *OTHERS_WORDS, *OTHERS_PREFIXES}
    assert items | lists >= set(known())


def test_the_values_of_mount_options() -> None:
    text = section(MANUAL, "MOUNT OPTIONS")
    assert f"dialect Ns = Ns Cm {' | '.join(DIALECTS)}\n" in text
    assert f"engine Ns = Ns Cm {' | '.join(ENGINES)}\n" in text
    assert f"copyup Ns = Ns Cm {' | '.join(COPYUP)}\n" in text
    assert f"copyup_complete Ns = Ns Cm {' | '.join(WHEN)}\n" in text


def test_the_helper() -> None:
    parser = make_parser("mount.fuse.unionfs", load("mount.fuse.unionfs"))
    assert flags(section(HELPER, "DESCRIPTION")) == options_of(parser)


def test_exit_status() -> None:
    assert {
        int(status) for status in re.findall(r"^\.It (\d+)$", section(MANUAL, "EXIT STATUS"), re.MULTILINE)
    } == EXIT_STATUS
    table = (ROOT / "docs" / "errors.md").read_text().split("## Exit status")[1].split("##")[0]
    assert {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == EXIT_STATUS
    assert re.findall(r"^\.It (\d+)$", section(HELPER, "EXIT STATUS"), re.MULTILINE) == ["0", "1", "32"]


def test_the_page_for_administrators_names_every_mount_option() -> None:
    text = (ROOT / "docs" / "mounting.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)", text, re.MULTILINE))
    assert rows >= {*VALUES, *SWITCHES}
    assert rows - {"ro", "defaults"} <= {*VALUES, *SWITCHES}
