"""The first change of a lower file, which copies it up: what it costs at any size, whom it stops, and what the file
costs afterwards. Used by `suite.py`.

The lower file is in the page cache, and nobody opened it in that mount. A change is what a program does that does not
keep the file open: open, the one call, close; the program syncs nothing. Another file is changed first, so that nobody
pays for the first request ever. Kernel overlayfs and ours sync a whole copy before they publish it, unless they are
mounted `volatile`; the others never do. Measured too: the room that the upper takes, as du(1) counts it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from statistics import median
from time import monotonic, perf_counter, sleep

import measure
from measure import GIB, KIB, MIB, PAGE
from rows_data import at_places, places, read_all, read_page, write_all, write_page
from workload import COPYING, METACOPY, VOLATILE, Layers, Maker, Row, Sample, Scale, Target, Workload, Wrong

SMALL = {4 * KIB: 20, 64 * KIB: 20, MIB: 10, 16 * MIB: 3}
"""Sizes, and how many files of each are changed."""
LARGE = (256 * MIB, GIB)
OTHER = MIB
"""The file that is changed before: large enough to be copied by block, where that depends on it."""
AFTER = 2000
"""Pages that are written, and read, in a file that was copied up."""
PATIENCE = 20.0
"""Seconds in which a file must be completed."""
VARIANTS = (*VOLATILE, *METACOPY)
FIRST = (Target("unionfs auto", 0.003, 0.005),)


# --- the changes


def append(path: str, size: int) -> None:
    with measure.opened(path, os.O_WRONLY | os.O_APPEND) as descriptor:
        os.write(descriptor, b"a")


def rewrite(path: str, size: int) -> None:
    """As editors and compilers do it: with O_TRUNC, so that nothing of the old content is needed."""
    write_all(path, size)


CHANGES: dict[str, Callable[[str, int], None]] = {
    "first write": measure.first_write,
    "rewrite": rewrite,
    "append": append,
    "truncate": lambda path, size: os.truncate(path, size // 2),
    "chmod": lambda path, size: os.chmod(path, 0o600),
}
EXPLAINED = {
    "first write": "4 KiB in the middle",
    "rewrite": "emptied and written anew",
    "append": "1 byte at the end",
    "truncate": "to half of its size",
    "chmod": "nothing of its data",
}


def row_name(change: str, size: int) -> str:
    return f"{change}, {measure.size_name(size)}"


def make_small(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    for size, count in SMALL.items():
        if size <= maker.scale.size(GIB):
            for change in CHANGES:
                for index in range(maker.scale.count(count, 2)):
                    measure.make_file(os.path.join(lowers[0], f"{change}-{size}-{index}"), size)
    measure.make_file(os.path.join(lowers[0], "other"), OTHER)
    return Layers(lowers)


def warm_up(sample: Sample) -> None:
    measure.first_write(sample.path("other"), OTHER)
    sleep(0.05)
    sample.settle()


def change_small(sample: Sample) -> None:
    warm_up(sample)
    for size, count in SMALL.items():
        if size > sample.scale.size(GIB):
            continue
        for change, deed in CHANGES.items():
            paths = [sample.path(f"{change}-{size}-{index}") for index in range(sample.scale.count(count, 2))]
            row = row_name(change, size)
            before = measure.allocated(sample.place.upper)
            sample.each(row, paths, partial(_apply, deed, size))
            figure = sample.figures[row]
            figure.ms /= len(paths)
            figure.more["upper_bytes"] = (measure.allocated(sample.place.upper) - before) / len(paths)
            _check(sample, change, paths[0], size)
            sample.settle()


def _apply(deed: Callable[[str, int], None], size: int, path: str) -> None:
    deed(path, size)


def _check(sample: Sample, change: str, path: str, size: int) -> None:
    grown = {"append": size + 1, "truncate": size // 2}.get(change, size)
    sample.expect(f"size after {change}", os.stat(path).st_size, grown)
    if change == "first write":
        with measure.opened(path, os.O_RDONLY) as descriptor:
            sample.expect("what was written", os.pread(descriptor, 1, measure.middle(size)), b"w")


def large_sizes(scale: Scale) -> list[int]:
    """In a tiny run, two that are tiny."""
    return list(LARGE) if scale.factor >= 0.1 else [128 * KIB, 256 * KIB]


def make_large(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    for size in large_sizes(maker.scale):
        measure.make_file(os.path.join(lowers[0], f"file-{size}"), size)
    measure.make_file(os.path.join(lowers[0], "other"), OTHER)
    return Layers(lowers)


def change_one(sample: Sample, row: str, deed: Callable[[str, int], None], path: str, size: int) -> None:
    before = measure.allocated(sample.place.upper)
    with sample.timed(row) as figure:
        deed(path, size)
    figure.more["upper_bytes"] = measure.allocated(sample.place.upper) - before


def change_large(sample: Sample) -> None:
    """The first write to each, and what the larger one costs from then on."""
    warm_up(sample)
    for size, named in zip(large_sizes(sample.scale), LARGE, strict=True):
        sample.settle()
        path = sample.path(f"file-{size}")
        change_one(sample, row_name("first write", named), measure.first_write, path, size)
        _check(sample, "first write", path, size)
    afterwards(sample, path, size, "then")


def afterwards(sample: Sample, path: str, size: int, when: str) -> None:
    offsets = places(size, 2 * sample.scale.count(AFTER))
    half = len(offsets) // 2
    at_places(sample, f"{when} random writes", path, os.O_WRONLY, offsets[:half], write_page)
    at_places(sample, f"{when} random reads", path, os.O_RDONLY, offsets[half:], read_page)
    for row in (f"{when} a sequential read", f"{when} one more"):
        with sample.timed(row):
            count = read_all(path)
        sample.expect("bytes", count, size)


def complete(sample: Sample) -> None:
    """The first write, much use, and the work begins once the file is in one piece again."""
    warm_up(sample)
    size = large_sizes(sample.scale)[-1]
    path = sample.path(f"file-{size}")
    start = perf_counter()
    measure.first_write(path, size)
    with measure.opened(path, os.O_WRONLY) as descriptor:
        for _ in range(200):  # a file that is hardly used is left in parts
            os.pwrite(descriptor, b"w" * PAGE, measure.middle(size))
    if sample.peer.startswith("unionfs ") and sample.peer != "unionfs block":
        _wait_until_complete(path)
    with sample.timed("first write, until complete") as figure:
        figure.ms = (perf_counter() - start) * 1000
    sample.settle()
    afterwards(sample, path, size, "completed:")


def _wait_until_complete(path: str) -> None:
    """Ask the union itself."""
    end = monotonic() + PATIENCE
    while json.loads(os.getxattr(path, "user.unionfs.blocks"))["partial"]:
        if monotonic() > end:
            raise Wrong(f"the file is still in parts after {PATIENCE:.0f} s")
        sleep(0.02)


def make_each(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    for size in large_sizes(maker.scale):
        for change in list(CHANGES)[1:]:
            measure.make_file(os.path.join(lowers[0], f"{change}-{size}"), size)
    measure.make_file(os.path.join(lowers[0], "other"), OTHER)
    return Layers(lowers)


def change_each(sample: Sample) -> None:
    warm_up(sample)
    for size, named in zip(large_sizes(sample.scale), LARGE, strict=True):
        for change in list(CHANGES)[1:]:
            path = sample.path(f"{change}-{size}")
            change_one(sample, row_name(change, named), CHANGES[change], path, size)
            _check(sample, change, path, size)
            sample.settle()


# --- whom it stops

NAMES = 20_000
"""Files for the lookups."""
ONE_IN = 20
"""So many lookups are of one name that is there, the others of names that are not."""
HOLD = 1.0
"""Seconds after the write that the lookups go on, with the file open."""


def make_stall(maker: Maker) -> Layers:
    layers = make_large(maker)
    many = maker.directory("0", "many")
    for index in range(maker.scale.count(NAMES)):
        os.mknod(os.path.join(many, f"there-{index}"))
    return layers


def stall(sample: Sample) -> None:
    """Another process looks up names, each for the first time, while a large file gets its first write."""
    warm_up(sample)
    size = large_sizes(sample.scale)[0]
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    stop = context.Event()
    names = sample.scale.count(NAMES)
    process = context.Process(target=_look_up, args=(sample.path("many"), names, theirs, stop.is_set), daemon=True)
    process.start()
    theirs.close()
    try:
        sleep(0.3)
        start = perf_counter()
        with measure.opened(sample.path(f"file-{size}"), os.O_WRONLY) as descriptor:
            os.pwrite(descriptor, b"w" * PAGE, measure.middle(size))
            sleep(HOLD * min(sample.scale.factor, 1))
            stop.set()
            found: list[tuple[float, float]] = ours.recv()
    finally:
        stop.set()
        process.join()
    during = sorted(1000 * took for began, took in found if began + took >= start)
    before = [1000 * took for began, took in found if began + took < start]
    with sample.timed("longest lookup meanwhile") as figure:
        figure.ms = during[-1]
    figure.p50_us, figure.p99_us = median(during) * 1000, during[len(during) * 99 // 100] * 1000
    with sample.timed("longest lookup before") as figure:
        figure.ms = max(before)


def _look_up(many: str, names: int, answer: Connection, stopped: Callable[[], bool]) -> None:
    """In a process of its own: look up names until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    found, index = [], 0
    while not stopped():
        # Names that are there are looked up once; when they are used up, those that are not there remain.
        number, rest = divmod(index, ONE_IN)
        path = os.path.join(many, f"there-{number}" if rest == 0 and number < names else f"absent-{index}")
        start = perf_counter()
        os.access(path, os.F_OK)
        found.append((start, perf_counter() - start))
        index += 1
    answer.send(found)


