"""From which size on is a file better copied up by block? What the default of copyup_threshold is chosen by.

    python benchmarks/copyup_threshold.py [--sizes 4K,8K,16K] [--dir DIR] [--on disk,tmpfs] [--rounds 9] [--json FILE]

Ours is mounted several times over one lower directory: copying files whole; by block; by block with the rest copied in
the background; and by turns the same is done to the same file in each. Two things are compared:

    first write    open, 4 KiB written in the middle, close
    all            that, then the whole file written anew, 64 KiB at a time, then read twice: each opened and closed

A union copied by block pays in the second what it saved in the first: the crossing is where it has won, for good, by
both accounts. No fsync. With --volatile the unions leave their own syncs out, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import grounds
import measure
import peers
from grounds import Ground
from measure import KIB, Report, Summary
from peers import Peer, ours

SIZES = ",".join(f"{4 << shift}K" for shift in range(11))
PIECE = 64 * KIB
WHAT = ("first write", "rewrite", "two reads", "all")
WHOLE, BLOCK, BACKGROUND = "whole", "block", "block, background"


def unions(volatile: bool) -> list[Peer]:
    more = ",volatile" if volatile else ""
    return [
        ours(WHOLE, "copyup=whole" + more),
        ours(BLOCK, "copyup=block,copyup_complete=never" + more),
        ours(BACKGROUND, "copyup=block,copyup_complete=background" + more),
    ]


def rewrite(path: str, size: int) -> None:
    """As a program that knows what it does: without O_TRUNC."""
    data = b"n" * PIECE
    with measure.opened(path, os.O_WRONLY) as descriptor:
        for start in range(0, size, PIECE):
            os.pwrite(descriptor, data[: size - start], start)


def read_twice(path: str) -> None:
    buffer = bytearray(PIECE)
    for _ in range(2):
        with measure.opened(path, os.O_RDONLY) as descriptor:
            while os.readv(descriptor, [buffer]):
                pass


def workload(path: str, size: int) -> dict[str, float]:
    """Milliseconds of each part."""
    times = {
        "first write": measure.milliseconds(partial(measure.first_write, path, size)),
        "rewrite": measure.milliseconds(partial(rewrite, path, size)),
        "two reads": measure.milliseconds(partial(read_twice, path)),
    }
    return {**times, "all": sum(times.values())}


def run(where: Ground, found: Sequence[Peer], lengths: Sequence[int], rounds: int, report: Report) -> None:
    if not where.fits((len(found) + 1) * rounds * sum(lengths)):
        report.leave_out(where.filesystem, "there is no room for all files: ask for fewer rounds, or smaller sizes")
        return
    lower = where.directory("lower")
    measure.note(f"{where.filesystem}: making {(rounds + 1) * len(lengths)} files")
    for length in lengths:
        for turn in range(rounds + 1):
            measure.make_file(os.path.join(lower, f"{length}-{turn}"), length)
    samples: dict[tuple[str, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        places = {peer.name: stack.enter_context(peers.mounted(peer, where, [lower])) for peer in found}
        # Round 0 is for nothing: nobody should pay for his first request.
        for turn in range(rounds + 1):
            measure.note(f"{where.filesystem}: round {turn} of {rounds}")
            for length in lengths:
                for peer in measure.rotated(found, turn):
                    times = workload(os.path.join(places[peer.name].merged, f"{length}-{turn}"), length)
                    grounds.settle(where)
                    if turn:
                        samples.setdefault((peer.name, length), []).append(times)
    shown = {}
    for (name, length), values in samples.items():
        for what in WHAT:
            row: dict[str, object] = {"filesystem": where.filesystem, "what": what, "size": length, "peer": name}
            shown[what, name, length] = report.add(row, [value[what] for value in values])
    for what in WHAT:
        rows = [[measure.size_name(length), *(shown[what, peer.name, length] for peer in found)] for length in lengths]
        headings = ["size", *(peer.name for peer in found)]
        measure.show(f"{what}, {where.filesystem}, ms: median (quarters)", headings, rows)
    _show_crossings(where, found, lengths, shown, report)


def _show_crossings(
    where: Ground, found: Sequence[Peer], lengths: Sequence[int], shown: dict[tuple[str, str, int], Summary],
    report: Report,
) -> None:  # fmt: skip
    whole, *by_block = [peer.name for peer in found]
    rows = []
    for name in by_block:
        at = {}
        for what in ("first write", "all"):
            medians = [(size, shown[what, name, size].median, shown[what, whole, size].median) for size in lengths]
            at[what] = crossing(medians)
            row = {"filesystem": where.filesystem, "what": f"crossing, {what}", "peer": name}
            report.rows.append({**row, "size": at[what]})
        rows.append([name, *(measure.size_name(size) if size else "none of these" for size in at.values())])
    title = f"from which size on it is quicker than {whole}, {where.filesystem}"
    measure.show(title, ["", "first write", "all"], rows)


def crossing(pairs: Sequence[tuple[int, float, float]]) -> int | None:
    """The smallest size from which on the first time is never above the second; pairs are (size, first, second)."""
    found = None
    for size, first, second in reversed(pairs):
        if first > second:
            break
        found = size
    return found


def main() -> None:
    assert __doc__
    parser = measure.options(__doc__, rounds=9)
    add = parser.add_argument
    add("--sizes", type=measure.sizes, default=measure.sizes(SIZES), help="of the lower files (4K to 4M)")
    add("--volatile", action="store_true", help="mount with the option volatile")
    arguments = parser.parse_args()
    report = Report(arguments, peers.versions())
    report.show_machine()
    for kind in grounds.grounds(arguments.on, report):
        with grounds.ground(kind, arguments.dir) as where:
            run(where, unions(arguments.volatile), arguments.sizes, arguments.rounds, report)
    report.write(arguments.json)


if __name__ == "__main__":
    measure.run(main)
