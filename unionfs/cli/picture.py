"""The picture of `network graph`: bridges, the containers on them, their addresses, and the ports that lead to them.

Used by `network.py`. What is drawn is gathered once; as text it is a tree for a terminal, as SVG three columns: the
machine with its ports, the containers, the networks, with a line for each port and each address.
"""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from unionfs.container import wiring
from unionfs.container.networks import Networks
from unionfs.container.state import Containers
from unionfs.image.database import Database

_ROW, _WIDTH, _TOP = 22, 250, 56
_COLUMNS = (20, 360, 700)
_STYLE = (
    "text{font:13px sans-serif;fill:#1c2733}.small{font-size:11px;fill:#5b6b7b}rect{rx:6;stroke:#7a8a99;fill:#fff}"
    ".network{fill:#e8f1fb}.machine{fill:#f4f0e6}path{fill:none;stroke:#7a8a99;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){svg{background:#15191e}text{fill:#e6edf3}.small{fill:#9fb0c0}"
    "rect{fill:#20262d}.network{fill:#1d3045}.machine{fill:#332d20}}"
)


class Box(NamedTuple):
    """A container that runs: its addresses by network, and its ports, as 0.0.0.0:8080 and 80/tcp."""

    name: str
    mode: str
    addresses: tuple[tuple[str, str], ...]
    ports: tuple[tuple[str, str], ...]


class Net(NamedTuple):
    name: str
    bridge: str
    subnets: tuple[str, ...]
    is_internal: bool


class Drawn(NamedTuple):
    networks: tuple[Net, ...]
    containers: tuple[Box, ...]


def gather(database: Database) -> Drawn:
    """What there is now. Networks without containers are left out, but for those of one's own."""
    networks = Networks(database)
    boxes = []
    for record in Containers(database).all():
        if record.is_running:
            found = [(net.name, word) for net, end in networks.endpoints(record.id) for word in end.addresses]
            ports = [(port.outer, port.inner) for port in wiring.published_ports(database, record)]
            boxes.append(Box(record.name, record.spec.network, tuple(found), tuple(ports)))
    nets = [
        Net(net.name, net.bridge.name, tuple(entry.subnet for entry in net.ranges), net.internal)
        for net in networks.all() if net.driver == "bridge" and net.ranges
    ]  # fmt: skip
    return Drawn(tuple(nets), tuple(sorted(boxes)))


def text(drawn: Drawn) -> str:
    """As a tree, a network after the other."""
    lines = []
    for net in drawn.networks:
        internal = ", internal" if net.is_internal else ""
        lines.append(f"{net.name}  ({net.bridge}, {', '.join(net.subnets)}{internal})")
        members = [box for box in drawn.containers if any(name == net.name for name, _ in box.addresses)]
        for number, box in enumerate(members):
            is_last = number == len(members) - 1
            words = [word for name, word in box.addresses if name == net.name]
            lines.append(f"{'└─' if is_last else '├─'} {box.name}  {', '.join(words)}")
            is_first_network = box.addresses[0][0] == net.name
            for outer, inner in box.ports if is_first_network else ():
                lines.append(f"{'  ' if is_last else '│ '}   ← {outer} → {inner}")
        if not members:
            lines.append("└─ (nobody)")
    alone = [box for box in drawn.containers if not box.addresses]
    for box in alone:
        lines.append(f"{box.name}  (network {box.mode if ':' not in box.mode else 'of another container'})")
    return "\n".join(lines) or "no networks: unionfs network create NAME makes one"


def svg(drawn: Drawn) -> str:
    """As a picture of its own, with a light and a dark theme."""
    parts: list[str] = []
    centres: dict[str, int] = {}
    y = _TOP
    for net in drawn.networks:
        notes = [net.bridge, *net.subnets, *(["internal"] if net.is_internal else [])]
        centres[net.name] = _box(parts, _COLUMNS[2], y, net.name, notes, "network")
        y += _height(notes) + 16
    bottom = y
    y = outer_y = _TOP
    lines: list[str] = []
    for box in drawn.containers:
        notes = [f"{word} on {name}" for name, word in box.addresses] or [f"network {box.mode.partition(':')[0]}"]
        centre = _box(parts, _COLUMNS[1], y, box.name, notes, "container")
        for name in dict.fromkeys(name for name, _ in box.addresses):
            lines.append(_line(_COLUMNS[1] + _WIDTH, centre, _COLUMNS[2], centres[name]))
        for outer, inner in box.ports:
            start = _box(parts, _COLUMNS[0], outer_y, outer, [f"to {inner}"], "machine")
            lines.append(_line(_COLUMNS[0] + _WIDTH, start, _COLUMNS[1], centre))
            outer_y += _height([inner]) + 16
        y += _height(notes) + 16
    height = max(bottom, y, outer_y) + 8
    titles = zip(_COLUMNS, ("this machine's ports", "containers", "networks"), strict=True)
    heads = [f'<text x="{x}" y="34" class="small">{title}</text>' for x, title in titles]
    width = _COLUMNS[2] + _WIDTH + 20
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>networks of containers</title><style>{_STYLE}</style>", *heads, *lines, *parts, "</svg>",
    ])  # fmt: skip


def _height(notes: list[str]) -> int:
    return _ROW + 18 * len(notes) + 8


def _box(parts: list[str], x: int, y: int, title: str, notes: list[str], kind: str) -> int:
    """Draw it; the height of its middle."""
    height = _height(notes)
    parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{_WIDTH}" height="{height}"/>')
    parts.append(f'<text x="{x + 12}" y="{y + 20}">{escape(title)}</text>')
    for number, note in enumerate(notes):
        parts.append(f'<text class="small" x="{x + 12}" y="{y + 38 + 18 * number}">{escape(note)}</text>')
    return y + height // 2


def _line(x: int, y: int, to_x: int, to_y: int) -> str:
    middle = (x + to_x) // 2
    return f'<path d="M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}"/>'
