"""The figures as pictures: curves against sizes, ratios to overlayfs, bars by peer, percentiles of single operations.

Used by `suite.py --plots` and by `page.py`.

matplotlib is imported here and nowhere else: the suite runs without it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import peers
import results
from measure import GIB, KIB, MIB
from results import Figures

try:
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter
except ImportError:
    matplotlib = None

_UNITS = {"KiB": KIB, "MiB": MIB, "GiB": GIB}


def _count(text: str) -> float:
    return float(text.replace(",", ""))


def _bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * _UNITS[unit]


class Curves(NamedTuple):
    """A picture with a panel for each kind of row whose name has a size in it."""

    name: str
    pattern: str
    """Its groups `size` and, where there are several kinds, `kind` and `more`."""
    size: Callable[[str], float]
    axis: str


CURVES = (
    Curves("first-change", r"(?P<kind>[a-z ]+), (?P<size>\d+ [KMG]iB)", _bytes, "bytes"),
    Curves("layers", r"(?P<kind>.+), (?P<size>\d+) layers?", _count, "lower layers"),
    Curves("depth", r"stat, (?P<size>\d+) deep(?P<more>.*)", _count, "directories above"),
    Curves("directories", r"list (?P<size>[\d,]+) names, (?P<more>.*)", _count, "names in the directory"),
)


def fault() -> str | None:
    """Why nothing can be drawn, and what would help."""
    return None if matplotlib else "needs matplotlib: pip install 'unionfs[bench]', or pip install matplotlib"


def draw(rows: Sequence[Figures], directory: str) -> list[str]:
    """All pictures that these rows have figures for; their paths."""
    matplotlib.use("Agg")
    os.makedirs(directory, exist_ok=True)
    drawn = []
    for filesystem in results.filesystems(rows):
        here = [row for row in rows if row["filesystem"] == filesystem]
        for curves in CURVES:
            drawn += _curves(curves, here, filesystem, directory)
        for group in results.groups(here):
            same = [row for row in here if row["group"] == group]
            drawn += _ratios(same, f"{group}, {filesystem}", directory)
            drawn += _bars(same, f"{group}, {filesystem}", directory)
            drawn += _percentiles(same, f"{group}, {filesystem}", directory)
    return drawn


def _colour(peer: str) -> Any:
    """The same in all pictures."""
    names = [known.name for known in peers.all_peers()]
    place = names.index(peer) if peer in names else len(names)
    return "black" if peer == peers.BASE else pyplot.colormaps["tab20"](place % 20)


def _save(figure: Any, directory: str, name: str) -> list[str]:
    path = os.path.join(directory, f"{name.replace(', ', '-').replace(' ', '-')}.png")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return [path]


def _curves(curves: Curves, rows: Sequence[Figures], filesystem: str, directory: str) -> list[str]:
    """Milliseconds against size, both in powers of ten, a line for each peer."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if found := re.fullmatch(curves.pattern, row["what"]):
            words = found.groupdict()
            panel = panels.setdefault(f"{words.get('kind') or ''}{words.get('more') or ''}".strip(", "), {})
            panel.setdefault(row["peer"], []).append((curves.size(words["size"]), row["ms"]["median"]))
    if not panels:
        return []
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    size = (4.5 * across, 3.8 * down)
    figure, axes = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        for peer, points in lines.items():
            sizes, times = zip(*sorted(points), strict=True)
            axis.loglog(sizes, times, marker="o", markersize=3, label=peer, color=_colour(peer))
        axis.set(title=title, xlabel=curves.axis, ylabel="ms")
        axis.grid(alpha=0.3)
    axes[0][across - 1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, directory, f"{curves.name}-{filesystem}")


def _ratios(rows: Sequence[Figures], title: str, directory: str) -> list[str]:
    """Each row a line, each peer a dot: left of 1 it is quicker than overlayfs."""
    compared = [row for row in rows if "to_overlayfs" in row and row["peer"] != peers.BASE]
    whats = list(dict.fromkeys(row["what"] for row in compared))
    if not whats:
        return []
    figure, axis = pyplot.subplots(figsize=(9, 1.5 + 0.28 * len(whats)))
    for peer in results.peer_names(compared):
        points = [row for row in compared if row["peer"] == peer]
        across = [row["to_overlayfs"]["median"] for row in points]
        down = [whats.index(row["what"]) for row in points]
        axis.plot(across, down, "o", markersize=5, label=peer, color=_colour(peer), alpha=0.8)
    goals = {(row["what"], row["target"]["to_overlayfs"]) for row in compared if "target" in row}
    for what, goal in goals:
        axis.plot([goal], [whats.index(what)], "|", markersize=13, color="tab:green")
    axis.axvline(1, color="black", linewidth=1)
    axis.set_yticks(range(len(whats)), whats, fontsize=8)
    axis.invert_yaxis()
    axis.set(xscale="log", title=title, xlabel="times as long as overlayfs; | is a target")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, directory, f"ratios-{title}")


def _bars(rows: Sequence[Figures], title: str, directory: str) -> list[str]:
    """Milliseconds with their quarters, a panel for each row, a bar for each peer."""
    whats = list(dict.fromkeys(row["what"] for row in rows))
    names = results.peer_names(rows)
    across = min(4, len(whats))
    down = -(-len(whats) // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(4 * across, (0.8 + 0.22 * len(names)) * down), squeeze=False, layout="constrained"
    )
    for axis, what in zip(axes.flat, whats, strict=False):
        same = sorted((row for row in rows if row["what"] == what), key=lambda row: names.index(row["peer"]))
        medians = [row["ms"]["median"] for row in same]
        spread = [
            [row["ms"]["median"] - row["ms"]["low"] for row in same],
            [row["ms"]["high"] - row["ms"]["median"] for row in same],
        ]
        colours = [_colour(row["peer"]) for row in same]
        axis.barh([row["peer"] for row in same], medians, xerr=spread, color=colours, error_kw={"linewidth": 0.8})
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_xlim(left=10 ** math.floor(math.log10(max(min(medians), 1e-4))) / 2)
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_title(what, fontsize=8)
        axis.tick_params(labelsize=6)
    for axis in axes.flat[len(whats) :]:
        axis.remove()
    figure.suptitle(f"{title}: ms", fontsize=10)
    return _save(figure, directory, f"times-{title}")


def _percentiles(rows: Sequence[Figures], title: str, directory: str) -> list[str]:
    """Single operations: a line from p50 to p99 for each peer, where they were timed one by one."""
    timed = [row for row in rows if "p50_us" in row]
    whats = list(dict.fromkeys(row["what"] for row in timed))
    if not whats:
        return []
    names = results.peer_names(timed)
    figure, axis = pyplot.subplots(figsize=(9, 1.5 + (0.2 + 0.12 * len(names)) * len(whats)))
    for place, peer in enumerate(names):
        points = [row for row in timed if row["peer"] == peer]
        down = [whats.index(row["what"]) + (place + 1) / (len(names) + 2) - 0.5 for row in points]
        low, high = [row["p50_us"] for row in points], [row["p99_us"] for row in points]
        axis.hlines(down, low, high, color=_colour(peer), linewidth=1.5)
        axis.plot(low, down, "o", markersize=4, color=_colour(peer), label=peer)
        axis.plot(high, down, "|", markersize=7, color=_colour(peer))
    axis.set_yticks(range(len(whats)), whats, fontsize=8)
    axis.invert_yaxis()
    axis.set(xscale="log", title=title, xlabel="µs of one operation: the dot is p50, the bar p99")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save(figure, directory, f"percentiles-{title}")
