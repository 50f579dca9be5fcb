"""Names and attributes: listing, looking up, opening, creating, deleting. Used by `suite.py`.

"cold" is: the union was just mounted, so the kernel knows nothing of it, while the files of the layers are in the
kernel's caches. "warm" is: the same once more, in the same mount.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trees
from measure import PAGE
from workload import CACHED, INDEX, METACOPY, PASSTHROUGH, VOLATILE, Layers, Maker, Row, Sample, Target, Workload

SMALL = Target(PASSTHROUGH, 2.5, 0.5)


# --- looking


def make_walk(maker: Maker) -> Layers:
    lowers = maker.layers(5)
    trees.fill(lowers, trees.names(maker.scale.count(20_000)), b"x" * 64)
    return maker.flat(lowers)


def walk(sample: Sample) -> None:
    if sample.place.mount_ms:
        with sample.timed("mount") as figure:
            os.stat(sample.path("d0000"))
        figure.ms += sample.place.mount_ms
    for row in ("walk + stat, cold", "walk + stat, warm"):
        with sample.timed(row):
            found = trees.walk(sample.place.merged)
        sample.expect("files", found, sample.scale.count(20_000))


def make_stat(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    trees.fill(lowers, trees.names(maker.scale.count(10_000)), b"x" * 64)
    return maker.flat(lowers)


def stat(sample: Sample) -> None:
    paths = trees.names(sample.scale.count(10_000))
    there = [sample.path(path) for path in paths]
    absent = [f"{path}-absent" for path in there]
    sample.each("stat, cold", there, os.stat)
    sample.each("stat, warm", there, os.stat)
    sample.each("stat of absent names, cold", absent, os.path.exists)
    sample.expect("an absent name is there", any(map(os.path.exists, absent)), False)
    sample.expect("size", os.stat(there[-1]).st_size, 64)


def make_open(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    trees.fill(lowers, trees.names(maker.scale.count(10_000)), b"y" * PAGE)
    return maker.flat(lowers)


def open_close(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def open_read_close(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.read(descriptor, PAGE)
    os.close(descriptor)


def opening(sample: Sample) -> None:
    paths = [sample.path(path) for path in trees.names(sample.scale.count(10_000))]
    sample.each("open + close, cold", paths, open_close)
    sample.each("open + read + close, first", paths, open_read_close)
    sample.each("open + read + close, warm", paths, open_read_close)
    sample.each("open + close, one file", [paths[0]] * len(paths), open_close)
    if sample.is_first:
        for path in paths[:: max(len(paths) // 50, 1)]:
            sample.expect(path, read(path), b"y" * PAGE)


def read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read()


# --- changing


def make_room(maker: Maker) -> Layers:
    """A directory that is there already, as most directories are that programs work in."""
    lowers = maker.layers(1)
    trees.fill(lowers, [f"work/there{index}" for index in range(20)], b"z" * 64)
    return maker.flat(lowers)


def create(sample: Sample) -> None:
    count = sample.scale.count(5000)
    work = sample.path("work")
    paths = [f"{work}/f{index:05}" for index in range(count)]
    block = b"c" * PAGE

    def create_one(path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, block)
        os.close(descriptor)

    sample.each("create + write 4 KiB", paths, create_one)
    sample.expect("names", len(os.listdir(work)), 20 + count)
    sample.settle()
    half = paths[: count // 2]
    sample.each("rename, upper files", half, lambda path: os.rename(path, path + "r"))
    sample.expect("content", read(half[-1] + "r"), block)
    sample.settle()
    doomed = [path + "r" for path in half] + paths[len(half) :]
    sample.each("unlink, upper files", doomed, os.unlink)
    sample.expect("names", len(os.listdir(work)), 20)
    directories = [f"{work}/d{index:05}" for index in range(sample.scale.count(2000))]
    sample.settle()
    sample.each("mkdir", directories, os.mkdir)
    sample.settle()
    sample.each("rmdir", directories, os.rmdir)
    sample.expect("names", len(os.listdir(work)), 20)


def create_synced(sample: Sample) -> None:
    work = sample.path("work")

    def create_one(path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, b"c" * PAGE)
        os.fsync(descriptor)
        os.close(descriptor)

    paths = [f"{work}/f{index:05}" for index in range(sample.scale.count(300))]
    sample.each("create + write 4 KiB + fsync", paths, create_one)
    sample.expect("names", len(os.listdir(work)), 20 + len(paths))


def make_lower(maker: Maker) -> Layers:
    lowers = maker.layers(1)
    for top, count in (("a", 5000), ("b", 1000), ("c", 1000)):
        paths = trees.names(maker.scale.count(count))
        trees.fill(lowers, [f"{top}/{path}" for path in paths], b"l" * PAGE)
    return maker.flat(lowers)


def whiteouts(sample: Sample) -> None:
    """Deleting what is in a lower layer, and what the marks of it cost afterwards."""
    paths = [sample.path("a", path) for path in trees.names(sample.scale.count(5000))]
    sample.each("unlink, lower files", paths, os.unlink)
    sample.expect("files", trees.walk(sample.path("a")), 0)
    sample.settle()
    directories = sorted({os.path.dirname(path) for path in paths})
    sample.each("list directories of whiteouts", directories, os.listdir)
    sample.each("stat of deleted names", paths, os.path.exists)
    sample.settle()
    sample.each("create where a whiteout is", paths[::10], lambda path: trees.write(path, b"new"))
    sample.expect("files", trees.walk(sample.path("a")), len(paths[::10]))
    sample.settle()
    changed = [sample.path("b", path) for path in trees.names(sample.scale.count(1000))]
    sample.each("rename, lower files", changed, lambda path: os.rename(path, path + "r"))
    sample.expect("content", read(changed[-1] + "r"), b"l" * PAGE)
    sample.settle()
    remove_and_make_again(sample)


def remove_and_make_again(sample: Sample) -> None:
    names = trees.names(sample.scale.count(1000))
    doomed = sorted({os.path.dirname(name) for name in names})
    for name in names:
        os.unlink(sample.path("c", name))
    sample.settle()

    def again(name: str) -> None:
        path = sample.path("c", name)
        os.rmdir(path)
        os.mkdir(path)
        os.listdir(path)

    sample.each("rmdir + mkdir + list, lower directories", doomed, again)
    sample.expect("files", trees.walk(sample.path("c")), 0)


def rows(*described: tuple[str, str, str] | tuple[str, str, str, Sequence[Target]]) -> tuple[Row, ...]:
    """Rows, from name, amount, explanation, and targets where there are some."""
    return tuple(Row(one[0], one[2], one[1], tuple(one[3]) if len(one) > 3 else ()) for one in described)


WORKLOADS = (
    Workload(
        "walk", "metadata",
        rows(
            ("mount", "5 layers", "from the start of the command to the first stat that is answered"),
            (
                "walk + stat, cold", "20,000 files, 5 layers", "list and stat a whole tree, right after mounting",
                [Target(INDEX, 0.5, 0.15), Target(PASSTHROUGH, 1.4, 0.4)],
            ),
            ("walk + stat, warm", "20,000 files, 5 layers", "the same again"),
        ),
        make_walk, walk, core=True, changes=False, seconds=16,
    ),
    Workload(
        "stat", "metadata",
        rows(
            (
                "stat, cold", "10,000 files", "stat one file after the other by its path, right after mounting",
                [Target(INDEX, 2, 0.3)],
            ),
            ("stat, warm", "10,000 files", "the same again: the kernel knows them all"),
            ("stat of absent names, cold", "10,000 names", "as compilers and shells do it along their search paths"),
        ),
        make_stat, stat, core=True, changes=False, seconds=18,
    ),
    Workload(
        "open", "metadata",
        rows(
            ("open + close, cold", "10,000 files", "each file looked up and opened for the first time"),
            ("open + read + close, first", "10,000 x 4 KiB", "looked up before, read for the first time"),
            (
                "open + read + close, warm", "10,000 x 4 KiB", "all of them once more",
                [Target(CACHED, 1.1, 0.3)],
            ),
            ("open + close, one file", "10,000 times", "the same file again and again"),
        ),
        make_open, opening, core=True, changes=False, seconds=35,
    ),
    Workload(
        "create", "metadata",
        rows(
            ("create + write 4 KiB", "5,000 files", "new files in a directory of a lower layer; not synced", [SMALL]),
            ("rename, upper files", "2,500 files", "half of the new files get other names", [SMALL]),
            ("unlink, upper files", "5,000 files", "and are deleted", [SMALL]),
            ("mkdir", "2,000 times", "new directories", [SMALL]),
            ("rmdir", "2,000 times", "and away with them"),
        ),
        make_room, create, core=True, seconds=60,
    ),
    Workload(
        "synced create", "metadata",
        rows(("create + write 4 KiB + fsync", "300 files", "as a mail server does it")),
        make_room, create_synced, variants=VOLATILE, seconds=8,
    ),
    Workload(
        "whiteouts", "metadata",
        rows(
            ("unlink, lower files", "5,000 files", "each leaves a whiteout in the upper layer", [SMALL]),
            ("list directories of whiteouts", "50 directories", "which show nothing"),
            ("stat of deleted names", "5,000 names", "names under a whiteout"),
            ("create where a whiteout is", "500 files", "a file comes back"),
            ("rename, lower files", "1,000 x 4 KiB", "copied up, and a whiteout for the old name"),
            ("rmdir + mkdir + list, lower directories", "10 times", "a directory that hides the one below: opaque"),
        ),
        make_lower, whiteouts, variants=METACOPY, seconds=30,
    ),
)  # fmt: skip
