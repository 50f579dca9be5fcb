"""How the suite measures: which peer is measured with what, in what turn, and how the time is shared out.

Used by `suite.py`. It promises: peers of one workload are measured in turn, round by round; one that fails is reported
and does not stop the others; and the time that was given is kept, but for the sample under way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

import grounds
import measure
import peers
from grounds import Ground, MountFault
from measure import Report, note
from peers import Peer
from workload import (
    BASIC_ONLY,
    COPYING,
    METACOPY,
    MODES,
    PASSTHROUGH,
    VOLATILE,
    Figure,
    Layers,
    Maker,
    Row,
    Sample,
    Scale,
    Workload,
    Wrong,
    patience,
)  # fmt: skip

QUICK_PEERS = (
    *("unionfs", PASSTHROUGH, "unionfs cached", "unionfs index", "unionfs auto", "unionfs whole"),
    *(peers.NATIVE, peers.BASE, peers.SECOND),
)
"""Those of a quick run, and on every filesystem but the first."""
FEW_ROUNDS = 3
"""On every filesystem but the first."""
FIRST_SHARE = 0.85
"""Of the time, for the first of several filesystems: all rows are measured there."""
OTHER_SCALE = 0.2
"""At most, on every filesystem but the first."""
EXPECTED = (MountFault, Wrong, OSError, subprocess.SubprocessError)
"""What a peer fails with. Anything else is a fault of the suite: told too, but with its type."""


class Plan(NamedTuple):
    """What was asked for."""

    workloads: list[Workload]
    peers: list[Peer]
    kinds: list[str]
    """Of filesystems."""
    rounds: int
    scale: Scale
    minutes: float
    drop_caches: bool
    by_name: bool
    """The peers were named: then all of them take part wherever they can."""

    def on(self, kind: str) -> list[Workload]:
        """All on the first filesystem, the core rows on the others too, and what was asked for if no core is in it."""
        core = [workload for workload in self.workloads if workload.core]
        return self.workloads if kind == self.kinds[0] or not core else core

    def peers_on(self, kind: str) -> list[Peer]:
        everywhere = kind == self.kinds[0] or self.by_name
        return [peer for peer in self.peers if everywhere or peer.name in QUICK_PEERS]

    def rounds_on(self, kind: str) -> int:
        return self.rounds if kind == self.kinds[0] else min(self.rounds, FEW_ROUNDS)

    def scale_on(self, kind: str) -> Scale:
        return self.scale if kind == self.kinds[0] else Scale(min(self.scale.factor, OTHER_SCALE))

    def estimate(self) -> float:
        """Minutes."""
        seconds = 0.0
        for kind in self.kinds:
            found = self.peers_on(kind)
            for workload in self.on(kind):
                once = workload.seconds * min(len(found) / 12, 1)
                seconds += self.rounds_on(kind) * max(once * self.scale_on(kind).factor, 0.5 * len(found))
        return min(seconds / 60, self.minutes)


class Suite:
    def __init__(self, plan: Plan, report: Report) -> None:
        self.plan = plan
        self.report = report
        self.end = monotonic() + plan.minutes * 60

    def run(self, directory: str) -> None:
        for index, kind in enumerate(self.plan.kinds):
            left = len(self.plan.kinds) - index
            share = 1 / left if index or left == 1 else FIRST_SHARE
            end = monotonic() + (self.end - monotonic()) * share
            try:
                with grounds.ground(kind, directory) as where:
                    self._run_on(where, kind, end)
            except subprocess.CalledProcessError as failure:
                self.report.leave_out(kind, told(failure))

    def _run_on(self, where: Ground, kind: str, end: float) -> None:
        """Each workload gets a share of the time that is left, by what it is known to take."""
        workloads = self.plan.on(kind)
        for number, workload in enumerate(workloads):
            start = monotonic()
            weight = workload.seconds / sum(other.seconds for other in workloads[number:])
            what = f"{workload.name} on {where.filesystem}"
            if start > end:
                self.report.leave_out(what, f"the time was over; --minutes {self.plan.minutes:g} was given")
                continue
            note(f"{where.filesystem}: {number + 1} of {len(workloads)}: {workload.name}")
            maker = Maker(where, where.directory(str(number)), self.plan.scale_on(kind))
            try:
                if not where.fits(workload.room(maker.scale)):
                    self.report.leave_out(what, "there is no room")
                    continue
                layers = workload.make(maker)
                grounds.settle(where)
                self._rounds(workload, kind, maker, layers, (end - start) * weight, end)
            except Exception as failure:
                self.report.leave_out(what, told(failure, where.path))
            finally:
                shutil.rmtree(maker.path)
            note(f"    {monotonic() - start:.0f} s")

    def _rounds(self, workload: Workload, kind: str, maker: Maker, layers: Layers, seconds: float, end: float) -> None:
        """Each peer is measured once at least, and again while its equal share of the `seconds` suffices: what is ten
        times slower than others is so after one sample, too. After `end` no round begins."""
        running = [peer for peer in self.plan.peers_on(kind) if self._takes_part(peer, workload, layers)]
        samples: dict[Peer, list[dict[str, Figure]]] = {peer: [] for peer in running}
        used = dict.fromkeys(running, 0.0)
        share = seconds / max(len(running), 1)
        try:
            for turn in range(self.plan.rounds_on(kind)):
                if turn and monotonic() > end:
                    break
                running = [peer for peer in running if not turn or used[peer] * (turn + 1) / turn <= share]
                for peer in measure.rotated(running, turn):
                    start = monotonic()
                    try:
                        samples[peer].append(self._sample(workload, peer, maker, layers, turn == 0))
                    except Exception as failure:
                        running = [other for other in running if other is not peer]
                        what = f"{peer.name}, {workload.name}, {maker.where.filesystem}"
                        self.report.leave_out(what, told(failure, maker.where.path))
                    grounds.settle(maker.where)
                    used[peer] += monotonic() - start
        finally:
            for row in workload.rows:
                for peer, found in samples.items():
                    self._add(workload, row, maker, peer, [one[row.name] for one in found if row.name in one])

    def _takes_part(self, peer: Peer, workload: Workload, layers: Layers) -> bool:
        name = peer.name
        if peer.command is None:
            return layers.content is not None
        if workload.changes and not peer.copies_up:
            return False
        if name in (*MODES, *COPYING) and name not in workload.ours:
            return False
        special = name in (*VOLATILE, *METACOPY) and name not in workload.variants
        is_basic = workload.core and workload.group in ("metadata", "data")
        return self.plan.by_name or not (special or (name in BASIC_ONLY and not is_basic))

    def _sample(
        self, workload: Workload, peer: Peer, maker: Maker, layers: Layers, is_first: bool
    ) -> dict[str, Figure]:
        if self.plan.drop_caches:
            drop_caches()
        content = layers.content if workload.changes else None
        with peers.mounted(peer, maker.where, layers.lowers, content) as place:
            if peer.command is None and not workload.changes and layers.content:
                place = place._replace(merged=layers.content)
            sample = Sample(peer.name, place, maker.where, maker, is_first)
            with patience(place):
                workload.run(sample)
        return sample.figures

    def _add(self, workload: Workload, row: Row, maker: Maker, peer: Peer, figures: Sequence[Figure]) -> None:
        if not figures:
            return
        found: dict[str, Any] = {
            "filesystem": maker.where.filesystem, "group": workload.group, "workload": workload.name, "what": row.name,
            "amount": row.amount, "peer": peer.name, "scale": maker.scale.factor,
            "samples": [round(figure.ms, 4) for figure in figures],
        }  # fmt: skip
        for key in ("daemon_ms", "p50_us", "p99_us"):
            values = [value for figure in figures if (value := getattr(figure, key)) is not None]
            if values:
                found[key] = round(median(values), 3)
        for key in figures[0].more:
            found[key] = median(figure.more[key] for figure in figures)
        name = PASSTHROUGH if peer.name == peers.OURS else peer.name
        for target in row.targets:
            if target.peer == name:
                found["target"] = {"to_overlayfs": target.overlayfs, "to_fuse_overlayfs": target.fuse_overlayfs}
        self.report.add(found, [figure.ms for figure in figures])


def told(failure: Exception, place: str = "") -> str:
    """A failure, in one line, without the name of the temporary directory."""
    kind = "" if isinstance(failure, EXPECTED) else f"{type(failure).__name__}: "
    words = " ".join(str(failure).split())
    return f"failed: {kind}{words.replace(f'{place}/', '') if place else words}"


def drop_caches() -> None:
    """Of the whole machine: only where it was asked for."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3\n")
