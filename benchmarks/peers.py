"""What is compared: ours and other union filesystems. How each is mounted and unmounted, and where.

Used by the programs of this folder, with `measure.py`. It promises: every mount has an upper, a work directory and a
mount point of its own, all new; all that was mounted, started or made is gone afterwards, after Ctrl-C and after a
failure too; and nothing else is touched. A peer that cannot be mounted here is named, with what would help.

Daemons run in the foreground, as children: their end can be waited for, and only they are ever killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from types import FrameType
from typing import NamedTuple

from measure import ROOT, Report, memory, note

from unionfs.linux import mounts

_PATIENCE = 60.0
"""Seconds in which a daemon must mount, and end when it is unmounted."""


class Place(NamedTuple):
    """The directories of one mount."""

    lower: str
    upper: str
    work: str
    merged: str

    @property
    def layers(self) -> str:
        return f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"


class Peer(NamedTuple):
    name: str
    command: Callable[[Place], list[str]]
    """Mounts; a daemon stays in the foreground."""
    is_daemon: bool = True
    fault: str | None = None
    """Why it cannot be mounted here, and what would help."""


# --- the peers


def ours(name: str, options: str) -> Peer:
    """This checkout's, by the native engine. Called as a module: Debian's unionfs-fuse has a program `unionfs`."""

    def command(place: Place) -> list[str]:
        mount = [sys.executable, "-m", "unionfs", "mount", place.merged, "-f", "--engine", "native"]
        return [*mount, "-o", f"{place.layers},{options}"]

    return Peer(f"unionfs {name}", command)


OUR_WHOLE = ours("whole", "copyup=whole")
OUR_BLOCK = ours("block", "copyup=block,copyup_complete=never")
OUR_AUTO = ours("auto", "copyup=auto,copyup_complete=background")


def overlayfs() -> list[Peer]:
    fault = _kernel_fault()

    def peer(name: str, *options: str) -> Peer:
        def command(place: Place) -> list[str]:
            return ["mount", "-t", "overlay", "-o", ",".join([place.layers, *options]), "benchmark", place.merged]

        return Peer(name, command, is_daemon=False, fault=fault)

    return [peer("overlayfs"), peer("overlayfs volatile", "volatile")]


def fuse_overlayfs() -> list[Peer]:
    program = shutil.which("fuse-overlayfs")
    fault = None if program else "not installed; apt-get install fuse-overlayfs"

    def peer(name: str, *options: str, fault: str | None = fault) -> Peer:
        def command(place: Place) -> list[str]:
            return ["fuse-overlayfs", "-f", "-o", ",".join([place.layers, *options]), place.merged]

        return Peer(name, command, fault=fault)

    # It takes any option without a word: whether it knows one can only be seen in the program.
    if program and b"volatile" not in _content(program):
        return [peer("fuse-overlayfs"), peer("fuse-overlayfs volatile", fault="this version has no option volatile")]
    return [peer("fuse-overlayfs"), peer("fuse-overlayfs volatile", "volatile")]


def unionfs_fuse() -> list[Peer]:
    def command(place: Place) -> list[str]:
        return ["unionfs-fuse", "-f", "-o", "cow", f"{place.upper}=RW:{place.lower}=RO", place.merged]

    fault = None if shutil.which("unionfs-fuse") else "not installed; apt-get install unionfs-fuse"
    return [Peer("unionfs-fuse", command, fault=fault)]


def others() -> list[Peer]:
    return [*overlayfs(), *fuse_overlayfs(), *unionfs_fuse()]


def chosen(peers: Sequence[Peer], words: str | None, report: Report) -> list[Peer]:
    """Those that were asked for and can be mounted; the others are named in the report."""
    wanted = [peer for peer in peers if not words or any(word in peer.name for word in words.split(","))]
    for peer in wanted:
        if peer.fault:
            report.leave_out(peer.name, peer.fault)
    return [peer for peer in wanted if not peer.fault]


def versions() -> dict[str, str]:
    """Of the peers that say theirs."""
    found = {"overlayfs": f"metacopy={_parameter('metacopy')} redirect_dir={_parameter('redirect_dir')}"}
    for program, word in (("fuse-overlayfs", "fuse-overlayfs:"), ("unionfs-fuse", "unionfs-fuse version")):
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


# --- where they are mounted


class Signals:
    """SIGINT, SIGTERM and SIGHUP end the program between two samples; a second one at once.

    Not in a sample: one that came during open(2) would leave a file open that nobody knows, and its mount in use.
    """

    def __init__(self) -> None:
        self._came = False

    def check(self) -> None:
        """Where nothing is under way. Raises KeyboardInterrupt."""
        if self._came:
            raise KeyboardInterrupt

    @contextmanager
    def handled(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, self._handle) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            raise KeyboardInterrupt
        self._came = True
        note("stopping after this sample")


class Ground(NamedTuple):
    """A temporary directory on a filesystem that is measured."""

    filesystem: str
    path: str
    signals: Signals

    def fits(self, count: int) -> bool:
        """Whether so many bytes can be written here, and some room is left. In a tmpfs they take memory."""
        found = os.statvfs(self.path)
        free = found.f_bavail * found.f_frsize
        if self.filesystem == "tmpfs":
            free = min(free, memory("MemAvailable") * 3 // 4)
        return count * 1.1 + (64 << 20) < free

    def directory(self, name: str) -> str:
        path = os.path.join(self.path, name)
        os.makedirs(path, exist_ok=True)
        return path


@contextmanager
def ground(kind: str, beside: str) -> Iterator[Ground]:
    """A temporary directory in the directory `beside`; `kind` is disk, or tmpfs for one that is mounted there."""
    beside = os.path.realpath(beside)
    if set(beside) & set(",:\\="):
        raise SystemExit(f"{beside}: mount options cannot hold such a path: choose a --dir without , : = and \\")
    if kind not in ("disk", "tmpfs"):
        raise SystemExit(f"--on {kind}: write disk or tmpfs")
    signals = Signals()
    with signals.handled(), ExitStack() as undo:
        path = tempfile.mkdtemp(prefix="unionfs-benchmark-", dir=beside)
        undo.callback(_remove, path)
        if kind == "tmpfs":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90%", "benchmark", path], check=True)
        yield Ground("tmpfs" if kind == "tmpfs" else _filesystem(path), path, signals)
        signals.check()


def grounds(words: str, report: Report) -> list[str]:
    kinds = words.split(",")
    if "tmpfs" in kinds and os.geteuid():
        report.leave_out("tmpfs", "mounting one needs root")
        kinds.remove("tmpfs")
    return kinds


@contextmanager
def mounted(peer: Peer, where: Ground, lower: str) -> Iterator[Place]:
    """The peer over that lower directory and a new upper, both gone afterwards."""
    where.signals.check()
    with ExitStack() as undo:
        own = tempfile.mkdtemp(prefix="mount-", dir=where.path)
        undo.callback(_remove, own)
        place = Place(lower, *(os.path.join(own, name) for name in ("upper", "work", "merged")))
        for path in place[1:]:
            os.mkdir(path)
        if peer.is_daemon:
            with _daemon(peer.command(place), place.merged):
                yield place
        else:
            subprocess.run(peer.command(place), check=True)
            yield place


@contextmanager
def _daemon(command: list[str], merged: str) -> Iterator[None]:
    """A session of its own keeps the terminal's Ctrl-C away from it."""
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environment, stderr=said, stdout=said, start_new_session=True)
        try:
            end = monotonic() + _PATIENCE
            while not os.path.ismount(merged):
                if process.poll() is not None or monotonic() > end:
                    said.seek(0)
                    raise SystemExit(f"{' '.join(command)}: {said.read().strip() or 'did not mount'}")
                sleep(0.002)
            yield
        except BaseException:
            process.terminate()
            raise
        finally:
            _end(process, merged)


