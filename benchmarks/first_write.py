"""What the first write to a lower file costs, at any size; also chmod, append of 1 byte, and truncate to half.

    python benchmarks/first_write.py [--sizes 4K,1M,1G] [--dir DIR] [--on disk,tmpfs] [--rounds 5] [--json FILE]

For each sample the peer is mounted with a new upper, over a lower file that is in the page cache and that nobody has
opened in this mount. Measured is the time of open, pwrite and close, or of the one call; no fsync. Another file is
written first, and synced, so that no peer pays for its first request ever. Also:

- the bytes that the upper takes afterwards;
- the stall: while the first write to the largest file is under way, another process looks up names that nobody looked
  up before, some that are there and some that are not. It goes on for a second, with the file open. The longest of its
  lookups tells whether a copy-up stops others, or only its own file.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter, sleep
from typing import NamedTuple

import grounds
import measure
import peers
from grounds import Ground, Place
from measure import MIB, PAGE, Report, Summary
from peers import Peer

SIZES = "4K,64K,1M,16M,256M,1G"
LARGE = 256 * MIB
OTHER = MIB
"""The size of the file that is written first: large enough to be copied by block, where that depends on it."""
NAMES = 20_000
"""Files for the lookups."""
ONE_IN = 20
"""So many lookups are of one name that is there, the others of names that are not."""


class Lookup(NamedTuple):
    start: float
    seconds: float


def append(path: str, size: int) -> None:
    with measure.opened(path, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"a")


OPERATIONS: dict[str, Callable[[str, int], None]] = {
    "write 4 KiB": measure.first_write,
    "chmod": lambda path, size: os.chmod(path, 0o600),
    "append 1 byte": append,
    "truncate to half": lambda path, size: os.truncate(path, size // 2),
}


# --- the cost


def costs(where: Ground, found: Sequence[Peer], arguments: argparse.Namespace, report: Report) -> None:
    """All operations at all sizes that fit, on one filesystem."""
    fitting = [size for size in arguments.sizes if where.fits(2 * size)]
    for size in sorted(set(arguments.sizes) - set(fitting)):
        report.leave_out(f"{measure.size_name(size)} on {where.filesystem}", "there is no room")
    shown: dict[tuple[str, str, int], tuple[Summary, int]] = {}
    for size in fitting:
        lower = where.directory(f"lower-{size}")
        measure.make_file(os.path.join(lower, "file"), size)
        measure.make_file(os.path.join(lower, "other"), OTHER)
        for operation in OPERATIONS:
            rounds = min(arguments.rounds, arguments.large_rounds) if size >= LARGE else arguments.rounds
            measure.note(f"{where.filesystem}: {operation}, {measure.size_name(size)}, {rounds} rounds")
            samples: dict[Peer, list[tuple[float, int]]] = {peer: [] for peer in found}
            for peer in measure.in_turn(found, rounds):
                samples[peer].append(cost(peer, where, lower, size, operation))
            for peer, values in samples.items():
                grown = sorted(count for _, count in values)[len(values) // 2]
                row = {
                    "filesystem": where.filesystem, "what": operation, "size": size, "peer": peer.name,
                    "upper_bytes": grown,
                }  # fmt: skip
                shown[operation, peer.name, size] = report.add(row, [value for value, _ in values]), grown
        os.unlink(os.path.join(lower, "file"))
    _show_costs(where, found, fitting, shown)


def cost(peer: Peer, where: Ground, lower: str, size: int, operation: str) -> tuple[float, int]:
    """Milliseconds, and bytes that the upper grew by."""
    with peers.mounted(peer, where, [lower]) as place:
        warm_up(place, where)
        before = measure.allocated(place.upper)
        took = measure.milliseconds(partial(OPERATIONS[operation], os.path.join(place.merged, "file"), size))
        grown = measure.allocated(place.upper) - before
    grounds.settle(where)
    return took, grown


def warm_up(place: Place, where: Ground) -> None:
    measure.first_write(os.path.join(place.merged, "other"), OTHER)
    sleep(0.05)
    grounds.settle(where)


def _show_costs(
    where: Ground, found: Sequence[Peer], fitting: Sequence[int], shown: dict[tuple[str, str, int], tuple[Summary, int]]
) -> None:
    headings = ["peer", *map(measure.size_name, fitting)]
    for operation in OPERATIONS:
        rows = [[peer.name, *(shown[operation, peer.name, size][0] for size in fitting)] for peer in found]
        measure.show(f"{operation}, {where.filesystem}, ms: median (quarters)", headings, rows)
    for operation in OPERATIONS:
        grown = {peer: [shown[operation, peer.name, size][1] for size in fitting] for peer in found}
        rows = [[peer.name, *map(measure.room, counts)] for peer, counts in grown.items()]
        measure.show(f"bytes that the upper takes after: {operation}, {where.filesystem}", headings, rows)


# --- the stall

FIGURES = {
    "slow": "1 in 1000 above", "median": "median", "idle": "median before", "idle_longest": "longest before",
}  # fmt: skip
"""Of the lookups of one round, and their headings."""


def stalls(where: Ground, found: Sequence[Peer], arguments: argparse.Namespace, report: Report) -> None:
    size = max((size for size in arguments.sizes if where.fits(2 * size)), default=0)
    if not size:
        return
    lower = where.directory("lower-stall")
    measure.make_file(os.path.join(lower, "file"), size)
    measure.make_file(os.path.join(lower, "other"), OTHER)
    many = where.directory(os.path.join("lower-stall", "many"))
    for index in range(NAMES):
        os.mknod(os.path.join(many, f"there-{index}"))
    rounds = min(arguments.rounds, arguments.large_rounds)
    measure.note(f"{where.filesystem}: lookups during the first write to {measure.size_name(size)}, {rounds} rounds")
    samples: dict[Peer, list[dict[str, float]]] = {peer: [] for peer in found}
    for peer in measure.in_turn(found, rounds):
        samples[peer].append(stall(peer, where, lower, size, arguments.hold))
    rows = []
    for peer, values in samples.items():
        row: dict[str, object] = {
            "filesystem": where.filesystem, "what": "stall", "size": size, "peer": peer.name,
            "lookups": sum(value["lookups"] for value in values),
        }  # fmt: skip
        longest = Summary.of([value["longest"] for value in values])
        figures = {key: Summary.of([value[key] for value in values]).median for key in FIGURES}
        report.add({**row, **figures}, [value["longest"] for value in values])
        shown = map(measure.number, [longest.longest, *figures.values()])
        rows.append([peer.name, longest, *shown, row["lookups"]])
    title = f"a lookup of another name during the first write to {measure.size_name(size)}, {where.filesystem}, ms"
    headings = ["peer", "longest of a round", "of all", *FIGURES.values(), "lookups"]
    measure.show(title, headings, rows)


def stall(peer: Peer, where: Ground, lower: str, size: int, hold: float) -> dict[str, float]:
    """Milliseconds of lookups during a first write and `hold` seconds after it; "idle": before it."""
    with peers.mounted(peer, where, [lower]) as place:
        warm_up(place, where)
        lookups = multiprocessing.get_context("fork")
        ours, theirs = lookups.Pipe()
        stop = lookups.Event()
        process = lookups.Process(target=_look_up, args=(place, theirs, stop.is_set), daemon=True)
        process.start()
        theirs.close()
        try:
            sleep(0.3)
            start = perf_counter()
            with measure.opened(os.path.join(place.merged, "file"), os.O_WRONLY) as descriptor:
                os.pwrite(descriptor, b"w" * PAGE, measure.middle(size))
                sleep(hold)
                stop.set()
                found = [Lookup(*pair) for pair in ours.recv()]
        finally:
            stop.set()
            process.join()
    grounds.settle(where)
    during = [1000 * one.seconds for one in found if one.start + one.seconds >= start]
    before = [1000 * one.seconds for one in found if one.start + one.seconds < start]
    return {
        "longest": max(during), "slow": sorted(during)[len(during) * 999 // 1000], "median": median(during),
        "lookups": len(during), "idle": median(before), "idle_longest": max(before),
    }  # fmt: skip


def _look_up(place: Place, answer: Connection, stopped: Callable[[], bool]) -> None:
    """In a process of its own: look up names until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    many, found, index = os.path.join(place.merged, "many"), [], 0
    while not stopped():
        # Names that are there are looked up once; when they are used up, those that are not there remain.
        number, rest = divmod(index, ONE_IN)
        path = os.path.join(many, f"there-{number}" if rest == 0 and number < NAMES else f"absent-{index}")
        start = perf_counter()
        os.access(path, os.F_OK)
        found.append((start, perf_counter() - start))
        index += 1
    answer.send(found)


def main() -> None:
    assert __doc__
    parser = measure.options(__doc__, rounds=5)
    add = parser.add_argument
    add("--sizes", type=measure.sizes, default=measure.sizes(SIZES), help=f"of the lower file ({SIZES})")
    add("--large-rounds", type=measure.positive, default=3, help="for files of 256 MiB or more (%(default)s)")
    add("--hold", type=float, default=1, help="seconds after the write that lookups go on (%(default)s)")
    add("--only", choices=("costs", "stalls"), help="leave the other half out")
    arguments = parser.parse_args()
    report = Report(arguments, peers.versions())
    report.show_machine()
    found = peers.chosen([peers.OUR_WHOLE, peers.OUR_BLOCK, peers.OUR_AUTO, *peers.others()], arguments.peers, report)
    for kind in grounds.grounds(arguments.on, report):
        with grounds.ground(kind, arguments.dir) as where:
            if arguments.only != "stalls":
                costs(where, found, arguments, report)
            if arguments.only != "costs":
                stalls(where, found, arguments, report)
    report.write(arguments.json)


if __name__ == "__main__":
    measure.run(main)
