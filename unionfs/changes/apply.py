"""Apply: write what an upper changes into the lower layer under it, so that the lower layers show it by themselves.

Called by the command `apply`. It promises: type, owner, mode, times, attributes, ACLs, holes and hard links are as in
the union; a file is built aside and put in place by one rename; deeper layers are never touched, and what the union had
deleted of them stays deleted, by marks in the target; renamed directories are moved, not copied. The upper is emptied
last. Whatever interrupts it, running it again goes on where it stopped. The root directory's own attributes are left
alone: the upper's root was made by the user, not by a change in the union.

In order:

    settle.py      partly copied files are completed in the upper: what they go on in is about to be replaced
    relink.py      lower hard links whose file was copied up
    renamed.py     directories that were renamed are set aside
    this file      the upper is walked, and each thing it has or deletes is written into the target
    upper.py       the upper and its work directory are emptied

Half an apply is not a union: from the first step to the last the upper cannot be mounted (see `upper.py`).
"""

from __future__ import annotations

import os
import stat

from unionfs.changes.below import NOWHERE, Below, Place
from unionfs.changes.difference import CHANGED, difference
from unionfs.changes.relink import Relinking
from unionfs.changes.renamed import check, find_renamed, is_renamed, key, set_aside
from unionfs.changes.settle import settle
from unionfs.changes.staging import STAGING, Staging
from unionfs.changes.transplant import copy_attributes
from unionfs.changes.upper import HeldUpper
from unionfs.errors import UnionfsError
from unionfs.layer.layer import Directory, Layer
from unionfs.layer.location import Location
from unionfs.layer.stack import Stack
from unionfs.layer.whiteout import WHITEOUT, Overlay
from unionfs.linux import mounts
from unionfs.union.inode import Inodes
from unionfs.union.lookup import find
from unionfs.union.source import Sources

_DT_DIR = stat.S_IFDIR >> 12
_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def check_applicable(stack: Stack) -> None:
    """Raises UnionfsError when the upper, layer 0, cannot be applied to layer 1; reads only."""
    target = stack.layers[1]
    shown = os.fsdecode(target.path)
    _refuse_mounted(stack)
    fd = os.open(target.path, _OPEN_FLAGS)
    try:
        read_only = os.fstatvfs(fd).f_flag & os.ST_RDONLY
    finally:
        os.close(fd)
    if read_only or not os.access(target.path, os.W_OK):
        why = "its filesystem is read-only" if read_only else "permission denied"
        raise UnionfsError(f"lowerdir {shown}", why, "keep the merged tree instead: apply --to NEW-DIRECTORY")
    below, upper = Below(stack), stack.layers[0].root
    check(below, upper, find_renamed(stack.dialect, upper))
    if isinstance(stack.dialect, Overlay):
        _refuse_foreign_marks(below, stack.dialect, upper, below.root())


def _refuse_mounted(stack: Stack) -> None:
    """What is mounted inside the target is no part of it: raises UnionfsError when a change lies there, or would take
    such a mount point away."""
    top = stack.layers[1].path.rstrip(b"/")
    points = [mount.point for mount in mounts.inside(top)]
    changes = difference(stack, stack.layers[0]) if points else ()
    for point in points:
        inside = point.removeprefix(top)
        for kind, path, _ in changes:
            if (path + b"/").startswith(inside + b"/") or (kind != CHANGED and inside.startswith(path + b"/")):
                where, name = os.fsdecode(point), os.fsdecode(path)
                hint = f"umount {where}, or keep the merged tree: apply --to NEW-DIRECTORY"
                raise UnionfsError(f"the change of {name}", f"something is mounted there, on {where}", hint)


def _refuse_foreign_marks(below: Below, dialect: Overlay, upper: Directory, place: Place) -> None:
    """What the kernel's overlayfs writes, and this here does not carry over."""
    if place.own is not None and place.own.here.find_xattr(dialect.base + b"opaque") == b"x":
        hint = "keep the merged tree instead: apply --to NEW-DIRECTORY"
        raise UnionfsError(os.fsdecode(place.own.path), "its whiteouts are files with attributes (opaque=x)", hint)
    for name, kind in dialect.read(upper)[0].items():
        if kind == _DT_DIR:
            child = upper.child(name)
            is_elsewhere = dialect.is_opaque(child) or dialect.redirect(child) is not None
            _refuse_foreign_marks(below, dialect, child, NOWHERE if is_elsewhere else below.step(place, name))
            child.close()


