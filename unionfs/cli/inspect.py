"""`unionfs layers`, `unionfs which`, `unionfs diff`: look at a union, mounted or not, and change nothing.

Loaded by `main.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

from unionfs.changes import explain
from unionfs.changes.difference import Change, difference
from unionfs.changes.explain import Finding
from unionfs.changes.survey import LayerFacts, survey
from unionfs.cli import table
from unionfs.cli.command import Command, positive, shown
from unionfs.cli.counter import counter
from unionfs.cli.target import find, find_any, find_path, needs_upper
from unionfs.container.changes import diff
from unionfs.container.lifecycle import Container

_TYPES = {
    stat.S_IFREG: "regular file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}  # fmt: skip


def _place_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="DIR|UPPER", help="where a union is mounted, or an upper layer that was")
    parser.add_argument("--json", action="store_true", help="for programs")


# --- unionfs layers


def _layers_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("place", metavar="DIR|UPPER|CONTAINER|IMAGE", help="a mounted union, an upper layer, a container or an image")
    add("--wasted", action="store_true", help="and the largest objects that no name of the union leads to")
    add("-n", type=positive, default=10, metavar="N", help="so many of them (10)")
    add("--json", action="store_true", help="for programs")


def _layers(arguments: argparse.Namespace) -> None:
    target = find_any(arguments.place)
    with closing(target.open()) as stack, counter("names looked at") as tell:
        found = survey(stack, tell)
    rows = [_summary(facts, target.role(facts.layer)) for facts in found.layers]
    if arguments.json:
        layers = [row._asdict() for row in rows]
        if not arguments.wasted:
            print(json.dumps(layers, indent=1))
        else:
            wasted = [{**one._asdict(), "path": os.fsdecode(one.path)} for one in found.wasted[: arguments.n]]
            print(json.dumps({"layers": layers, "efficiency": found.efficiency, "wasted": wasted}, indent=1))
        return
    cells = [
        row._replace(size=table.size(row.size), wasted=table.size(row.wasted), path=shown(row.path)) for row in rows
    ]
    headings = ["layer", "role", ">A", ">C", ">D", ">files", ">opaque", ">size", ">wasted", "path"]
    table.show(headings, cells)
    if arguments.wasted:
        largest = [(one.layer, table.size(one.size), shown(one.path)) for one in found.wasted[: arguments.n]]
        rest = "; the largest of the rest:" if largest else ""
        print(f"\n{found.efficiency:.1%} of what the layers take is shown{rest}")
        if largest:
            table.show(["layer", ">size", "path"], largest)


class _Summary(NamedTuple):
    layer: int
    role: str
    added: int
    changed: int
    deleted: int
    files: int
    opaque: int
    size: Any
    wasted: Any
    path: str


def _summary(facts: LayerFacts, role: str) -> _Summary:
    return _Summary(
        facts.layer, role, facts.added, facts.changed, facts.deleted, facts.files, facts.opaque, facts.size,
        facts.wasted, os.fsdecode(facts.path),
    )  # fmt: skip


# --- unionfs diff


def _diff(arguments: argparse.Namespace) -> None:
    target = find(arguments.place)
    needs_upper(target)
    if target.container:
        show_changes(diff(Container(target.container)), arguments.json)
        return
    with closing(target.open()) as stack:
        show_changes(difference(stack, stack.layers[0]), arguments.json)


def show_changes(changes: Sequence[Change], as_json: bool = False) -> None:
    if as_json:
        print(json.dumps([{"kind": change.kind, "path": os.fsdecode(change.path)} for change in changes], indent=1))
    else:
        for change in changes:
            print(change.kind, shown(change.path))


# --- unionfs which


def _which_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="in a mounted union, or in an upper layer")
    parser.add_argument("--json", action="store_true", help="for programs")


def _which(arguments: argparse.Namespace) -> int:
    answers = [_Answer(path) for path in arguments.paths]
    if arguments.json:
        print(json.dumps([answer.as_json() for answer in answers], indent=1))
    else:
        for number, answer in enumerate(answers):
            print("\n" * (number > 0) + "\n".join(answer.lines()))
    return 0 if all(answer.found for answer in answers) else 1


class _Answer:
    """What becomes of one path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.target = find_path(path)
        stack = self.target.open()
        self.findings = explain.explain(stack, self.target.path)
        self.found = explain.given(self.findings)
        self.link: bytes | None = None
        """The copy of a lower file that was changed under another of its names."""
        if self.found is not None and self.target.work is not None:
            self.link = explain.copied_link(stack, self.found, self.target.work)
        stack.close()

    # For people

    def lines(self) -> list[str]:
        rows = [(str(one.layer.index), self._role(one), self._says(one), shown(one.where)) for one in self.findings]
        if self.link is not None:
            last = sum(one.layer.index == 0 for one in self.findings) - 1
            rows[last] = ("0", "upper", "gives it, changed by another of its names", shown(self.link))
        widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:3]]
        told = ["  ".join([*map(str.ljust, row, widths), row[3]]).rstrip() for row in rows]
        return [f"{shown(self.path)}: {self._summary()}", *(f"  {line}" for line in told)]

    def _role(self, finding: Finding) -> str:
        return self.target.role(finding.layer.index)

    def _summary(self) -> str:
        if self.found is not None:
            merged = [finding.layer.index for finding in self.findings if finding.says == explain.MERGES]
            if merged:
                return f"directory, merged from layers {', '.join(map(str, [self.found.layer.index, *merged]))}"
            return f"{_type(self.found)}, of layer {0 if self.link else self.found.layer.index}"
        hidden = next((finding for finding in self.findings if finding.says == explain.HIDDEN), None)
        if hidden is not None and hidden.by is not None:
            return f"not there: {_mark(hidden.by)} hides the {_type(hidden)} of layer {hidden.layer.index}"
        if any(finding.says == explain.FILE for finding in self.findings):
            return "not there: a name on the way is not a directory"
        return "not there: no layer has it"

    def _says(self, finding: Finding) -> str:
        if finding.says == explain.HIDDEN:
            assert finding.by is not None
            return f"hidden by {_mark(finding.by)}"
        if finding.says == explain.GIVES and self.link is not None:
            return "the original of the copy"
        if finding.says == explain.REDIRECT:
            return f"goes on below as {shown(finding.to)}"
        return _WORDS[finding.says]

    # For programs

    def as_json(self) -> dict[str, object]:
        layer = None if self.found is None else 0 if self.link else self.found.layer.index
        return {
            "path": self.path,
            "inside": os.fsdecode(self.target.path),
            "layer": layer,
            "type": _type(self.found) if self.found else None,
            "copied_link": os.fsdecode(self.link) if self.link else None,
            "findings": [self._finding(finding) for finding in self.findings],
        }

    def _finding(self, finding: Finding) -> dict[str, object]:
        told: dict[str, object] = {
            "layer": finding.layer.index, "role": self._role(finding), "root": os.fsdecode(finding.layer.path),
            "says": finding.says,
        }  # fmt: skip
        if finding.where:
            told["path"] = os.fsdecode(finding.where)
        if finding.by is not None:
            told["by"] = {"layer": finding.by.layer.index, "says": finding.by.says}
        if finding.to:
            told["to"] = os.fsdecode(finding.to)
        return told


