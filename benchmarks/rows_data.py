"""File data: reading, writing, mapping, and what fio(1) says of it. Used by `suite.py`.

Whole files all: what a file that was copied up in part costs is in `rows_first_write.py`. The lower file is in the
kernel's page cache, that of its own filesystem; "first" is the first time in a mount, which has to copy it from there
unless it shares it.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial

import measure
from measure import KIB, MIB, PAGE
from workload import PASSTHROUGH, VOLATILE, Layers, Maker, Row, Sample, Scale, Target, Workload

SIZE = 256 * MIB
PIECE = 128 * KIB
"""What cat(1) and cp(1) read and write at a time."""
ALIKE = (Target(PASSTHROUGH, 1.05, 0.4),)


def make_file(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    measure.make_file(os.path.join(lowers[0], "file"), maker.scale.size(SIZE))
    return maker.flat(lowers)


def read_all(path: str) -> int:
    """From start to end; the bytes."""
    buffer, total = bytearray(PIECE), 0
    with measure.opened(path, os.O_RDONLY) as descriptor:
        while count := os.readv(descriptor, [buffer]):
            total += count
    return total


def write_all(path: str, size: int, sync: bool = False) -> None:
    """A new file."""
    piece = b"w" * PIECE
    with measure.opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        for start in range(0, size, PIECE):
            os.write(descriptor, piece[: size - start])
        if sync:
            os.fsync(descriptor)


def places(size: int, count: int) -> list[int]:
    """The same in each run."""
    chance = random.Random(size)
    return [chance.randrange(size // PAGE) * PAGE for _ in range(count)]


def read_page(descriptor: int, offset: int) -> None:
    os.pread(descriptor, PAGE, offset)


def write_page(descriptor: int, offset: int) -> None:
    os.pwrite(descriptor, b"r" * PAGE, offset)


def at_places(
    sample: Sample, row: str, path: str, flags: int, offsets: Sequence[int], deed: Callable[[int, int], None]
) -> None:
    """Pages at random; the file is opened before."""
    with measure.opened(path, flags) as descriptor:
        sample.each(row, offsets, partial(deed, descriptor))


def reading(sample: Sample) -> None:
    size, path = sample.scale.size(SIZE), sample.path("file")
    for row in ("sequential read, first", "sequential read, again"):
        with sample.timed(row):
            count = read_all(path)
        sample.expect("bytes", count, size)
    at_places(sample, "random read", path, os.O_RDONLY, places(size, sample.scale.count(50_000)), read_page)
    with measure.opened(path, os.O_RDONLY) as descriptor, mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
        with sample.timed("mmap, read"):
            for start in range(0, size, PIECE):
                mapped[start : start + PIECE]
    if sample.is_first:
        with open(path, "rb") as one, open(os.path.join(sample.made, "0", "file"), "rb") as other:
            sample.expect("content", one.read(MIB) == other.read(MIB), True)


def writing(sample: Sample) -> None:
    size, path = sample.scale.size(SIZE), sample.path("new")
    with sample.timed("sequential write"):
        write_all(path, size)
    sample.expect("size", os.stat(path).st_size, size)
    sample.settle()
    with sample.timed("sequential write + fsync"):
        write_all(sample.path("synced"), size, sync=True)
    at_places(sample, "random write", path, os.O_WRONLY, places(size, sample.scale.count(50_000)), write_page)
    sample.settle()
    synced = places(size, sample.scale.count(200))
    at_places(sample, "random write + fdatasync each", path, os.O_WRONLY, synced, write_and_sync)
    offsets = places(size + PAGE, sample.scale.count(50_000))
    with measure.opened(path, os.O_RDWR) as descriptor, mmap.mmap(descriptor, size) as mapped:
        with sample.timed("mmap, write"):
            for offset in offsets:
                mapped[offset % size] = 109
    if sample.is_first:
        with open(path, "rb") as file:
            file.seek(offsets[0] % size)
            sample.expect("byte that was written", file.read(1), b"m")


def write_and_sync(descriptor: int, offset: int) -> None:
    os.pwrite(descriptor, b"s" * PAGE, offset)
    os.fdatasync(descriptor)


# --- fio

JOBS = 4
PROFILES = {
    "fio randread": ("--rw=randread", "--ioengine=psync"),
    "fio randwrite": ("--rw=randwrite", "--ioengine=psync"),
    "fio mixed": ("--rw=randrw", "--rwmixread=70", "--ioengine=psync"),
    "fio mmap": ("--rw=randrw", "--rwmixread=70", "--ioengine=mmap"),
    "fio 4 jobs": ("--rw=randrw", "--rwmixread=70", "--ioengine=psync", f"--numjobs={JOBS}", "--group_reporting"),
}
FIO_SIZE = 64 * MIB


def fio(sample: Sample) -> None:
    """Each profile does so much, whatever time it takes; the time and the latencies are fio's own."""
    size = sample.scale.size(FIO_SIZE) // (JOBS * PAGE) * JOBS * PAGE
    shutil.copyfile(sample.path("file"), sample.path("upper"))
    for row, words in PROFILES.items():
        sample.settle()
        jobs = JOBS if f"--numjobs={JOBS}" in words else 1
        with sample.timed(row) as figure:
            said = sample.run([
                "fio", "--name=profile", f"--filename={sample.path('upper')}", f"--size={size}", "--bs=4k",
                f"--io_size={size // jobs}", "--invalidate=0", "--randseed=7",
                "--allow_file_create=0", "--output-format=json", *words,
            ])  # fmt: skip
            done = json.loads(said[said.index("{") :])["jobs"][0]
            sides = [done[side] for side in ("read", "write") if done[side]["total_ios"]]
            # Its runtime is in whole milliseconds: the sum of all latencies is finer.
            figure.ms = sum(side["lat_ns"]["mean"] * side["total_ios"] for side in sides) / jobs / 1e6
        busiest = max(sides, key=lambda side: int(side["total_ios"]))
        percentiles = busiest["clat_ns"]["percentile"]
        figure.p50_us = percentiles["50.000000"] / 1000
        figure.p99_us = percentiles["99.000000"] / 1000
        sample.expect("bytes that fio moved", sum(side["io_bytes"] for side in sides) // PAGE, size // PAGE)


def room(scale: Scale) -> int:
    return 4 * scale.size(SIZE)


WORKLOADS = (
    Workload(
        "read", "data",
        (
            Row("sequential read, first", "a lower file from start to end, 128 KiB at a time", "256 MiB", ALIKE),
            Row("sequential read, again", "the same once more", "256 MiB", ALIKE),
            Row("random read", "4 KiB at random places of it", "50,000 x 4 KiB", ALIKE),
            Row("mmap, read", "the file is mapped, and all of it is touched", "256 MiB", ALIKE),
        ),
        make_file, reading, core=True, changes=False, room=room, seconds=12,
    ),
    Workload(
        "write", "data",
        (
            Row("sequential write", "a new file, 128 KiB at a time; not synced", "256 MiB", ALIKE),
            Row("sequential write + fsync", "another one, on disk when it is done", "256 MiB"),
            Row("random write", "4 KiB at random places of a file of the upper layer", "50,000 x 4 KiB", ALIKE),
            Row("random write + fdatasync each", "as a database does it", "200 x 4 KiB"),
            Row("mmap, write", "the file is mapped, a byte is changed at random places", "50,000 times", ALIKE),
        ),
        make_file, writing, core=True, variants=VOLATILE, room=room, seconds=30,
    ),
    Workload(
        "fio", "data",
        (
            Row("fio randread", "4 KiB at a time, of a file of the upper layer", "64 MiB", ALIKE),
            Row("fio randwrite", "the same, written", "64 MiB", ALIKE),
            Row("fio mixed", "7 reads to 3 writes", "64 MiB", ALIKE),
            Row("fio mmap", "the same through a mapping", "64 MiB", ALIKE),
            Row("fio 4 jobs", "the same by 4 processes at once", "64 MiB", ALIKE),
        ),
        make_file, fio, programs=("fio",), room=room, seconds=20,
    ),
)  # fmt: skip
