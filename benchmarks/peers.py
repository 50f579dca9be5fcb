"""What is compared: ours, other union filesystems, and an ordinary directory. How each is mounted.

Used by the programs of this folder, with `grounds.py`, which mounts them and takes everything away again. A peer that
cannot be mounted here is named, with what would help.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import grounds
from grounds import Ground, Mountable, Place
from measure import Report

from unionfs.errors import Faults, did_you_mean
from unionfs.fuse.options import parse

NATIVE = "native"
BASE = "overlayfs"
"""What all ratios are to."""
SECOND = "fuse-overlayfs"
OURS = "unionfs"
"""The defaults of ours: where those options are known that name them, "unionfs passthrough"."""


class Peer(NamedTuple):
    name: str
    command: Callable[[Place], list[str]] | None
    """Mounts; a daemon stays in the foreground. None: nothing is mounted."""
    is_daemon: bool = True
    fault: str | None = None
    """Why it cannot be mounted here, and what would help."""
    copies_up: bool = True
    """It can change what is in a lower layer."""
    install: str = ""
    """The package that has it."""


# --- the peers


def ours(name: str, options: str = "", engine: str = "native") -> Peer:
    """This checkout's. Called as a module: Debian's unionfs-fuse has a program `unionfs`."""

    def command(place: Place) -> list[str]:
        mount = [sys.executable, "-m", "unionfs", "mount", place.merged, "-f", "--engine", engine]
        return [*mount, "-o", f"{place.layers},{options}" if options else place.layers]

    return Peer(f"{OURS} {name}".strip(), command, fault=_refusal(options))


def _refusal(options: str) -> str | None:
    """What the program has to say against mount options, in one line."""
    try:
        parse(os.fsencode(f"lowerdir=/,{options}"))
    except Faults as faults:
        return "; ".join(f"{fault.what}: {fault.why}" for fault in faults.faults)
    return None


OUR_WHOLE = ours("whole", "copyup=whole")
OUR_BLOCK = ours("block", "copyup=block,copyup_complete=never")
OUR_AUTO = ours("auto", "copyup=auto,copyup_complete=background")
OUR_CLOSE = ours("close", "copyup=block,copyup_complete=close")


def our_modes() -> list[Peer]:
    """Ours, once for each way to serve files and to know its layers."""
    passthrough = ours("passthrough", "open=passthrough,index=off")
    fusepy = ours("fusepy", engine="fusepy")
    if find_spec("fuse") is None:
        fusepy = fusepy._replace(fault="the Python package fusepy is not installed; pip install fusepy")
    return [
        *([ours("")] if passthrough.fault else []),
        passthrough,
        ours("cached", "open=cached,index=off"),
        ours("index", "open=passthrough,index=on"),
        ours("cached index", "open=cached,index=on"),
        fusepy,
    ]


def native() -> Peer:
    """An ordinary directory with the same content: what no union filesystem can be much quicker than."""
    return Peer(NATIVE, None, is_daemon=False)


def overlayfs() -> list[Peer]:
    fault = _kernel_fault()

    def peer(name: str, *options: str) -> Peer:
        def command(place: Place) -> list[str]:
            return ["mount", "-t", "overlay", "-o", ",".join([place.layers, *options]), "benchmark", place.merged]

        return Peer(name, command, is_daemon=False, fault=fault)

    return [peer(BASE), peer("overlayfs volatile", "volatile")]


def overlayfs_metacopy() -> Peer:
    def command(place: Place) -> list[str]:
        options = f"{place.layers},metacopy=on,redirect_dir=on"
        return ["mount", "-t", "overlay", "-o", options, "benchmark", place.merged]

    return Peer("overlayfs metacopy", command, is_daemon=False, fault=_kernel_fault())


def fuse_overlayfs() -> list[Peer]:
    program = shutil.which(SECOND)
    fault = None if program else "not installed; apt-get install fuse-overlayfs"

    def peer(name: str, *options: str, fault: str | None = fault) -> Peer:
        def command(place: Place) -> list[str]:
            return [SECOND, "-f", "-o", ",".join([place.layers, *options]), place.merged]

        return Peer(name, command, fault=fault, install=SECOND)

    # It takes any option without a word: whether it knows one can only be seen in the program.
    if program and b"volatile" not in _content(program):
        return [peer(SECOND), peer("fuse-overlayfs volatile", fault="this version has no option volatile")]
    return [peer(SECOND), peer("fuse-overlayfs volatile", "volatile")]


def unionfs_fuse() -> list[Peer]:
    def command(place: Place) -> list[str]:
        branches = [f"{place.upper}=RW", *(f"{lower}=RO" for lower in place.lowers)]
        return ["unionfs-fuse", "-f", "-o", "cow", ":".join(branches), place.merged]

    fault = None if shutil.which("unionfs-fuse") else "not installed; apt-get install unionfs-fuse"
    return [Peer("unionfs-fuse", command, fault=fault, install="unionfs-fuse")]


def mergerfs() -> Peer:
    def command(place: Place) -> list[str]:
        branches = [f"{place.upper}=RW", *(f"{lower}=RO" for lower in place.lowers)]
        return ["mergerfs", "-f", "-o", "func.getattr=ff", ":".join(branches), place.merged]

    fault = None if shutil.which("mergerfs") else "not installed; apt-get install mergerfs"
    return Peer("mergerfs", command, fault=fault, copies_up=False, install="mergerfs")


def others() -> list[Peer]:
    return [*overlayfs(), *fuse_overlayfs(), *unionfs_fuse()]


def all_peers() -> list[Peer]:
    """In the order of the tables."""
    kernel = [*overlayfs(), overlayfs_metacopy()]
    return [
        *our_modes(),
        OUR_WHOLE,
        OUR_BLOCK,
        OUR_AUTO,
        OUR_CLOSE,
        native(),
        *kernel,
        *fuse_overlayfs(),
        *unionfs_fuse(),
        mergerfs(),
    ]


def chosen(peers: Sequence[Peer], words: str | None, report: Report) -> list[Peer]:
    """Those that were asked for and can be mounted; the others are named in the report.

    A word is a peer's name, or a part of it.
    """
    names = [peer.name for peer in peers]
    wanted: set[str] = set(names if not words else ())
    for word in words.split(",") if words else ():
        found = [word] if word in names else [name for name in names if word in name]
        if not found:
            parts = {part for name in names for part in (name, *name.split())}
            hint = did_you_mean(word, sorted(parts)) or f"they are: {', '.join(names)}"
            raise SystemExit(f"--peers {word}: no peer has this in its name: {hint}")
        wanted.update(found)
    for peer in peers:
        if peer.name in wanted and peer.fault:
            report.leave_out(peer.name, peer.fault)
    return [peer for peer in peers if peer.name in wanted and not peer.fault]


def versions() -> dict[str, str]:
    """Of the peers that say theirs."""
    found = {"overlayfs": f"metacopy={_parameter('metacopy')} redirect_dir={_parameter('redirect_dir')}"}
    programs = (
        (SECOND, "fuse-overlayfs:"), ("unionfs-fuse", "unionfs-fuse version"), ("mergerfs", "mergerfs version:"),
    )  # fmt: skip
    for program, word in programs:
        if shutil.which(program):
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
            lines = [line for line in (said.stdout + said.stderr).splitlines() if line.startswith(word)]
            found[program] = lines[0].removeprefix(word).removeprefix(" version").strip(" :") if lines else "unknown"
    return found


def _kernel_fault() -> str | None:
    if os.geteuid():
        return "needs root"
    with open("/proc/filesystems") as file:
        if "overlay" in file.read().split():
            return None
    return "not in this kernel; modprobe overlay"


def _parameter(name: str) -> str:
    try:
        with open(f"/sys/module/overlay/parameters/{name}") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@contextmanager
def mounted(peer: Peer, where: Ground, lowers: Sequence[str], content: str | None = None) -> Iterator[Place]:
    """The peer over those lower directories, as `grounds.mounted` says."""
    with grounds.mounted(Mountable(peer.command, peer.is_daemon), where, lowers, content) as place:
        yield place
