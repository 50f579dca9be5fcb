"""`unionfs stats`: what the daemon of a mounted union did, and what it holds; and what containers take.

Loaded by `main.py`. It asks the mount, by the virtual attribute user.unionfs.stats of its root, or the containers'
cgroups, and changes nothing.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from unionfs.cli import formats, table
from unionfs.cli.command import Command, UsageError, shown
from unionfs.cli.target import STATS, find
from unionfs.container.cgroup import Cgroup, Usage
from unionfs.container.lifecycle import Container
from unionfs.container.state import Record
from unionfs.errors import UnionfsError

_INTERVAL_SECONDS = 0.5


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("places", nargs="*", metavar="DIR|CONTAINER", help="where a union is mounted; by default all containers")
    add("--json", action="store_true", help="the same for programs")
    add("--prometheus", action="store_true", help="a union's counters in Prometheus' text format")
    add("-a", "--all", action="store_true", help="containers that do not run too")
    add("--no-stream", action="store_true", help="containers: once, not again each second")
    formats.add_format(parser)


def _stats(arguments: argparse.Namespace) -> None:
    mounted = [place for place in arguments.places if "/" in place or os.path.lexists(place)]
    if not mounted:
        if arguments.prometheus:
            raise UsageError("stats", "--prometheus is about a mounted union", "name the place of a mount")
        _show_containers(arguments)
        return
    if len(arguments.places) > 1:
        raise UsageError("stats", "a union is asked alone", f"unionfs stats {mounted[0]}")
    found = _ask(mounted[0])
    if arguments.prometheus:
        print(_prometheus(found, os.path.abspath(mounted[0])), end="")
    elif arguments.json:
        print(json.dumps(found, indent=1))
    else:
        _show(found)


def _ask(place: str) -> Any:
    point = find(place).mountpoint
    if point is None:
        raise UnionfsError(place, "is not mounted, and only a mount counts", "name the place of a mount")
    try:
        return json.loads(os.getxattr(point, STATS))
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        raise UnionfsError(shown(point), "its daemon counts nothing", "the native engine does") from error


def _show(found: Any) -> None:
    ids, path = found["backing_ids"], found["data_path"]
    why = f" ({found['why']})" if found["why"] else ""
    coherent = " (coherent)" if found["coherent"] and path == "passthrough" else ""
    rows = [
        ("data path", f"{path}{why}{coherent}"),
        ("scheduling", found["scheduling"]),
        ("copy-ups", f"{found['copy_ups']}, {table.size(found['copied_bytes'])} of data"),
        ("nodes known to the kernel", f"{found['nodes']}, {found['former_nodes']} of them former ones"),
        ("open files and directories", found["open_handles"]),
        ("files kept open", found["open_files"]),
        ("backing ids", f"{ids['live']} live, {ids['opened']} opened, {ids['closed']} closed"),
    ]
    table.show(("what", "count"), rows)
    print()
    requests = sorted(found["requests"].items(), key=lambda item: -item[1])
    table.show(("request", f"{table.RIGHT}count"), requests)


_METRICS: tuple[tuple[str, str, str, Callable[[Any], int]], ...] = (
    ("copy_ups_total", "counter", "Objects that were copied up.", lambda found: found["copy_ups"]),
    ("copied_bytes_total", "counter", "Bytes of data that were copied with them.", lambda found: found["copied_bytes"]),
    ("nodes", "gauge", "Nodes that the kernel knows.", lambda found: found["nodes"]),
    ("open_handles", "gauge", "Open files and directories.", lambda found: found["open_handles"]),
    ("open_files", "gauge", "Files of the layers that are kept open.", lambda found: found["open_files"]),
    ("backing_ids", "gauge", "Files that the kernel reads and writes by itself.",
     lambda found: found["backing_ids"]["live"]),
)  # fmt: skip


def _prometheus(found: Any, mountpoint: str) -> str:
    """Prometheus' text exposition format, version 0.0.4: a textfile collector, or a script behind HTTP, serves it."""
    value = mountpoint.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    label = f'mountpoint="{value}"'
    lines = ["# HELP unionfs_requests_total Requests of the kernel, by kind.", "# TYPE unionfs_requests_total counter"]
    lines += [f'unionfs_requests_total{{{label},op="{op}"}} {count}' for op, count in found["requests"].items()]
    for name, kind, words, value_of in _METRICS:
        lines += [f"# HELP unionfs_{name} {words}", f"# TYPE unionfs_{name} {kind}"]
        lines.append(f"unionfs_{name}{{{label}}} {value_of(found)}")
    return "\n".join(lines) + "\n"


# --- containers

_CONTAINER_COLUMNS = (
    ("container id", "ID"), ("name", "Name"), (">cpu %", "CPUPerc"), (">mem usage / limit", "MemUsage"),
    (">mem %", "MemPerc"), (">pids", "PIDs"),
)  # fmt: skip
_CLEAR = "\x1b[H\x1b[2J"


def _show_containers(arguments: argparse.Namespace) -> None:
    """Again each second on a terminal; once elsewhere, and with --no-stream."""
    form = "json" if arguments.json else arguments.format
    streams = not arguments.no_stream and sys.stdout.isatty() and form is None
    before = {record.id: (time.monotonic(), _usage(record).cpu) for record in _records(arguments)}
    time.sleep(_INTERVAL_SECONDS)
    while True:
        rows = []
        for record in _records(arguments):
            now, usage = time.monotonic(), _usage(record)
            then, cpu = before.get(record.id, (now - 1, usage.cpu))
            before[record.id] = (now, usage.cpu)
            rows.append(_row(record, usage, (usage.cpu - cpu) / 1e9 / max(now - then, 1e-9)))
        if streams:
            sys.stdout.write(_CLEAR)
        formats.show(rows, _CONTAINER_COLUMNS, form)
        if not streams:
            return
        sys.stdout.flush()
        time.sleep(1)


def _records(arguments: argparse.Namespace) -> list[Record]:
    if arguments.places:
        return [Container(name).record for name in arguments.places]
    return [record for record in Container.all() if arguments.all or record.is_running]


def _usage(record: Record) -> Usage:
    return Cgroup.of(record.id).usage() if record.is_running else Usage()


def _row(record: Record, usage: Usage, load: float) -> formats.Row:
    limit = usage.memory_limit or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "ID": record.short_id,
        "Name": record.name,
        "CPUPerc": f"{load * 100:.2f}%",
        "MemUsage": f"{table.size(usage.memory)} / {table.size(limit)}",
        "MemPerc": f"{usage.memory / limit * 100:.2f}%",
        "PIDs": usage.pids,
    }


COMMANDS = {
    "stats": Command(
        "What the daemon of a mounted union was asked and did since it started, and what it holds: requests by kind, "
        "copy-ups, how file data goes, files that the kernel reads by itself. Or what containers take: processors, "
        "memory, processes.",
        _arguments,
        _stats,
        "An id is that of a file that the kernel reads and writes by itself. One that is not open keeps its id\n"
        "until the kernel forgets it, at most 16,384 of them. A former node is a lower file that somebody opened\n"
        "before it was copied up, and still reads.",
    )
}