def apply(held: HeldUpper, lower: Stack) -> None:
    """Write the upper into the topmost of the layers `lower`, which are open to be read, and empty it.

    Raises UnionfsError: nothing was changed, or what to do so that it can go on.
    """
    target = lower.layers[0]
    own = Layer(target.path, os.open(target.path, _OPEN_FLAGS), target.index, target.number, True)
    target.close()
    lower.layers[0] = own
    own.filesystem = target.filesystem
    stack = held.stack(lower, lower.dialect)
    shown = os.fsdecode(held.layer.path)
    if held.is_damaged:
        why = "was mounted volatile: its files may be damaged"
        raise UnionfsError(f"upperdir {shown}", why, f"discard it: unionfs discard {shown}")
    begun = held.unfinished
    if begun is None:
        check_applicable(stack)
    elif begun != own.path:
        why = f"its apply to {os.fsdecode(begun)} was interrupted"
        raise UnionfsError(f"upperdir {shown}", why, "finish that one first, with the layers of that time")
    if begun is None:
        settle(stack)
    staging = _begin(held, own, Sources(stack))
    try:
        _apply(held, Below(stack), staging)
    except OSError as error:
        raise UnionfsError(
            f"the apply stopped half way, at {os.fsdecode(staging.last)}",
            (error.strerror or str(error)).lower(),
            f"mend that and run it again, it goes on from there: unionfs apply {shown}",
        ) from error
    finally:
        staging.close()


def _begin(held: HeldUpper, target: Layer, sources: Sources) -> Staging:
    """Make room in the target, and note that an apply is under way."""
    try:
        staging = Staging(target, sources)
    except OSError as error:
        why = f"cannot be written: {(error.strerror or str(error)).lower()}"
        raise UnionfsError(f"lowerdir {os.fsdecode(target.path)}", why, "nothing was changed") from error
    try:
        held.begin(target.path)
    except OSError as error:
        staging.remove()
        why = f"cannot be written: {(error.strerror or str(error)).lower()}"
        raise UnionfsError(f"workdir {os.fsdecode(held.work.layer.path)}", why, "nothing was changed") from error
    return staging


def _apply(held: HeldUpper, below: Below, staging: Staging) -> None:
    stack = below.stack
    renamed = find_renamed(stack.dialect, held.layer.root)
    if not staging.is_done(b"all"):
        if not staging.is_done(b"relink"):
            Relinking(below, staging, Inodes(stack).hardlinks).run()
            staging.done(b"relink")
        if not staging.is_done(b"set-aside"):
            set_aside(below, staging, renamed)
            staging.done(b"set-aside")
        _Walk(below, staging).root(held.layer.root)
        staging.done(b"all")
    held.empty(stack.dialect)
    staging.remove()
    held.finish()


class _Walk:
    """The walk of the upper. `place` is the same directory in the lower layers, the target's part already there; `cut`:
    nothing of what is below shows in it."""

    def __init__(self, below: Below, staging: Staging) -> None:
        self.below = below
        self.stack = below.stack
        self.dialect = below.stack.dialect
        self.staging = staging

    def root(self, upper: Directory) -> None:
        place, cut = self.below.root(), self.dialect.is_opaque(upper)
        assert place.own is not None
        if cut and not self.below.is_alone:
            self.dialect.set_opaque(place.own)
        self._directory(upper, self.below.root(), cut)

    def _directory(self, upper: Directory, place: Place, cut: bool) -> None:
        target = place.own
        assert target is not None
        visible, deleted = self.dialect.read(upper)
        if cut:
            for name in self.dialect.read(target)[0].keys() - visible.keys() - {STAGING}:
                self.staging.delete(target, name)
        for name in sorted(deleted - visible.keys()):
            self._delete(place, target, name)
        for name, kind in sorted(visible.items()):
            if kind == _DT_DIR:
                self._subdirectory(upper, place, target, name, cut)
            else:
                source = Location(upper, name)
                self.staging.copy(source, source.stat(), target, name)

    def _delete(self, place: Place, target: Directory, name: bytes) -> None:
        """A deeper layer still has the name: the target keeps a whiteout."""
        found = self.dialect.find(target, name)
        if found is WHITEOUT:
            return
        if place.deeper and find(self.stack, place.deeper, name) is not None:
            self.dialect.whiteout(target, name, self.staging.work)
        elif found is not None:
            self.staging.delete(target, name)

    def _subdirectory(self, upper: Directory, place: Place, target: Directory, name: bytes, cut: bool) -> None:
        child = upper.child(name)
        if is_renamed(self.dialect, child):
            cut = False
            if self.staging.moved.has(key(child)):
                self.staging.put(self.staging.moved, key(child), target, name)
        else:
            cut = cut or self.dialect.is_opaque(child)
            self._prepare(place, target, name, cut)
        inner = self.below.step(place, name)
        assert inner.own is not None
        self._directory(child, inner, cut)
        copy_attributes(child.here, child.own_stat(), inner.own.here, self.staging.kept_attribute)
        for directory in (child, *inner.directories):
            directory.close()

    def _prepare(self, place: Place, target: Directory, name: bytes, cut: bool) -> None:
        """See that the target has this directory, and that nothing shows in it that does not in the union."""
        there = self.dialect.find(target, name)
        if isinstance(there, os.stat_result) and stat.S_ISDIR(there.st_mode):
            inner = self.below.step(place, name)
            if cut and inner.deeper and inner.own is not None:
                self.dialect.set_opaque(inner.own)
            return
        aside = self.staging.work.temporary_name()
        made = self.staging.work.area.mkdir(aside, 0o700)
        if (cut or there is not None) and self.below.has_directory(place, name):
            self.dialect.set_opaque(made)
        self.staging.put(self.staging.work.area, aside, target, name)
        made.close()
