"""Get a union mounted and serve it; unmount it again.

Called by the command line and by `session.py`. `serve` owns its process: it sets the umask, the handlers of signals and
the collector of cycles, and returns when the file system is unmounted. It takes the best way that works: mount(2), for
root and in a user namespace, else the setuid program fusermount3; and it says in the log what it got.

This file is one of the doors through which a module is imported when it is wanted: the fusepy engine needs a package
and a library that the native engine does without, and most mounts have no use for what builds the layer index.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import takewhile
from threading import Thread, current_thread, main_thread
from typing import NamedTuple

from unionfs import events
from unionfs.errors import UnionfsError
from unionfs.fuse import trace, yielding
from unionfs.fuse.affinity import Affinity, Staying, Yielding
from unionfs.fuse.calls import PID_XATTR
from unionfs.fuse.device import Device
from unionfs.fuse.index import Index
from unionfs.fuse.options import FOLLOW, MountRequest
from unionfs.fuse.server import Server
from unionfs.fuse.wire import READ_AHEAD
from unionfs.fuse.yielding import Bell
from unionfs.linux import fusedev, mounts
from unionfs.linux.scheduling import begin_thread
from unionfs.union.operations import Operations

SUBTYPE = b"unionfs"
FSTYPE = b"fuse." + SUBTYPE
_READ_ONLY_FILESYSTEMS = (b"squashfs", b"erofs", b"iso9660", b"cramfs", b"romfs")

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SWITCH_SECONDS = 0.0005
"""How long a helper thread may keep the interpreter from the one that answers."""
_LEAVING_SECONDS = 30.0
_TRIES, _TRY_SECONDS = 5, 0.05


class MountOptions(NamedTuple):
    """How to mount, whatever the engine.

    `flags` are words of mount(8), as "ro" and "nosuid"; `source` is the name that the table of mounts shows;
    `allow_other` lets other users in: None means when this is root. `opening` and `coherent` are the options open= and
    coherent of the native engine, `scheduling` that of its name.
    """

    source: bytes = SUBTYPE
    flags: Sequence[str] = ()
    allow_other: bool | None = None
    debug: bool = False
    opening: str = "passthrough"
    coherent: bool = False
    scheduling: str = FOLLOW


Progress = Callable[[], AbstractContextManager[Callable[[int], None]]]
"""Makes a context whose value is called with how many more objects were looked at."""


def _no_progress() -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)


def serve(
    union: Operations, mountpoint: bytes, *, engine: str = "auto", source: bytes = SUBTYPE, flags: Sequence[str] = (),
    allow_other: bool | None = None, debug: bool = False, opening: str = "passthrough", coherent: bool = False,
    scheduling: str = FOLLOW, index: str = "off", ready: Callable[[], None] = lambda: None,
    progress: Progress = _no_progress, bell: Bell | None = None,
) -> None:  # fmt: skip
    """Mount `union` on the directory `mountpoint`, call `ready` when it answers, and serve until it is unmounted.

    `flags` and the like are those of MountOptions; `debug` logs every request; `index` says whether there is to be a
    layer index, and `progress` is told of its making. `bell` is that of who looks after this thread; without one it
    sees to that itself. The union is closed at the end.
    Raises UnionfsError when it cannot be mounted, OSError when its device fails.
    """
    mountpoint = check_mountpoint(mountpoint)
    options = MountOptions(source, flags, allow_other, debug, opening, coherent, scheduling)
    if debug:
        events.listeners.append(trace.watch)
    os.umask(0)
    if choose(engine) == "fusepy":
        if index == "on":
            raise UnionfsError("index=on", "the fusepy engine has no layer index", "use --engine native, or index=auto")
        importlib.import_module("unionfs.fuse.fusepy").serve(union, mountpoint, options, ready)
    else:
        _serve_native(union, mountpoint, options, ready, _index(union, index, progress), bell)


def open_union(request: MountRequest, overlaps: bool = False) -> Operations:
    """The union that is asked for; `overlaps` as for Stack.open. Raises Faults with all that its layers lack."""
    return Operations(
        lower=request.lower, upper=request.upper, work=request.work, dialect=request.dialect,
        userxattr=request.userxattr, volatile=request.volatile, copyup=request.copyup,
        copyup_threshold=request.copyup_threshold, copyup_complete=request.copyup_complete, overlaps=overlaps,
    )  # fmt: skip


def serve_request(
    union: Operations, mountpoint: bytes, request: MountRequest, *, ready: Callable[[], None], debug: bool = False,
    progress: Progress = _no_progress, bell: Bell | None = None,
) -> None:  # fmt: skip
    """`serve`, with the mount as it is asked for."""
    serve(
        union, mountpoint, engine=request.engine, source=request.source, flags=request.flags,
        allow_other=request.allow_other or None, debug=debug, opening=request.open, coherent=request.coherent,
        scheduling=request.scheduling, index=request.layer_index, ready=ready, progress=progress,
        bell=bell,
    )  # fmt: skip


def allow_many_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: every open file of the union's users is one of ours.

    To be called before the layers are opened, which take their share of the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def choose(engine: str) -> str:
    """The engine that is meant: "auto" is the native one on Linux 5.4 and later."""
    if engine != "auto":
        return engine
    major, minor = (int("".join(takewhile(str.isdigit, part))) for part in os.uname().release.split(".")[:2])
    return "native" if (major, minor) >= (5, 4) else "fusepy"


def check_mountpoint(mountpoint: bytes) -> bytes:
    """The real path of a directory to mount on. Raises UnionfsError when it is none."""
    path = mounts.absolute(mountpoint)
    shown = os.fsdecode(mountpoint)
    if not os.path.lexists(path):
        raise UnionfsError(f"mount point {shown}", "there is no such directory", f"create it: mkdir -p {shown}")
    if not os.path.isdir(path):
        raise UnionfsError(f"mount point {shown}", "it is not a directory", "mount on a directory")
    return path


# --- the native engine


def wants_index(word: str, union: Operations) -> bool:
    """What the mount option says: on, off, or auto: where nobody can write to any of the lower layers."""
    if word != "auto":
        return word == "on"
    lowers = [layer for layer in union.stack.layers if layer is not union.stack.upper]
    return all(mounts.find(layer.path).fstype in _READ_ONLY_FILESYSTEMS for layer in lowers)


def _index(union: Operations, word: str, progress: Progress) -> Index | None:
    if not wants_index(word, union):
        return None
    indexing = importlib.import_module("unionfs.fuse.indexing")
    try:
        with progress() as tell:
            index: Index = indexing.load(union.stack, union.scan.lower_roots(), tell)
            return index
    except BaseException:
        union.close()
        raise


def _serve_native(
    union: Operations, mountpoint: bytes, options: MountOptions, ready: Callable[[], None], index: Index | None,
    bell: Bell | None,
) -> None:  # fmt: skip
    if options.scheduling != FOLLOW:
        bell = None
    elif bell is None:
        bell = yielding.start()
    try:
        _serve_at(union, mountpoint, options, ready, index, bell)
    finally:
        if bell is not None:
            bell.close()


def _serve_at(
    union: Operations, mountpoint: bytes, options: MountOptions, ready: Callable[[], None], index: Index | None,
    bell: Bell | None,
) -> None:  # fmt: skip
    descriptor, way = _mount(mountpoint, options)
    number = mounts.find(mountpoint).device

    def answers() -> None:
        _tune(number)
        events.info(f"mounted on {os.fsdecode(mountpoint)} by {way}; {server.data_path}")
        ready()

    try:
        affinity = _affinity(options.scheduling, bell)
        server = Server(union, Device(descriptor), options.opening, options.coherent, index, affinity)
        with _EndBySignal(mountpoint, number):
            server.run(answers)
    finally:
        if _still_mounted(mountpoint, number):
            _detach(mountpoint)


def _affinity(scheduling: str, bell: Bell | None) -> Affinity:
    if scheduling != FOLLOW:
        return Staying()
    return Affinity() if bell is None else Yielding(bell.wake)


def _mount(mountpoint: bytes, options: MountOptions) -> tuple[int, str]:
    """Mount by the first way that works. The connection's descriptor, and the way. Raises UnionfsError naming each."""
    failures: list[str] = []
    try:
        return _mount_direct(mountpoint, options), "mount(2)"
    except OSError as error:
        failures.append(f"mount(2): {error.filename or ''} {error.strerror}".replace(":  ", ": "))
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOENT):
            raise _unmountable(mountpoint, failures) from error
    helper = fusedev.find_helper()
    if helper is None:
        failures.append("fusermount3: not installed (package fuse3)")
        raise _unmountable(mountpoint, failures)
    try:
        return fusedev.mount_by_helper(helper, mountpoint, _helper_options(options)), os.path.basename(helper)
    except OSError as error:
        failures.append(str(error.strerror))
        raise _unmountable(mountpoint, failures) from error


