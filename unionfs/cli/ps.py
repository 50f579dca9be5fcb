"""The commands that tell about containers: `ps`, `inspect`, `logs`, and `container stats`.

Loaded by `main.py`. Columns, filters and fields are docker's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from unionfs.cli import formats
from unionfs.cli.command import Command, UsageError
from unionfs.cli.documents import document_of, show_documents, state_of
from unionfs.container import log, roots
from unionfs.container.lifecycle import Container
from unionfs.container.networks import Networks
from unionfs.container.quantities import parse_moment
from unionfs.container.state import RUNNING, STARTING, Containers, Record
from unionfs.container.wiring import published_ports
from unionfs.image.database import Database

_COLUMNS = (
    ("container id", "ID"), ("image", "Image"), ("command", "Command"), ("created", "RunningFor"), ("status", "Status"),
    ("ports", "Ports"), ("names", "Names"),
)  # fmt: skip
_FILTERS = ("id", "name", "status", "label", "ancestor", "volume", "exited", "network")
_CLEAR = "\x1b[H\x1b[2J"
_COMMAND_LENGTH = 20


def _ps_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-a", "--all", action="store_true", help="those that do not run too")
    add("-q", "--quiet", action="store_true", help="only ids")
    add("-n", "--last", type=int, metavar="N", help="the last N, whatever their state")
    add("-l", "--latest", action="store_true", help="the last one")
    add("-s", "--size", action="store_true", help="how much each one's upper layer takes")
    add("-f", "--filter", action="append", default=[], metavar="KEY=VALUE", help=", ".join(_FILTERS))
    add("--no-trunc", action="store_true", help="whole ids and commands")
    add("-w", "--watch", action="store_true", help="again each second, until it is interrupted")
    formats.add_format(parser)


def _ps(arguments: argparse.Namespace) -> None:
    wanted = [_filter(word) for word in arguments.filter]
    while True:
        if arguments.watch:
            sys.stdout.write(_CLEAR)
        _list(arguments, wanted)
        if not arguments.watch:
            return
        sys.stdout.flush()
        time.sleep(1)


def _filter(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError("--filter", f"{word} is not KEY=VALUE", "as in status=exited")
    formats.check_filter(key, _FILTERS)
    return key, value


def _list(arguments: argparse.Namespace, wanted: Sequence[tuple[str, str]]) -> None:
    count = 1 if arguments.latest else arguments.last
    by_state = any(key in ("status", "exited") for key, _ in wanted)
    rows = []
    with Database() as database:
        for record in Containers(database).all():
            if not (arguments.all or count is not None or by_state or record.status in (RUNNING, STARTING)):
                continue
            if all(_matches(database, record, wanted, key) for key in dict.fromkeys(key for key, _ in wanted)):
                rows.append(row_of(database, record, arguments.no_trunc, arguments.size))
    rows = rows[:count]
    if arguments.quiet:
        for row in rows:
            print(row["ID"])
        return
    columns = (*_COLUMNS, ("size", "Size")) if arguments.size else _COLUMNS
    formats.show(rows, columns, arguments.format)


def _matches(database: Database, record: Record, wanted: Sequence[tuple[str, str]], key: str) -> bool:
    """Whether one of the values that are asked for under this key is the container's."""
    return any(_has(database, record, key, value) for other, value in wanted if other == key)


def _has(database: Database, record: Record, key: str, value: str) -> bool:
    spec = record.spec
    if key == "label":
        return formats.has_label(dict(spec.labels), value)
    if key == "volume":
        return any(value in (mount.source, mount.target) for mount in spec.mounts)
    if key == "status":  # apart from the others, since it asks the cgroup
        return state_of(record) == value
    image_id = (record.image or "").removeprefix("sha256:")[:12]
    return {
        "id": record.id.startswith(value),
        "name": value.removeprefix("/") in record.name,
        "ancestor": value in (spec.image_name, f"{spec.image_name}:latest", image_id),
        "exited": record.status == "exited" and str(record.exit_code) == value,
        "network": value in _networks_of(database, record),
    }[key]


