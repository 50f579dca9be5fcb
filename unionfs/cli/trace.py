"""`unionfs trace`: the requests that a mounted union answers, live, and how long they took.

Loaded by `main.py`. The mount's daemon writes a line of JSON for each request into a pipe of ours (`fuse/watch.py` says
what is in it); nothing is written while nobody asks, and it stops when this process ends, however that happens.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TextIO

from unionfs.cli import table
from unionfs.cli.command import Command, UsageError, shown
from unionfs.cli.target import STATS, asked_at, find
from unionfs.errors import UnionfsError, did_you_mean
from unionfs.fuse.dispatch import TABLE
from unionfs.fuse.listen import HOUSEKEEPING, Watch, asked_by

_NAMES = sorted({row.name for row in TABLE} - {"UNKNOWN"})
_NARROWEST = 80


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("place", metavar="DIR|CONTAINER", help="where a union is mounted, or a running container")
    add("-p", "--pid", type=int, metavar="PID", help="only what this process asks for, with all its threads")
    add("--op", action="append", default=[], metavar="NAME[,NAME]", help="only these, as in --op lookup,open")
    add("--json", action="store_true", help="an object a line, for programs")


def _trace(arguments: argparse.Namespace) -> int:
    wanted = _operations(arguments.op)
    if arguments.pid is not None and not os.path.exists(f"/proc/{arguments.pid}"):
        raise UnionfsError(f"process {arguments.pid}", "there is none of that number", "ps -e lists them")
    mountpoint = _mountpoint(arguments.place)
    watch = Watch(mountpoint)
    chosen = _chosen(watch, wanted, arguments.pid)
    if arguments.json:
        with suppress(KeyboardInterrupt):
            for one in chosen:
                print(json.dumps(one), flush=True)
        return 0
    screen = Screen(sys.stdout)
    try:
        screen.begin(shown(arguments.place), json.loads(os.getxattr(mountpoint, STATS))["data_path"])
        for one in chosen:
            screen.add(one)
    except KeyboardInterrupt:
        print()
    screen.end()
    return 0


def _operations(words: Sequence[str]) -> frozenset[str]:
    """The names of requests that were asked for. Raises UsageError."""
    names = [name.strip().upper() for word in words for name in word.split(",")]
    for name in names:
        if name not in _NAMES and name != "COMPLETE":
            raise UsageError("trace", f"--op {name}: there is no such request", did_you_mean(name, _NAMES) or
                             f"one of {', '.join(_NAMES).lower()}")  # fmt: skip
    return frozenset(names)


def _chosen(watch: Watch, wanted: frozenset[str], pid: int | None) -> Iterator[dict[str, Any]]:
    """Those that are wanted; that lines were lost is told with the next of them, whatever was lost."""
    lost = 0
    for one in watch:
        lost += one.pop("lost", 0)
        if _is_wanted(one, wanted, pid):
            yield {**one, "lost": lost} if lost else one
            lost = 0


def _is_wanted(one: dict[str, Any], wanted: frozenset[str], pid: int | None) -> bool:
    if one["op"] not in wanted if wanted else one["op"] in HOUSEKEEPING:
        return False
    return not asked_by(one, os.getpid()) and (pid is None or asked_by(one, pid))


def _mountpoint(place: str) -> bytes:
    """Where the union can be asked. Raises UnionfsError."""
    target = find(place)
    point = asked_at(target)
    if point is None and target.container:
        raise UnionfsError(place, "does not run, and so nothing is asked of its union", f"unionfs start {place}")
    if point is None:
        raise UnionfsError(shown(place), "is not mounted, and only a mount is asked", "name the place of a mount")
    return point


class Screen:
    """A line a request for people, no wider than the terminal; copy-ups on lines of their own, below what caused them;
    at the end how long they took."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._times: dict[str, Counter[int]] = {}
        self._failures: Counter[str] = Counter()
        self._copied = self._asked = self._copies = self._lost = 0

    def begin(self, place: str, data_path: str) -> None:
        self._line(f"{place}: what the kernel asks, until Ctrl-C or the unmount")
        self._line("Names and pages that the kernel has cached it does not ask for.")
        if data_path == "passthrough":
            self._line("Files open by passthrough: it reads and writes them without asking either.")
        self._line(_format("TIME", "PID", "COMM", "OP", "LAYER", "BYTES", "µs", "PATH"))

    def add(self, one: dict[str, Any]) -> None:
        self._lost += one.get("lost", 0)
        if "us" in one:
            self._times.setdefault(one["op"], Counter())[one["us"]] += 1
            self._failures[one["op"]] += one["errno"] is not None
        self._line(self._fitted(_request(one)))
        for copy in one.get("copied", ()):
            self._copy(one, copy)
        self._stream.flush()

    def _copy(self, one: dict[str, Any], copy: dict[str, Any]) -> None:
        asked = one.get("bytes", 0) if one["op"] == "WRITE" else 0
        first = copy is one["copied"][0]
        self._copies += 1
        self._copied += copy["bytes"]
        self._asked += asked if first else 0
        line = self._fitted(f"    copy-up  {_copy_words(one, copy, asked)}")
        self._line(f"\x1b[1;33m{line}\x1b[0m" if self._terminal else line)

    def end(self) -> None:
        """Percentiles and a histogram of each operation, in powers of two of a microsecond."""
        if not self._times:
            self._line("nothing was asked")
            return
        rows = []
        for op, times in sorted(self._times.items(), key=lambda item: -item[1].total()):
            marks = [_microseconds(percentile(times, part)) for part in (0.5, 0.9, 0.99)]
            rows.append((op, times.total(), self._failures[op] or None, *marks, bars(times)))
        self._line("")
        self._line("Times in microseconds; the bars count them by powers of two, from 1 µs to 65 ms.")
        table.show(("operation", ">count", ">failed", ">p50", ">p90", ">p99", "histogram"), rows)
        if self._copies:
            self._line(f"\n{table.plural(self._copies, 'copy-up')}: {table.size(self._copied)} copied, "
                       f"{table.size(self._asked)} asked to be written by what caused them")  # fmt: skip
        if self._lost:
            self._line(f"{self._lost} requests are missing: they came faster than they could be shown")

    def _line(self, text: str) -> None:
        print(text, file=self._stream)

    def _fitted(self, line: str) -> str:
        if not self._terminal:
            return line
        width = max(os.get_terminal_size(self._stream.fileno()).columns or _NARROWEST, 40) - 1
        if len(line) <= width:
            return line
        head = min(_PATH_AT, width // 2)
        return line[:head] + "…" + line[len(line) - (width - head - 1) :]


_PATH_AT = 56


def _format(when: str, pid: object, comm: str, op: str, layer: str, size: str, us: str, path: str) -> str:
    return f"{when:8} {pid:>7} {comm[:8]:8} {op[:10]:10} {layer:>5} {size:>5} {us:>6} {path}".rstrip()


def _request(one: dict[str, Any]) -> str:
    layer = "" if one.get("layer") is None else str(one["layer"])
    if one.get("whiteout") is not None:
        layer = f"{one['whiteout']} wh"
    path = shown("/" + one["path"]) if one.get("path") is not None else ""
    if one.get("to") is not None:
        path += f" -> /{shown(one['to'])}"
    size = "" if one.get("bytes") is None else _short(one["bytes"])
    when = time.strftime("%H:%M:%S", time.localtime(one["time"]))
    failure = f" {one['errno']}" if one.get("errno") else ""
    us = "" if one.get("us") is None else _microseconds(one["us"])
    return _format(when, one.get("pid") or "", shown(one.get("comm", "")), one["op"], layer, size, us, path + failure)


def _copy_words(one: dict[str, Any], copy: dict[str, Any], asked: int) -> str:
    """What was copied, how much of that was asked for, and which blocks."""
    where = f" of /{shown(copy['path'])}" if copy.get("path") not in (None, one.get("path")) else ""
    moved = table.size(copy["bytes"])
    by = f"by {one['op']}" if one["op"] != "COMPLETE" else "in the background"
    if copy["how"] == "blocks":
        size, offset = copy["block_size"], copy["offset"]
        first, last = offset // size, (offset + max(copy["bytes"], 1) - 1) // size
        blocks = f"block {first}" if first == last else f"blocks {first} to {last}"
        told = f"{by}: {moved} copied" + (f" for {table.size(asked)} asked" if asked else "")
        return f"{told}, {blocks}, each of {table.size(size)}{where}"
    words = {
        "whole": f"the whole object, {moved} of data",
        "clone": "the whole file, its blocks shared (reflink)",
        "map": "attributes and an empty block map, no data",
        "directory": "the directory",
    }
    if copy["how"] == "directory":
        where = f" /{shown(copy['path'])}"
    return f"{by}: {words[copy['how']]}{where}"


def _short(count: int) -> str:
    """Bytes in at most 5 characters: 812, 3.4K, 120M."""
    value, units = float(count), iter("KMGTP")
    unit = ""
    while value >= 1000:
        value, unit = value / 1024, next(units)
    return f"{value:.0f}{unit}" if value >= 10 or not unit or value == int(value) else f"{value:.1f}{unit}"


def _microseconds(us: int) -> str:
    return str(us) if us < 100_000 else f"{us / 1e6:.1f}s"


# --- how long they took

BUCKETS = 17
"""From 1 µs to 2**16 µs and more, by powers of two."""
_BARS = " ▁▂▃▄▅▆▇█"


def percentile(times: Counter[int], part: float) -> int:
    """The smallest of the counted values that at least `part` of them (0 to 1) do not exceed."""
    wanted, seen = part * times.total(), 0
    for value in sorted(times):
        seen += times[value]
        if seen >= wanted:
            return value
    return 0


def bars(times: Counter[int]) -> str:
    """A histogram in one line of text."""
    counts = [0] * BUCKETS
    for us, count in times.items():
        counts[min(us.bit_length() - 1 if us else 0, BUCKETS - 1)] += count
    highest = max(counts)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // highest)] for count in counts).rstrip()


COMMANDS = {
    "trace": Command(
        "Show each request that a mounted union answers while it does: when, of which process, what, which layer gives "
        "the name, how many bytes, how long it took. Copy-ups stand below the request that caused them. At the end, "
        "percentiles and a histogram for each kind of request.",
        _arguments,
        _trace,
        "LAYER is 0 for the topmost, and \"0 wh\" where a whiteout in layer 0 hides the name. FORGET and the kernel's\n"
        "other housekeeping is shown by --op forget. What one line a request costs is measured by\n"
        "benchmarks/watching.py; with nobody watching it is nothing. All data through the daemon, to see each READ\n"
        "and WRITE: unionfs mount -o open=cached\n",
    )
}