def _mount_direct(mountpoint: bytes, options: MountOptions) -> int:
    descriptor = fusedev.open_device()
    words = [b"default_permissions"]
    if options.allow_other or (options.allow_other is None and os.geteuid() == 0):
        words.append(b"allow_other")
    try:
        flags = mounts.flags_of(options.flags)
        fusedev.mount_direct(descriptor, mountpoint, SUBTYPE, options.source, flags, words)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _helper_options(options: MountOptions) -> list[bytes]:
    words = [b"fsname=" + fusedev.escape(options.source), b"subtype=" + SUBTYPE, b"default_permissions"]
    if options.allow_other:
        words.append(b"allow_other")
    return words + [word.encode() for word in options.flags]


def _unmountable(mountpoint: bytes, failures: list[str]) -> UnionfsError:
    if not os.path.exists(fusedev.DEVICE):
        hint = f"there is no {fusedev.DEVICE}: load the module (modprobe fuse), or give it to the container"
    else:
        hint = 'see "unionfs doctor" for what this machine can do'
    return UnionfsError(f"{os.fsdecode(mountpoint)} cannot be mounted", "; ".join(failures), hint)


def _tune(number: int) -> None:
    """Read ahead as much as one request carries, where we may; keep the collector and the helpers off the hot path."""
    try:
        fusedev.set_read_ahead(number, READ_AHEAD // 1024)
    except OSError:
        pass  # not root of this machine: the kernel's own 128 KiB stay
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    sys.setswitchinterval(_SWITCH_SECONDS)


def _still_mounted(mountpoint: bytes, number: int) -> bool:
    return any(entry.point == mountpoint and entry.device == number for entry in mounts.table())


def _detach(mountpoint: bytes) -> None:
    try:
        _unmount(mountpoint, lazy=True)
    except OSError as error:
        events.error(f"{os.fsdecode(mountpoint)} stays mounted: {error.strerror}")


class _EndBySignal:
    """SIGTERM, SIGINT and SIGHUP unmount; a second one leaves at once, and what is open breaks.

    Another thread unmounts, since what is dirty in the page cache is written through this process's main one.
    """

    def __init__(self, mountpoint: bytes, number: int) -> None:
        self._mountpoint = mountpoint
        self._number = number
        self._before: dict[signal.Signals, object] = {}
        self._came = False

    def __enter__(self) -> None:
        if current_thread() is main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _ENDING}

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: object) -> None:
        if self._came:
            raise SystemExit(128 + number)
        self._came = True
        Thread(target=self._unmount, name="unionfs unmount").start()

    def _unmount(self) -> None:
        begin_thread()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        shown = os.fsdecode(self._mountpoint)
        try:
            _unmount(self._mountpoint)
        except OSError as error:
            if not _still_mounted(self._mountpoint, self._number):
                return
            events.warning(f"{shown}: {error.strerror}; detached, and served until its last user leaves")
            _detach(self._mountpoint)