def _end(process: subprocess.Popen[bytes], merged: str) -> None:
    """Unmount until the daemon has ended: one that was told to end while it started may still mount."""
    end = monotonic() + _PATIENCE
    while process.poll() is None:
        _unmount(merged)
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            if monotonic() > end:
                note(f"process {process.pid} did not end when {merged} was unmounted, and is killed")
                process.kill()
    _unmount(merged)


def _unmount(path: str) -> None:
    """As often as it is mounted there. A daemon that was told to end unmounts too, perhaps at the same time."""
    command = ["umount", path] if os.geteuid() == 0 else ["fusermount3", "-u", path]
    for _ in range(20):
        if path not in _mounts_below(path):
            return
        if subprocess.run(command, capture_output=True, check=False).returncode:
            sleep(0.1)
    subprocess.run([command[0], "-l", *command[1:]], check=False)
    note(f"{path} was in use, and is detached")


def _remove(path: str) -> None:
    """Unmount what is mounted in a directory of ours, and delete it. Never while something still is."""
    for mount in reversed(_mounts_below(path)):
        _unmount(mount)
    if left := _mounts_below(path):
        note(f"still mounted, so {path} was not removed: {' '.join(left)}")
    else:
        shutil.rmtree(path)


def _mounts_below(path: str) -> list[str]:
    """Mount points at and in a directory, the innermost last."""
    points = [os.fsdecode(mount.point) for mount in mounts.table()]
    return [point for point in points if point == path or point.startswith(path + "/")]


def _filesystem(path: str) -> str:
    command = ["findmnt", "-n", "-o", "FSTYPE", "--target", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def settle(where: Ground) -> None:
    """Between two samples: write out what earlier ones left behind, so that the next one does not pay for it."""
    where.signals.check()
    subprocess.run(["sync", "-f", where.path], check=True)
