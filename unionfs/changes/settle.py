"""Settle: every partly copied file of an upper is completed, so that no file's data is in a lower layer any more.

Called by the commands `settle` and `apply`. It promises: each file is complete and synced before its map goes, so that
whatever interrupts it, each file is whole or as it was, and running it again goes on from there; nothing but the
missing bytes is changed, no time and no mode.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from unionfs.errors import UnionfsError
from unionfs.layer.layer import Directory
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.union.hardlinks import HardLinks
from unionfs.union.identity import Origins
from unionfs.union.source import Sources

_DT_DIR, _DT_REG = stat.S_IFDIR >> 12, stat.S_IFREG >> 12
_PIECE = 16 << 20
Progress = Callable[[bytes, int], None]
"""Called with a path and the bytes of its file that were copied just now."""


def partial_files(stack: Stack) -> Iterator[Location]:
    """The partly copied files of the upper, and of its index of hard links; one with several names may come again."""
    assert stack.upper is not None
    sources = Sources(stack)
    for location in _regular_files(stack, stack.upper.root):
        if sources.is_partial(location):
            yield location
    index = HardLinks(stack, Origins(stack)).index
    for name, kind in list(index.read_names().items()):
        if kind == _DT_REG and sources.is_partial(Location(index, name)):
            yield Location(index, name)


def _regular_files(stack: Stack, root: Directory) -> Iterator[Location]:
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        for name, kind in sorted(stack.dialect.read(directory)[0].items()):
            if kind == _DT_DIR:
                waiting.append(directory.child(name))
            elif kind == _DT_REG:
                yield Location(directory, name)


def missing(stack: Stack) -> tuple[int, int]:
    """How many partly copied files there are, and how many bytes they lack."""
    sources, found = Sources(stack), {}
    for location in partial_files(stack):
        data = sources.open_partial(location)
        if data is not None:
            found[location.stat().st_ino] = data.missing
    return len(found), sum(found.values())


def settle(stack: Stack, progress: Progress = lambda path, copied: None) -> int:
    """Complete every partly copied file; how many that were. Raises UnionfsError for one that cannot be, after all the
    others."""
    sources, count, failures = Sources(stack), 0, list[tuple[bytes, OSError]]()
    for location in partial_files(stack):
        path = location.path
        try:
            data = sources.open_partial(location)
            if data is not None:
                data.complete(lambda copied, path=path: progress(path, copied), _PIECE)  # type: ignore[misc]
                count += 1
        except OSError as error:
            failures.append((path, error))
    if failures:
        path, fault = failures[0]
        more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        why = f"cannot be completed{more}: {(fault.strerror or str(fault)).lower()}"
        hint = "it keeps the blocks that it has; mend that and run it again: unionfs settle UPPER"
        raise UnionfsError(os.fsdecode(path), why, hint)
    return count
