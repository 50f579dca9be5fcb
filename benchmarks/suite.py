"""The whole comparison: union filesystems side by side, row by row. `unionfs bench` runs it.

Without options: the core rows, smaller, on the filesystem of this directory, in a few minutes. Kernel overlayfs is what
all is compared with, and needs root; whatever is not installed is named and left out.

    unionfs bench
    unionfs bench --rows walk,stat --peers overlayfs,index
    unionfs bench --full --json full.json --plots plots --markdown docs/performance.md
    unionfs bench --from full.json --plots plots
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

import grounds
import measure
import peers
import results
import rows_data
import rows_first_write
import rows_metadata
import rows_real
import rows_scaling
from grounds import Ground, MountFault
from measure import Report, note
from peers import Peer
from workload import COPYING, MODES, PASSTHROUGH, Figure, Layers, Maker, Row, Sample, Scale, Workload, Wrong, patience

from unionfs.cli import table
from unionfs.errors import did_you_mean

WORKLOADS: tuple[Workload, ...] = (
    *rows_metadata.WORKLOADS,
    *rows_data.WORKLOADS,
    *rows_first_write.WORKLOADS,
    *rows_real.WORKLOADS,
    *rows_scaling.WORKLOADS,
)
QUICK_PEERS = (
    *("unionfs", PASSTHROUGH, "unionfs cached", "unionfs index", "unionfs auto", "unionfs whole"),
    *(peers.NATIVE, peers.BASE, peers.SECOND),
)
TOOLS = {
    "fio": "fio", "git": "git", "gcc": "gcc", "make": "make", "tar": "tar", "mkfs.btrfs": "btrfs-progs",
    "mkfs.xfs": "xfsprogs",
}  # fmt: skip
"""Programs that rows and filesystems need, and their packages."""
FAILURES = (MountFault, Wrong, OSError, subprocess.SubprocessError)
"""What a peer can fail with: it is reported, and the others go on."""


class Plan(NamedTuple):
    """How much is measured."""

    workloads: list[Workload]
    peers: list[Peer]
    kinds: list[str]
    rounds: int
    scale: Scale
    limit: float
    """Seconds for one workload on one filesystem: then no further round is begun."""
    minutes: float
    drop_caches: bool

    def on(self, kind: str, is_first: bool) -> list[Workload]:
        """All rows on the first filesystem, the core rows on the others too."""
        return [workload for workload in self.workloads if is_first or workload.core]

    def estimate(self) -> float:
        """Minutes."""
        seconds = 0.0
        for index, kind in enumerate(self.kinds):
            for workload in self.on(kind, index == 0):
                rounds = min(self.rounds, workload.most_rounds)
                share = len(self.peers) / len(peers.all_peers())
                once = 0.4 * len(self.peers) + workload.seconds * self.scale.factor * share
                seconds += min(rounds * once, self.limit + once) + 2
        return min(seconds / 60, self.minutes)


# --- measuring


class Suite:
    def __init__(self, plan: Plan, report: Report) -> None:
        self.plan = plan
        self.report = report
        self.end = monotonic() + plan.minutes * 60

    def run(self, directory: str) -> None:
        for index, kind in enumerate(self.plan.kinds):
            workloads = self.plan.on(kind, index == 0)
            with grounds.ground(kind, directory) as where:
                for number, workload in enumerate(workloads):
                    note(f"{where.filesystem}: {number + 1} of {len(workloads)}: {workload.name}")
                    start = monotonic()
                    self.measure(workload, where, str(number))
                    note(f"    took {monotonic() - start:.0f} s")

    def measure(self, workload: Workload, where: Ground, short: str) -> None:
        what = f"{workload.name} on {where.filesystem}"
        if monotonic() > self.end:
            self.report.leave_out(what, f"{self.plan.minutes:g} minutes were over; see --minutes")
            return
        if not where.fits(workload.room(self.plan.scale)):
            self.report.leave_out(what, "there is no room")
            return
        maker = Maker(where, where.directory(short), self.plan.scale)
        try:
            layers = workload.make(maker)
            grounds.settle(where)
            self._rounds(workload, maker, layers)
        except FAILURES as failure:
            self.report.leave_out(what, f"failed: {failure}")
        finally:
            shutil.rmtree(maker.path)

    def _rounds(self, workload: Workload, maker: Maker, layers: Layers) -> None:
        running = [peer for peer in self.plan.peers if takes_part(peer, workload, layers)]
        samples: dict[Peer, list[dict[str, Figure]]] = {peer: [] for peer in running}
        end = min(monotonic() + self.plan.limit, self.end)
        try:
            for turn in range(min(self.plan.rounds, workload.most_rounds)):
                if turn and monotonic() > end:
                    break
                for peer in measure.rotated(running, turn):
                    try:
                        samples[peer].append(self._sample(workload, peer, maker, layers, turn == 0))
                    except FAILURES as failure:
                        running = [other for other in running if other is not peer]
                        self.report.leave_out(f"{peer.name}, {workload.name}, {maker.where.filesystem}", told(failure))
        finally:
            for row in workload.rows:
                for peer, found in samples.items():
                    self._add(workload, row, maker.where, peer, [one[row.name] for one in found if row.name in one])

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
        grounds.settle(maker.where)
        return sample.figures

    def _add(self, workload: Workload, row: Row, where: Ground, peer: Peer, figures: Sequence[Figure]) -> None:
        if not figures:
            return
        found: dict[str, Any] = {
            "filesystem": where.filesystem, "group": workload.group, "workload": workload.name, "what": row.name,
            "amount": row.amount, "peer": peer.name, "scale": self.plan.scale.factor,
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


def takes_part(peer: Peer, workload: Workload, layers: Layers) -> bool:
    if peer.command is None:
        return layers.content is not None
    if workload.changes and not peer.copies_up:
        return False
    is_ours = peer.name in (*MODES, *COPYING)
    return peer.name in workload.ours if is_ours else True


def told(failure: Exception) -> str:
    """A peer's failure, in one line."""
    return "failed: " + " ".join(str(failure).split())


