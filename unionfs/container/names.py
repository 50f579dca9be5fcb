"""A container's id, and a name for those that the user gives none: a quality and somebody who worked on filesystems.

Called by `create.py` and `volumes.py`.
"""

from __future__ import annotations

import os

from unionfs.errors import UnionfsError

_QUALITIES = (
    "agile", "bold", "brisk", "calm", "careful", "clever", "eager", "exact", "fair", "gentle", "humble", "keen",
    "kind", "lively", "lucid", "merry", "modest", "nimble", "patient", "polite", "proud", "quick", "quiet", "sober",
    "steady", "subtle", "swift", "tidy", "vivid", "wise",
)  # fmt: skip
_PEOPLE = (
    "bach", "bonwick", "card", "chutani", "daley", "gruenbacher", "heidemann", "hitz", "kleiman", "kowalski",
    "leffler", "mason", "mckusick", "mullender", "neumann", "okajima", "ousterhout", "pendry", "pike", "quigley",
    "reiser", "ritchie", "rosenblum", "rosenthal", "sandberg", "szeredi", "tanenbaum", "thompson", "tweedie", "wright",
    "zadok",
)  # fmt: skip
_FIRST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_NEXT = _FIRST + "_.-"


def new_id() -> str:
    """64 hexadecimal digits."""
    return os.urandom(32).hex()


def new_name(attempt: int = 0) -> str:
    """quality_person; with a number behind it once that has been taken a few times."""
    number = int.from_bytes(os.urandom(4), "little")
    quality = _QUALITIES[number % len(_QUALITIES)]
    person = _PEOPLE[number // len(_QUALITIES) % len(_PEOPLE)]
    return f"{quality}_{person}{number % 10_000 if attempt > 2 else ''}"


def is_name(word: str) -> bool:
    """Docker's rule for containers and volumes: [a-zA-Z0-9][a-zA-Z0-9_.-]+"""
    return len(word) > 1 and word[0] in _FIRST and not word.strip(_NEXT)


def check_name(name: str) -> str:
    """The name without docker's leading slash. Raises UnionfsError when it is none."""
    word = name.removeprefix("/")
    if not is_name(word):
        raise UnionfsError(f"Invalid container name ({name})", "only [a-zA-Z0-9][a-zA-Z0-9_.-]+ are allowed")
    return word