def _networks_of(database: Database, record: Record) -> list[str]:
    return [network.name for network, _ in Networks(database).endpoints(record.id)] or [record.spec.network]


def _ports_of(database: Database, record: Record) -> list[str]:
    """0.0.0.0:8080->80/tcp for what is published now, and 80/tcp for what is exposed and is not."""
    if not record.is_running:
        return []
    ports = published_ports(database, record)
    told = {port.inner for port in ports}
    exposed = [port for port in record.spec.ports if port not in told]
    return [*(f"{port.outer}->{port.inner}" for port in ports), *exposed]


def status_of(record: Record) -> str:
    """How it is, in a few words: Up 5 minutes, Exited (0) 2 hours ago."""
    state, now = state_of(record), time.time()
    if record.is_running:
        return f"Up {formats.ago(now - record.started)}{' (Paused)' if state == 'paused' else ''}"
    if state == "exited":
        return f"Exited ({record.exit_code}) {formats.ago(now - record.finished)} ago"
    return state.capitalize()


def row_of(database: Database, record: Record, whole: bool, sized: bool) -> formats.Row:
    spec = record.spec
    command = " ".join(spec.argv)
    if not whole and len(command) > _COMMAND_LENGTH:
        command = command[: _COMMAND_LENGTH - 1] + "…"
    row = {
        "ID": record.id if whole else record.short_id,
        "Image": spec.image_name or ":".join(spec.rootfs),
        "Command": f'"{command}"',
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(record.created)),
        "RunningFor": f"{formats.ago(time.time() - record.created)} ago",
        "Status": status_of(record),
        "State": state_of(record),
        "Ports": ", ".join(_ports_of(database, record)),
        "Names": record.name,
        "Labels": ",".join(f"{name}={value}" for name, value in spec.labels),
        "Mounts": ",".join(mount.source for mount in spec.mounts if mount.source),
        "Networks": ",".join(_networks_of(database, record)),
    }
    if sized:
        row["Size"] = formats.size(roots.space_of(database.path("containers", record.id, "upper"), directories=False))
    return row


# --- inspect


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a container, an image, a volume, a network")
    parser.add_argument("-f", "--format", metavar="TEMPLATE", help='a template, as in "{{.State.Pid}}"')


def _inspect(arguments: argparse.Namespace) -> int:
    return show_documents(arguments.names, arguments.format, document_of)


# --- logs


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on with what it puts out, until it ends")
    add("-n", "--tail", default="all", metavar="N", help="the last N lines")
    add("--since", type=parse_moment, metavar="TIME", help="lines since then: a time, or a duration before now")
    add("--until", type=parse_moment, metavar="TIME", help="lines until then")
    add("-t", "--timestamps", action="store_true", help="each line's time before it")
    add("name", metavar="CONTAINER", help="its name or id")


def _logs(arguments: argparse.Namespace) -> None:
    if arguments.tail != "all" and not arguments.tail.isdecimal():
        raise UsageError("--tail", f"{arguments.tail} is no number of lines", '"all", or a number')
    tail = None if arguments.tail == "all" else int(arguments.tail)
    for line in Container(arguments.name).logs(tail, arguments.follow):
        if arguments.since is not None and _seconds(line) < arguments.since:
            continue
        if arguments.until is not None and _seconds(line) > arguments.until:
            break
        to = sys.stdout if line.stream == "stdout" else sys.stderr
        to.write(f"{line.time} {line.text}" if arguments.timestamps else line.text)
        to.flush()


def _seconds(line: log.Line) -> float:
    return parse_moment(line.time)


_PS = Command("The containers: those that run, or all.", _ps_arguments, _ps)
COMMANDS = {
    "ps": _PS,
    "container ls": _PS,
    "inspect": Command(
        "All that is known of a container, an image or a volume, as JSON.", _inspect_arguments, _inspect
    ),
    "logs": Command("What a container put out on its standard output and error.", _logs_arguments, _logs),
}