_WORDS = {
    explain.GIVES: "gives it",
    explain.MERGES: "merged with it",
    explain.NOTHING: "has no such name",
    explain.WHITEOUT: "whiteout: it is deleted here",
    explain.OPAQUE: "opaque: hides what is below",
    explain.FILE: "not a directory: ends the way",
}


def _type(finding: Finding) -> str:
    return _TYPES[stat.S_IFMT(finding.mode)]


def _mark(finding: Finding) -> str:
    """What hides something, and where it is."""
    place = f"layer {finding.layer.index}"
    names = {explain.WHITEOUT: f"the whiteout in {place}", explain.OPAQUE: f"the opaque directory in {place}"}
    return names.get(finding.says, place)


DIFF_RULES = """\
A  added: the layers below have no such path
C  changed: they have it, and so has the upper; a directory in which something changed
D  deleted: they have it, and the union does not show it; what was in it goes unsaid

Only the upper is walked. A renamed directory is D where it was and A where it is,
with what the upper itself holds of it; what it took along from below is not listed.
Where it took the place of another one it is C, as are the names that both had.
A file with several names in a lower layer is C under the name that was written to.
The root itself is never listed.
"""

COMMANDS = {
    "layers": Command(
        "Show the stack, the topmost layer first: how many paths each layer adds (A), changes (C) and deletes (D) of "
        "what is below it, the space that it takes, and how much of that the merged tree does not show.",
        _layers_arguments,
        _layers,
        "All of it is walked. How A, C and D are counted: unionfs diff --help. In a browser: unionfs explore.\n",
    ),
    "which": Command(
        "Show which layer gives a path, and why: what the layers say, from the top down,\n"
        "and what is hidden below. Exit status 1 when a path is not there in the union.",
        _which_arguments,
        _which,
        "The path need not exist; a symbolic link at its end is not followed.\n",
    ),
    "diff": Command(
        "Show what the upper layer changes of the layers below it, as docker diff does.",
        _place_arguments,
        _diff,
        DIFF_RULES,
    ),
}
