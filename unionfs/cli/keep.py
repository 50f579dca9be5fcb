"""`unionfs apply` and `unionfs discard`: what becomes of an upper's changes.

Loaded by `main.py`. Both unmount the union first, if it is mounted: no layer is changed under a live mount. Everything
that can be refused is refused before that.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from unionfs import events
from unionfs.changes.apply import apply, check_applicable
from unionfs.changes.difference import Change, difference
from unionfs.changes.export import export
from unionfs.changes.upper import HeldUpper
from unionfs.cli import table
from unionfs.cli.command import Command, UsageError, shown
from unionfs.cli.inspect import show_changes
from unionfs.cli.target import Target, find, needs_upper, users_of
from unionfs.errors import UnionfsError
from unionfs.fuse import mount as fuse_mount
from unionfs.layer.stack import UNFINISHED, Stack
from unionfs.linux import files

_WORDS = {"A": "added", "C": "changed", "D": "deleted"}


# --- unionfs apply


def _apply_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("place", metavar="DIR|UPPER", help="where a union is mounted, or an upper layer that was")
    add("--to", metavar="DIR", help="the topmost lower layer (as without), or a new or empty directory")
    add("-n", "--dry-run", action="store_true", help="only show what would be applied, as unionfs diff does")


def _apply(arguments: argparse.Namespace) -> None:
    target = find(arguments.place)
    to = None if arguments.to is None else os.path.realpath(os.fsencode(arguments.to))
    if target.is_image and (to is None or to in target.layers):
        name = arguments.place
        why = "its lower layers are an image's, which others share"
        hint = f"make an image of it: unionfs commit {name} NAME, or apply --to DIR"
        raise UnionfsError(f"container {name}", why, hint)
    if to is None or _is_topmost_lower(target, to):
        needs_upper(target)
        _apply_to_lower(target, arguments.dry_run)
    else:
        _refuse_place(target, to)
        _keep_in(target, to, arguments.dry_run)


def _is_topmost_lower(target: Target, to: bytes) -> bool:
    """Raises UnionfsError when `to` is another of the layers."""
    if to not in target.layers:
        return False
    if to == target.upper:
        raise UnionfsError(shown(to), "is the upper layer itself", f"--to {shown(target.lower[0])}, or a new directory")
    if to != target.lower[0]:
        above = shown(target.lower[0])
        raise UnionfsError(
            f"lowerdir {shown(to)}",
            f"the layers above it, as {above}, would hide what is written there",
            f"apply to the topmost lower layer, --to {above}, or to a new directory",
        )
    return True


def _apply_to_lower(target: Target, dry_run: bool) -> None:
    changes = _changes(target, check=True)
    if dry_run:
        show_changes(changes)
        return
    _refuse_other_mounts(target)
    if not changes and not _is_begun(target):
        print(f"nothing to apply: {shown(target.upper or b'')} changes nothing")
        return
    with _held(target) as held:
        is_resumed = held.unfinished is not None
        with closing(target.open()) as stack:
            changes = difference(stack, stack.layers[0])
            note = _note_of_root(stack)
        try:
            with closing(target.open_lower()) as lower:
                apply(held, lower)
        except KeyboardInterrupt:
            events.warning(f"interrupted; run it again, it goes on from there: unionfs apply {shown(held.layer.path)}")
            raise
    what = "finished what was interrupted" if is_resumed else f"applied {_counted(changes)}"
    print(f"{what}, to {shown(target.lower[0])}; {shown(held.layer.path)} is empty")
    if note:
        print(note)


def _is_begun(target: Target) -> bool:
    return target.work is not None and os.path.lexists(os.path.join(target.work, UNFINISHED))


def _changes(target: Target, check: bool = False) -> list[Change]:
    """What the upper changes. `check` that it can be applied, too: raises UnionfsError when it cannot."""
    with closing(target.open()) as stack:
        if check and not _is_begun(target):
            check_applicable(stack)
        return difference(stack, stack.layers[0])


def _note_of_root(stack: Stack) -> str:
    upper, lower = (layer.root.own_stat() for layer in stack.layers[:2])
    if (upper.st_mode, upper.st_uid, upper.st_gid) == (lower.st_mode, lower.st_uid, lower.st_gid):
        return ""
    return f"The root's own mode and owner are those of {shown(stack.layers[1].path)}, as before."


# --- unionfs apply --to NEW


def _refuse_place(target: Target, to: bytes) -> None:
    name, hint = shown(to), "name a new directory, or an empty one"
    if os.path.lexists(to):
        if not os.path.isdir(to):
            raise UnionfsError(name, "not a directory", hint)
        if os.listdir(to):
            raise UnionfsError(name, "is not empty, and no layer of this union", hint)
    elif not os.path.isdir(os.path.dirname(to)):
        parent = shown(os.path.dirname(to))
        raise UnionfsError(name, f"there is no directory {parent}", f"create it first: mkdir -p {parent}")
    ours = [*target.layers, *(place for place in (target.work, target.mountpoint) if place is not None)]
    for place in ours:
        if (to + b"/").startswith(place.rstrip(b"/") + b"/"):
            raise UnionfsError(name, f"lies inside {shown(place)}, a part of this union", "name a directory elsewhere")


def _keep_in(target: Target, to: bytes, dry_run: bool) -> None:
    if dry_run:
        print(f"would copy the merged tree to {shown(to)}")
        return
    names, size = _export_mounted(target, to) if target.mountpoint is not None else _export_held(target, to)
    kept = f"; {shown(target.upper)} is as it was" if target.upper is not None else ""
    print(f"copied the merged tree to {shown(to)}: {table.plural(names, 'name')}, {table.size(size)}{kept}")


def _export_mounted(target: Target, to: bytes) -> tuple[int, int]:
    """By way of the mount, which knows what is not yet in the layers."""
    assert target.mountpoint is not None
    fd = os.open(target.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.sync_filesystem(fd)
    finally:
        os.close(fd)
    with closing(Stack.open([target.mountpoint], dialect=target.dialect, userxattr=target.userxattr)) as stack:
        return export(stack, to, translation=lambda xattr: xattr)


def _export_held(target: Target, to: bytes) -> tuple[int, int]:
    with _held(target) as held:
        if held.unfinished is not None:
            raise _unfinished(held, held.unfinished)
        with closing(target.open_lower()) as lower:
            return export(held.stack(lower, lower.dialect), to)


# --- unionfs discard


def _discard_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", metavar="DIR|UPPER", help="where a union is mounted, or an upper layer that was")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _discard(arguments: argparse.Namespace) -> int:
    target = find(arguments.place)
    upper, _ = needs_upper(target)
    count = _count(target)
    if not os.listdir(upper):
        print(f"nothing to discard: {shown(upper)} is empty")
        return 0
    if not arguments.yes and not _agrees(f"Discard {count} in {shown(upper)}?"):
        print("nothing was discarded")
        return 1
    with _held(target) as held:
        if held.unfinished is not None:
            raise _unfinished(held, held.unfinished)
        held.empty(target.make_dialect())
    print(f"discarded {count}; {shown(upper)} is empty")
    return 0


def _count(target: Target) -> str:
    """How many changes; when a lower layer is gone nobody can tell, and the upper can be emptied all the same."""
    try:
        return _counted(_changes(target))
    except UnionfsError:
        return "all changes"


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("discard", "standard input is no terminal, so nobody can be asked", "add -y to do it unasked")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


# --- what both do


@contextmanager
def _held(target: Target) -> Iterator[HeldUpper]:
    """The upper, unmounted and locked."""
    upper, work = needs_upper(target)
    if target.mountpoint is not None:
        fuse_mount.unmount(target.mountpoint)
        print(f"unmounted {shown(target.mountpoint)}")
    else:
        _refuse_mounted(upper)
    held = HeldUpper(upper, work)
    try:
        yield held
    finally:
        held.close()


def _refuse_mounted(upper: bytes) -> None:
    """Raises UnionfsError when an upper was named whose union is mounted."""
    for point in users_of(upper):
        why = f"is in use: mounted on {shown(point)}"
        raise UnionfsError(f"upperdir {shown(upper)}", why, "name that place instead")


def _refuse_other_mounts(target: Target) -> None:
    """Raises UnionfsError when the lower layer that is to be written to is a layer of another union too."""
    upper, _ = needs_upper(target)
    if target.mountpoint is None:
        _refuse_mounted(upper)
    for point in users_of(target.lower[0]):
        if point != target.mountpoint:
            name = shown(point)
            why, hint = f"is a layer of another union too, mounted on {name}", f"unmount that first: umount {name}"
            raise UnionfsError(f"lowerdir {shown(target.lower[0])}", why, hint)


def _unfinished(held: HeldUpper, where: bytes) -> UnionfsError:
    name = shown(held.layer.path)
    return UnionfsError(name, f"half of its changes are in {shown(where)} already", f"finish it: unionfs apply {name}")


def _counted(changes: Sequence[Change]) -> str:
    """12 changes (3 added, 7 changed, 2 deleted)"""
    counts = Counter(change.kind for change in changes)
    kinds = ", ".join(f"{counts[kind]} {word}" for kind, word in _WORDS.items() if counts[kind])
    return table.plural(len(changes), "change") + (f" ({kinds})" if kinds else "")


COMMANDS = {
    "apply": Command(
        "Keep the changes: write what the upper layer changes into the lower layer right\n"
        "below it, then empty the upper. The union is unmounted first, if it is mounted.\n"
        "With --to a new directory: copy the merged tree there; nothing else is changed.",
        _apply_arguments,
        _apply,
        """\
Afterwards the lower layers by themselves show what the union showed, with owners,
modes, times, attributes, ACLs, holes and hard links. Renamed directories are moved, not
copied. Layers that lie deeper are never written to: what was deleted of them is marked
as deleted in the lower layer, in the union's dialect. The root directory's own mode and
owner stay as they are in the lower layer.

Interrupted, or stopped by a full disk, it is to be run again: it goes on from there. Until
then the upper cannot be mounted. No other union may use the lower layer meanwhile.
""",
    ),
    "discard": Command(
        "Drop the changes: unmount the union, if it is mounted, and empty its upper layer.",
        _discard_arguments,
        _discard,
        "Asks first. Without a terminal to ask on, it wants -y.\n",
    ),
}
