"""What follows the first write to a large lower file: random writes, random reads, a sequential read; and room taken.

    python benchmarks/after_first_write.py [--size 1G] [--count 2000] [--dir DIR] [--rounds 3] [--json FILE]

For each sample the peer is mounted with a new upper, and 4 KiB in the middle of the file are written. Then, each time
with the file opened anew: COUNT writes of 4 KiB at random places, COUNT reads of 4 KiB at others, and the whole file
from start to end, 1 MiB at a time. No fsync. The lower file is in the page cache when it begins.

How ours copies the rest of the file is a case each; so is whether the work begins at once after the first write, or
when the rest is there ("completed"). For "background, completed" the first program writes to the same place many times,
since a file that is hardly used is left in parts.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import NamedTuple

import grounds
import measure
import peers
from grounds import Ground
from measure import MIB, PAGE, Report, Summary
from peers import Peer, ours

PATIENCE = 600.0
"""Seconds in which a file must be completed."""
PHASES = ("first write", "random writes", "random reads", "sequential read")
BASES = ("overlayfs volatile", "overlayfs")
"""What the ratios are to, the first that is there."""


class Case(NamedTuple):
    name: str
    peer: Peer
    completed: bool = False
    """The work begins when the file is an ordinary one again."""
    busy: bool = False
    """Who wrote first writes on for a while: a file that is hardly used is not completed in the background."""


class Sample(NamedTuple):
    """One run of a case. What it says of room is the same in each run, nearly: the median stands for all."""

    times: dict[str, float]
    """Milliseconds of each phase."""
    completion: float | None
    """Seconds from the first write until the file was complete, when that was waited for."""
    grown: tuple[int, int, int]
    """Bytes that the upper took after the first write, when the work began, and after all."""


def cases() -> list[Case]:
    def policy(when: str) -> Peer:
        return ours(f"block, {when}", f"copyup=block,copyup_complete={when}")

    never, background, close = map(policy, ("never", "background", "close"))
    return [
        Case("unionfs whole", peers.OUR_WHOLE),
        Case("unionfs block, never", never),
        Case("unionfs block, background", background),
        Case("unionfs block, background, completed", background, completed=True, busy=True),
        Case("unionfs block, close", close),
        Case("unionfs block, close, completed", close, completed=True),
        *(Case(peer.name, peer) for peer in peers.others()),
    ]


def sample(case: Case, where: Ground, lower: str, length: int, count: int) -> Sample:
    with peers.mounted(case.peer, where, [lower]) as place:
        path = os.path.join(place.merged, "file")
        times: dict[str, float] = {}
        before, start = measure.allocated(place.upper), perf_counter()
        with measure.opened(path, os.O_RDWR) as descriptor:
            os.pwrite(descriptor, b"w" * PAGE, measure.middle(length))
        times["first write"] = (perf_counter() - start) * 1000
        grown = [measure.allocated(place.upper) - before]
        if case.busy:
            _keep_busy(path, measure.middle(length))
        completion = _wait_until_complete(path, start, where) if case.completed else None
        grown.append(measure.allocated(place.upper) - before)
        places = [random.randrange(length // PAGE) * PAGE for _ in range(2 * count)]
        times["random writes"] = measure.milliseconds(partial(_random, path, os.O_WRONLY, places[:count], _write))
        times["random reads"] = measure.milliseconds(partial(_random, path, os.O_RDONLY, places[count:], _read))
        times["sequential read"] = measure.milliseconds(partial(_read_all, path))
        grown.append(measure.allocated(place.upper) - before)
    grounds.settle(where)
    return Sample(times, completion, (grown[0], grown[1], grown[2]))


def _keep_busy(path: str, offset: int) -> None:
    """Write the same 4 KiB again and again."""
    with measure.opened(path, os.O_WRONLY) as descriptor:
        for _ in range(200):
            os.pwrite(descriptor, b"w" * PAGE, offset)


def _wait_until_complete(path: str, start: float, where: Ground) -> float:
    """Ask the union itself; seconds since `start`."""
    end = monotonic() + PATIENCE
    while json.loads(os.getxattr(path, "user.unionfs.blocks"))["partial"]:
        if monotonic() > end:
            raise SystemExit(f"{path} is still in parts after {PATIENCE:.0f} s")
        where.signals.check()
        sleep(0.02)
    return perf_counter() - start


def _write(descriptor: int, offset: int) -> None:
    os.pwrite(descriptor, b"r" * PAGE, offset)


def _read(descriptor: int, offset: int) -> None:
    os.pread(descriptor, PAGE, offset)


def _random(path: str, flags: int, places: Sequence[int], deed: Callable[[int, int], None]) -> None:
    with measure.opened(path, flags) as descriptor:
        for offset in places:
            deed(descriptor, offset)


def _read_all(path: str) -> None:
    buffer = bytearray(MIB)
    with measure.opened(path, os.O_RDONLY) as descriptor:
        while os.readv(descriptor, [buffer]):
            pass


def run(where: Ground, found: Sequence[Case], length: int, count: int, rounds: int, report: Report) -> None:
    if not where.fits(2 * length):
        report.leave_out(f"{measure.size_name(length)} on {where.filesystem}", "there is no room")
        return
    lower = where.directory("lower")
    measure.make_file(os.path.join(lower, "file"), length)
    samples: dict[str, list[Sample]] = {case.name: [] for case in found}
    turn = 0
    for case in measure.in_turn(found, rounds):
        turn += 1
        measure.note(f"{where.filesystem}: {turn} of {rounds * len(found)}: {case.name}")
        samples[case.name].append(sample(case, where, lower, length, count))
    shown: dict[str, dict[str, Summary]] = {}
    room = []
    for name, values in samples.items():
        grown = [sorted(value.grown[index] for value in values)[len(values) // 2] for index in range(3)]
        waits = [value.completion for value in values if value.completion is not None]
        room.append([name, *map(measure.room, grown), Summary.of(waits) if waits else None])
        shown[name] = {}
        for phase in PHASES:
            row = {
                "filesystem": where.filesystem, "what": phase, "size": length, "count": count, "peer": name,
                "upper_bytes": grown, "completion_s": Summary.of(waits).median if waits else None,
            }  # fmt: skip
            shown[name][phase] = report.add(row, [value.times[phase] for value in values])
    what = f"{measure.size_name(length)}, {count} x 4 KiB, {where.filesystem}"
    _show_times(what, shown)
    headings = ["", "after the first write", "when the work began", "after all", "completed after s"]
    measure.show(f"{what}: bytes that the upper takes", headings, room)


def _show_times(what: str, shown: dict[str, dict[str, Summary]]) -> None:
    measure.show(f"{what}, ms: median (quarters)", ["", *PHASES], [[name, *by.values()] for name, by in shown.items()])
    base = next((name for name in BASES if name in shown), None)
    if base:
        rows = [
            [name, *(measure.number(by[phase].median / shown[base][phase].median) for phase in PHASES)]
            for name, by in shown.items()
        ]
        measure.show(f"{what}: times as long as {base}", ["", *PHASES], rows)


def main() -> None:
    assert __doc__
    parser = measure.options(__doc__, rounds=3)
    parser.add_argument("--size", type=measure.size, default=measure.size("1G"), help="of the lower file (1G)")
    parser.add_argument("--count", type=measure.positive, default=2000, help="random writes, and reads (%(default)s)")
    arguments = parser.parse_args()
    report = Report(arguments, peers.versions())
    report.show_machine()
    available = peers.chosen([case.peer for case in cases()], None, report)
    words = arguments.peers.split(",") if arguments.peers else [""]
    names = {peer.name for peer in available}
    found = [case for case in cases() if case.peer.name in names and any(word in case.name for word in words)]
    for kind in grounds.grounds(arguments.on, report):
        with grounds.ground(kind, arguments.dir) as where:
            run(where, found, arguments.size, arguments.count, arguments.rounds, report)
    report.write(arguments.json)


if __name__ == "__main__":
    measure.run(main)