# --- the workloads


def small_rows() -> tuple[Row, ...]:
    return tuple(
        Row(row_name(change, size), EXPLAINED[change], f"one of {count}")
        for change in CHANGES
        for size, count in SMALL.items()
    )


def after_rows(when: str) -> tuple[Row, ...]:
    return (
        Row(f"{when} random writes", "4 KiB at random places of the file of 1 GiB", f"{AFTER:,} x 4 KiB"),
        Row(f"{when} random reads", "at other places", f"{AFTER:,} x 4 KiB"),
        Row(f"{when} a sequential read", "the whole file", "1 GiB"),
        Row(f"{when} one more", "the whole file", "1 GiB"),
    )


def both(scale: Scale) -> int:
    return 2 * sum(large_sizes(scale))


WORKLOADS = (
    Workload(
        "first change", "first write", small_rows(), make_small, change_small, core=True, ours=COPYING,
        variants=VARIANTS, seconds=10,
    ),
    Workload(
        "large first write", "first write",
        (
            Row(row_name("first write", LARGE[0]), EXPLAINED["first write"]),
            Row(row_name("first write", LARGE[1]), EXPLAINED["first write"], targets=FIRST),
            *after_rows("then"),
        ),
        make_large, change_large, core=True, ours=COPYING, variants=VARIANTS, room=both, seconds=35,
    ),
    Workload(
        "completed first write", "first write",
        (
            Row("first write, until complete", "until the union says that the file is in one piece", "1 GiB"),
            *after_rows("completed:"),
        ),
        make_large, complete, ours=COPYING, variants=VARIANTS, room=both, seconds=30,
    ),
    Workload(
        "large first change", "first write",
        tuple(
            Row(row_name(change, size), EXPLAINED[change]) for change in list(CHANGES)[1:] for size in LARGE
        ),
        make_each, change_each, ours=COPYING, variants=VARIANTS, room=lambda scale: 4 * both(scale), seconds=60,
    ),
    Workload(
        "stall", "first write",
        (
            Row("longest lookup meanwhile", "while a file of 256 MiB gets its first write"),
            Row("longest lookup before", "by the same process, just before"),
        ),
        make_stall, stall, ours=COPYING, variants=VARIANTS, room=both, seconds=20,
    ),
)  # fmt: skip
