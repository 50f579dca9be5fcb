"""`unionfs blocks` and `unionfs settle`: files that were copied up in part.

Loaded by `main.py`. `blocks` asks the mount, by the virtual attribute user.unionfs.blocks, and reads an unmounted upper
itself; it changes nothing. `settle` completes the files of an upper that is not mounted.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from unionfs.changes.difference import visible_roots
from unionfs.changes.settle import missing, settle
from unionfs.changes.upper import HeldUpper
from unionfs.cli import table
from unionfs.cli.command import Command, shown
from unionfs.cli.progress import bar
from unionfs.cli.target import Target, find, find_path, needs_upper, users_of
from unionfs.errors import Faults, UnionfsError, failed
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.lookup import find_path as find_in
from unionfs.union.source import Sources
from unionfs.union.virtual import describe

BLOCKS = b"user.unionfs.blocks"
_WIDTH, _MOST_ROWS = 64, 16
_UPPER, _MIXED, _LOWER = "#", "+", "."


# --- unionfs blocks


def _blocks_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a regular file in a mounted union or an upper layer")
    parser.add_argument("--json", action="store_true", help="for programs: the runs of bytes and their layers")


def _blocks(arguments: argparse.Namespace) -> None:
    found, faults = [], []
    for path in arguments.paths:
        try:
            found.append((path, *_answer(path)))
        except UnionfsError as fault:
            faults.append(fault)
    if arguments.json:
        print(json.dumps([{"path": path, **answer} for path, _, answer in found], indent=1))
    else:
        for number, (path, target, answer) in enumerate(found):
            print("\n" * (number > 0) + "\n".join(_lines(path, target, answer)))
    if faults:
        raise Faults(faults)


def _answer(path: str) -> tuple[Target, dict[str, Any]]:
    target = find_path(path)
    place = os.fsencode(path)
    try:
        if target.mountpoint is not None:
            return target, json.loads(os.getxattr(place, BLOCKS, follow_symlinks=False))
        with closing(target.open()) as stack:
            return target, _in_layers(stack, target.path)
    except OSError as error:
        why = "is not a regular file" if error.errno == errno.ENODATA else (error.strerror or str(error)).lower()
        hint = "its map cannot be used: the log of the mount says why" if error.errno == errno.EIO else ""
        raise UnionfsError(shown(path), why, hint) from error


def _in_layers(stack: Stack, path: bytes) -> dict[str, Any]:
    found = find_in(stack, visible_roots(stack, 0), path)
    if found is None:
        raise failed(errno.ENOENT)
    if not stat.S_ISREG(found.stat.st_mode):
        raise failed(errno.ENODATA)
    sources, location = Sources(stack), Location(found.where, found.name)
    return describe(sources, location, sources.open_partial(location))


def _lines(path: str, target: Target, answer: dict[str, Any]) -> Iterator[str]:
    size, runs = answer["size"], answer["runs"]
    if not answer["partial"]:
        whole = f"all of it in layer {runs[0][2]}, {shown(target.layers[runs[0][2]])}" if runs else "empty"
        yield f"{shown(path)}: {table.size(size)}, {whole}"
        return
    upper = sum(end - start for start, end, layer in runs if layer == 0)
    yield f"{shown(path)}: {table.size(size)}, copied up in part: {table.size(upper)} in the upper layer"
    yield ""
    yield from _drawing(size, answer["block_size"], runs)
    yield ""
    yield f"  {_UPPER} in layer 0, {shown(target.layers[0])}"
    for layer in sorted({layer for _, _, layer in runs if layer != 0}):
        yield f"  {_LOWER} in layer {layer}, {shown(target.layers[layer])} ({shown(answer['lower_path'])})"
    copied, asked = answer["copied"], answer["asked"]
    block = table.size(answer["block_size"])
    yield f"  copied up {table.size(copied)} for {table.size(asked)} that were written, in blocks of {block}"


def _drawing(size: int, block_size: int, runs: Sequence[Sequence[int]]) -> Iterator[str]:
    """Rows of cells, each cell some blocks: of the upper, of a lower layer, or of both."""
    cell = block_size
    while -(-size // cell) > _WIDTH * _MOST_ROWS:
        cell *= 2
    kinds = [set[bool]() for _ in range(-(-size // cell))]
    for start, end, layer in runs:
        for number in range(start // cell, -(-end // cell)):
            kinds[number].add(layer == 0)
    signs = "".join(_MIXED if len(kind) > 1 else _UPPER if True in kind else _LOWER for kind in kinds)
    places = {start: table.size(start * cell) for start in range(0, len(signs), _WIDTH)}
    width = max(map(len, places.values()))
    for start, place in places.items():
        yield f"  {place:>{width}}  {signs[start : start + _WIDTH]}"
    if cell > block_size:
        yield f"  each sign is {table.size(cell)}; {_MIXED} is in both"


# --- unionfs settle


def _settle_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="UPPER", help="an upper layer that was mounted, and is not now")


def _settle(arguments: argparse.Namespace) -> None:
    target = find(arguments.place)
    upper, work = needs_upper(target)
    for point in users_of(upper) or ([target.mountpoint] if target.mountpoint is not None else []):
        why, hint = f"is in use: mounted on {shown(point)}", f"unionfs umount {shown(point)}"
        raise UnionfsError(f"upperdir {shown(upper)}", why, hint)
    with closing(HeldUpper(upper, work)) as held, closing(target.open_lower()) as lower:
        stack = held.stack(lower, lower.dialect)
        files, size = missing(stack)
        if not files:
            print(f"nothing to settle: no file of {shown(upper)} was copied up in part")
            return
        with bar("settling", size) as advance:
            count = settle(stack, lambda path, copied: advance(copied))
    print(f"settled {table.plural(count, 'file')} of {shown(upper)}: {table.size(size)} copied")


COMMANDS = {
    "blocks": Command(
        "Show which blocks of a file are in the upper layer, and which still in a lower one:\n"
        "the first write to a large file copies only the blocks that it changes in part.",
        _blocks_arguments,
        _blocks,
        "Scripts may read the attribute user.unionfs.blocks of a file in a mounted union.\n",
    ),
    "settle": Command(
        "Complete the files of an upper layer that were copied up in part, so that it needs\n"
        "no lower layer for their data. The union must not be mounted.",
        _settle_arguments,
        _settle,
        """\
A file is complete and on disk before it counts as such: interrupt it at any time, and run
it again, it goes on from there. unionfs apply does it by itself. Needs as much room as the
files are long, without their holes.
""",
    ),
}
