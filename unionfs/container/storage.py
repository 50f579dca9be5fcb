"""Storage drivers: what merges a container's layers into its root.

Called by the monitor, in a mount namespace of its own, which takes the mount along when its last process ends, however
that ends. Two drivers behind one function, so that the same container can be timed on both: `unionfs`, a daemon of
ours that the monitor forks, and `overlay`, the kernel's overlayfs.

This file is one of the doors through which a module is imported when it is wanted: a container on overlayfs starts
without the FUSE engine.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unionfs import events
from unionfs.errors import UnionfsError, did_you_mean
from unionfs.linux import memory, mountfd, mounts, namespaces

if TYPE_CHECKING:
    from unionfs.fuse.yielding import Bell, Watch

DRIVERS = ("unionfs", "overlay")
_ENGINE = ("unionfs.fuse.daemon", "unionfs.fuse.mount", "unionfs.fuse.options")
DIALECTS = {"unionfs": "aufs", "overlay": "overlay"}
"""How each driver's layers say that a name is deleted."""


class Place(NamedTuple):
    """The directories of a root: layers to merge, the topmost first, and where the merged tree is to be."""

    lower: Sequence[str]
    upper: str
    work: str
    target: str
    log: str
    overlaps: bool = False
    """A lower layer is a directory of the machine's, in which the others may lie."""


def check_driver(name: str, options: Sequence[str]) -> None:
    """Raises UnionfsError for a driver or an option of it that does not exist."""
    if name not in DRIVERS:
        hint = did_you_mean(name, DRIVERS) or f"the drivers are {' and '.join(DRIVERS)}"
        raise UnionfsError(f"storage driver {name}", "there is none of that name", hint)
    if name == "unionfs" and options:
        importlib.import_module("unionfs.fuse.options").parse(",".join(options).encode())


def load(driver: str) -> None:
    """Load now what a start with this driver needs, so that each start from here on is as quick as it can be."""
    gc.disable()  # what a module makes when it is loaded stays
    try:
        for name in _ENGINE if driver == "unionfs" else ():
            importlib.import_module(name)
    finally:
        gc.enable()


class Daemon(NamedTuple):
    """Who serves a root: a child of this process, or pid 0 where the kernel does; and what looks after it, if this
    process has said that it does so (fuse/yielding.py)."""

    pid: int = 0
    watch: Watch | None = None


def mount(
    driver: str, place: Place, options: Sequence[str], foreign: Sequence[int] = (), watches: bool = False
) -> Daemon:
    """Mount the merged tree on `place.target`. Raises UnionfsError.

    `foreign` are descriptors of this process that a daemon must not keep open; `watches`: it will look after it.
    """
    if driver == "unionfs":
        return _mount_unionfs(place, options, foreign, watches)
    _mount_overlay(place, options)
    return Daemon()


def _mount_overlay(place: Place, options: Sequence[str]) -> None:
    words = [b"lowerdir+=" + os.fsencode(layer) for layer in place.lower]
    words += [b"upperdir=" + os.fsencode(place.upper), b"workdir=" + os.fsencode(place.work)]
    words += [option.encode() for option in options]
    try:
        tree = mountfd.new_filesystem(b"overlay", words, 0, b"overlay")
        target = os.open(place.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mountfd.attach(tree, target)
        os.close(target)
        os.close(tree)
    except OSError as error:
        if error.errno == errno.EINVAL and not options:  # before Linux 6.5: all layers in one word
            _mount_overlay_in_one_word(place)
        else:
            raise _refused(error.strerror or str(error)) from error


def _mount_overlay_in_one_word(place: Place) -> None:
    data = f"lowerdir={':'.join(place.lower)},upperdir={place.upper},workdir={place.work}"
    try:
        mounts.mount(b"overlay", os.fsencode(place.target), b"overlay", 0, os.fsencode(data))
    except OSError as error:
        raise _refused(f"{error.strerror}, {len(place.lower)} layers") from error


def _refused(why: str) -> UnionfsError:
    return UnionfsError("--storage overlay", f"the kernel refuses: {why}", "the kernel's log says more: dmesg")


def _mount_unionfs(place: Place, options: Sequence[str], foreign: Sequence[int], watches: bool) -> Daemon:
    daemon: Any = importlib.import_module("unionfs.fuse.daemon")
    yielding: Any = importlib.import_module("unionfs.fuse.yielding")
    bell = yielding.Bell() if watches and yielding.allowed() else None
    pid = daemon.daemonize(lambda ready: _serve(place, options, foreign, ready, bell))
    if bell is None:
        return Daemon(pid)
    bell.hand_over()
    return Daemon(pid, yielding.Watch(pid, bell))


def _serve(
    place: Place, options: Sequence[str], foreign: Sequence[int], ready: Callable[[], None], bell: Bell | None
) -> None:
    """In the daemon, which ends when its union is unmounted, and unmounts it when the monitor has ended."""
    namespaces.die_with_parent(signal.SIGTERM)
    for fd in foreign:
        os.close(fd)
    log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    events.log_to(events.to_descriptor(log, dated=True))
    load("unionfs")
    engine: Any = importlib.import_module("unionfs.fuse.mount")
    asked = importlib.import_module("unionfs.fuse.options").parse(",".join(options).encode())
    request = asked._replace(
        lower=tuple(map(os.fsencode, place.lower)), upper=os.fsencode(place.upper), work=os.fsencode(place.work),
        words=("nodev",), allow_other=True,
    )  # fmt: skip
    engine.allow_many_descriptors()
    union = engine.open_union(request, place.overlaps)

    def answers() -> None:
        ready()
        memory.give_back()

    engine.serve_request(union, os.fsencode(place.target), request, ready=answers, bell=bell)
