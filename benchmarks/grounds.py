"""Where it is measured: a temporary directory on a filesystem, and the mounts in it.

Used by the programs of this folder, with `peers.py`, which says what is mounted. It promises: every mount has an upper,
a work directory and a mount point of its own, all new; all that was mounted, started or made is gone afterwards, after
Ctrl-C and after a failure too; and nothing else is touched.

Daemons run in the foreground, as children: their end can be waited for, and only they are ever killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic, perf_counter, sleep
from types import FrameType
from typing import NamedTuple

from measure import GIB, ROOT, Fault, Report, memory, note

from unionfs.errors import did_you_mean
from unionfs.linux import mounts

KINDS = ("disk", "tmpfs", "btrfs", "xfs")
"""What can be measured on: the filesystem of a directory, and what is mounted there for the time being."""
_LOOP_SIZE = 16 * GIB
"""Of the file that btrfs and xfs are made in. It has holes: it takes what is written."""
_PATIENCE = 60.0
"""Seconds in which a daemon must mount, and end when it is unmounted."""


class MountFault(Fault):
    """A peer was not mounted: what it said, or else its command."""


class Place(NamedTuple):
    """The directories of one mount, and its daemon."""

    base: str
    """Where the command that mounts is run."""
    lowers: tuple[str, ...]
    """Absolute paths, the topmost layer first."""
    upper: str
    work: str
    merged: str
    daemon: subprocess.Popen[bytes] | None = None
    mount_ms: float = 0
    """From the start of the command until it was mounted."""

    @property
    def layers(self) -> str:
        """The option string that overlayfs and its likes take. Short names: mount(2) takes one page for all of it."""
        return f"lowerdir={':'.join(map(self._short, self.lowers))},upperdir={self.upper},workdir={self.work}"

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self.base) if path.startswith(self.base + "/") else path

    def daemon_seconds(self) -> float | None:
        """The processor time that the daemon has taken since it was started, its threads included."""
        if self.daemon is None:
            return None
        # The number of the clock of another process, as clock_getcpuclockid(3) makes it: in nanoseconds, where
        # /proc/PID/stat counts hundredths of a second.
        return time.clock_gettime((~self.daemon.pid << 3) | 2)


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
    """A temporary directory in the directory `beside`; one of KINDS but disk is mounted there first."""
    beside = os.path.realpath(beside)
    if set(beside) & set(",:\\="):
        raise SystemExit(f"{beside}: mount options cannot hold such a path: choose a --dir without , : = and \\")
    signals = Signals()
    with signals.handled(), ExitStack() as undo:
        own = tempfile.mkdtemp(prefix="unionfs-benchmark-", dir=beside)
        undo.callback(_remove, own)
        path = own
        if kind == "tmpfs":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90%", "benchmark", path], check=True)
        elif kind != "disk":
            path = _mount_loop(kind, own)
        yield Ground(_filesystem(path) if kind == "disk" else kind, path, signals)
        signals.check()


def _mount_loop(kind: str, directory: str) -> str:
    """A filesystem in a file. Its loop device ends with the mount."""
    image, point = os.path.join(directory, "image"), os.path.join(directory, "m")
    with open(image, "wb") as file:
        file.truncate(_LOOP_SIZE)
    os.mkdir(point)
    subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mount", "-t", kind, "-o", "loop", image, point], check=True)
    return point


def grounds(words: str, report: Report) -> list[str]:
    """The kinds that were asked for and can be had; the others are named in the report."""
    kinds = []
    for kind in words.split(","):
        if kind not in KINDS:
            raise SystemExit(f"--on {kind}: {did_you_mean(kind, KINDS) or 'write ' + ', '.join(KINDS)}")
        if fault := fault_of_ground(kind):
            report.leave_out(kind, fault)
        else:
            kinds.append(kind)
    return kinds


def fault_of_ground(kind: str) -> str | None:
    """Why there is no such filesystem here, and what would help."""
    if kind == "disk":
        return None
    if os.geteuid():
        return "mounting one needs root"
    package = {"btrfs": "btrfs-progs", "xfs": "xfsprogs"}.get(kind)
    if package and not shutil.which(f"mkfs.{kind}"):
        return f"mkfs.{kind} is not installed; apt-get install {package}"
    with open("/proc/filesystems") as file:
        known = kind in file.read().split()
    modules = f"/lib/modules/{os.uname().release}/kernel/fs/{kind}"
    return None if known or os.path.isdir(modules) else f"this kernel has no {kind}"


# --- mounts


class Mountable(NamedTuple):
    """How `mounted` is to mount."""

    command: Callable[[Place], list[str]] | None
    """None: nothing is mounted."""
    is_daemon: bool
    """The command is a daemon, which stays in the foreground."""


@contextmanager
def mounted(how: Mountable, where: Ground, lowers: Sequence[str], content: str | None = None) -> Iterator[Place]:
    """Mounted over those lower directories, the topmost first, with a new upper, which is gone afterwards.

    Without a command, `merged` is an ordinary directory: a copy of `content`.
    """
    where.signals.check()
    with ExitStack() as undo:
        own = tempfile.mkdtemp(prefix="mount-", dir=where.path)
        undo.callback(_remove, own)
        upper, work, merged = (os.path.join(own, name) for name in ("upper", "work", "merged"))
        place = Place(where.path, tuple(lowers), upper, work, merged)
        for path in (upper, work, merged):
            os.mkdir(path)
        if how.command is None:
            if content is not None:
                subprocess.run(["cp", "-a", f"{content}/.", place.merged], check=True)
                settle(where)
            yield place
        elif how.is_daemon:
            start = perf_counter()
            with _daemon(how.command(place), place) as process:
                yield place._replace(daemon=process, mount_ms=(perf_counter() - start) * 1000)
        else:
            command, start = how.command(place), perf_counter()
            said = subprocess.run(command, cwd=place.base, capture_output=True, text=True, check=False)
            if said.returncode:
                raise MountFault(said.stderr.strip() or f"{_short(command)}: exit status {said.returncode}")
            yield place._replace(mount_ms=(perf_counter() - start) * 1000)


@contextmanager
def _daemon(command: list[str], place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """A session of its own keeps the terminal's Ctrl-C away from it; caches that it may keep are kept where we are."""
    environment = {**os.environ, "PYTHONPATH": ROOT, "UNIONFS_CACHE": os.path.join(place.base, "cache")}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=place.base, env=environment, stderr=said, stdout=said, start_new_session=True
        )
        try:
            end = monotonic() + _PATIENCE
            while not os.path.ismount(place.merged):
                if process.poll() is not None or monotonic() > end:
                    said.seek(0)
                    raise MountFault(said.read().strip() or f"{_short(command)}: did not mount")
                sleep(0.002)
            yield process
        except BaseException:
            process.terminate()
            raise
        finally:
            _end(process, place.merged)


def _short(command: Sequence[str]) -> str:
    """A command for people: five hundred layers tell nobody anything."""
    line = " ".join(command)
    return line if len(line) < 300 else f"{line[:200]} ... {line[-80:]}"


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
