"""The layers of one mount: opened, checked, locked.

Called by the union floor once at mount. `Stack.open` finds every fault before anything is changed and raises them
together. It promises: lower layers are held read-only (by the kernel where it can: a private read-only clone of their
mount), no layer overlaps another, upper and work directory lie on one mount, and no other mount of ours uses them (an
flock(2) on both, which ends with the process).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress

from unionfs import events
from unionfs.errors import Faults, UnionfsError, did_you_mean
from unionfs.layer.layer import Directory, Layer
from unionfs.layer.whiteout import DIALECTS, Dialect
from unionfs.layer.workdir import WorkDirectory
from unionfs.linux import files

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WORK_NAMES = {b"work", b"index", b"links", b"nlink", b"stack.json", b"volatile"}
_PROBE = b"unionfs.probe"
STACK_FILE = b"stack.json"
UNFINISHED = b"unfinished-apply"
"""In a work directory: an apply of the upper is under way, or was interrupted."""


class Stack:
    """`layers[0]` is on top. `upper` and `work` are None in a read-only union."""

    def __init__(self, layers: list[Layer], upper: Layer | None, work: WorkDirectory | None, dialect: Dialect) -> None:
        self.layers = layers
        self.upper = upper
        self.work = work
        self.dialect = dialect
        self.volatile = False
        self.xattrs = True
        """Whether the upper keeps the bookkeeping attributes; without them inode numbers change at a remount."""
        self._locks: list[int] = []
        for layer in layers[1:]:
            layer.opened = layers[0].opened.join(layer.opened)
        self._share_filesystems()

    def _share_filesystems(self) -> None:
        """Further filesystems than the topmost layer's get their inode numbers moved up, above 48 bits, by a number
        that their lowest layer's path gives: the same at each mount, also with more layers on top, and another one in a
        union that is a layer itself."""
        devices: dict[int, int] = {}
        offsets = {self.layers[0].device: 0}
        for layer in reversed(self.layers):
            if layer.device not in offsets:
                offset = zlib.crc32(layer.path) & 0x7FFF
                while offset << 48 in offsets.values():
                    offset = offset + 1 & 0x7FFF
                offsets[layer.device] = offset << 48
        for layer in self.layers:
            layer.filesystem = devices.setdefault(layer.device, len(devices))
            layer.number_offset = offsets[layer.device]

    def from_bottom(self, number: int) -> Layer | None:
        """The lower layer that is `number` above the bottom one."""
        count = len(self.layers) - (self.upper is not None)
        return self.layers[len(self.layers) - 1 - number] if 0 <= number < count else None

    def below(self, layer: Layer) -> list[Directory]:
        """The roots of the layers below `layer`, topmost first."""
        return [lower.root for lower in self.layers[layer.index + 1 :]]

    def config(self) -> dict[str, object]:
        """The stack in words, as stack.json and user.unionfs.config hold it; paths absolute."""
        lower = self.layers[1:] if self.upper else self.layers
        return {
            "version": 1,
            "lowerdir": [os.fsdecode(layer.path) for layer in lower],
            "upperdir": os.fsdecode(self.upper.path) if self.upper else None,
            "workdir": os.fsdecode(self.work.layer.path) if self.work else None,
            "dialect": self.dialect.name,
            "userxattr": self.dialect.prefix == b"user.",
            "volatile": self.volatile,
        }

    @classmethod
    def open(
        cls,
        lower: Sequence[bytes],
        upper: bytes | None = None,
        work: bytes | None = None,
        dialect: str = "aufs",
        userxattr: bool = False,
        volatile: bool = False,
        overlaps: bool = False,
    ) -> Stack:
        """Open the layers, topmost lower first. Faults with everything that is wrong; nothing is changed then.

        `overlaps`: a layer may lie inside another one, as those of a container do whose lower layer is the machine's
        root; the caller sees to it that nobody comes to it that way.
        """
        opener = _Opener(overlaps)
        try:
            return opener.open(lower, upper, work, dialect, userxattr, volatile)
        except BaseException:
            opener.abandon()
            raise

    def prepare(self) -> None:
        """Before the first operation: sweep what a crash left, and write down what is mounted. Fails: it is closed."""
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        if self.work is None:
            return
        swept = self.work.sweep()
        if swept:
            place = os.fsdecode(self.work.area.path)
            events.info(f"{place}: {swept} unfinished objects of an earlier mount were removed")
        try:
            self.record()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            place = os.fsdecode(self.work.layer.path)
            events.warning(f"{place}: the layers could not be recorded: {error.strerror}; make room and mount again")

    def record(self) -> None:
        """Write down which layers this upper was mounted with, for commands that are given the upper alone."""
        assert self.work is not None and self.upper is not None
        name = self.work.temporary_name()
        fd = self.work.area.create(name, os.O_WRONLY, 0o644)
        with open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(self.config(), file, indent=1)
            file.write("\n")
        self.work.area.move(name, self.work.base, STACK_FILE)
        with suppress(OSError):
            self.upper.root.here.setxattr(self.dialect.own + b"work", self.work.layer.path)

    def close(self) -> None:
        if self.work is not None:
            self.work.close()
        for layer in self.layers:
            layer.close()
        while self._locks:
            os.close(self._locks.pop())


class _Opener:
    """Collects faults while it opens; gives up all it opened when there are any."""

    def __init__(self, overlaps: bool) -> None:
        self.overlaps = overlaps
        self.faults: list[UnionfsError] = []
        self.opened: list[int] = []
        self.locks: list[int] = []

    def abandon(self) -> None:
        for fd in self.opened + self.locks:
            with suppress(OSError):
                os.close(fd)

    def open(
        self, lower: Sequence[bytes], upper: bytes | None, work: bytes | None, dialect: str, user: bool, volatile: bool
    ) -> Stack:
        if dialect not in DIALECTS:
            hint = did_you_mean(dialect, DIALECTS) or "aufs or overlay"
            self.fault(f'dialect "{dialect}"', "there is no such dialect", hint)
        if not lower:
            self.fault("lowerdir", "a union needs at least one lower layer", "lowerdir=DIR[:DIR...]")
        if (upper is None) != (work is None):
            missing, given = ("workdir", "upperdir") if work is None else ("upperdir", "workdir")
            self.fault(missing, f"{given} is given without it", f"{missing}= names a directory on the same filesystem")
        places = [("lowerdir", os.path.realpath(path)) for path in lower]
        if upper is not None and work is not None:
            places = [("upperdir", os.path.realpath(upper)), *places, ("workdir", os.path.realpath(work))]
        fds = [self._open_directory(role, path) for role, path in places]
        if not self.overlaps:
            self._check_overlap([place for place, fd in zip(places, fds, strict=True) if fd >= 0])
        if upper is not None and work is not None and fds[0] >= 0 and fds[-1] >= 0:
            self._check_writable(places[0][1], fds[0], places[-1][1], fds[-1])
        self.raise_faults()
        stack = self._build(places, fds, DIALECTS[dialect], user)
        stack.volatile = volatile
        if stack.work is not None:
            self._check_volatile(stack)
            self.raise_faults()
        return stack

    def fault(self, what: str, why: str, hint: str = "") -> None:
        self.faults.append(UnionfsError(what, why, hint))

    def raise_faults(self) -> None:
        if self.faults:
            raise Faults(self.faults)

    def _open_directory(self, role: str, path: bytes) -> int:
        shown = f"{role} {os.fsdecode(path)}"
        try:
            fd = os.open(path, _OPEN_FLAGS)
        except OSError as error:
            missing = error.errno == errno.ENOENT and role != "lowerdir"
            hint = f"mkdir -p {os.fsdecode(path)}" if missing else "name a directory that you may read"
            self.fault(shown, (error.strerror or "cannot be opened").lower(), hint)
            return -1
        self.opened.append(fd)
        if role == "lowerdir":
            with suppress(OSError):
                clone = files.private_read_only_clone(path)
                self.opened.append(clone)
                return clone
        return fd

    def _check_overlap(self, places: list[tuple[str, bytes]]) -> None:
        """Sorted by path components, a directory comes right before what lies in it."""
        ordered = sorted(places, key=lambda place: place[1].rstrip(b"/").split(b"/"))
        held: list[tuple[str, bytes]] = []
        for role, path in ordered:
            while held and not (path + b"/").startswith(held[-1][1].rstrip(b"/") + b"/"):
                held.pop()
            if held:
                outer_role, outer = held[-1]
                relation = "is the same directory as" if outer == path else "lies inside"
                self.fault(
                    f"{role} {os.fsdecode(path)}",
                    f"{relation} {outer_role} {os.fsdecode(outer)}",
                    "layers must not overlap: give each its own directory",
                )
            held.append((role, path))

    def _check_writable(self, upper: bytes, upper_fd: int, work: bytes, work_fd: int) -> None:
        shown_upper, shown_work = f"upperdir {os.fsdecode(upper)}", f"workdir {os.fsdecode(work)}"
        for shown, fd in ((shown_upper, upper_fd), (shown_work, work_fd)):
            if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
                hint = "choose a writable place, or leave upperdir and workdir out"
                self.fault(shown, "its filesystem is read-only", hint)
            elif not os.access(f"/proc/self/fd/{fd}", os.W_OK):
                self.fault(shown, "permission denied", "choose a directory that you may write to")
        if _mount_of(upper_fd) != _mount_of(work_fd):
            self.fault(shown_work, "is not on the same mount as upperdir", f"make it beside {os.fsdecode(upper)}")
        if os.path.lexists(os.path.join(work, UNFINISHED)):
            hint = f"finish it: unionfs apply {os.fsdecode(upper)}"
            self.fault(shown_upper, "an apply of it was interrupted", hint)
            return
        foreign = sorted(set(os.listdir(work_fd)) - {os.fsdecode(name) for name in _WORK_NAMES})
        if foreign:
            why = f'is not an empty directory nor a work directory: it holds "{foreign[0]}"'
            self.fault(shown_work, why, "give an empty directory: what lies in work/ is deleted at every mount")
        if not self.faults:
            self._lock(shown_upper, upper_fd)
            self._lock(shown_work, work_fd)

    def _lock(self, shown: str, fd: int) -> None:
        lock = os.open(f"/proc/self/fd/{fd}", _OPEN_FLAGS)
        self.locks.append(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.fault(shown, "another mount uses it", "unmount that one first (findmnt -t fuse.unionfs lists them)")

    def _build(self, places: list[tuple[str, bytes]], fds: list[int], dialect: type[Dialect], user: bool) -> Stack:
        writable = places[0][0] == "upperdir"
        layers = [
            Layer(path, fd, index, len(places) - 1 - index - writable, role == "upperdir")
            for index, ((role, path), fd) in enumerate(zip(places, fds, strict=True))
            if role != "workdir"
        ]
        work = WorkDirectory(Layer(places[-1][1], fds[-1], -1, -1, True)) if writable else None
        prefix, kept = (b"user." if user else b"trusted."), True
        if work is not None:
            prefix, kept = self._choose_prefix(work, dialect, user)
            self.raise_faults()
        stack = Stack(layers, layers[0] if writable else None, work, dialect(prefix))
        stack.xattrs = kept
        stack._locks = self.locks
        for fd in self.opened:
            if fd not in fds:
                os.close(fd)
        return stack

    def _choose_prefix(self, work: WorkDirectory, dialect: type[Dialect], user: bool) -> tuple[bytes, bool]:
        """Trusted attributes need CAP_SYS_ADMIN, user attributes are kept on files and directories only."""
        path = f"/proc/self/fd/{work.area.fd}"
        for prefix in (b"user.",) if user else (b"trusted.", b"user."):
            try:
                os.setxattr(path, prefix + _PROBE, b"")
                os.removexattr(path, prefix + _PROBE)
            except OSError:
                continue
            if prefix == b"user." and not user and dialect.name == "overlay":
                break
            return prefix, True
        if dialect.name == "overlay":
            lacking = "the overlay dialect's trusted xattrs need privileges"
            why = "its filesystem keeps no user xattrs" if user else lacking
            self.fault("upperdir", why, "use dialect=aufs" if user else "add the option userxattr, or use dialect=aufs")
        what = "inode numbers will change at a remount, and files are copied up whole"
        events.warning(f"the upper keeps no extended attributes: {what}")
        return b"user.", False

    def _check_volatile(self, stack: Stack) -> None:
        """A volatile mount leaves its boot id: after a crash of the machine its upper is not to be trusted. The
        kernel's leaves a directory that it wants removed by hand (overlayfs.rst, "Volatile mount")."""
        assert stack.work is not None and stack.upper is not None
        base = stack.work.base
        theirs = os.path.join(stack.work.layer.path, b"work/incompat/volatile")
        if os.path.lexists(theirs):
            upper = f"upperdir {os.fsdecode(stack.upper.path)}"
            hint = f"discard it, or remove {os.fsdecode(theirs)} to use it all the same"
            self.fault(upper, "was mounted volatile by the kernel's overlayfs: its files may be damaged", hint)
        here = files.boot_id()
        if base.has(b"volatile"):
            with open(os.path.join(stack.work.layer.path, b"volatile"), "rb") as file:
                there = file.read()
            if there != here:
                self.fault(
                    f"upperdir {os.fsdecode(stack.upper.path)}",
                    "was mounted volatile and the machine went down: its files may be damaged",
                    f"discard it, or remove {os.fsdecode(stack.work.layer.path)}/volatile to use it all the same",
                )
                return
            if not stack.volatile:
                files.sync_filesystem(stack.upper.root.fd)
                base.unlink(b"volatile")
        elif stack.volatile:
            fd = base.create(b"volatile", os.O_WRONLY, 0o644)
            os.write(fd, here)
            os.close(fd)


def _mount_of(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}", encoding="utf-8") as file:
        return next(line for line in file if line.startswith("mnt_id"))
