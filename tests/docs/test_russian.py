"""What is there in English and in Russian says the same: heading for heading, command for command."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAIRS = [
    (ROOT / "README.md", DOCS / "ru" / "README.md"),
    (DOCS / "walk.md", DOCS / "ru" / "walk.md"),
    *((page, page.with_name("README.ru.md")) for page in sorted((DOCS / "labs").rglob("README.md"))),
]
CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)


class Section(NamedTuple):
    """What stands below one heading, as far as it is the same in every language."""

    level: int
    blocks: list[str]
    items: int
    numbered: int
    rows: int
    paragraphs: int
    code: Counter[str]
    links: Counter[str]


def sections(page: Path) -> list[Section]:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*?^```$|(?:^    [^\n]*\n)+", text, re.DOTALL | re.MULTILINE)
    found = []
    for part in re.split(r"^(?=#+ )", _without(text, blocks), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        mine = [blocks[int(number)] for number in re.findall(r"^@(\d+)@$", body, re.MULTILINE)]
        words = re.sub(r"^(\||@).*\n?", "", body, flags=re.MULTILINE)
        paragraphs = [one for one in re.split(r"\n\s*\n", words) if one.strip() and not re.match(r"\s*(-|\d+\.) ", one)]
        found.append(
            Section(
                len(heading) - len(heading.lstrip("#")), mine, len(re.findall(r"^- ", body, re.MULTILINE)),
                len(re.findall(r"^\d+\. ", body, re.MULTILINE)), len(re.findall(r"^\|", body, re.MULTILINE)),
                len(paragraphs), Counter(_words(re.findall(r"`([^`]+)`", part))),
                Counter(_target(page, link) for link in re.findall(r"\]\(([^)]+)\)", part)),
            )
        )  # fmt: skip
    return found


def _without(text: str, blocks: list[str]) -> str:
    """The text with each block's number in its place: a line of shell that begins with # is no heading."""
    for number, block in enumerate(blocks):
        text = text.replace(block, f"@{number}@" + ("\n" if block.endswith("\n") else ""), 1)
    return text


def _words(code: list[str]) -> list[str]:
    return [" ".join(one.split()) for one in code]


def _target(page: Path, link: str) -> str:
    """Where a link leads, in either language."""
    if "://" in link:
        return link
    path = (page.parent / link).resolve().relative_to(ROOT).as_posix()
    home = "README.md" if path in ("docs/ru/README.md", "README.md") else path
    return home.replace("docs/ru/", "docs/").replace("README.ru.md", "README.md")


@pytest.mark.parametrize("english, russian", PAIRS, ids=[str(pair[0].relative_to(ROOT)) for pair in PAIRS])
def test_both_say_the_same(english: Path, russian: Path) -> None:
    ours, theirs = sections(english), sections(russian)
    assert [one.level for one in theirs] == [one.level for one in ours]
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert other == one, f"section {number}"


@pytest.mark.parametrize("english, russian", PAIRS, ids=[str(pair[0].relative_to(ROOT)) for pair in PAIRS])
def test_each_is_in_its_language(english: Path, russian: Path) -> None:
    def prose(page: Path) -> list[str]:
        text = re.sub(
            r"^```.*?^```$|^    .*$|^\|.*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        return [one for one in re.split(r"\n\s*\n", text) if len(one.strip()) > 40]

    assert [one for one in prose(english) if CYRILLIC.search(one.replace("По-русски", ""))] == []
    assert [one for one in prose(russian) if not CYRILLIC.search(one)] == []
