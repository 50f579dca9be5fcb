"""The words in which the suite is written: a row is one figure, a workload measures some rows in one mount, a sample
is one run of a workload on one peer.

Used by the `rows_*.py`, which hold the workloads, and by `suite.py`, which runs them. A workload is two functions:
`make` makes the lower layers, once for all peers; `run` is given a Sample, whose `timed`, `each` and `program` take
the times, and whose `expect` tells that the peer did what it should have done.
"""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Timer
from time import perf_counter_ns
from typing import NamedTuple, TypeVar

import grounds
from grounds import Ground, Place
from measure import PAGE

Item = TypeVar("Item")

PASSTHROUGH, CACHED, INDEX = "unionfs passthrough", "unionfs cached", "unionfs index"
MODES = ("unionfs", PASSTHROUGH, CACHED, INDEX, "unionfs cached index", "unionfs fusepy")
COPYING = ("unionfs whole", "unionfs block", "unionfs auto", "unionfs close")
"""How ours serve files, and how they copy them up: a workload is about the one or the other."""
BASIC_ONLY = ("unionfs cached index", "unionfs fusepy")
"""Peers that are measured in the core rows of names and data only, unless they were asked for."""
VOLATILE = ("overlayfs volatile", "fuse-overlayfs volatile")
METACOPY = ("overlayfs metacopy",)
"""Peers that are measured in the rows where their option makes a difference, unless they were asked for."""
NOTHING: Mapping[str, str] = {}
PATIENCE = 100.0
"""Seconds that one sample may take. Then its daemon or its program is ended, and the peer has failed."""

FEW = 50
"""Of fewer operations nothing is said about a single one."""


class Wrong(Exception):
    """A peer did not do what it should have done."""


class Target(NamedTuple):
    """What ours is to reach: so many times as long as the other two at most."""

    peer: str
    overlayfs: float
    fuse_overlayfs: float


class Row(NamedTuple):
    name: str
    explanation: str
    amount: str = ""
    """How much of it is one sample: "10,000 files", at full scale."""
    targets: tuple[Target, ...] = ()


