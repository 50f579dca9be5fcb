"""A container's cgroup: its limits, what it uses, and how all of its processes are stopped at once.

Called by the monitor, by `enter.py` and `lifecycle.py`. Whichever version of cgroups carries a controller is used: a
group `unionfs/ID` in each of the hierarchies of version 1 that has one of them, or one in that of version 2. Where they
are follows from the id alone, so that what a crash leaves is found again. A machine without cgroups that we may write
to (a user without delegation, say) runs containers all the same, but refuses limits.

A process joins by itself: the kernel moves a single thread that writes "0" at once (version 1), while to move another
process it waits for all processors, some ten milliseconds. Sources: cgroups(7), the kernel's cgroup-v1 and cgroup-v2
documents.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from unionfs.container.spec import Limits
from unionfs.errors import UnionfsError
from unionfs.linux import mounts

_FOLDER = "unionfs"
_CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "freezer")
_V2_CONTROLLERS = ("memory", "cpu", "pids")
_PERIOD_MICROSECONDS = 100_000
_TRIES, _TRY_SECONDS = 100, 0.01
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)


class Usage(NamedTuple):
    """What a container's processes take together: processor time in nanoseconds since its start, bytes of memory
    without what the kernel can drop, the limit of that (0: none), processes, and the limit of those (0: none)."""

    cpu: int = 0
    memory: int = 0
    memory_limit: int = 0
    pids: int = 0
    pids_limit: int = 0


class _Hierarchies(NamedTuple):
    """Where each controller of version 1 is mounted, and where version 2 is, "" for nowhere."""

    v1: dict[str, str]
    v2: str


def _hierarchies() -> _Hierarchies:
    v1: dict[str, str] = {}
    v2 = ""
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            if b" - cgroup" not in line:
                continue
            mount = mounts.parse(line)
            if mount.fstype == b"cgroup2":
                v2 = v2 or os.fsdecode(mount.point)
            else:
                words = set(map(os.fsdecode, mount.options))
                v1.update({name: os.fsdecode(mount.point) for name in words & set(_CONTROLLERS)})
    return _Hierarchies(v1, v2)


class Cgroup:
    def __init__(self, container: str, hierarchies: _Hierarchies) -> None:
        self._v1 = {name: f"{point}/{_FOLDER}/{container}" for name, point in hierarchies.v1.items()}
        self._v2 = f"{hierarchies.v2}/{_FOLDER}/{container}" if hierarchies.v2 and "memory" not in self._v1 else ""

    @classmethod
    def of(cls, container: str) -> Cgroup:
        """The group of a container, whether it is there or not."""
        return cls(container, _hierarchies())

    @classmethod
    def create(cls, container: str, limits: Limits) -> Cgroup:
        """Make it and set the limits. Raises UnionfsError when there are limits and they cannot be set."""
        group = cls.of(container)
        try:
            for folder in group._folders():
                os.makedirs(folder, exist_ok=True)
            if group._v2:
                group._hand_down_controllers()
        except OSError as error:
            group.remove()
            if error.errno not in _NOT_OURS:
                raise
            group._v1, group._v2 = {}, ""
        try:
            group.limit(limits)
        except BaseException:
            group.remove()
            raise
        return group

    def _hand_down_controllers(self) -> None:
        for folder in (os.path.dirname(os.path.dirname(self._v2)), os.path.dirname(self._v2)):
            for name in _V2_CONTROLLERS:
                with suppress(OSError):  # one that the machine does not have
                    _write(f"{folder}/cgroup.subtree_control", f"+{name}")

    def _folders(self) -> list[str]:
        return list(dict.fromkeys([*self._v1.values(), *([self._v2] if self._v2 else [])]))

    # Limits

    def limit(self, limits: Limits) -> None:
        """Set the limits that are asked for. Raises UnionfsError, naming the one that cannot be set."""
        if limits.memory:
            self._set("--memory", "memory", "memory.limit_in_bytes", "memory.max", str(limits.memory))
            with suppress(OSError):  # a machine that does not count swap
                path = self._v1.get("memory")
                name = f"{path}/memory.memsw.limit_in_bytes" if path else f"{self._v2}/memory.swap.max"
                _write(name, str(limits.memory) if path else "0")
        if limits.cpus:
            quota = str(int(limits.cpus * _PERIOD_MICROSECONDS))
            self._set("--cpus", "cpu", "cpu.cfs_quota_us", "cpu.max", quota)
        if limits.pids:
            self._set("--pids-limit", "pids", "pids.max", "pids.max", str(limits.pids))

    def _set(self, option: str, controller: str, v1_name: str, v2_name: str, value: str) -> None:
        path = f"{self._v1[controller]}/{v1_name}" if controller in self._v1 else f"{self._v2}/{v2_name}"
        if path.startswith("/") and (controller in self._v1 or self._v2):
            try:
                _write(path, value)
                return
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise UnionfsError(f"{option} {value}", f"the kernel refuses: {error.strerror}") from error
        raise UnionfsError(
            option, f"this machine offers no cgroup controller {controller} to this user",
            "leave it out, or run as root where cgroups are mounted writable",
        )  # fmt: skip

    # Members

    @contextmanager
    def joining(self) -> Iterator[Callable[[], None]]:
        """A call with which a process joins, also when it has gone to other namespaces since the block began."""
        opened = []
        for folder in self._folders():
            with suppress(OSError):
                name = "cgroup.procs" if folder == self._v2 else "tasks"
                opened.append(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CLOEXEC))
        try:
            yield lambda: _join(opened)
        finally:
            for fd in opened:
                os.close(fd)

    def processes(self) -> list[int]:
        """The pids of its members, as this process sees them."""
        for folder in self._folders():
            with suppress(OSError):
                return sorted(map(int, _read(f"{folder}/cgroup.procs").split()))
        return []

    # All at once

    def freeze(self) -> None:
        """Stop all members where they are. Raises UnionfsError where there is no freezer."""
        if not self._try_freeze(True):
            raise UnionfsError("the container cannot be paused", "this machine offers no freezer to this user")

    def thaw(self) -> None:
        self._try_freeze(False)

    def _try_freeze(self, on: bool) -> bool:
        try:
            if "freezer" in self._v1:
                _write(f"{self._v1['freezer']}/freezer.state", "FROZEN" if on else "THAWED")
            elif self._v2:
                _write(f"{self._v2}/cgroup.freeze", str(int(on)))
            else:
                return False
        except OSError:
            return False
        for _ in range(_TRIES):
            if self.is_frozen() == on:
                break
            time.sleep(_TRY_SECONDS)
        return True

    def is_frozen(self) -> bool:
        with suppress(OSError):
            if "freezer" in self._v1:
                return _read(f"{self._v1['freezer']}/freezer.state").strip() == "FROZEN"
            if self._v2:
                return "frozen 1" in _read(f"{self._v2}/cgroup.events")
        return False

    # What it uses

    def usage(self) -> Usage:
        """Zeros where nobody counts."""
        if self._v2:
            cpu = _field(f"{self._v2}/cpu.stat", "usage_usec") * 1000
            cache = _field(f"{self._v2}/memory.stat", "inactive_file")
            memory, limit = _number(f"{self._v2}/memory.current"), _number(f"{self._v2}/memory.max")
            pids, pids_limit = _number(f"{self._v2}/pids.current"), _number(f"{self._v2}/pids.max")
        else:
            memory_path, pids_path = self._v1.get("memory", ""), self._v1.get("pids", "")
            cpu = _number(f"{self._v1.get('cpuacct', '')}/cpuacct.usage")
            cache = _field(f"{memory_path}/memory.stat", "total_inactive_file")
            memory, limit = (_number(f"{memory_path}/memory.{name}_in_bytes") for name in ("usage", "limit"))
            pids, pids_limit = _number(f"{pids_path}/pids.current"), _number(f"{pids_path}/pids.max")
        return Usage(cpu, max(memory - cache, 0), limit if limit < 1 << 60 else 0, pids, pids_limit)

    def oom_killed(self) -> bool:
        """Whether the kernel has killed a member since it was out of memory."""
        path = f"{self._v2}/memory.events" if self._v2 else f"{self._v1.get('memory', '')}/memory.oom_control"
        return _field(path, "oom_kill") > 0

    def remove(self) -> None:
        """Take the groups away once their last member has gone."""
        for folder in self._folders():
            for _ in range(_TRIES):
                try:
                    os.rmdir(folder)
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        time.sleep(_TRY_SECONDS)
                        continue
                break


def _join(files: list[int]) -> None:
    for fd in files:
        with suppress(OSError):
            os.write(fd, b"0")


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _number(path: str) -> int:
    with suppress(OSError, ValueError):
        return int(_read(path))
    return 0


def _field(path: str, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in _read(path).splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
