"""What grows: with the number of layers, with the depth of a path, with the size of a directory. Used by `suite.py`."""

from __future__ import annotations

import os
from functools import partial

import trees
from workload import Layers, Maker, Row, Sample, Workload

LAYERS = (1, 5, 20, 100, 500)
"""As many lower layers; kernel overlayfs takes 500."""
DEPTHS = (1, 5, 20, 50)
CHAINS = 100
DIRECTORIES = (10, 100, 1000, 10_000, 100_000)
LOOKUPS = 200


# --- layers


def make_layers(count: int, maker: Maker) -> Layers:
    """Every layer has the directory; the topmost and the lowest have files in it."""
    lowers = maker.layers(count)
    for lower in lowers:
        os.mkdir(os.path.join(lower, "d"))
    names = range(maker.scale.count(LOOKUPS))
    trees.fill(lowers[:1], [f"d/top{index}" for index in names], b"t")
    trees.fill(lowers[-1:], [f"d/bottom{index}" for index in names], b"b")
    return Layers(lowers)


def look_up(count: int, sample: Sample) -> None:
    names = range(sample.scale.count(LOOKUPS))
    with sample.timed(layer_row("first lookup of a directory", count)):
        os.stat(sample.path("d"))
    for what in ("top", "bottom"):
        sample.each(
            layer_row(f"lookup, {what}", count), [sample.path("d", f"{what}{index}") for index in names], os.stat
        )
    absent = [sample.path("d", f"absent{index}") for index in names]
    sample.each(layer_row("lookup, absent", count), absent, os.path.exists)
    with sample.timed(layer_row("list", count)):
        found = len(os.listdir(sample.path("d")))
    sample.expect("names", found, 2 * len(names))


def layer_row(what: str, count: int) -> str:
    return f"{what}, {count} layer{'' if count == 1 else 's'}"


def layer_rows(count: int) -> tuple[Row, ...]:
    amount = f"{LOOKUPS} names"
    return (
        Row(layer_row("first lookup of a directory", count), "which all layers have"),
        Row(layer_row("lookup, top", count), "files of the topmost lower layer, cold", amount),
        Row(layer_row("lookup, bottom", count), "files of the lowest layer, cold", amount),
        Row(layer_row("lookup, absent", count), "names that no layer has, cold", amount),
        Row(layer_row("list", count), "the directory, cold", f"{2 * LOOKUPS} names"),
    )


# --- depth


def chain(number: int, depth: int) -> str:
    return os.path.join(f"depth{depth}", *(f"c{number}" for _ in range(depth)), "file")


def make_depths(maker: Maker) -> Layers:
    lowers = maker.layers(2)
    for depth in DEPTHS:
        for number in range(maker.scale.count(CHAINS)):
            trees.fill(lowers[number % 2 :][:1], [chain(number, depth)], b"d")
    return maker.flat(lowers)


def descend(sample: Sample) -> None:
    for depth in DEPTHS:
        paths = [sample.path(chain(number, depth)) for number in range(sample.scale.count(CHAINS))]
        sample.each(f"stat, {depth} deep", paths, os.stat)
        sample.each(f"stat, {depth} deep, warm", paths, os.stat)


# --- directories


def make_directories(maker: Maker) -> Layers:
    """Two layers, each with half of the files."""
    lowers = maker.layers(2)
    for size in DIRECTORIES:
        for index in range(maker.scale.count(size)):
            parent = os.path.join(lowers[index % 2], f"d{size}")
            if index < 2:
                os.mkdir(parent)
            os.mknod(os.path.join(parent, f"file{index:06}"))
    return maker.flat(lowers)


def listing(sample: Sample) -> None:
    for size in DIRECTORIES:
        for state in ("cold", "warm"):
            with sample.timed(f"list {size:,} names, {state}"):
                found = len(os.listdir(sample.path(f"d{size}")))
            sample.expect("names", found, sample.scale.count(size))


WORKLOADS = (
    *(
        Workload(
            f"{count} layers", "scaling", layer_rows(count), partial(make_layers, count), partial(look_up, count),
            changes=False, seconds=3 + count / 100,
        )
        for count in LAYERS
    ),
    Workload(
        "depth", "scaling",
        tuple(
            Row(f"stat, {depth} deep{state}", f"each path {when}", f"{CHAINS} paths")
            for depth in DEPTHS
            for state, when in (("", "for the first time"), (", warm", "again"))
        ),
        make_depths, descend, changes=False, seconds=8,
    ),
    Workload(
        "directories", "scaling",
        tuple(
            Row(f"list {size:,} names, {state}", "two layers, half of the names in each", "once")
            for size in DIRECTORIES
            for state in ("cold", "warm")
        ),
        make_directories, listing, changes=False, seconds=20,
    ),
)  # fmt: skip
