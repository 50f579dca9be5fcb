"""The whole comparison: union filesystems side by side, row by row. `unionfs bench` runs it.

Without options: the core rows, smaller, on the filesystem of this directory, in a few minutes. Kernel overlayfs is what
all is compared with, and needs root; whatever is not installed is named and left out.

    unionfs bench
    unionfs bench --rows walk,stat --peers overlayfs,index
    unionfs bench --full --json full.json --plots plots --markdown docs/performance.md
    unionfs bench --from full.json --plots plots --report report.html
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import grounds
import measure
import page
import peers
import plots
import results
import rows_data
import rows_first_write
import rows_metadata
import rows_real
import rows_scaling
from engine import QUICK_PEERS, Plan, Suite
from measure import Report, note
from workload import Scale, Workload

from unionfs.cli import table
from unionfs.errors import did_you_mean

WORKLOADS: tuple[Workload, ...] = (
    *rows_metadata.WORKLOADS,
    *rows_data.WORKLOADS,
    *rows_real.WORKLOADS,
    *rows_scaling.WORKLOADS,
    *rows_first_write.WORKLOADS,
)
"""In this order, the core first. The last take the most time: when it is over, they are what is left out."""
TOOLS = {
    "fio": "fio", "git": "git", "gcc": "gcc", "make": "make", "tar": "tar", "mkfs.btrfs": "btrfs-progs",
    "mkfs.xfs": "xfsprogs",
}  # fmt: skip
"""Programs that rows and filesystems need, and their packages."""
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
        minutes=arguments.minutes or (25 if full else 5),
        drop_caches=arguments.drop_caches,
        by_name=bool(arguments.peers),
    )
    if found.drop_caches and os.geteuid():
        raise SystemExit("--drop-caches: only root may drop the kernel's caches: leave it out, or run it as root")
    if not found.workloads or not found.peers or not found.kinds:
        raise SystemExit("nothing is left to measure; --install says what is missing, --list what there is")
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
    if fault := plots.fault():
        cells.append(["for --plots", "matplotlib", "no", fault])
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
    add(
        "--minutes",
        type=positive_number,
        help="shared out among the rows; what does not fit is left out (5; 25)",
    )
    add("--drop-caches", action="store_true", help="drop the caches of the whole machine before each sample; root")
    add("--plots", metavar="DIR", help="draw the figures as PNG, there; needs matplotlib")
    add("--report", metavar="FILE", help="write all of it as one HTML page; its pictures need matplotlib")
    add("--markdown", metavar="FILE", help="write the tables there, between the marks if the file has them")
    add("--from", dest="source", metavar="FILE", help="measure nothing: show what --json wrote there")
    add("--list", action="store_true", help="list the rows, with a line about each, and end")
    add("--install", action="store_true", help="say which peers and programs are missing here, and end")
    return parser


def positive_number(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def factor(text: str) -> float:
    value = positive_number(text)
    if value > 10:
        raise argparse.ArgumentTypeError("must be 10 at most")
    return value


# --- the program


def show(arguments: argparse.Namespace, rows: list[results.Figures], machine: dict[str, str], left: list[str]) -> None:
    results.show(rows)
    if left:
        print("\n" + "\n".join(left))
    if arguments.markdown:
        results.write_markdown(arguments.markdown, rows, machine, left)
    if arguments.report:
        page.write(arguments.report, rows, machine, left)
        print(f"\n{arguments.report}")
    if arguments.plots:
        print("\n" + "\n".join(plots.draw(rows, arguments.plots)))


def read(path: str) -> dict[str, Any]:
    """An old run."""
    try:
        with open(path) as file:
            found: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "is not what --json wrote"
        raise SystemExit(f"--from {path}: {why}") from None
    if not {"rows", "machine", "left_out"} <= found.keys():
        raise SystemExit(f"--from {path}: is not what --json wrote")
    return found


def check_places(*paths: str | None) -> None:
    """That the results can be written is known before anything is measured."""
    for path in paths:
        parent = os.path.dirname(os.path.abspath(path)) if path else "."
        if not os.access(parent, os.W_OK):
            raise SystemExit(f"{path}: cannot be written: make the directory {parent}, or name another one")


def main() -> None:
    arguments = options().parse_args()
    if arguments.list or arguments.install:
        show_list() if arguments.list else show_install()
        return
    if arguments.plots and (fault := plots.fault()):
        raise SystemExit(f"--plots: {fault}")
    check_places(arguments.json, arguments.markdown, arguments.report)
    if arguments.source:
        old = read(arguments.source)
        show(arguments, old["rows"], old["machine"], old["left_out"])
        return
    report = Report(arguments, peers.versions())
    suite = Suite(plan(arguments, report), report)
    report.show_machine()
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