class Scale(NamedTuple):
    """How much of everything: 1 is what the explanations say."""

    factor: float = 1

    def count(self, full: int, least: int = 10) -> int:
        return max(round(full * self.factor), min(least, full))

    def size(self, full: int) -> int:
        """Bytes, in whole pages."""
        return max(int(full * self.factor) // PAGE, 16) * PAGE


class Layers(NamedTuple):
    lowers: tuple[str, ...]
    """Directories, the topmost layer first."""
    content: str | None = None
    """An ordinary directory with the same content, for the peer "native"; None leaves it out."""


class Maker(NamedTuple):
    """What `make` is given."""

    where: Ground
    path: str
    """A new directory for the layers. Its name is short, because mount(2) takes one page of options."""
    scale: Scale

    def directory(self, *names: str) -> str:
        path = os.path.join(self.path, *names)
        os.makedirs(path, exist_ok=True)
        return path

    def layers(self, count: int) -> tuple[str, ...]:
        return tuple(self.directory(str(index)) for index in range(count))

    def flat(self, lowers: Sequence[str]) -> Layers:
        """With the content for an ordinary directory: a copy, since hard links would change the files of the layers,
        and a union that keeps hard links together has more to do with those."""
        if len(lowers) == 1:
            return Layers(tuple(lowers), lowers[0])
        content = self.directory("flat")
        for lower in reversed(lowers):
            subprocess.run(["cp", "-a", "--remove-destination", f"{lower}/.", content], check=True)
        return Layers(tuple(lowers), content)


@dataclass
class Figure:
    """One row of one sample."""

    ms: float = 0
    daemon_ms: float | None = None
    """Processor time of the daemon meanwhile."""
    p50_us: float | None = None
    """Of the single operations, where they were timed."""
    p99_us: float | None = None
    more: dict[str, float] = field(default_factory=dict)


class Sample:
    """One run of a workload on one peer."""

    def __init__(self, peer: str, place: Place, where: Ground, maker: Maker, is_first: bool) -> None:
        self.peer = peer
        self.place = place
        self.where = where
        self.scale = maker.scale
        self.made = maker.path
        """Where `make` worked."""
        self.is_first = is_first
        """The first one of a peer: the one to check what is slow to check."""
        self.figures: dict[str, Figure] = {}

    def path(self, *names: str) -> str:
        return os.path.join(self.place.merged, *names)

    def settle(self) -> None:
        """Between two rows that write."""
        grounds.settle(self.where)

    @contextmanager
    def timed(self, row: str) -> Iterator[Figure]:
        """Times what is done meanwhile."""
        figure = self.figures[row] = Figure()
        gc.collect()
        gc.disable()
        before = self.place.daemon_seconds()
        start = perf_counter_ns()
        try:
            yield figure
            figure.ms = figure.ms or (perf_counter_ns() - start) / 1e6
        finally:
            gc.enable()
        after = self.place.daemon_seconds()
        if before is not None and after is not None:
            figure.daemon_ms = (after - before) * 1000

    def each(self, row: str, items: Sequence[Item], deed: Callable[[Item], object]) -> None:
        """Times a deed done to each of the items, and each single one."""
        clock = perf_counter_ns
        with self.timed(row) as figure:
            stamps = [clock()]
            stamp = stamps.append
            for item in items:
                deed(item)
                stamp(clock())
        figure.ms = (stamps[-1] - stamps[0]) / 1e6
        if len(items) < FEW:
            return
        single = sorted(after - before for before, after in pairwise(stamps))
        figure.p50_us = single[len(single) // 2] / 1000
        figure.p99_us = single[len(single) * 99 // 100] / 1000

    def program(
        self, row: str, words: Sequence[str], variables: Mapping[str, str] = NOTHING, succeeds: Sequence[int] = (0,)
    ) -> str:
        """Times a program that is run in the merged directory; what it said on standard output."""
        with self.timed(row):
            said = self.run(words, variables, succeeds)
        return said

    def run(self, words: Sequence[str], variables: Mapping[str, str] = NOTHING, succeeds: Sequence[int] = (0,)) -> str:
        """A program, not timed; `variables` are added to its environment."""
        environment = {**os.environ, "LC_ALL": "C", **variables}
        done = subprocess.run(
            words, cwd=self.place.merged, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=PATIENCE, check=False,
        )  # fmt: skip
        if done.returncode not in succeeds:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise Wrong(f"{words[0]} failed with status {done.returncode}: {' '.join(last)}")
        return done.stdout

    def expect(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise Wrong(f"{what}: {wanted} expected, {found} found")


@dataclass(frozen=True)
class Workload:
    name: str
    group: str
    rows: tuple[Row, ...]
    make: Callable[[Maker], Layers]
    run: Callable[[Sample], None]
    core: bool = False
    """Part of a quick run, and measured on every filesystem in a full one."""
    changes: bool = True
    """It changes what is in a lower layer."""
    ours: tuple[str, ...] = MODES
    """Which of our peers take part."""
    variants: tuple[str, ...] = ()
    """Those of VOLATILE and METACOPY that take part."""
    programs: tuple[str, ...] = ()
    """What must be installed."""
    room: Callable[[Scale], int] = lambda scale: 0
    """Bytes on the filesystem, if they are many."""
    seconds: float = 3
    """One round over all peers at full scale takes about so long: for the estimate, and for its share of the time."""


@contextmanager
def patience(place: Place, seconds: float = PATIENCE) -> Iterator[None]:
    """A daemon that hangs is ended after a while: whoever waits for it is told that it is gone."""
    if place.daemon is None:
        yield
        return
    timer = Timer(seconds, place.daemon.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if place.daemon.poll() is not None:
        raise Wrong(f"the daemon ended meanwhile, or took longer than {seconds:.0f} s")
