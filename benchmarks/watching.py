"""What does it cost that a mount can be watched?

    python benchmarks/watching.py [--requests 500] [--dir DIR] [--on disk] [--rounds 80] [--json FILE]

Ours is mounted several times over one lower directory, and names that are not there are looked up in each by turns,
each of them one LOOKUP, which the kernel cannot answer by itself:

    unionfs           nobody ever asked to see its requests
    watched before    somebody did, and went away: what is left is that one empty list is looked at for each request
    control           as the first, mounted once more: how far two equal ones are apart on this machine
    watched           `unionfs trace --json` reads them meanwhile

Watching costs nothing when nobody does if the second is no further from the first than the third is.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from time import sleep

import grounds
import measure
import peers
from grounds import Ground
from measure import Report, Summary
from peers import ours

NEVER, BEFORE, CONTROL, NOW = "unionfs", "watched before", "control", "watched"
PER_MOUNT = 10
"""Rounds until all are mounted anew: a daemon may be a quarter slower than the next one for as long as it lives."""
_PAUSE = 0.1
"""Seconds in which the trace shows what it has, beside nobody else."""
NAMES = (NEVER, BEFORE, CONTROL, NOW)


@contextmanager
def watched(mountpoint: str) -> Iterator[None]:
    """While `unionfs trace` reads every request of a mount."""
    command = [sys.executable, "-m", "unionfs", "trace", "--json", mountpoint]
    environment = {**os.environ, "PYTHONPATH": measure.ROOT}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    try:
        daemon = os.getxattr(mountpoint, "user.unionfs.pid").decode()
        while not any(os.readlink(f"/proc/{daemon}/fd/{fd}").startswith("pipe:")
                      for fd in os.listdir(f"/proc/{daemon}/fd")):  # fmt: skip
            if process.poll() is not None:
                raise measure.Fault("unionfs trace ended by itself")
            sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait()


def look_up(directory: str, names: Sequence[str]) -> None:
    for name in names:
        os.path.exists(f"{directory}/{name}")


def in_new_mounts(where: Ground, lower: str, requests: int) -> dict[str, list[float]]:
    """Milliseconds of `PER_MOUNT` samples each."""
    numbers = count()
    samples: dict[str, list[float]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        places = {name: stack.enter_context(peers.mounted(ours(name, ""), where, [lower])).merged for name in NAMES}
        with watched(places[BEFORE]):
            look_up(places[BEFORE], [f"before{number}" for number in range(requests)])
        look_up(places[BEFORE], ["detached"])
        stack.enter_context(watched(places[NOW]))
        for turn in range(PER_MOUNT + 1):
            for name in random.sample(NAMES, len(NAMES)):  # in no order, so that nobody always comes after the same
                names = [f"none{next(numbers)}" for _ in range(requests)]
                took = measure.milliseconds(partial(look_up, places[name], names))
                sleep(_PAUSE if name == NOW else 0)
                if turn:  # the first round is for nothing: nobody should pay for his first request
                    samples[name].append(took)
    return samples


def run(where: Ground, requests: int, rounds: int, report: Report) -> None:
    lower = where.directory("lower")
    samples: dict[str, list[float]] = {name: [] for name in NAMES}
    for turn in range(0, rounds, PER_MOUNT):
        measure.note(f"{where.filesystem}: round {turn} of {rounds}")
        for name, values in in_new_mounts(where, lower, requests).items():
            samples[name] += values
    cells = []
    for name, values in samples.items():
        ratios = [value / base for value, base in zip(values, samples[NEVER], strict=True)]
        row = {"filesystem": where.filesystem, "what": "lookup", "peer": name, "requests": requests}
        summary = report.add({**row, "to_unionfs": Summary.of(ratios)._asdict()}, values)
        cells.append([name, f"{summary.median * 1000 / requests:.1f}", str(Summary.of(ratios))])
    measure.show(f"a LOOKUP of a name that is not there, {where.filesystem}", ["", "µs", f"to {NEVER}"], cells)


def main() -> None:
    assert __doc__
    parser = measure.options(__doc__, rounds=80, on="disk")
    parser.add_argument("--requests", type=measure.positive, default=500, help="lookups of a sample (500)")
    arguments = parser.parse_args()
    report = Report(arguments, peers.versions())
    report.show_machine()
    for kind in grounds.grounds(arguments.on, report):
        with grounds.ground(kind, arguments.dir) as where:
            run(where, arguments.requests, arguments.rounds, report)
    report.write(arguments.json)


if __name__ == "__main__":
    measure.run(main)