# --- unmounting


def unmount(mountpoint: bytes, lazy: bool = False) -> None:
    """Unmount a union, of whichever engine, and wait until its daemon is gone, so that its upper is free again.

    `lazy` detaches a mount that is in use. Raises UnionfsError: not mounted, not one of ours, busy, not allowed.
    """
    path, shown = mounts.absolute(mountpoint), os.fsdecode(mountpoint)
    here = [entry for entry in mounts.table() if entry.point == path]
    if not here:
        raise UnionfsError(shown, "nothing is mounted there", "the mounts of this machine: findmnt -t fuse.unionfs")
    if here[-1].fstype != FSTYPE:
        kind = os.fsdecode(here[-1].fstype)
        raise UnionfsError(shown, f"what is mounted there is {kind}, not a union of ours", f"use: umount {shown}")
    daemon = _daemon_of(path)
    try:
        _unmount_patiently(path, lazy)
        if daemon is not None and not lazy:
            _wait_for_end(*daemon)
    except OSError as error:
        raise _stays(shown, error) from error
    finally:
        if daemon is not None:
            os.close(daemon[1])


def _unmount(path: bytes, lazy: bool = False) -> None:
    """umount2(2), else the helper, for what this user mounted by it."""
    try:
        mounts.unmount(path, mounts.MNT_DETACH if lazy else 0)
    except PermissionError:
        helper = fusedev.find_helper()
        if helper is None:
            raise
        fusedev.unmount_by_helper(helper, path, lazy)


def _unmount_patiently(path: bytes, lazy: bool) -> None:
    """Somebody who only looks, as findmnt(8) or a search through all mounts, is gone in a moment."""
    for _ in range(_TRIES - 1):
        try:
            return _unmount(path, lazy)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(_TRY_SECONDS)
    _unmount(path, lazy)


def _stays(shown: str, error: OSError) -> UnionfsError:
    if error.errno == errno.EBUSY:
        hint = f"who uses it: fuser -vm {shown}   (or detach it now: umount -l {shown})"
        return UnionfsError(f"{shown} cannot be unmounted", "it is in use", hint)
    return UnionfsError(f"{shown} cannot be unmounted", error.strerror or str(error), "its owner or root can")


def _daemon_of(path: bytes) -> tuple[int, int] | None:
    """The process id of the daemon that serves `path`, and a descriptor of it; None if it is dead or out of sight."""
    try:
        process = int(os.getxattr(path, PID_XATTR))
        return process, os.pidfd_open(process)
    except (OSError, ValueError):
        return None


def _wait_for_end(process: int, descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if process != os.getpid() and not poll.poll(_LEAVING_SECONDS * 1000):
        events.warning(f"unmounted, but its daemon (process {process}) has not ended yet")
