"""Failures that are told to people: what was wrong, why, and what to do next.

Raised wherever a request of the user cannot be met (a mount, a command); shown by the command line, one line and a
hint each. A failed file operation is an OSError with its errno instead. Floor 0: imports nothing of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence


def failed(number: int, name: bytes = b"") -> OSError:
    """The failure of a file operation, by its errno; `name` is what it was about."""
    return OSError(number, os.strerror(number), *([os.fsdecode(name)] if name else []))


class UnionfsError(Exception):
    """One failure: the thing it is about, the reason, and the next step (either of the last two may be empty)."""

    exit_status = 1

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}\n  {self.hint}" if self.hint else text


class Faults(UnionfsError):
    """Everything that is wrong with one request, so that the user can mend it in one go."""

    def __init__(self, faults: Sequence[UnionfsError]) -> None:
        super().__init__("; ".join(fault.what for fault in faults))
        self.faults = list(faults)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the nearest known word, or "" when none is near enough to be a slip of the finger."""
    best = min(known, key=lambda candidate: _distance(word, candidate), default="")
    near = best and _distance(word, best) <= max(1, min(len(word), len(best)) // 3)
    return f'did you mean "{best}"?' if near else ""


def _distance(one: str, other: str) -> int:
    """Insertions, deletions, substitutions and swaps of neighbours between two words (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
