"""What was measured, as tables: ratios to the kernel's overlayfs first, then targets, then times with their spread.

Used by `suite.py` and `plots.py`. It knows nothing of how the rows came about: they are those of the JSON file, so the
tables of an old run can be shown again. A ratio is the median of the ratios of each round, since in one round the peers
were measured right after each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import measure
import peers
from measure import Summary, number

Figures = dict[str, Any]
"""A row of the JSON file."""
MARKS = {True: "met", False: "missed"}
_BEGIN, _END = "<!-- figures: begin -->", "<!-- figures: end -->"
_COLUMNS = 6
"""Peers in one table of the terminal."""


class Table(NamedTuple):
    title: str
    headings: Sequence[str]
    cells: Sequence[Sequence[str]]
    words: int = 1
    """So many columns hold words, the others numbers."""


# --- ratios and targets


def compare(rows: Sequence[Figures]) -> None:
    """Add to each row its ratios, and to those that have a target whether it was met."""
    found = {(row["filesystem"], row["what"], row["peer"]): row for row in rows}
    for row in rows:
        for peer, key in ((peers.BASE, "to_overlayfs"), (peers.SECOND, "to_fuse_overlayfs")):
            other = found.get((row["filesystem"], row["what"], peer))
            if other is None or not any(other["samples"]):
                continue
            ratios = [one / base for one, base in zip(row["samples"], other["samples"], strict=False) if base]
            row[key] = {name: round(value, 4) for name, value in Summary.of(ratios)._asdict().items()}
        if target := row.get("target"):
            checks = [row[key]["median"] <= target[key] for key in ("to_overlayfs", "to_fuse_overlayfs") if key in row]
            target["met"] = all(checks) if checks else None


def filesystems(rows: Sequence[Figures]) -> list[str]:
    return list(dict.fromkeys(row["filesystem"] for row in rows))


def groups(rows: Sequence[Figures]) -> list[str]:
    return list(dict.fromkeys(row["group"] for row in rows))


def peer_names(rows: Sequence[Figures]) -> list[str]:
    """In the order in which the suite has them, whatever it began with."""
    known = [peer.name for peer in peers.all_peers()]
    found = {row["peer"] for row in rows}
    return [name for name in known if name in found] + sorted(found - set(known))


# --- tables


def tables(rows: Sequence[Figures]) -> Iterator[Table]:
    """All that was measured, for a terminal."""
    for filesystem, group, part in _parts(rows):
        yield from _ratios(filesystem, group, part, _COLUMNS)
    yield from _targets(rows)
    for filesystem, group, part in _parts(rows):
        yield _times(filesystem, group, part)


def wide_tables(rows: Sequence[Figures]) -> Iterator[Table]:
    """For a page, with a column for each peer; targets and times of the first filesystem alone."""
    first = [row for row in rows if row["filesystem"] == rows[0]["filesystem"]]
    yield from _targets(first)
    for filesystem, group, part in _parts(rows):
        yield from _ratios(filesystem, group, part, None)
    for filesystem, group, part in _parts(first):
        yield from _details(filesystem, group, part)


def _parts(rows: Sequence[Figures]) -> Iterator[tuple[str, str, list[Figures]]]:
    """The rows of each filesystem and group."""
    for filesystem in filesystems(rows):
        here = [row for row in rows if row["filesystem"] == filesystem]
        for group in groups(here):
            yield filesystem, group, [row for row in here if row["group"] == group]


def _ratios(filesystem: str, group: str, rows: Sequence[Figures], columns: int | None) -> Iterator[Table]:
    """With so many peers in a table; None: all."""
    compared = [row for row in rows if "to_overlayfs" in row and row["peer"] != peers.BASE]
    names = peer_names(compared)
    whats = list(dict.fromkeys((row["what"], row["amount"]) for row in compared))
    found = {(row["what"], row["peer"]): row for row in compared}
    for start in range(0, len(names), columns or len(names) or 1):
        part = names[start : start + (columns or len(names))]
        cells = [[_named(what, amount), *(_ratio(found.get((what, name))) for name in part)] for what, amount in whats]
        yield Table(
            f"{group}, {filesystem}{_scale(rows)}: times as long as overlayfs", ["", *map(_heading, part)], cells
        )


def _named(what: str, amount: str) -> str:
    return f"{what}: {amount}" if amount else what


def _scale(rows: Sequence[Figures]) -> str:
    """Said where it is not that of the amounts."""
    found = rows[0]["scale"] if rows else 1
    return "" if found == 1 else f", {found:g} of these amounts"


def _heading(name: str) -> str:
    """Of ours, the mode."""
    return name.removeprefix(f"{peers.OURS} ")


def _ratio(row: Figures | None) -> str:
    if row is None:
        return "-"
    found, mark = row["to_overlayfs"]["median"], ""
    if "target" in row:
        mark = MARKS[found <= row["target"]["to_overlayfs"]]
    return f"{ratio(found)} {mark}".strip()


def ratio(value: float) -> str:
    """Two digits that count, where three would be none."""
    return number(value) if value >= 0.1 else f"{value:.2g}"


def _targets(rows: Sequence[Figures]) -> Iterator[Table]:
    rows = [row for row in rows if "target" in row]
    cells = []
    for row in rows:
        target = row["target"]
        cell = [f"{row['what']}, {row['filesystem']}", row["peer"]]
        for key in ("to_overlayfs", "to_fuse_overlayfs"):
            cell += [ratio(row[key]["median"]) if key in row else "-", f"{target[key]:g}"]
        cells.append([*cell, MARKS.get(target["met"], "not compared")])
    headings = ["", "peer", "to overlayfs", "at most", "to fuse-overlayfs", "at most", "target"]
    met = sum(row["target"]["met"] is True for row in rows)
    if rows:
        yield Table(f"targets, {met} of {len(rows)} met: times as long", headings, cells, words=2)


def _times(filesystem: str, group: str, rows: Sequence[Figures]) -> Table:
    names = peer_names(rows)
    cells = []
    for what in dict.fromkeys(row["what"] for row in rows):
        same = sorted((row for row in rows if row["what"] == what), key=lambda row: names.index(row["peer"]))
        for index, row in enumerate(same):
            room = row.get("upper_bytes")
            cells.append([
                _named(what, row["amount"]) if index == 0 else "", row["peer"], str(Summary(**row["ms"])),
                _number(row.get("p50_us")), _number(row.get("p99_us")), _number(row.get("daemon_ms")),
                "" if room is None else measure.room(room), str(row["ms"]["samples"]),
            ])  # fmt: skip
    headings = ["", "peer", "ms: median (quarters)", "p50", "p99", "daemon ms", "upper", "samples"]
    about = "whole time; one operation in µs; the daemon's processor time; the upper's room"
    title = f"{group}, {filesystem}{_scale(rows)}: {about}"
    empty = [index for index in range(3, 7) if not any(cell[index] for cell in cells)]
    kept = [index for index in range(len(headings)) if index not in empty]
    return Table(
        title, [headings[index] for index in kept], [[cell[index] for index in kept] for cell in cells], words=2
    )


def _details(filesystem: str, group: str, rows: Sequence[Figures]) -> Iterator[Table]:
    """The same with a column for each peer: a table of times, one of single operations, one of the daemon's."""
    names = peer_names(rows)
    whats = list(dict.fromkeys((row["what"], row["amount"]) for row in rows))
    found = {(row["what"], row["peer"]): row for row in rows}
    kinds: list[tuple[str, Callable[[Figures], str]]] = [
        ("ms, median (quarters)", lambda row: str(Summary(**row["ms"]))),
        ("p50 / p99 of one operation, µs", _percentiles),
        ("processor time of the daemon, ms", lambda row: _number(row.get("daemon_ms"))),
    ]
    for title, tell in kinds:
        cells = [
            [_named(what, amount), *(tell(found[what, name]) if (what, name) in found else "-" for name in names)]
            for what, amount in whats
        ]
        cells = [line for line in cells if any(cell not in ("", "-") for cell in line[1:])]
        if cells:
            yield Table(f"{group}, {filesystem}{_scale(rows)}: {title}", ["", *map(_heading, names)], cells)


def _percentiles(row: Figures) -> str:
    return f"{_number(row['p50_us'])} / {_number(row['p99_us'])}" if "p50_us" in row else ""


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


# --- where they go


def show(rows: Sequence[Figures]) -> None:
    for table in tables(rows):
        measure.show(table.title, table.headings, table.cells, table.words)


def write_markdown(path: str, rows: Sequence[Figures], machine: dict[str, str], left_out: Sequence[str]) -> None:
    """Into the file, between the two marks if it has them; without them, the file is these tables."""
    parts = ["\n".join(f"- {key}: {value}" for key, value in machine.items())]
    for table in wide_tables(rows):
        rule = ["---"] * table.words + ["---:"] * (len(table.headings) - table.words)
        lines = [table.headings, rule, *table.cells]
        text = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
        parts.append(f"### {table.title[0].upper()}{table.title[1:]}\n\n{text}")
    if left_out:
        parts.append("### Not measured\n\n" + "\n".join(f"- {line.removeprefix('left out: ')}" for line in left_out))
    figures = f"{_BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{_END}\n"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        text = ""
    before, begin, rest = text.partition(_BEGIN)
    after = rest.partition(f"{_END}\n")[2] if begin else ""
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before if begin else ''}{figures}{after}")