def drop_caches() -> None:
    """Of the whole machine: only where it was asked for."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3\n")


# --- what was asked for


def chosen(words: str | None, full: bool) -> list[Workload]:
    """The workloads that are named, by themselves, their group or a row; without words, the core, or all."""
    if not words:
        core = [workload for workload in WORKLOADS if workload.core]
        return core + [workload for workload in WORKLOADS if full and not workload.core]
    wanted: set[str] = set()
    for word in words.split(","):
        named = [one.name for one in WORKLOADS if word in (one.name, one.group)]
        wanted.update(named or [one.name for one in WORKLOADS if any(word in name for name in names_of(one))])
        if not named and not any(word in name for one in WORKLOADS for name in names_of(one)):
            known = sorted({name for workload in WORKLOADS for name in names_of(workload)})
            raise SystemExit(f"--rows {word}: no row has this in its name: {did_you_mean(word, known) or 'see --list'}")
    return [workload for workload in WORKLOADS if workload.name in wanted]


def names_of(workload: Workload) -> list[str]:
    return [workload.name, workload.group, *(row.name for row in workload.rows)]


def with_programs(workloads: Sequence[Workload], report: Report) -> list[Workload]:
    """Those whose programs are installed."""
    found = []
    for workload in workloads:
        if absent := [program for program in workload.programs if not shutil.which(program)]:
            packages = " ".join(TOOLS.get(program, program) for program in absent)
            report.leave_out(workload.name, f"{', '.join(absent)} not installed; apt-get install {packages}")
        else:
            found.append(workload)
    return found


def plan(arguments: argparse.Namespace, report: Report) -> Plan:
    full = arguments.full
    known = peers.all_peers()
    if not full and not arguments.peers:
        known = [peer for peer in known if peer.name in QUICK_PEERS]
    found = Plan(
        workloads=with_programs(chosen(arguments.rows, full), report),
        peers=peers.chosen(known, arguments.peers, report),
        kinds=grounds.grounds(arguments.on or ("disk,tmpfs,btrfs,xfs" if full else "disk"), report),
        rounds=arguments.rounds or (5 if full else 3),
        scale=Scale(arguments.scale or (1 if full else 0.2)),
        limit=arguments.limit or (40 if full else 20),
        minutes=arguments.minutes or (25 if full else 6),
        drop_caches=arguments.drop_caches,
    )
    if found.drop_caches and os.geteuid():
        raise SystemExit("--drop-caches: only root may drop the kernel's caches: leave it out, or run it as root")
    if not found.workloads or not found.peers or not found.kinds:
        raise SystemExit("nothing is left to measure; --install says what is missing")
    return found


def show_list() -> None:
    cells = [
        [workload.group, workload.name if index == 0 else "", row.name, row.amount, row.explanation]
        for workload in WORKLOADS
        for index, row in enumerate(workload.rows)
    ]
    table.show(["group", "workload", "row", "amount", "what it is"], cells)


def show_install() -> None:
    """What is missing, and the command that mends it."""
    packages: set[str] = set()
    cells = []
    for peer in peers.all_peers():
        cells.append(["peer", peer.name, "no" if peer.fault else "yes", peer.fault or ""])
        if peer.fault and peer.install:
            packages.add(peer.install)
    for program, package in TOOLS.items():
        is_there = shutil.which(program) is not None
        cells.append(["program", program, "yes" if is_there else "no", "" if is_there else f"in {package}"])
        packages |= set() if is_there else {package}
    table.show(["", "name", "here", "why not"], cells)
    print(f"\napt-get install {' '.join(sorted(packages))}" if packages else "\nNothing is to be installed.")


def options() -> argparse.ArgumentParser:
    assert __doc__
    parser = measure.options(__doc__, rounds=None, on=None)
    parser.prog = "unionfs bench"
    add = parser.add_argument
    add("--rows", metavar="WORD,...", help="only workloads with one of these words in their names; see --list")
    add("--full", action="store_true", help="all rows, peers and filesystems, in full size, up to 25 minutes")
    add("--scale", type=factor, help="how much of everything, 1 is what --list says (0.2; --full: 1)")
    add("--limit", type=float, metavar="SECONDS", help="begin no further round of a workload after so long (20; 40)")
    add("--minutes", type=float, help="leave out what is not begun by then (6; --full: 25)")
    add("--drop-caches", action="store_true", help="drop the caches of the whole machine before each sample; root")
    add("--plots", metavar="DIR", help="draw the figures as PNG, there; needs matplotlib")
    add("--markdown", metavar="FILE", help="write the tables there, between the marks if the file has them")
    add("--from", dest="source", metavar="FILE", help="measure nothing: show what --json wrote there")
    add("--list", action="store_true", help="list the rows, with a line about each, and end")
    add("--install", action="store_true", help="say which peers and programs are missing here, and end")
    return parser


def factor(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError("must be above 0, and 10 at most")
    return value


# --- the program


def show(arguments: argparse.Namespace, rows: list[results.Figures], machine: dict[str, str], left: list[str]) -> None:
    results.show(rows)
    if left:
        print("\n" + "\n".join(left))
    if arguments.markdown:
        results.write_markdown(arguments.markdown, rows, machine, left)


def main() -> None:
    arguments = options().parse_args()
    if arguments.list or arguments.install:
        show_list() if arguments.list else show_install()
        return
    if arguments.source:
        with open(arguments.source) as file:
            old = json.load(file)
        show(arguments, old["rows"], old["machine"], old["left_out"])
        return
    report = Report(arguments, peers.versions())
    report.show_machine()
    suite = Suite(plan(arguments, report), report)
    note(
        f"about {suite.plan.estimate():.0f} minutes, {suite.plan.minutes:g} at most; Ctrl-C ends it with what is there"
    )
    interrupted = False
    try:
        suite.run(arguments.dir)
    except KeyboardInterrupt:
        interrupted = True
        report.leave_out("the rest", "interrupted")
    results.compare(report.rows)
    show(arguments, report.rows, report.machine, report.left_out)
    report.write(arguments.json)
    if interrupted:
        sys.exit(130)


if __name__ == "__main__":
    measure.run(main)
