"""What a power cut may leave of a file: a model of journaling filesystems, and what whoever wrote the file may find.

`Recorder` notes every system call that changes a file of the upper; `Disk` makes of such a record what may be on disk
when the power fails after one of the calls:

    metadata      sizes, holes, attributes, names: the calls up to some point. fsync(2) and syncfs(2) wait for all;
                  fdatasync(2) for as much as the size and the extents need (ext4: i_datasync_tid)
    data          each page as it was at some time since the last sync, whatever the metadata are
    both          a size that grew by writing is metadata that comes after its data, and no sooner than in its order

`History` is the same for the file as its users see it: what they may find, given all that they did.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from unionfs.linux import files

PAGE = 4096
ZEROING = files.FALLOC_PUNCH_HOLE | files.FALLOC_ZERO
SYNCS = ("fsync", "fdatasync", "syncfs")
SKIPPED = ("fsync", "fdatasync", "sync_filesystem")


class Event(NamedTuple):
    """One system call that succeeded. `inode` is None for syncfs(2)."""

    kind: str
    inode: int | None
    start: int = 0
    end: int = 0
    mode: int = 0
    data: bytes | None = None
    """What was written; the map, or None when it was removed."""

    @property
    def length(self) -> int:
        """Bytes that are changed without regard to what they were."""
        if self.kind == "allocate":
            return self.end - self.start if self.mode & ZEROING else 0
        return len(self.data) if self.kind == "data" and self.data is not None else 0


class Recorder:
    """Notes what is done to any file, by descriptor or by path; syncs are noted and left out."""

    def __init__(self, name: bytes) -> None:
        """`name`: whatever is renamed to that is published."""
        self.name = name
        self.events: list[Event] = []
        self.is_paused = False
        self.after_sync: Callable[[], None] | None = None
        """What somebody does just when the next sync is done."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    @contextmanager
    def recording(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, name in (
                *((os, name) for name in ("pwrite", "copy_file_range", "ftruncate", "truncate", "setxattr")),
                *((os, name) for name in ("removexattr", "fsync", "fdatasync")),
                *((files, name) for name in ("fallocate", "sync_filesystem", "rename")),
            ):
                stack.enter_context(patch.object(module, name, self._wrapped(name, getattr(module, name))))
            yield

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        note = getattr(self, "_" + name)

        def wrapper(*arguments: Any, **options: Any) -> Any:
            result = None if name in SKIPPED else call(*arguments, **options)
            if not self.is_paused:
                note(result, *arguments)
                if name in SKIPPED and self.after_sync is not None:
                    meanwhile, self.after_sync = self.after_sync, None
                    meanwhile()
            return result

        return wrapper

    def _add(self, kind: str, file: Any, **what: Any) -> None:
        self.events.append(Event(kind, os.stat(file).st_ino, **what))

    def _pwrite(self, count: int, fd: int, data: Any, offset: int) -> None:
        self._add("data", fd, start=offset, data=bytes(data[:count]))
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC:
            self._add("fdatasync", fd)

    def _copy_file_range(self, count: int, source: int, fd: int, length: int, start: int, offset: int) -> None:
        if count:
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                self._add("data", fd, start=offset, data=os.pread(file.fileno(), count, offset))

    def _ftruncate(self, result: None, fd: int, size: int) -> None:
        self._add("size", fd, end=size)

    _truncate = _ftruncate

    def _fallocate(self, result: None, fd: int, mode: int, offset: int, length: int) -> None:
        self._add("allocate", fd, start=offset, end=offset + length, mode=mode)

    def _setxattr(self, result: None, file: Any, name: Any, value: bytes, *flags: int) -> None:
        if os.fsencode(name).endswith(b"unionfs.blocks"):
            self._add("map", file, data=bytes(value))

    def _removexattr(self, result: None, file: Any, name: Any) -> None:
        if os.fsencode(name).endswith(b"unionfs.blocks"):
            self._add("map", file)

    def _fsync(self, result: None, fd: int) -> None:
        self._add("fsync", fd)

    def _fdatasync(self, result: None, fd: int) -> None:
        self._add("fdatasync", fd)

    def _sync_filesystem(self, result: None, fd: int) -> None:
        self.events.append(Event("syncfs", None))

    def _rename(self, result: None, old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int = 0) -> None:
        if new == self.name:
            found = os.stat(new, dir_fd=new_dir, follow_symlinks=False)
            self.events.append(Event("name", found.st_ino))


class State(NamedTuple):
    """A file of the upper; `is_there`: it has its name."""

    content: bytes = b""
    map: bytes | None = None
    is_there: bool = False


class Disk:
    """One file's record. The lists `states` and what is derived from it tell what was true before each event; the last
    entry, after all."""

    def __init__(self, before: State, events: list[Event], names_need_fsync: bool = False) -> None:
        """`names_need_fsync`: fdatasync(2) does not wait for a rename of the file (ext4, in place writes)."""
        self.events = events
        self.states = [before]
        for event in events:
            self.states.append(_after(self.states[-1], event))
        self._changes_size = [
            len(old.content) != len(new.content) for old, new in zip(self.states, self.states[1:], strict=False)
        ]
        self.synced, self.ordered = [0], [0]
        """Data are on disk as of this event at least; metadata, as of this one."""
        for number, event in enumerate(events):
            data, metadata = self.synced[-1], self.ordered[-1]
            if event.kind in SYNCS:
                data = number + 1
                metadata = max(metadata, self._needed(number, names_need_fsync) if event.kind == "fdatasync" else data)
            self.synced.append(data)
            self.ordered.append(metadata)

    def _needed(self, number: int, names_need_fsync: bool) -> int:
        """How many events fdatasync(2) as event `number` waits for."""
        while number and not (
            self._changes_size[number - 1]
            or self.events[number - 1].kind == "allocate"
            or (self.events[number - 1].kind == "name" and not names_need_fsync)
        ):
            number -= 1
        return number

    def left(self, at: int, cut: int, written: Callable[[int], int], edges_are_data: bool) -> State:
        """What a power cut before event `at` leaves when metadata events before `cut` are on disk, and each page as it
        was before event `written(page)`. `edges_are_data`: holes, and a new end, zero the pages that they touch in part
        by writing to them (XFS), and not when they are made (ext4)."""
        synced = self.synced[at]
        assert self.ordered[at] <= cut <= at
        last = max((n + 1 for n in range(synced, cut) if self._sets_size(n)), default=synced)
        size = len(self.states[last].content)
        content = bytearray(max(len(state.content) for state in self.states[synced : at + 1]) + PAGE)
        for start in range(0, len(content), PAGE):
            moment = written(start // PAGE)
            assert synced <= moment <= at
            while moment > max(cut, synced) and start >= len(self.states[moment].content):
                moment -= 1  # a page that was cut off is not written
            page = self.states[moment].content[start : start + PAGE]
            content[start : start + len(page)] = page
            grown = len(self.states[max(min(moment, cut), last)].content)
            if start < grown and moment > last:
                size = max(size, min(start + PAGE, grown))
            for event in self.events[moment:cut]:
                _zero(content, event, start, start + PAGE, edges_are_data)
        return State(bytes(content[:size]).ljust(size, b"\0"), self.states[cut].map, self.states[cut].is_there)

    def _sets_size(self, number: int) -> bool:
        return self._changes_size[number] and self.events[number].kind != "data"


def _after(state: State, event: Event) -> State:
    content, value, is_there = state
    changed = bytearray(content)
    if event.kind == "data":
        assert event.data is not None
        changed.extend(bytes(max(0, event.start - len(changed))))
        changed[event.start : event.start + len(event.data)] = event.data
    elif event.kind == "size":
        changed = changed[: event.end].ljust(event.end, b"\0")
    elif event.kind == "allocate":
        if not event.mode & files.FALLOC_KEEP_SIZE:
            changed = changed.ljust(event.end, b"\0")
        _zero(changed, event, 0, len(changed), False)
    elif event.kind == "map":
        value = event.data
    elif event.kind == "name":
        is_there = True
    return State(bytes(changed), value, is_there)


def _zero(content: bytearray, event: Event, start: int, end: int, edges_are_data: bool) -> None:
    """Apply to the bytes from `start` to `end` what the event makes zeros as a change of metadata."""
    if event.kind == "size":
        first, last = max(start, event.end), end
        if edges_are_data:
            first = -(-first // PAGE) * PAGE
    elif event.kind == "allocate" and event.mode & ZEROING:
        first, last = max(start, event.start), min(end, event.end)
        if edges_are_data:
            first, last = -(-first // PAGE) * PAGE, last // PAGE * PAGE
    else:
        return
    last = min(last, len(content))
    if first < last:
        content[first:last] = bytes(last - first)


class History:
    """What the users of a file did, and what they may find after a power cut. Number 0 is the content at first."""

    def __init__(self, content: bytes) -> None:
        self.contents = [content]
        self.events = [Event("size", None, end=len(content))]
        self.seams: dict[int, int] = {}
        """Offsets inside a page at which it may be divided, two different states before and after; since which
        operation."""
        self._cache: dict[tuple[int, ...], dict[bytes, set[int]]] = {}

    def add(self, event: Event) -> None:
        self.contents.append(_after(State(self.contents[-1]), event).content)
        self.events.append(event)

    def wrong(self, found: bytes, since: int, until: int) -> str:
        """Why nobody may find that after a power cut during operation `until` when operation `since` was synced, or
        nothing. The size must be that of one operation; each page as after one, without what later ones cut off, and
        perhaps without what they punched out: a hole in a lower file's place is data to us."""
        reasons = []
        for cut in range(until, since - 1, -1):
            if len(found) in self._sizes(since, cut):
                bad = self._wrong_pages(found, since, until, cut)
                if not bad:
                    return ""
                reasons.append(f"metadata of operation {cut}: bytes {bad}")
        sizes = sorted(set().union(*(self._sizes(since, cut) for cut in range(since, until + 1))))
        return "; ".join(reasons) or f"{len(found)} bytes, and not one of {sizes}"

    def _sizes(self, since: int, cut: int) -> set[int]:
        """What the size may be when the metadata of the operations up to `cut` are on disk: writing makes a file longer
        page by page; a hole punched into what it wrote, before that is on disk, up to the end of the hole (ext4)."""
        sizes = {len(self.contents[since])}
        for number in range(since + 1, cut + 1):
            before, after = len(self.contents[number - 1]), len(self.contents[number])
            event = self.events[number]
            if before != after and event.kind != "data":
                sizes = {after}
            elif after > before:
                sizes |= {after, *range(-(-before // PAGE) * PAGE, after, PAGE)}
            if event.kind == "allocate":
                sizes |= {max(size, min(event.end, after)) for size in sizes}
        return sizes

    def _wrong_pages(self, found: bytes, since: int, until: int, cut: int) -> list[tuple[int, int, str]]:
        """Where a seam divides a page, no single change of both sides may be on one of them alone."""
        ends = sorted({*range(PAGE, len(found), PAGE), *self.seams, len(found)})
        wrong, start, left = [], 0, set[int]()
        for end in (end for end in ends if end <= len(found)):
            numbers = self._possible(start, end, since, until, cut).get(found[start:end], set())
            if start % PAGE:  # a seam
                numbers = {right for right in numbers if any(self._fit(start, one, right) for one in left)}
            if not numbers and end > start:
                wrong.append((start, end, self._age(found[start:end], start)))
            start, left = end, numbers
        return wrong

    def _age(self, found: bytes, start: int) -> str:
        """Where that comes from, for people."""
        for number, content in enumerate(self.contents):
            if found == content[start : start + len(found)]:
                return f"as of operation {number}"
        return "zeros" if not any(found) else "never so"

    def _fit(self, seam: int, one: int, other: int) -> bool:
        """Whether what is left of a seam may be as after one operation, what is right of it as after another."""
        first = max(min(one, other), self.seams[seam]) + 1
        between = self.events[first : max(one, other) + 1]
        return not any(event.start < seam < event.start + event.length for event in between)

    def _possible(self, start: int, end: int, since: int, until: int, cut: int) -> dict[bytes, set[int]]:
        """Contents, each with the operations after which it was that."""
        key = start, end, since, until, cut
        possible = self._cache.get(key)
        if possible is None:
            possible = self._cache[key] = {}
            for number in range(since, until + 1):
                if number > cut and start // PAGE * PAGE >= len(self.contents[number]):
                    continue  # a page that was cut off is not written
                later = self.events[number + 1 : cut + 1]
                cuts = [event for event in later if event.kind == "size"]
                for events, edges_are_data in (later, False), (later, True), (cuts, True):
                    piece = bytearray(self.contents[number][:end].ljust(end, b"\0"))
                    for event in events:
                        _zero(piece, event, start, end, edges_are_data)
                    possible.setdefault(bytes(piece[start:end]), set()).add(number)
        return possible
